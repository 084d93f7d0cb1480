"""How the picture-book model reads what says too little: no prompt at all, and a negative prompt without its "no".

No prompt: to draw one of the world's captions and then a picture for it is to draw from all pictures of the world, as
sampling without a prompt does. The UNet alone does it badly: without words there is nothing to guide by, and what it
cannot decide comes out as a mixture (MODEL_CARD.md, "Without a prompt").

A negative prompt: the model has learned what "no sun" denies (negatives.py), and "sun" is a sun to it.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from sd_demo.embedded.captions import caption
from sd_demo.embedded.free_vocabulary import READ_AS
from sd_demo.embedded.negatives import WEATHERS
from sd_demo.embedded.picture import Picture
from sd_demo.embedded.sampling import sample
from sd_demo.embedded.vocabulary import (
    COLOUR_WORDS,
    OBJECT_WORDS,
    SCENE_NOUNS,
    SCENE_PHRASES,
    SIZE_WORDS,
    STYLE_TAGS,
    TIME_PHRASES,
    TIME_TAGS,
    WEATHER_PHRASES,
    WEATHER_TAGS,
)
from sd_demo.requests import MAX_PROMPT_CHARACTERS

_STREAM: Final = 17  # of the numbers that a seed gives, those that nothing else draws from
_TRIES: Final = 200
_WORD: Final = re.compile(r"[^\W\d_]+")
_THINGS: Final = [form for pairs in OBJECT_WORDS.values() for pair in pairs for form in pair]
_WEATHERS: Final = [word for each in WEATHERS.values() for word in each]
_DENIABLE: Final = re.compile(
    rf"\b(?:{'|'.join(form for word in [*_THINGS, *_WEATHERS] for form in (word, *READ_AS.get(word, ())))})\b", re.I
)
_DENIED: Final = re.compile(r"\b(?:no|without)\b", re.I)
_LEAD: Final = re.compile(r"^(\s*)(?:not\s+)?(?:(?:an?|the|any)\s+)?", re.I)
_BETWEEN: Final = re.compile(r"(\s*(?:[,;\n]|\bBREAK\b|\band\b|\bor\b)\s*)")
_MEANT: Final = {alias: word for word, aliases in READ_AS.items() for alias in aliases}
# Of phrases the words that say nothing by themselves.
_SMALL: Final = frozenset(
    ("a", "an", "and", "as", "at", "by", "in", "is", "it", "no", "of", "on", "or", "the", "to", "weather", "while")
)


def own_prompt(seed: int, negative_prompt: str = "") -> str:
    """A caption of one or two things, always the same for a seed, of a picture that the negative prompt allows.

    None of them is small, as small things are what the model draws worst. A negative prompt that denies nearly
    everything is passed over after a while.
    """
    denied = {_MEANT.get(word, word) for word in _WORD.findall(negative_prompt.lower())} - _SMALL
    rng = np.random.default_rng((seed, _STREAM))
    text = ""
    for _ in range(_TRIES):
        picture = sample(rng)
        while not 1 <= len(picture.things) <= 2 or any(thing.size == "small" for thing in picture.things):
            picture = sample(rng)
        text = caption(picture, rng)
        if denied.isdisjoint(_meaning(picture)):
            break
    return text


def _meaning(picture: Picture) -> set[str]:
    """Every word that says something of the picture, also those that its caption does not use."""
    said = [*SCENE_PHRASES[picture.scene], *SCENE_NOUNS[picture.scene]]
    said += [*TIME_PHRASES[picture.time], *TIME_TAGS[picture.time]]
    said += [*WEATHER_PHRASES[picture.weather], *WEATHER_TAGS[picture.weather]]
    said += STYLE_TAGS[picture.style] if picture.style != "picture book" else ()
    for thing in picture.things:
        said += [form for pair in OBJECT_WORDS[thing.object] for form in pair]
        said += [*COLOUR_WORDS[thing.colour], *SIZE_WORDS[thing.size]]
    return {word for phrase in said for word in _WORD.findall(phrase)} - _SMALL


def denial(negative_prompt: str) -> str | None:
    """The negative prompt with a "no" before each thing and weather in it that has none; None: as it is.

    They are told apart by commas, "and" and the like. Words that the model cannot deny, such as "blurry", stay as they
    are, and so does all of a prompt that would become too long.
    """
    parts = _BETWEEN.split(negative_prompt)
    read = "".join(part if k % 2 else _denied(part) for k, part in enumerate(parts))
    return read if read != negative_prompt and len(read) <= MAX_PROMPT_CHARACTERS else None


def _denied(part: str) -> str:
    return part if _DENIED.search(part) or not _DENIABLE.search(part) else _LEAD.sub(r"\1no ", part)
