"""Every object of the world: its drawing, whether it stands or hangs in the sky, and the colours it usually has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from sd_demo.embedded import animals, buildings, plants, sky_things, things, vehicles
from sd_demo.embedded.drawing import COLOURS, Brush, Paint


@dataclass(frozen=True)
class Kind:
    """One kind of object. `usual` colours are what a plain "a cat" may mean; the first is the most usual."""

    draw: Callable[[Brush, Paint, Generator], None]
    is_in_sky: bool
    usual: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "ball": Kind(things.ball, False, ("red", "blue")),
    "umbrella": Kind(things.umbrella, False, ("red", "black")),
    "teapot": Kind(things.teapot, False, ("blue", "white")),
    "cat": Kind(animals.cat, False, ("orange", "black")),
    "dog": Kind(animals.dog, False, ("brown", "black")),
    "rabbit": Kind(animals.rabbit, False, ("white", "grey")),
    "fish": Kind(animals.fish, False, ("orange", "blue")),
    "duck": Kind(animals.duck, False, ("yellow", "white")),
    "snail": Kind(animals.snail, False, ("brown", "orange")),
    "tree": Kind(plants.tree, False, ("green", "orange")),
    "flower": Kind(plants.flower, False, ("red", "pink")),
    "mushroom": Kind(plants.mushroom, False, ("red", "brown")),
    "cactus": Kind(plants.cactus, False, ("green",)),
    "car": Kind(vehicles.car, False, ("red", "blue")),
    "bus": Kind(vehicles.bus, False, ("red", "yellow")),
    "train": Kind(vehicles.train, False, ("black", "green")),
    "boat": Kind(vehicles.boat, False, ("red", "white")),
    "rocket": Kind(vehicles.rocket, False, ("white", "red")),
    "house": Kind(buildings.house, False, ("red", "yellow")),
    "castle": Kind(buildings.castle, False, ("grey", "white")),
    "tent": Kind(buildings.tent, False, ("green", "orange")),
    "lighthouse": Kind(buildings.lighthouse, False, ("red", "white")),
    "balloon": Kind(things.balloon, True, ("red", "blue")),
    "kite": Kind(things.kite, True, ("red", "yellow")),
    "bird": Kind(animals.bird, True, ("blue", "black")),
    "butterfly": Kind(animals.butterfly, True, ("orange", "blue")),
    "airplane": Kind(vehicles.airplane, True, ("white", "grey")),
    "hot-air balloon": Kind(vehicles.hot_air_balloon, True, ("red", "orange")),
    "sun": Kind(sky_things.sun, True, ("yellow", "orange")),
    "moon": Kind(sky_things.moon, True, ("yellow", "white")),
    "star": Kind(sky_things.star, True, ("yellow", "white")),
    "cloud": Kind(sky_things.cloud, True, ("white", "grey")),
}


def _held_out() -> tuple[tuple[str, str], ...]:
    """One unusual colour for every object and a second for every fourth, walking through the colours by fours."""
    colours = list(COLOURS)
    pairs = []
    for number, (name, kind) in enumerate(KINDS.items()):
        for offset in (2, 7) if number % 4 == 0 else (2,):
            place = 4 * number + offset
            while colours[place % len(colours)] in kind.usual:
                place += 1
            pairs.append((name, colours[place % len(colours)]))
    return tuple(pairs)


HELD_OUT: tuple[tuple[str, str], ...] = _held_out()
"""The pairs of object and colour that no training picture shows: 40 of 352."""
