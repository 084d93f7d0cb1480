"""Where the things of a picture go: boxes in parts of the picture's side, y downwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from sd_demo.embedded.drawing import Brush, Paint, bounds
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, SIZES, Picture, Thing

BELONGING = 0.75, 1.6  # least and most, in a thing's box
STANDS_AT = {"near": (0.87, 0.95), "far": (0.6, 0.66)}  # heights of the feet of what stands on the ground
SKY_TOPS = 0.03, 0.14  # heights of the upper edges of what is in the sky
HORIZON = 0.5  # the mean height of the line between ground and sky


@dataclass(frozen=True)
class Place:
    """The box (left, top, right, bottom, 0 to 1) of a thing, and its longer side."""

    left: float
    top: float
    right: float
    bottom: float
    extent: float

    def overlap(self, other: Place) -> float:
        """The shared area as a part of the smaller box."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        areas = [(p.right - p.left) * (p.bottom - p.top) for p in (self, other)]
        return width * height / min(areas)


@cache
def proportions(name: str) -> tuple[float, float]:
    """Width and height of an object of extent 1."""
    brush = Brush(140)
    KINDS[name].draw(brush, Paint.of("red"), np.random.default_rng(0))
    left, top, right, bottom = bounds(brush.layer)
    longer = max(right - left, bottom - top)
    return (right - left) / longer, (bottom - top) / longer


def place(thing: Thing, rng: np.random.Generator) -> Place:
    """The box of one thing, with its own small variation."""
    smallest, largest = SIZES[thing.size]
    extent = rng.uniform(smallest, largest)
    width, height = (extent * part for part in proportions(thing.object))
    x = POSITIONS[thing.position] + rng.uniform(-0.05, 0.05)
    x = min(max(x, width / 2 + 0.015), 1 - width / 2 - 0.015)
    if thing.depth == "sky":
        top = rng.uniform(SKY_TOPS[0], 0.1) if thing.size == "large" else rng.uniform(0.04, SKY_TOPS[1])
        bottom = top + height
    else:
        bottom = rng.uniform(*STANDS_AT[thing.depth])
    return Place(x - width / 2, bottom - height, x + width / 2, bottom, extent)


def layout(picture: Picture) -> list[Place]:
    """The boxes of all things, in the picture's order."""
    return [place(t, np.random.default_rng([picture.seed, 1, k])) for k, t in enumerate(picture.things)]


def is_clear(picture: Picture) -> bool:
    """Whether no thing hides another: at most slight overlaps, more for "in front of"."""
    places = layout(picture)
    for i, a in enumerate(places):
        for j in range(i):
            is_pair = picture.relation == "in front of" and {i, j} == {0, 1}
            if a.overlap(places[j]) > (0.3 if is_pair else 0.05):
                return False
    return True


def belonging(picture: Picture, side: int) -> np.ndarray:
    """How much each of side x side cells is a thing's, float16 [side, side]: 0 where there is none.

    1 in the box of a thing of medium size, more in a small one's, whose cells are few, and less in a large one's.
    """
    parts = np.zeros((side, side), dtype=np.float16)
    medium = sum(SIZES["medium"]) / 2
    for box in sorted(layout(picture), key=lambda box: -box.extent):
        rows = slice(max(0, int(box.top * side)), math.ceil(box.bottom * side))
        columns = slice(max(0, int(box.left * side)), math.ceil(box.right * side))
        parts[rows, columns] = np.clip(medium / box.extent, *BELONGING)
    return parts
