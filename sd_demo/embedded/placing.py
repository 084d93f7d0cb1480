"""A prompt with the place that a mask leaves for its thing: "a red ball" is "a red ball on the left" for a mask there.

What a prompt leaves open the model settles by itself, and in inpainting it may settle on a place that the mask does not
cover: what it draws there is given up at every step for the given picture, and under the mask nothing is left
(MODEL_CARD.md, "Inpainting").
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from PIL import Image

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.judge import Judge, load_judge
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.layout import SKY_TOPS, STANDS_AT, nearest_position, proportions
from sd_demo.embedded.leaving_out import RELATED, all_of, any_of, name_of, only_thing
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, SIZES
from sd_demo.errors import ModelUnavailable

NEAR_FROM: Final = (STANDS_AT["far"][1] + STANDS_AT["near"][0]) / 2
FAR: Final = words.DEPTH_PHRASES["far"][0]
TOLERANCE: Final = 0.05  # of the side, by which a mask may miss a place
_POSITIONED: Final = re.compile(rf"\b{any_of(all_of(words.POSITION_PHRASES, more.POSITIONS))}(?!\s+of\b)", re.I)
_SIZED: Final = re.compile(rf"\b{any_of(all_of(words.SIZE_WORDS, more.SIZES))}", re.I)
_DISTANT: Final = re.compile(rf"\b{any_of(all_of(words.DEPTH_PHRASES))}", re.I)
_AN: Final = re.compile(r"\ban(?=\s+$)", re.I)
_AROUND: Final = all_of(
    words.SCENE_PHRASES, words.TIME_PHRASES, words.WEATHER_PHRASES, words.STYLE_SUFFIXES,
    more.SCENES, more.TIMES, more.FALLING, more.STYLES_AFTER,
)  # fmt: skip
# What may follow a thing's phrase; before other words, as in "a flower meadow" or "a cat's face", it is no thing.
_FOLLOWING: Final = re.compile(
    rf"\s*(?:$|[,.;:!?()\[\]]|(?:and|with|{'|'.join({p.split()[0] for p in _AROUND})})\b)", re.I
)
# What must not stand before it: where it is to something else, or that it is not to be there at all.
_BARRED: Final = re.compile(rf"(?:\b{RELATED}|\b(?:no|not|without)\b[^,.;]*)\s*$", re.I)
_JOINED: Final = re.compile(r"\b(?:and|with|or)\s*$", re.I)
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
    is_with_others = _JOINED.search(before) and unknown_words(before)
    if not _FOLLOWING.match(after) or _BARRED.search(before) or is_with_others:
        return prompt
    name = name_of(found)
    size, where = _left(name, mask)
    if _DISTANT.search(told):
        where = [part for part in where if part != FAR]
    if size and not _SIZED.search(told) and (found["count"] or _BEGUN.search(before)):
        at = found.start("looks") - found.start()
        phrase = f"{_AN.sub('a', phrase[:at])}{size} {phrase[at:]}"
    read = f"{before}{' '.join([phrase, *where])}{after}"
    return prompt if read == told or _shows(picture, name, mask) else read


def covers(mask: Image.Image, x: float, y: float) -> bool:
    """Whether the mask (L) covers the point at x, y (parts of its sides; beyond them the nearest that it has)."""
    column, row = (min(max(int(part * side), 0), side - 1) for part, side in zip((x, y), mask.size, strict=True))
    return bool(mask.getpixel((column, row)))


def _left(name: str, mask: Image.Image) -> tuple[str, list[str]]:
    """The size of an object called `name` that the mask has room for, and where: in words, none for what stays open."""
    room, shorter = mask.getbbox() or (0, 0, 0, 0), min(mask.size)
    left, right = (x / mask.width for x in room[::2])
    top, bottom = (y / mask.height for y in room[1::2])
    wide, high = proportions(name)
    extent = min((room[2] - room[0]) / shorter / wide, (room[3] - room[1]) / shorter / high)
    is_sky = KINDS[name].is_in_sky
    can_be = top < SKY_TOPS[1] + TOLERANCE if is_sky else bottom > STANDS_AT["far"][0] - TOLERANCE
    if extent < SIZES["small"][0] or not can_be:
        return "", []
    is_small, where = extent < SIZES["medium"][1], []
    half = wide * SIZES["small" if is_small else "medium"][1] / 2 - TOLERANCE
    if any(x - half < left or x + half > right for x in POSITIONS.values()):
        where.append(words.POSITION_PHRASES[nearest_position((left + right) / 2, right - left)][0])
    if not is_sky and bottom < NEAR_FROM:
        where.append(FAR)
    return words.SIZE_WORDS["small"][0] if is_small else "", where


def _shows(picture: Image.Image, name: str, mask: Image.Image) -> bool:
    """Whether the picture has an object called `name` with its centre outside the mask."""
    try:
        seen = _judge().judge([picture])[0]
    except ModelUnavailable:
        return False
    return any(thing.object == name and not covers(mask, thing.x, thing.y) for thing in seen.things)


@cache
def _judge() -> Judge:
    return load_judge()
