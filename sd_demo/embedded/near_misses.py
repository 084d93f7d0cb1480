"""Pictures that are nearly another one: what a CLIP must tell apart, and what a UNet must not let itself be led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch.nn import functional

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.picture import MOST_THINGS, POSITIONS, SCENES, SIZES, TIMES, WEATHERS, Picture, Thing

MISSED_SHARE = 0.5  # of the rows of whole pictures that have a near miss
PATCHY_SHARE = 0.5  # of those begin at the one in some places and at the other in others
PATCHES = 4  # along each side
_MIRRORED = {"left": "right", "middle": "middle", "right": "left"}


@dataclass(frozen=True)
class NearMisses:
    """Of the first N training pictures what a near miss would be, and a caption that tells them apart.

    latents: [N, 4, h, w], of pictures that are wrong in one thing; token_ids: [N, 77], of captions of the right ones.

    What is drawn from noise can pass through states that no training picture has under noise, half one thing and half
    another. Rows that begin between a picture and its near miss show how to come out of them.
    """

    latents: np.ndarray
    token_ids: np.ndarray

    def drawn(self, rows: np.ndarray, rng: Generator) -> np.ndarray:
        """For pictures [B] their numbers, where they begin between the two this time, and elsewhere -1: [B]."""
        return np.where((rows < len(self.latents)) & (rng.random(len(rows)) < MISSED_SHARE), rows, -1)

    def mixed(
        self, clean: torch.Tensor, numbers: np.ndarray, is_unsaid: np.ndarray, rng: Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, 4, h, w] between pictures and their near misses, numbered [B], and those at which they come out.

        They come out at `clean`, the pictures that their captions tell of; is_unsaid: [B], those without a caption, at
        whichever they show more of, so that what is drawn from no prompt is one thing and not a bit of each.
        """
        wrong = torch.from_numpy(self.latents[numbers]).to(clean.device).float()
        count = len(numbers)
        uneven = rng.random((count, 1, PATCHES, PATCHES), dtype=np.float32) - 0.5
        uneven *= 2.0 * (rng.random((count, 1, 1, 1)) < PATCHY_SHARE)
        part = torch.from_numpy(rng.random((count, 1, 1, 1), dtype=np.float32) + uneven).to(clean.device)
        part = functional.interpolate(part, clean.shape[-2:], mode="bilinear").clamp(0.0, 1.0)
        begun = torch.lerp(wrong, clean, part)
        differ = (clean - wrong).abs()
        is_wrong = (differ * (part - 0.5)).sum(dim=(1, 2, 3)) < 0.0
        is_wrong &= torch.from_numpy(is_unsaid).to(clean.device)
        return begun, torch.where(is_wrong[:, None, None, None], wrong, clean)


def kept_from_held_out(draw: Callable[[], Picture]) -> Picture:
    """What `draw` draws, anew until no pair of object and colour in it is one that training never shows."""
    while True:
        picture = draw()
        if not any((thing.object, thing.colour) in HELD_OUT for thing in picture.things):
            return picture


def mirrored(picture: Picture) -> Picture:
    """What the picture shows when it is turned left to right."""
    things = (replace(thing, position=_MIRRORED[thing.position]) for thing in picture.things)
    return replace(picture, things=tuple(things))


def with_one_thing_wrong(picture: Picture, rng: Generator) -> Picture:
    """What another picture would show that differs from this one in one thing that its caption tells."""
    what = ["scene", "time", *(["object", "colour", "size", "one less"] * 2 if picture.things else [])]
    if picture.scene != "space":
        what += ["weather"] * 2
    if 0 < len(picture.things) < MOST_THINGS:
        what += ["one more"] * 2
    if picture.things and picture.relation is None:
        what.append("position")
    if len(picture.things) > 1 and picture.things[0].colour != picture.things[1].colour:
        what += ["colours swapped"] * 2
    chosen = str(rng.choice(what))
    if chosen == "scene":
        return replace(picture, scene=_other(SCENES, picture.scene, rng))
    if chosen == "time":
        return replace(picture, time=_other(TIMES, picture.time, rng))
    if chosen == "weather":
        return replace(picture, weather=_other(WEATHERS, picture.weather, rng))
    things = list(picture.things)
    if chosen == "colours swapped":
        colours = things[1].colour, things[0].colour
        things[:2] = [replace(thing, colour=colour) for thing, colour in zip(things, colours, strict=False)]
    else:
        k = int(rng.integers(len(things)))
        if chosen == "one less":
            del things[k]
        elif chosen == "one more":  # as a model errs: another of the kind, in this colour or in another
            things.append(_changed(things[k], str(rng.choice(["colour", "position"])), rng))
        else:
            things[k] = _changed(things[k], chosen, rng)
    relation = picture.relation if len(things) == len(picture.things) else None
    return replace(picture, things=tuple(things), relation=relation)


def with_one_thing_mistaken(picture: Picture, rng: Generator) -> Picture:
    """What another picture would show in which one thing, of those that this one has, is another in its place."""
    things = list(picture.things)
    k = int(rng.integers(len(things)))
    things[k] = _changed(things[k], "object", rng)
    return replace(picture, things=tuple(things))


def alike(things: Sequence[Thing]) -> list[int]:
    """The numbers of the things of whose kind and colour there are several."""
    kinds = [(thing.object, thing.colour) for thing in things]
    return [k for k, kind in enumerate(kinds) if kinds.count(kind) > 1]


def with_one_too_many(picture: Picture, rng: Generator) -> Picture:
    """What another picture would show in which a thing is once more where it might be as well; one less if it is full.

    A caption that says "two red balloons" or "a bus" leaves open where, and a model may then draw one at each place.
    """
    things, doubles = list(picture.things), alike(picture.things)
    k = doubles[int(rng.integers(len(doubles)))] if doubles else int(rng.integers(len(things)))
    if len(things) >= MOST_THINGS:
        del things[k]
        return replace(picture, things=tuple(things), relation=None)
    depths = ("sky",) if things[k].depth == "sky" else ("near", "far")
    taken = {(thing.position, thing.depth) for thing in things}
    places = [(x, depth) for x in POSITIONS for depth in depths if (x, depth) not in taken]
    position, depth = places[int(rng.integers(len(places)))]
    return replace(picture, things=(*things, replace(things[k], position=position, depth=depth)))


def _changed(thing: Thing, what: str, rng: Generator) -> Thing:
    exchangeable = tuple(name for name, kind in KINDS.items() if kind.is_in_sky == KINDS[thing.object].is_in_sky)
    options = {"object": exchangeable, "colour": tuple(COLOURS), "size": tuple(SIZES), "position": tuple(POSITIONS)}
    return replace(thing, **{what: _other(options[what], getattr(thing, what), rng)})


def _other(options: Sequence[str], than: str, rng: Generator) -> str:
    others = [option for option in options if option != than]
    return others[int(rng.integers(len(others)))]
