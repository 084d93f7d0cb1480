"""Paint and brush: the shapes that every object of the picture-book world is made of.

A brush draws on a transparent layer in its own units: x from -50 (left) to 50 (right), y from 0 (the ground) to
100 (up). The layer is larger than the result and is cropped and reduced afterwards (`cut_out`), which makes the edges
smooth and the size exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (218, 44, 44),
    "orange": (246, 138, 26),
    "yellow": (252, 214, 44),
    "green": (58, 160, 72),
    "blue": (44, 98, 216),
    "purple": (128, 62, 182),
    "pink": (248, 140, 186),
    "brown": (128, 78, 42),
    "black": (42, 40, 48),
    "white": (250, 248, 242),
    "grey": (148, 152, 158),
}

INK: RGB = (44, 38, 48)
MARGIN = 20.0  # units around the -50..50 x 0..100 box, for tails and strings that swing out
SPAN = 100.0 + 2 * MARGIN


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """The colour that lies the part t (0 to 1) of the way from a to b."""
    return (round(a[0] + (b[0] - a[0]) * t), round(a[1] + (b[1] - a[1]) * t), round(a[2] + (b[2] - a[2]) * t))


@dataclass(frozen=True)
class Paint:
    """The few colours one object is drawn with, made from its one main colour."""

    main: RGB
    dark: RGB  # its shadow side
    light: RGB  # its lit side
    edge: RGB  # the soft line around it
    pale: RGB = (255, 248, 230)  # paper-coloured details
    ink: RGB = INK  # eyes, wheels, doors
    glass: RGB = (182, 224, 238)
    wood: RGB = (142, 98, 62)
    leaf: RGB = (84, 152, 76)

    @classmethod
    def of(cls, colour: str) -> Paint:
        main = COLOURS[colour]
        if colour == "black":  # darker than black is nothing: its shading and edge go towards light
            return cls(main, (26, 24, 30), (74, 72, 84), (128, 128, 142), ink=(112, 110, 124))
        if colour == "white":  # pale details must still show on it
            return cls(main, (212, 214, 224), (255, 255, 255), (138, 142, 160), pale=(196, 202, 216))
        return cls(main, mix(main, INK, 0.28), mix(main, (255, 255, 255), 0.3), mix(main, INK, 0.52))


class Brush:
    """Draws filled shapes on one object's layer; every shape goes through its small random stretch, tilt and flip."""

    def __init__(self, side: int, stretch: float = 1.0, tilt: float = 0.0, is_flipped: bool = False) -> None:
        self.layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.layer)
        self._scale = side / SPAN
        self._stretch = stretch
        self._cos, self._sin = math.cos(tilt), math.sin(tilt)
        self._sign = -1.0 if is_flipped else 1.0

    def polygon(self, colour: RGB, points: Sequence[Point]) -> None:
        pixels = []
        for x, y in points:
            x, y = x * self._sign * self._stretch, y / self._stretch - 50
            x, y = x * self._cos - y * self._sin, x * self._sin + y * self._cos
            pixels.append(((x + SPAN / 2) * self._scale, (SPAN / 2 - y) * self._scale))
        self._draw.polygon(pixels, fill=(*colour, 255))

    def ellipse(self, colour: RGB, x: float, y: float, rx: float, ry: float = 0.0, angle: float = 0.0) -> None:
        """angle in degrees, counter-clockwise; ry of 0 makes a circle."""
        self.arc(colour, x, y, rx, ry or rx, 0, 360, angle)

    def arc(
        self, colour: RGB, x: float, y: float, rx: float, ry: float, start: float, end: float, angle: float = 0.0
    ) -> None:
        """The filled part of an ellipse from start to end (degrees, 0 is right, 90 is up)."""
        turn = np.radians(np.linspace(start, end, 36))
        a = math.radians(angle)
        px, py = rx * np.cos(turn), ry * np.sin(turn)
        self.polygon(
            colour,
            list(zip(x + px * math.cos(a) - py * math.sin(a), y + px * math.sin(a) + py * math.cos(a), strict=True)),
        )

    def box(self, colour: RGB, x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> None:
        """A rectangle, its corners rounded by radius."""
        if radius <= 0:
            self.polygon(colour, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            return
        corners = [(x1 - radius, y1 - radius), (x0 + radius, y1 - radius), (x0 + radius, y0 + radius)]
        corners.append((x1 - radius, y0 + radius))
        points = []
        for quarter, (cx, cy) in enumerate(corners):
            for step in range(6):
                a = math.pi / 2 * (quarter + step / 5)
                points.append((cx + radius * math.cos(a), cy + radius * math.sin(a)))
        self.polygon(colour, points)

    def blob(self, colour: RGB, points: Sequence[Point]) -> None:
        """A closed smooth shape through all the points."""
        self.polygon(colour, smooth(points, is_closed=True))

    def stroke(self, colour: RGB, points: Sequence[Point], width: float, is_smooth: bool = True) -> None:
        """A line with round ends through all the points."""
        path = smooth(points, is_closed=False) if is_smooth and len(points) > 2 else list(points)
        r = width / 2
        for (x0, y0), (x1, y1) in pairwise(path):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = -(y1 - y0) / length * r, (x1 - x0) / length * r
            self.polygon(colour, [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)])
        for x, y in path:
            turn = [math.tau * k / 10 for k in range(10)]
            self.polygon(colour, [(x + r * math.cos(a), y + r * math.sin(a)) for a in turn])

    def eye(self, x: float, y: float, r: float = 4.5) -> None:
        """White with a dark pupil, so that it shows on every colour."""
        self.ellipse((255, 255, 255), x, y, r * 1.25)
        self.ellipse(INK, x + r * 0.2, y, r * 0.85)


def smooth(points: Sequence[Point], *, is_closed: bool, steps: int = 6) -> list[Point]:
    """A Catmull-Rom curve through the points (Catmull and Rom, 1974)."""
    p = np.asarray(points, dtype=np.float64)
    n = len(p)
    if is_closed:
        before, start, end, after = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        before, start, end, after = padded[: n - 1], padded[1:n], padded[2 : n + 1], padded[3 : n + 2]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    before, start, end, after = (q[:, None] for q in (before, start, end, after))
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    flat = curve.reshape(-1, 2)
    if not is_closed:
        flat = np.concatenate([flat, p[-1:]])
    return [(float(x), float(y)) for x, y in flat]


def bounds(layer: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is drawn on a layer, in pixels."""
    box = layer.getbbox()
    if box is None:
        raise ValueError("nothing has been drawn on this layer")
    return box


def cut_out(layer: Image.Image, extent: float) -> Image.Image:
    """Crop a layer to its shape and reduce it so that its longer side is extent pixels."""
    shape = layer.crop(bounds(layer))
    factor = extent / max(shape.size)
    size = (max(1, round(shape.width * factor)), max(1, round(shape.height * factor)))
    return shape.resize(size, Image.Resampling.BOX)
