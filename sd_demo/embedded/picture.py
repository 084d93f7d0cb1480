"""What a picture of the world shows, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

SIZES = {"small": (0.172, 0.205), "medium": (0.295, 0.345), "large": (0.46, 0.53)}
"""Longer side of an object as a part of the picture's side, smallest and largest."""
POSITIONS = {"left": 0.2, "middle": 0.5, "right": 0.8}
"""Centre of an object as a part of the picture's width."""
MOST_THINGS = 3
DEPTHS = ("near", "far", "sky")
SCENES = ("meadow", "beach", "snow", "desert", "forest", "mountains", "sea", "city", "farm", "space")
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snowfall", "fog")
STYLES = ("picture book", "pencil drawing", "pixel art")
RELATIONS = ("next to", "in front of", "above")


@dataclass(frozen=True)
class Thing:
    """One object. size: small, medium or large. position: left, middle or right. depth: near, far or sky."""

    object: str
    colour: str
    size: str
    position: str
    depth: str


@dataclass(frozen=True)
class Picture:
    """A scene with none to three things. With a relation, things[0] stands in it to things[1].

    seed settles everything that the words leave open: jitter, proportions, hills.
    """

    scene: str
    time: str
    weather: str
    style: str
    things: tuple[Thing, ...]
    relation: str | None
    seed: int
