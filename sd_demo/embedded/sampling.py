"""Random pictures of the world, evenly spread over what its words can say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from numpy.random import Generator

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.layout import is_clear
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.picture import POSITIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS, Picture, Thing

COUNT_WEIGHTS = (0.05, 0.5, 0.33, 0.12)  # none, one, two, three things
TIME_WEIGHTS = (0.62, 0.18, 0.2)
WEATHER_WEIGHTS = (0.76, 0.08, 0.08, 0.08)
STYLE_WEIGHTS = (0.84, 0.08, 0.08)
SIZE_WEIGHTS = (0.3, 0.4, 0.3)
USUAL_COLOUR = 0.15  # how often a thing takes one of its kind's usual colours instead of any
STANDING = tuple(name for name, kind in KINDS.items() if not kind.is_in_sky)
FLYING = tuple(name for name, kind in KINDS.items() if kind.is_in_sky)
_NOT_IN_TRAINING = frozenset(HELD_OUT)


def sample(rng: Generator, *, held_out: bool = False) -> Picture:
    """A random picture.

    held_out: False never shows a held-out pair of object and colour; True makes things[0] one of them (and shows at
    least that one thing). The other things are never held out, unless they are the first once more ("two pink cacti").
    """
    count = int(rng.choice(4, p=COUNT_WEIGHTS))
    if held_out:
        count = max(count, 1)
    scene = str(rng.choice(SCENES))
    time = str(rng.choice(TIMES, p=TIME_WEIGHTS))
    weather = "clear" if scene == "space" else str(rng.choice(WEATHERS, p=WEATHER_WEIGHTS))
    style = str(rng.choice(STYLES, p=STYLE_WEIGHTS))
    arrangement = _arrangement(count, rng)
    while True:
        things, relation = _things(arrangement, count, rng, held_out)
        picture = Picture(scene, time, weather, style, things, relation, int(rng.integers(2**31)))
        if is_clear(picture):
            return picture


def _arrangement(count: int, rng: Generator) -> str:
    if count == 2:
        names = ("free", "same", "next to", "in front of", "above")
        return str(rng.choice(names, p=(0.4, 0.17, 0.17, 0.13, 0.13)))
    if count == 3:
        return str(rng.choice(("free", "same", "all the same"), p=(0.75, 0.15, 0.1)))
    return "free"


def _things(arrangement: str, count: int, rng: Generator, held_out: bool) -> tuple[tuple[Thing, ...], str | None]:
    if count == 0:
        return (), None
    first = _pair(rng, KINDS, held_out)
    if arrangement == "above":
        first = _pair(rng, FLYING, held_out)
        position = str(rng.choice(list(POSITIONS)))
        above = Thing(*first, _size(rng), position, "sky")
        below = Thing(*_pair(rng, STANDING), _size(rng), position, _depth(rng))
        return (above, below), "above"
    if arrangement == "in front of":
        first = _pair(rng, STANDING, held_out)
        position = str(rng.choice(list(POSITIONS)))
        front = Thing(*first, str(rng.choice(("small", "medium"))), position, "near")
        back = Thing(*_pair(rng, STANDING), str(rng.choice(("medium", "large"))), position, "far")
        return (front, back), "in front of"
    if arrangement == "next to":
        is_in_sky = KINDS[first[0]].is_in_sky
        second = _pair(rng, FLYING if is_in_sky else STANDING)
        places = rng.permutation(("left", "middle") if rng.random() < 0.5 else ("middle", "right"))
        depth = "sky" if is_in_sky else _depth(rng)
        a, b = (Thing(*pair, _size(rng), str(x), depth) for pair, x in zip((first, second), places, strict=True))
        return (a, b), "next to"
    positions = [str(x) for x in rng.permutation(list(POSITIONS))[:count]]
    if count > 1 and arrangement == "free" and rng.random() < 0.2:
        positions[1] = positions[0]  # one over the other; is_clear lets only that pass
    things = [_thing(first, positions[0], rng)]
    for position in positions[1:]:
        things.append(_thing(_pair(rng, KINDS), position, rng))
    if arrangement != "free":  # alike in all but their place, to be called "two" or "three"
        alike = 2 if arrangement == "same" else 3
        for k, position in enumerate(positions[:alike]):
            things[k] = replace(things[0], position=position)
    return tuple(things), None


def _thing(pair: tuple[str, str], position: str, rng: Generator) -> Thing:
    return Thing(*pair, _size(rng), position, "sky" if KINDS[pair[0]].is_in_sky else _depth(rng))


def _pair(rng: Generator, names: Iterable[str], held_out: bool = False) -> tuple[str, str]:
    """An object among the names and its colour."""
    allowed = list(names)
    if held_out:
        pairs = [pair for pair in HELD_OUT if pair[0] in allowed]
        return pairs[int(rng.integers(len(pairs)))]
    while True:
        name = allowed[int(rng.integers(len(allowed)))]
        colours = KINDS[name].usual if rng.random() < USUAL_COLOUR else tuple(COLOURS)
        colour = colours[int(rng.integers(len(colours)))]
        if (name, colour) not in _NOT_IN_TRAINING:
            return name, colour


def _size(rng: Generator) -> str:
    return str(rng.choice(list(SIZES), p=SIZE_WEIGHTS))


def _depth(rng: Generator) -> str:
    return "near" if rng.random() < 0.62 else "far"
