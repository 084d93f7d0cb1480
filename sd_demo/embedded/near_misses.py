"""Pictures that are nearly another one: what a CLIP must tell apart, and what a UNet must not let itself be led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from numpy.random import Generator

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.picture import MOST_THINGS, POSITIONS, SCENES, SIZES, TIMES, Picture, Thing

_MIRRORED = {"left": "right", "middle": "middle", "right": "left"}


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


def _changed(thing: Thing, what: str, rng: Generator) -> Thing:
    alike = tuple(name for name, kind in KINDS.items() if kind.is_in_sky == KINDS[thing.object].is_in_sky)
    options = {"object": alike, "colour": tuple(COLOURS), "size": tuple(SIZES), "position": tuple(POSITIONS)}
    return replace(thing, **{what: _other(options[what], getattr(thing, what), rng)})


def _other(options: Sequence[str], than: str, rng: Generator) -> str:
    others = [option for option in options if option != than]
    return others[int(rng.integers(len(others)))]
