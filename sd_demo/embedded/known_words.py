"""Which words of a prompt the world knows, and all that it knows as JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sd_demo.embedded import free_vocabulary
from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.picture import DEPTHS, POSITIONS, RELATIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS
from sd_demo.embedded.plain_words import COLOURS_SAID, in_plain_words
from sd_demo.embedded.vocabulary import (
    COLOUR_WORDS,
    DEPTH_PHRASES,
    DOINGS,
    JOINTS,
    NUMBER_WORDS,
    OBJECT_WORDS,
    POSITION_PHRASES,
    RELATION_PHRASES,
    REVERSED_RELATION_PHRASES,
    SCENE_NOUNS,
    SCENE_PHRASES,
    SIDE_PHRASES,
    SIZE_WORDS,
    STYLE_PREFIXES,
    STYLE_SUFFIXES,
    STYLE_TAGS,
    TIME_PHRASES,
    TIME_TAGS,
    WEATHER_PHRASES,
    WEATHER_TAGS,
)
from sd_demo.prompt_grammar import parse_prompt

_TABLES: tuple[Any, ...] = (
    OBJECT_WORDS,
    COLOUR_WORDS,
    SIZE_WORDS,
    POSITION_PHRASES,
    DEPTH_PHRASES,
    SCENE_PHRASES,
    SCENE_NOUNS,
    TIME_PHRASES,
    WEATHER_PHRASES,
    STYLE_PREFIXES,
    STYLE_SUFFIXES,
    STYLE_TAGS,
    WEATHER_TAGS,
    TIME_TAGS,
    RELATION_PHRASES,
    REVERSED_RELATION_PHRASES,
    SIDE_PHRASES,
    NUMBER_WORDS,
    DOINGS,
    JOINTS,
    free_vocabulary.TABLES,
)
# Words that by themselves mean something which the world does not have; in these phrases they are known.
_ONLY_IN_PHRASES = (
    "air",
    "book",
    "camping",
    "children",
    "coloured",
    "corn",
    "engine",
    "engines",
    "falling",
    "hand",
    "heavy",
    "hot",
    "party",
    "pot",
    "pots",
    "rubber",
    "steam",
    "tea",
    "very",
)
# What people write as one: "8k", "8-bit", "it's", "2", "0.5", and every run of letters.
_WORD = re.compile(r"\d+(?:\.\d+)?(?:-?[^\W\d_]+)?|[^\W\d_]+(?:['’][^\W\d_]+)?")


def _as_read(word: str) -> str:
    return re.sub("['’]s$", "", word.lower())


def _phrases(value: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(value, str):
        yield tuple(_as_read(word) for word in _WORD.findall(value))
    else:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _phrases(item)


@cache
def _known() -> tuple[frozenset[str], dict[str, list[tuple[str, ...]]]]:
    """Every word of the language, and for those that are known in phrases only, those phrases."""
    known: set[str] = set()
    inside: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for phrase in _phrases(_TABLES):
        known.update(phrase)
        for word in set(phrase).intersection(_ONLY_IN_PHRASES):
            inside[word].append(phrase)
    return frozenset(known), dict(inside)


def vocabulary() -> dict[str, Any]:
    """All that the world knows, as plain JSON values. held_out: pairs that training never shows."""
    synonyms: dict[str, list[str]] = {}
    for name, forms in OBJECT_WORDS.items():
        synonyms[name] = sorted({word for form in forms for word in form} - {name})
    for table in (COLOUR_WORDS, SIZE_WORDS, POSITION_PHRASES, DEPTH_PHRASES, SCENE_PHRASES, TIME_PHRASES):
        synonyms.update({name: [word for word in words if word != name] for name, words in table.items()})
    for table in (WEATHER_PHRASES, STYLE_SUFFIXES, RELATION_PHRASES):
        synonyms.update({name: [word for word in words if word != name] for name, words in table.items()})
    synonyms |= {word: [*synonyms.get(word, ()), *aliases] for word, aliases in free_vocabulary.READ_AS.items()}
    return {
        "objects": list(KINDS),
        "colours": list(COLOURS),
        "sizes": list(SIZES),
        "positions": list(POSITIONS),
        "depths": list(DEPTHS),
        "scenes": list(SCENES),
        "times": list(TIMES),
        "weathers": list(WEATHERS),
        "styles": list(STYLES),
        "relations": list(RELATIONS),
        "synonyms": synonyms,
        "held_out": [list(pair) for pair in HELD_OUT],
        "words": sorted(_known()[0]),
    }


def unknown_words(prompt: str, taught: Sequence[str] = ()) -> list[str]:
    """The words of a prompt that the world does not know, as written, in order, each once.

    taught: texts whose words are known besides, such as those that a LoRA was trained with.

    Weights as in "(red:1.3)", BREAK, punctuation and <lora:...> tags are no words; what `in_plain_words` puts otherwise
    counts as that. A word that is known only as part of a phrase ("engine" of "steam engine"), and "dark" before a
    colour, which elsewhere means night, are named too.
    """
    besides = {word.lower() for text in taught for word in _WORD.findall(text)}
    unknown: dict[str, str] = {}
    for section in parse_prompt(re.sub(r"<lora:[^<>]*>", " ", in_plain_words(prompt))):
        whole = "".join(text for text, _ in section)
        written = _WORD.findall(re.sub(r"(?i)\bdark(?=\s*[,.;:!])", "night", whole))  # where it ends, it is no shade
        read = [_as_read(word) for word in written]
        for k, word in enumerate(written):
            if not _is_known(read, k) and word.lower() not in besides:
                unknown.setdefault(word.lower(), word)
    return list(unknown.values())


def _is_known(read: list[str], k: int) -> bool:
    known, inside = _known()
    word = read[k]
    if word == "dark":
        return read[k + 1 : k + 2] == [] or read[k + 1] not in COLOURS_SAID
    if word not in inside:
        return word in known
    return any(
        k >= at and tuple(read[k - at : k - at + len(phrase)]) == phrase
        for phrase in inside[word]
        for at, other in enumerate(phrase)
        if other == word
    )
