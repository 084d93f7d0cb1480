"""An object that the picture-book world lacks, drawn with the world's own brush: what a LoRA is to learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from numpy.random import Generator, default_rng

from sd_demo.embedded import world
from sd_demo.embedded.drawing import Brush, Paint
from sd_demo.embedded.objects import KINDS, Kind
from sd_demo.embedded.picture import SIZES, Picture, Thing
from sd_demo.embedded.vocabulary import COLOUR_WORDS, POSITION_PHRASES, SCENE_PHRASES, TIME_PHRASES

NAME = "robot"
TAUGHT_COLOURS, TAUGHT_SCENES = ("red", "blue", "yellow", "green"), ("meadow", "beach", "city", "farm")
OTHER_COLOURS, OTHER_SCENES = ("purple", "orange", "pink", "brown"), ("snow", "desert", "forest", "mountains")


def robot(b: Brush, p: Paint, rng: Generator) -> None:
    """A box with a square head, two eyes, an antenna, arms and legs."""
    for side in (-1, 1):
        b.polygon(p.dark, [(side * 6, 0), (side * 20, 0), (side * 20, 22), (side * 6, 22)])
        b.stroke(p.dark, [(side * 24, 50), (side * 38, 40), (side * 38, 26)], 8, is_smooth=False)
    b.polygon(p.main, [(-26, 18), (26, 18), (26, 56), (-26, 56)])
    b.polygon(p.pale, [(-14, 28), (14, 28), (14, 46), (-14, 46)])
    b.ellipse(p.ink, -6, 37, 4)
    b.ellipse(p.ink, 6, 37, 4)
    b.polygon(p.dark, [(-7, 54), (7, 54), (7, 62), (-7, 62)])
    b.polygon(p.main, [(-20, 60), (20, 60), (20, 88), (-20, 88)])
    b.eye(-9, 77, 5)
    b.eye(9, 77, 5)
    b.stroke(p.ink, [(-9, 66), (9, 66)], 3, is_smooth=False)
    b.stroke(p.dark, [(0, 88), (0, 97)], 4, is_smooth=False)
    b.ellipse(p.light, 0, 97, 4)


@contextmanager
def in_the_world() -> Iterator[None]:
    """The world has the object, for the length of a with block."""
    with mock.patch.dict(KINDS, {NAME: Kind(robot, False, ("grey",))}):
        yield


def scenes(count: int, seed: int, colours: tuple[str, ...], places: tuple[str, ...]) -> list[tuple[Picture, str]]:
    """`count` pictures of the object with a caption each; colours, places, sizes and positions go round."""
    rng = default_rng(seed)
    found = []
    for k in range(count):
        colour, place = colours[k % len(colours)], places[(k + k // len(colours)) % len(places)]
        position = str(rng.choice(list(POSITION_PHRASES)))
        size = list(SIZES)[1 + k % 2]
        time = "day" if k % 3 else str(rng.choice(["sunset", "night"]))
        thing = Thing(NAME, colour, size, position, "near")
        words = ["a", *(["large"] if size == "large" else []), COLOUR_WORDS[colour][0], NAME]
        words += [POSITION_PHRASES[position][0], SCENE_PHRASES[place][0]]
        words += [TIME_PHRASES[time][0]] if time != "day" else []
        found.append(
            (Picture(place, time, "clear", "picture book", (thing,), None, int(rng.integers(2**31))), " ".join(words))
        )
    return found


def write_training_pictures(folder: Path, count: int = 12, size: int = 256) -> None:
    """PNGs with captions in .txt files."""
    folder.mkdir(parents=True, exist_ok=True)
    with in_the_world():
        for k, (picture, caption) in enumerate(scenes(count, 1, TAUGHT_COLOURS, TAUGHT_SCENES)):
            world.draw(picture, size).save(folder / f"{k:02d}.png")
            (folder / f"{k:02d}.txt").write_text(caption + "\n", encoding="utf-8")
