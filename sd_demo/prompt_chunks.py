"""Where a long prompt is cut: tokens with the words they belong to, and the rule that parts them into chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from sd_demo.prompt_grammar import WeightedText

COMMA_REACH: Final = 20  # tokens at the end of a chunk where a comma is the best place to cut; A1111's default
_WORD: Final = re.compile(r"""[^\s,;:.!?()\[\]{}"“”、。，]+""")
NO_WORD: Final = -1


class Token(NamedTuple):
    id: int
    weight: float
    word: int  # index of the word that it is a part of, or NO_WORD for punctuation
    is_comma: bool


def tokens_of(part: WeightedText, ids: list[int], offsets: list[tuple[int, int]], words: list[str]) -> Iterator[Token]:
    """The tokens of one text; its words are appended to `words`. Both run from left to right, so time is linear."""
    spans = [match.span() for match in _WORD.finditer(part.text)]
    first = len(words)
    words += [part.text[start:end] for start, end in spans]
    index = 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        while index < len(spans) and spans[index][1] <= start:
            index += 1
        is_in_word = index < len(spans) and spans[index][0] < end
        yield Token(token, part.weight, first + index if is_in_word else NO_WORD, part.text[start:end] == ",")


def split_tokens(tokens: list[Token], limit: int) -> list[list[Token]]:
    """Cuts `tokens` into runs of at most `limit`: after a late comma, else between words, else where it must be."""
    runs = []
    start = 0
    while len(tokens) - start > limit:
        end = _place_to_cut(tokens, start, start + limit)
        runs.append(tokens[start:end])
        start = end
    return [*runs, tokens[start:]]


def _place_to_cut(tokens: list[Token], start: int, full: int) -> int:
    """Where the run that began at `start` ends; `full` is the first token that does not fit."""
    if tokens[full].is_comma:
        return full
    for index in range(full - 1, max(start, full - COMMA_REACH) - 1, -1):
        if tokens[index].is_comma:
            return index + 1
    end = full
    while end > start and tokens[end].word != NO_WORD and tokens[end].word == tokens[end - 1].word:
        end -= 1
    return end if end > start else full  # a word longer than a chunk is cut
