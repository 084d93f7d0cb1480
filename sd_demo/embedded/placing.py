"""A prompt with the place that a mask leaves for its thing: "a red ball" is "a red ball on the left" for a mask there.

What a prompt leaves open the model settles by itself, and in inpainting it may settle on a place that the mask does not
cover: what it draws there is given up at every step for the given picture, and under the mask nothing is left
(MODEL_CARD.md, "Inpainting").
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.judge import Judge, load_judge
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.layout import SKY_TOPS, STANDS_AT, proportions
from sd_demo.embedded.leaving_out import RELATED, all_of, and_aliases, any_of, name_of, only_thing
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, SIZES
from sd_demo.errors import ModelUnavailable
from sd_demo.requests import MAX_PROMPT_CHARACTERS

FAR: Final = words.DEPTH_PHRASES["far"][0]
NEARLY: Final = 0.08  # of the height, by which a mask may end above the feet of what is to stand under it
PARTLY, WHOLLY = 0.3, 0.9  # of a thing's box, from which on the mask has room for it at all, or for all of it
MOSTLY: Final = 0.7  # of a thing's box, from which on it is what the mask is to repaint
_OF_ELSE: Final = (
    r"(?!\s+of\b(?!\s+(?:the|this)\s+(?:picture|image|photo|scene|frame)\b))"  # "of the night" is no place
)
_POSITIONED: Final = re.compile(rf"\b{any_of(all_of(words.POSITION_PHRASES, more.POSITIONS))}{_OF_ELSE}", re.I)
_SIZED: Final = re.compile(rf"\b{any_of(all_of(words.SIZE_WORDS, more.SIZES))}", re.I)
_DISTANT: Final = re.compile(rf"\b{any_of(all_of(words.DEPTH_PHRASES))}", re.I)
_AN: Final = re.compile(r"\ban(?=\s+$)", re.I)
_AROUND: Final = all_of(
    words.SCENE_PHRASES, words.TIME_PHRASES, words.WEATHER_PHRASES, words.STYLE_SUFFIXES,
    more.SCENES, more.TIMES, more.FALLING, more.STYLES_AFTER,
)  # fmt: skip
# What may follow a thing's phrase; before other words, as in "a flower meadow" or "a cat's face", it is no thing.
_FOLLOWING: Final = re.compile(
    rf"\s*(?:$|[,.;:!?()\[\]]|(?:and|with|{'|'.join({p.split()[0] for p in and_aliases(_AROUND)})})\b)", re.I
)
_RELATED_AFTER: Final = re.compile(rf"\s*{RELATED}", re.I)
# What must not stand before it: where it is to something else, or that it is not to be there at all.
_DENIED: Final = r"no|not|never|without|instead of|in place of|rather than|remove|erase|delete"
_BARRED: Final = re.compile(rf"(?:\b{RELATED}|\b(?:{_DENIED})\b[^,.;]*)\s*$", re.I)
_JOINED: Final = re.compile(r"\b(?:and|with|or)\s*$", re.I)
_JOINED_AFTER: Final = re.compile(r"\s*(?:and|with|or)\b", re.I)
_BEGUN: Final = re.compile(r"(?:^|[,.;:!?()\[\]]|\b(?:of|with|and))\s*$", re.I)


def placed(prompt: str, mask: Image.Image, picture: Image.Image) -> str:
    """`prompt` with what the mask (L, above 0 where there is room) says of the place of its thing and leaves it to say.

    As it is where it asks for no one thing that the model knows, says where or to what that is, where the mask has room
    everywhere or nowhere that such a thing can be, and where `picture` shows such a thing outside the mask: then the
    prompt tells of that.
    """
    told = " ".join(prompt.split())
    found = only_thing(told)
    if found is None or _POSITIONED.search(told):
        return prompt
    before, phrase, after = told[: found.start()], found.group(), told[found.end() :]
    has_others = (_JOINED.search(before) and unknown_words(before)) or (
        _JOINED_AFTER.match(after) and unknown_words(after)
    )
    is_related = _BARRED.search(before) or _RELATED_AFTER.match(after)
    if not _FOLLOWING.match(after) or is_related or has_others:
        return prompt
    name = name_of(found)
    size, where = _room_for(name, mask)
    if _DISTANT.search(told):
        where = [part for part in where if part != FAR]
    if size and not _SIZED.search(told) and (found["count"] or _BEGUN.search(before)):
        at = found.start("looks") - found.start()
        phrase = f"{_AN.sub('a', phrase[:at])}{size} {phrase[at:]}"
    read = f"{before}{' '.join([phrase, *where])}{after}"
    is_as_it_was = read == told or len(read) > MAX_PROMPT_CHARACTERS
    return prompt if is_as_it_was or _shows(picture, name, mask) else read


def _covered(mask: np.ndarray, left: float, top: float, right: float, bottom: float) -> float:
    """How much of a box (parts of the sides) a mask [h, w] covers, 0 to 1; what is beyond its sides does not count."""
    height, width = mask.shape
    rows = slice(max(int(top * height), 0), max(math.ceil(bottom * height), 1))
    columns = slice(max(int(left * width), 0), max(math.ceil(right * width), 1))
    part = mask[rows, columns]
    return float((part > 0).mean()) if part.size else 0.0


def _room_for(name: str, mask: Image.Image) -> tuple[str, list[str]]:
    """The size of an object called `name` that the mask has room for, and where: in words, none for what stays open."""
    room, shorter = mask.getbbox() or (0, 0, 0, 0), min(mask.size)
    wide, high = proportions(name)
    extent = min((room[2] - room[0]) / shorter / wide, (room[3] - room[1]) / shorter / high)
    if extent < SIZES["small"][0]:
        return "", []
    size = "small" if extent < SIZES["medium"][1] else "medium"
    width, height = (
        sum(SIZES[size]) / 2 * part * shorter / side for part, side in zip((wide, high), mask.size, strict=True)
    )
    pixels, is_sky = np.asarray(mask), KINDS[name].is_in_sky
    centre, there = (room[0] + room[2]) / 2 / mask.width, dict[tuple[str, str], float]()
    for position, x in POSITIONS.items():
        x = min(max(x, width / 2), 1 - width / 2)
        for depth in ("sky",) if is_sky else ("near", "far"):
            bottom = sum(SKY_TOPS) / 2 + height if is_sky else sum(STANDS_AT[depth]) / 2
            if is_sky or bottom - NEARLY < room[3] / mask.height:
                there[position, depth] = _covered(pixels, x - width / 2, bottom - height, x + width / 2, bottom)
    best = max(
        there, key=lambda at: (round(there[at], 1), at[1] == "near", -abs(POSITIONS[at[0]] - centre)), default=None
    )
    if best is None or there[best] < PARTLY:
        return "", []
    is_open = all(there[position, best[1]] >= WHOLLY for position in POSITIONS)
    where = [] if is_open else [words.POSITION_PHRASES[best[0]][0]]
    return (words.SIZE_WORDS["small"][0] if size == "small" else ""), [*where, *([FAR] if best[1] == "far" else [])]


def _shows(picture: Image.Image, name: str, mask: Image.Image) -> bool:
    """Whether the picture has an object called `name` that the mask leaves as it is, or a good part of it."""
    try:
        seen = _judge().judge([picture])[0]
    except ModelUnavailable:
        return True  # so that nothing is asked for that may be there already
    pixels = np.asarray(mask)
    boxes = [
        (t.x - t.width / 2, t.y - t.height / 2, t.x + t.width / 2, t.y + t.height / 2)
        for t in seen.things
        if t.object == name
    ]
    return any(_covered(pixels, *box) < MOSTLY for box in boxes)


@cache
def _judge() -> Judge:
    return load_judge()
