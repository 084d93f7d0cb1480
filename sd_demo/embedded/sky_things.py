"""Things that only ever hang in the sky, in the brush's units (see drawing.py)."""

from __future__ import annotations

import math

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint


def sun(b: Brush, p: Paint, rng: Generator) -> None:
    turn = rng.uniform(0, 0.6)
    for k in range(10):
        a = turn + math.tau * k / 10
        left, right = a - 0.2, a + 0.2
        points = [(31 * math.cos(c), 50 + 31 * math.sin(c)) for c in (left, right)]
        b.polygon(p.main, [*points, (50 * math.cos(a), 50 + 50 * math.sin(a))])
    b.ellipse(p.edge, 0, 50, 32)
    b.ellipse(p.main, 0, 50, 29)
    b.ellipse(p.edge, -10, 55, 3.6)
    b.ellipse(p.edge, 10, 55, 3.6)
    b.stroke(p.edge, [(-12, 44), (0, 36), (12, 44)], 4)


def moon(b: Brush, p: Paint, rng: Generator) -> None:
    angles = [math.radians(d) for d in range(62, 300, 7)]
    outer = [(50 * math.cos(a) + 16, 50 + 50 * math.sin(a)) for a in angles]
    inner = [(40 * math.cos(a) + 34, 50 + 42 * math.sin(a)) for a in reversed(angles)]
    b.polygon(p.main, outer + inner)
    b.ellipse(p.dark, -19, 62, 6)
    b.ellipse(p.dark, -15, 34, 4.6)


def star(b: Brush, p: Paint, rng: Generator) -> None:
    points = []
    for k in range(10):
        r = 50 if k % 2 == 0 else 23
        a = math.pi / 2 + math.pi * k / 5
        points.append((r * math.cos(a), 50 + r * math.sin(a)))
    b.polygon(p.main, points)
    b.polygon(p.light, [points[0], points[1], (0, 50), points[9]])


def cloud(b: Brush, p: Paint, rng: Generator) -> None:
    b.box(p.main, -48, 8, 48, 36, 14)
    for x, y, r in ((-28, 30, 18), (-4, 42, 24), (26, 32, 19)):
        b.ellipse(p.main, x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), r)
    b.box(p.dark, -40, 8, 40, 15, 3.5)
    b.ellipse(p.light, -8, 52, 10, 6, 20)
