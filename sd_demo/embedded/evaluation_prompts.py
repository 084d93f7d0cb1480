"""What an evaluation asks for: pictures of the world that no training has seen, and the prompts that tell of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from PIL import Image

from sd_demo.embedded import world
from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.layout import is_clear, layout
from sd_demo.embedded.objects import HELD_OUT
from sd_demo.embedded.other_words import other_words
from sd_demo.embedded.picture import POSITIONS, Picture, Thing
from sd_demo.embedded.vocabulary import COLOUR_WORDS, SCENE_PHRASES
from sd_demo.requests import SEED_LIMIT

MASK_MARGIN = 0.05  # of the side, around the box of the thing that is to come; its shadow is wider than itself
FAR_IF_UNSAID = 0.22  # a caption that says nothing of depth tells of a far thing this often (captions.py, sampling.py)


@dataclass(frozen=True)
class Asked:
    """A picture that a prompt tells all of, and the seed to draw it with."""

    picture: Picture
    prompt: str
    seed: int


@dataclass(frozen=True)
class Denied(Asked):
    """The prompt asks for two things of different kinds; the negative prompt denies one of them, things[1]."""

    negative_prompt: str


@dataclass(frozen=True)
class Recoloured(Asked):
    """Image to image: the world's picture of a thing (`image`), and a prompt that gives that thing another colour."""

    image: Image.Image


@dataclass(frozen=True)
class Added(Asked):
    """Inpainting: the picture's scene without its thing, and a mask (white) over the place where it belongs."""

    image: Image.Image
    mask: Image.Image

    def holds(self, x: float, y: float) -> bool:
        """Whether the mask covers the point at x, y (parts of the side)."""
        column, row = (min(int(part * self.mask.width), self.mask.width - 1) for part in (x, y))
        return bool(self.mask.getpixel((max(column, 0), max(row, 0))))


def stream(seed: int, part: str, number: int) -> Generator:
    """The randomness of prompt `number` of a part: of no training picture, and of no other part."""
    return np.random.default_rng([seed, *part.encode(), number])


def ask(count: int, things: int, seed: int, *, held_out: bool = False) -> list[Asked]:
    """Prompts for pictures of so many things; held_out: the first thing is a pair that training never shows."""
    asked = []
    for k in range(count):
        rng = stream(seed, f"{things} {held_out}", k)
        picture = _sample(rng, things, held_out)
        asked.append(Asked(picture, _prompt(picture, rng), _seed(rng)))
    return asked


def ask_freely(count: int, seed: int) -> list[Asked]:
    """Prompts for one thing and for two by turns, each as other_words.py puts them."""
    asked = []
    for k in range(count):
        rng = stream(seed, "freely", k)
        picture = _sample(rng, 1 + k % 2, False)
        asked.append(Asked(picture, other_words(picture, rng, is_complete=True), _seed(rng)))
    return asked


def ask_openly(count: int, seed: int) -> list[Asked]:
    """Prompts for one thing that leave open where it is, as most people's do: "a red car in the city at night"."""
    asked = []
    for k in range(count):
        rng = stream(seed, "openly", k)
        picture = _sample(rng, 1, False)
        asked.append(Asked(picture, _prompt(picture, rng, is_placed=False), _seed(rng)))
    return asked


def ask_twice(count: int, seed: int) -> list[Asked]:
    """Prompts for two things that are alike in all but their place, which stays open: "two red balloons in space"."""
    asked = []
    for k in range(count):
        rng = stream(seed, "twice", k)
        twins = _twins(rng)
        while not is_clear(twins):
            twins = _twins(rng)
        prompt = world.caption(twins, rng, is_placed=False)
        while not any(word in prompt for word in COLOUR_WORDS[twins.things[0].colour]):  # the usual one goes unsaid
            prompt = world.caption(twins, rng, is_placed=False)
        asked.append(Asked(twins, prompt, _seed(rng)))
    return asked


def ask_nothing(count: int, seed: int) -> list[Asked]:
    """No prompt, and for each a picture of the world."""
    streams = [stream(seed, "nothing", k) for k in range(count)]
    return [Asked(world.sample(rng), "", _seed(rng)) for rng in streams]


def deny(count: int, seed: int) -> list[Denied]:
    """Prompts for pictures of two things, and negative prompts that say "no" to one of these."""
    asked = []
    for k in range(count):
        rng = stream(seed, "deny", k)
        picture = _sample(rng, 2, False)
        while picture.things[0].object == picture.things[1].object:
            picture = _sample(rng, 2, False)
        prompt = _prompt(picture, rng)
        things = picture.things if rng.random() < 0.5 else picture.things[::-1]
        negative_prompt = f"no {things[1].object}"
        asked.append(Denied(replace(picture, things=things), prompt, _seed(rng), negative_prompt))
    return asked


def recolour(count: int, seed: int, size: int) -> list[Recoloured]:
    """Pictures of one thing, size x size pixels, and prompts for the same in another colour."""
    asked = []
    for k in range(count):
        rng = stream(seed, "recolour", k)
        picture = _sample(rng, 1, False)
        thing = picture.things[0]
        colours = [c for c in COLOURS if c != thing.colour and (thing.object, c) not in HELD_OUT]
        wanted = replace(picture, things=(replace(thing, colour=colours[int(rng.integers(len(colours)))]),))
        asked.append(Recoloured(wanted, _prompt(wanted, rng), _seed(rng), world.draw(picture, size)))
    return asked


def add(count: int, seed: int, size: int, *, is_placed: bool = True) -> list[Added]:
    """Empty scenes, size x size pixels, masks in them, and prompts for the scene with a thing at the mask.

    is_placed: False leaves it to the mask to say where.
    """
    asked = []
    for k in range(count):
        rng = stream(seed, "add", k)
        picture = _sample(rng, 1, False)
        empty = world.draw(replace(picture, things=()), size)
        mask = mask_for(picture, size)
        asked.append(Added(picture, _prompt(picture, rng, is_placed), _seed(rng), empty, mask))
    return asked


def mask_for(picture: Picture, size: int) -> Image.Image:
    """White over the boxes of a picture's things and MASK_MARGIN around them."""
    mask = Image.new("L", (size, size), 0)
    for place in layout(picture):
        sides = (
            place.left - MASK_MARGIN,
            place.top - MASK_MARGIN,
            place.right + MASK_MARGIN,
            place.bottom + MASK_MARGIN,
        )
        left, top, right, bottom = (round(min(max(side, 0.0), 1.0) * size) for side in sides)
        mask.paste(255, (left, top, right, bottom))
    return mask


def open_prompt(seed: int, number: int) -> tuple[str, Picture]:
    """A short prompt that leaves place and depth open, and one picture that it may mean."""
    rng = stream(seed, "open", number)
    picture = _sample(rng, 1, False)
    thing = replace(picture.things[0], size="medium")
    plain = replace(picture, time="day", weather="clear", style="picture book", things=(thing,))
    article = "an" if thing.colour == "orange" else "a"
    return f"{article} {thing.colour} {thing.object} {SCENE_PHRASES[plain.scene][0]}", plain


def meant_by_open_prompt(picture: Picture, rng: Generator) -> Picture:
    """Another picture that the open prompt of `picture` may mean, as often as the world draws it."""
    thing = picture.things[0]
    depth = thing.depth if thing.depth == "sky" else ("far" if rng.random() < FAR_IF_UNSAID else "near")
    position = str(rng.choice(list(POSITIONS)))
    moved = Thing(thing.object, thing.colour, thing.size, position, depth)
    return replace(picture, things=(moved,), seed=int(rng.integers(2**31)))


def _twins(rng: Generator) -> Picture:
    picture = _sample(rng, 1, False)
    thing = picture.things[0]
    elsewhere = str(rng.choice([position for position in POSITIONS if position != thing.position]))
    return replace(picture, things=(thing, replace(thing, position=elsewhere)))


def _sample(rng: Generator, things: int, held_out: bool) -> Picture:
    while True:
        picture = world.sample(rng, held_out=held_out)
        if len(picture.things) == things:
            return picture


def _prompt(picture: Picture, rng: Generator, is_placed: bool = True) -> str:
    return world.caption(picture, rng, is_complete=True, is_placed=is_placed)


def _seed(rng: Generator) -> int:
    return int(rng.integers(SEED_LIMIT))
