"""Plants, in the brush's units (see drawing.py). The part that bears the colour is by far the largest."""

from __future__ import annotations

import math

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint


def tree(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.wood, [(-10, 0), (10, 0), (6, 40), (-6, 40)])
    b.stroke(p.wood, [(0, 26), (18, 46)], 6)
    puffs = [(-22, 48, 20), (22, 48, 20), (-16, 70, 20), (18, 70, 20), (0, 82, 19), (0, 58, 24)]
    for x, y, r in puffs:
        b.ellipse(p.main, x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), r)
    b.arc(p.dark, 22, 48, 19, 18, 230, 400)
    b.ellipse(p.light, -14, 76, 9, 7, 30)


def flower(b: Brush, p: Paint, rng: Generator) -> None:
    bend = rng.uniform(-5, 5)
    b.stroke(p.leaf, [(bend, 0), (bend / 2, 24), (0, 50)], 7)
    b.ellipse(p.leaf, -13, 18, 13, 6, -35)
    b.ellipse(p.leaf, 13, 24, 13, 6, 35)
    turn = rng.uniform(0, 60)
    for k in range(6):
        a = math.radians(turn + 60 * k)
        b.ellipse(p.main, 19 * math.cos(a), 66 + 19 * math.sin(a), 16, 12.5, turn + 60 * k)
    b.ellipse((250, 206, 70) if p.main[2] > 90 or p.main[1] < 120 else (120, 76, 44), 0, 66, 10)


def mushroom(b: Brush, p: Paint, rng: Generator) -> None:
    b.blob((250, 240, 220), [(-15, 0), (15, 0), (12, 24), (13, 42), (-13, 42), (-12, 24)])
    b.arc((222, 204, 178), 0, 38, 30, 7, 180, 360)
    b.blob(p.main, [(-46, 38), (-38, 64), (-16, 82), (16, 82), (38, 64), (46, 38), (22, 34), (-22, 34)])
    shift = rng.uniform(-4, 4)
    for x, y, r in ((-24, 54, 7), (2, 64, 8.5), (27, 53, 6.5)):
        b.ellipse(p.pale, x + shift, y, r)


def cactus(b: Brush, p: Paint, rng: Generator) -> None:
    left, right = rng.uniform(-5, 5), rng.uniform(-5, 5)
    b.stroke(p.main, [(0, 32 + left), (-30, 32 + left), (-30, 56 + left)], 15, is_smooth=False)
    b.stroke(p.main, [(0, 42 + right), (30, 42 + right), (30, 68 + right)], 15, is_smooth=False)
    b.box(p.main, -13, 0, 13, 100, 12)
    b.box(p.dark, 4, 6, 9, 90, 2.5)
    b.box(p.light, -8, 6, -3, 90, 2.5)
