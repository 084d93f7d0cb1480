"""The backgrounds: calm, smooth, and without any object that the vocabulary names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from sd_demo.embedded.drawing import RGB, mix
from sd_demo.embedded.layout import HORIZON

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Palette:
    """Sky above and at the horizon, what stands at the back, ground at the back and in front."""

    sky: RGB
    haze: RGB
    back: RGB
    ground: RGB
    front: RGB


PALETTES: dict[str, Palette] = {
    "meadow": Palette((126, 200, 240), (214, 240, 250), (146, 198, 122), (172, 216, 122), (130, 190, 92)),
    "beach": Palette((112, 204, 244), (206, 242, 250), (78, 184, 204), (250, 228, 172), (240, 208, 142)),
    "snow": Palette((170, 204, 236), (226, 238, 248), (204, 220, 238), (242, 247, 252), (218, 231, 244)),
    "desert": Palette((140, 204, 226), (252, 234, 196), (226, 162, 104), (240, 190, 122), (224, 160, 92)),
    "forest": Palette((150, 198, 170), (196, 222, 180), (62, 112, 82), (118, 150, 86), (88, 122, 66)),
    "mountains": Palette((132, 184, 234), (222, 232, 246), (134, 138, 176), (150, 178, 146), (116, 152, 122)),
    "sea": Palette((136, 206, 244), (222, 242, 250), (70, 146, 202), (66, 150, 204), (38, 112, 176)),
    "city": Palette((168, 198, 222), (236, 232, 224), (158, 158, 180), (176, 172, 172), (138, 136, 142)),
    "farm": Palette((138, 204, 242), (236, 240, 222), (150, 172, 92), (232, 198, 98), (206, 162, 68)),
    "space": Palette((40, 28, 84), (112, 66, 150), (126, 116, 150), (160, 150, 176), (124, 114, 146)),
}


def _at_time(palette: Palette, scene: str, time: str) -> Palette:
    """The palette in another light."""
    land = (palette.back, palette.ground, palette.front)
    if time == "sunset":
        if scene == "space":
            rose: RGB = (214, 96, 96)
            return Palette((88, 26, 84), (226, 96, 110), *(mix(c, rose, 0.35) for c in land))
        glow: RGB = (224, 120, 84)
        return Palette((236, 122, 108), (255, 214, 140), *(mix(c, glow, 0.32) for c in land))
    if time == "night":
        dark: RGB = (16, 22, 62)
        if scene == "space":
            return Palette((8, 8, 26), (34, 26, 74), *(mix(c, dark, 0.55) for c in land))
        sky = (22, 30, 84), (66, 80, 150)
        return Palette(*sky, *(mix(c, dark, 0.56) for c in land))
    return palette


def _gradient(side: int, top: float, bottom: float, above: RGB, below: RGB) -> Image.Image:
    """A full picture whose colour runs from above to below between two heights (parts of the side)."""
    t = np.clip(((np.arange(side) + 0.5) / side - top) / max(bottom - top, 1e-6), 0, 1)[:, None]
    column = np.asarray(above) * (1 - t) + np.asarray(below) * t
    return Image.fromarray(column.round().astype(np.uint8)[:, None, :], "RGB").resize((side, side))


def _wave(rng: Generator, height: float, swing: float, bumps: float) -> list[tuple[float, float]]:
    """A rolling line across the picture at about height."""
    a, b = rng.uniform(0, math.tau, 2)
    x = np.linspace(0, 1, 41)
    y = height + swing * (0.65 * np.sin(a + math.tau * bumps * x) + 0.35 * np.sin(b + math.tau * bumps * 1.9 * x))
    return list(zip(x.tolist(), y.tolist(), strict=True))


class _Land:
    """A canvas in parts of the picture's side."""

    def __init__(self, side: int, palette: Palette, horizon: float) -> None:
        self.side = side
        self.image = _gradient(side, 0.0, horizon, palette.sky, palette.haze)
        self._draw = ImageDraw.Draw(self.image)

    def _pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self.side, y * self.side) for x, y in points]

    def shape(self, colour: RGB, points: list[tuple[float, float]]) -> None:
        self._draw.polygon(self._pixels(points), fill=colour)

    def below(self, colour: RGB, line: list[tuple[float, float]]) -> None:
        self.shape(colour, [*line, (1, 1), (0, 1)])

    def ground(self, line: list[tuple[float, float]], far: RGB, near: RGB) -> None:
        """Everything below the line, running from the far colour to the near one."""
        mask = Image.new("L", (self.side, self.side), 0)
        ImageDraw.Draw(mask).polygon(self._pixels([*line, (1, 1), (0, 1)]), fill=255)
        top = min(y for _, y in line)
        self.image.paste(_gradient(self.side, top, 1.0, far, near), (0, 0), mask)
        self._draw = ImageDraw.Draw(self.image)

    def ellipse(self, colour: RGB, x: float, y: float, rx: float, ry: float) -> None:
        s = self.side
        self._draw.ellipse([(x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s], fill=colour)


def _meadow(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    land.below(mix(p.back, p.haze, 0.25), _wave(rng, h - 0.05, 0.03, 0.8))
    land.below(p.back, _wave(rng, h - 0.01, 0.025, 1.1))
    land.ground(_wave(rng, h + 0.03, 0.015, 0.7), p.ground, p.front)


def _beach(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    land.below(p.back, [(0, h - 0.07), (1, h - 0.07)])
    shore = _wave(rng, h + 0.035, 0.014, 1.2)
    land.below(mix(p.back, (255, 255, 255), 0.7), [(x, y - 0.018) for x, y in shore])
    land.ground(shore, p.ground, p.front)


def _snow(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    land.below(p.back, _wave(rng, h - 0.05, 0.04, 0.9))
    land.below(mix(p.back, p.ground, 0.55), _wave(rng, h, 0.025, 1.0))
    land.ground(_wave(rng, h + 0.04, 0.015, 0.6), p.ground, p.front)


def _desert(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    x = rng.uniform(0.2, 0.8)
    for shift, colour in ((0.0, p.back), (rng.uniform(0.35, 0.5), mix(p.back, p.haze, 0.3))):
        c = (x + shift) % 1.1
        land.shape(colour, [(c - 0.5, h + 0.06), (c, h - 0.11), (c + 0.5, h + 0.06)])
        land.shape(mix(colour, p.ground, 0.5), [(c - 0.5, h + 0.06), (c, h - 0.11), (c + 0.08, h + 0.06)])
    land.ground(_wave(rng, h + 0.03, 0.02, 0.8), p.ground, p.front)


def _forest(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    """A wall of leaves above broad trunks, seen from a clearing: no single tree."""
    land.below(mix(p.back, p.haze, 0.45), _wave(rng, h - 0.26, 0.03, 3.0))
    for k in range(7):
        x = (k + rng.uniform(0.2, 0.8)) / 7
        foot, crown = h + 0.06, h - 0.3
        trunk = [(x - 0.018, foot), (x - 0.018, crown), (x + 0.018, crown), (x + 0.018, foot)]
        land.shape(mix(p.back, (58, 44, 44), 0.45), trunk)
    canopy = _wave(rng, h - 0.17, 0.02, 4.0)
    land.shape(p.back, [(0, 0), (1, 0), *reversed(canopy)])
    land.shape(mix(p.back, (20, 50, 40), 0.25), [(0, 0), (1, 0), *reversed(_wave(rng, h - 0.34, 0.025, 2.5))])
    land.ground(_wave(rng, h + 0.05, 0.012, 0.8), p.ground, p.front)


def _mountains(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    for c, top, colour in (
        (rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.26), p.back),
        (rng.uniform(0.72, 0.9), rng.uniform(0.22, 0.28), p.back),
        (rng.uniform(0.45, 0.58), rng.uniform(0.27, 0.32), mix(p.back, p.haze, 0.3)),
    ):
        height, foot = h + 0.05 - top, h + 0.05
        land.shape(colour, [(c - height, foot), (c, top), (c + height, foot)])
        land.shape(mix(colour, (40, 44, 80), 0.2), [(c, top), (c + height, foot), (c + 0.05, foot)])
        cap = height * 0.3
        outer = [(c - cap, top + cap), (c, top), (c + cap, top + cap)]
        hem = [(c + cap * 0.4, top + cap * 0.8), (c, top + cap * 1.2), (c - cap * 0.4, top + cap * 0.8)]
        land.shape(mix(p.haze, (255, 255, 255), 0.6), outer + hem)
    land.ground(_wave(rng, h + 0.03, 0.02, 0.9), p.ground, p.front)


def _sea(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    land.ground([(0, h), (1, h)], p.ground, p.front)
    for k in range(4):
        line = _wave(rng, h + 0.07 + 0.12 * k, 0.008, 2.5 - 0.4 * k)
        crest = mix(mix(p.ground, p.front, (k + 1) / 4), (255, 255, 255), 0.16)
        land.shape(crest, line + [(x, y + 0.02 + 0.006 * k) for x, y in reversed(line)])


def _city(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    for back, colour in ((0.17, mix(p.back, p.haze, 0.4)), (0.07, p.back)):
        x = -rng.uniform(0, 0.1)
        while x < 1:
            width, top = rng.uniform(0.09, 0.17), h - back - rng.uniform(0, 0.16)
            land.shape(colour, [(x, 0.7), (x, top), (x + width, top), (x + width, 0.7)])
            x += width + rng.uniform(0, 0.03)
    land.ground([(0, h + 0.045), (1, h + 0.045)], p.ground, p.front)
    land.shape(mix(p.ground, (255, 255, 255), 0.4), [(0, h + 0.045), (1, h + 0.045), (1, h + 0.07), (0, h + 0.07)])


def _farm(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    land.below(p.back, _wave(rng, h - 0.03, 0.02, 0.8))
    land.ground([(0, h + 0.03), (1, h + 0.03)], p.ground, p.front)
    c, dark = rng.uniform(0.35, 0.65), mix(p.front, (110, 80, 40), 0.16)
    for k in range(-5, 6):
        x = c + (k + 0.15) * 0.3
        land.shape(dark, [(c + (x - c) * 0.26, h + 0.03), (c + (x + 0.1 - c) * 0.26, h + 0.03), (x + 0.12, 1), (x, 1)])


def _space(land: _Land, p: Palette, rng: Generator, h: float) -> None:
    """A cratered planet under a glowing band of gas."""
    tilt = rng.uniform(-0.16, 0.16)
    for width, t in ((0.13, 0.3), (0.07, 0.6)):
        y = 0.26 + rng.uniform(-0.03, 0.03)
        top = [(x, yy + tilt * (x - 0.5) - width / 2) for x, yy in _wave(rng, y, 0.03, 0.8)]
        land.shape(mix(p.sky, p.haze, t), top + [(x, yy + width) for x, yy in reversed(top)])
    land.ground([(x / 20, h + 0.02 + 0.16 * (x / 20 - 0.5) ** 2) for x in range(21)], p.ground, p.front)
    for k in range(5):
        x, y = (k + rng.uniform(0.1, 0.9)) / 5, h + 0.13 + rng.uniform(0, 0.32)
        r = 0.035 + 0.07 * (y - h)
        land.ellipse(mix(p.front, (30, 20, 60), 0.25), x, y, r, r * 0.42)
        land.ellipse(mix(p.front, (255, 255, 255), 0.05), x, y + r * 0.1, r * 0.86, r * 0.3)


_PAINTERS = {
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "desert": _desert,
    "forest": _forest,
    "mountains": _mountains,
    "sea": _sea,
    "city": _city,
    "farm": _farm,
    "space": _space,
}


def background(scene: str, time: str, side: int, rng: Generator) -> tuple[Image.Image, Palette]:
    """The scene alone, SUPERSAMPLING times the side, and the palette it was drawn with."""
    palette = _at_time(PALETTES[scene], scene, time)
    horizon = HORIZON + rng.uniform(-0.025, 0.025)
    land = _Land(side * SUPERSAMPLING, palette, horizon)
    _PAINTERS[scene](land, palette, rng, horizon)
    return land.image, palette
