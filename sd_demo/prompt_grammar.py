r"""The weight grammar of prompts, as A1111 made it known: what to stress, what to play down, where to begin anew.

    (word)        weighs 1.1         [word]       weighs 1/1.1
    ((word))      weighs 1.21        (word:1.3)   weighs 1.3; brackets inside brackets multiply
    \( \) \[ \]   are the characters themselves, and \\ is one backslash
    BREAK         ends the chunk of tokens, so that what follows is encoded apart from what came before

An opened bracket that is never closed reaches to the end; a closing one that was never opened is text. Two things
are kinder than in A1111: BREAK works inside brackets too, and a backslash before any other character stays.
The grammar: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

ROUND_WEIGHT: Final = 1.1
SQUARE_WEIGHT: Final = 1 / 1.1

# Nothing in it can match one stretch in two ways, so 50,000 characters of anything take linear time.
_NUMBER: Final = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_LEXEME: Final = re.compile(
    rf"""
      \\(?P<escaped>[\\()\[\]])
    | :\s*(?P<weight>{_NUMBER})\s*\)                                        # the end of (word:1.3)
    | [()\[\]]
    | (?: [^\\()\[\]:]+ | \\(?![\\()\[\]]) | :(?!\s*{_NUMBER}\s*\)) )+      # text
    """,
    re.VERBOSE,
)
_BREAK: Final = re.compile(r"\bBREAK\b\s*")

# What other programs read in a prompt and this grammar does not, each found in time that grows with the text's length.
LORA_TAG: Final = re.compile(r" ?<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")
# A1111's [from:to:0.5], [to:0.5], [one|another], AND and hypernetworks.
NOT_READ: Final = re.compile(
    r"(?<!\\)\[[^\[\]]*:\s*[\d.]+\s*\]|(?<!\\)\[[^\[\]|]*\|[^\[\]]*(?<!\\)\]|\bAND\b|<hypernet:[^<>]*>?"
)
_LONGEST: Final = 60  # characters of it that a note repeats


class WeightedText(NamedTuple):
    """A stretch of the prompt, its escapes undone, and what its tokens' embeddings are multiplied by."""

    text: str
    weight: float


@dataclass
class _Brackets:
    """All brackets of one kind as a tree, in the order of their opening; the first stands for "in none".

    A weight is known only where its bracket closes, so what a text weighs is asked when all is read.
    """

    weight: float
    weights: list[float] = field(default_factory=lambda: [1.0])
    parents: list[int] = field(default_factory=lambda: [0])
    opened: list[int] = field(default_factory=lambda: [0])

    def open(self) -> None:
        self.parents.append(self.opened[-1])
        self.opened.append(len(self.weights))
        self.weights.append(self.weight)

    def close(self, weight: float | None = None) -> bool:
        """Closes the innermost one; False where none is open."""
        if len(self.opened) == 1:
            return False
        bracket = self.opened.pop()
        if weight is not None:
            self.weights[bracket] = weight
        return True

    def products(self) -> list[float]:
        """What each bracket and all those around it multiply to."""
        products = [1.0]
        for weight, parent in zip(self.weights[1:], self.parents[1:], strict=True):
            products.append(products[parent] * weight)
        return products


def parse_prompt(prompt: str) -> tuple[tuple[WeightedText, ...], ...]:
    """The sections of `prompt` between its BREAKs, each a run of texts with their weights.

    Neighbours of equal weight are one text, so a prompt without syntax comes back whole, as one text of weight 1.
    There is always at least one section; a section without text is empty. Never raises. Time grows with the length
    of the prompt and not with the depth of its brackets, and a weight beyond what a float holds is infinite.
    """
    # Round and square brackets nest each among themselves but may cross each other, as in "(a [b) c]".
    round_, square = _Brackets(ROUND_WEIGHT), _Brackets(SQUARE_WEIGHT)
    sections: list[list[tuple[str, int, int]]] = [[]]  # a text, the round bracket and the square bracket around it
    for lexeme in _LEXEME.finditer(prompt):
        text, weight = lexeme[0], lexeme["weight"]
        if text == "(":
            round_.open()
        elif text == "[":
            square.open()
        elif text == ")" or weight is not None:
            if not round_.close(None if weight is None else float(weight)):
                sections[-1].append((text, 0, square.opened[-1]))
        elif text == "]":
            if not square.close():
                sections[-1].append((text, round_.opened[-1], 0))
        else:
            *ended, last = [lexeme["escaped"]] if lexeme["escaped"] else _BREAK.split(text)
            for index, part in enumerate([*(part.rstrip() for part in ended), last]):
                if index > 0:
                    sections.append([])
                sections[-1].append((part, round_.opened[-1], square.opened[-1]))
    round_products, square_products = round_.products(), square.products()
    return tuple(
        _merged([(text, round_products[r] * square_products[s]) for text, r, s in section]) for section in sections
    )


def plain_text(prompt: str) -> str:
    """`prompt` without weights and breaks, for whoever reads words alone; one without syntax comes back as it is."""
    sections = parse_prompt(prompt)
    texts = ["".join(part.text for part in section) for section in sections]
    return prompt if texts == [prompt] else " ".join(" ".join(texts).split())


def has_words(prompt: str) -> bool:
    """Whether a prompt says anything: "...", "()" and an emoji do not."""
    return any(character.isalnum() for character in plain_text(prompt))


def taken_as_words(*prompts: str) -> Iterator[str]:
    """A sentence on each kind of thing in `prompts` that acts in other programs and is text here."""
    for kind, hint in (
        (LORA_TAG, "choose LoRAs in the field loras"),
        (NOT_READ, "prompt editing, alternation, AND and hypernetworks do nothing here"),
    ):
        found = dict.fromkeys(match[0].strip()[:_LONGEST] for prompt in prompts for match in kind.finditer(prompt))
        if found:
            yield f"{', '.join(found)} {'is' if len(found) == 1 else 'are'} read as words; {hint}."


def _merged(parts: list[tuple[str, float]]) -> tuple[WeightedText, ...]:
    """`parts` with neighbours of equal weight joined, and without those that hold no character."""
    # Twelve digits, so that what cancels weighs exactly 1, in whatever order it was multiplied.
    rounded = [(text, float(f"{weight:.12g}")) for text, weight in parts if text]
    groups = groupby(rounded, key=lambda part: part[1])
    return tuple(WeightedText("".join(text for text, _ in group), weight) for weight, group in groups)
