"""Toys and household things, in the brush's units (see drawing.py)."""

from __future__ import annotations

import math

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint


def ball(b: Brush, p: Paint, rng: Generator) -> None:
    b.ellipse(p.main, 0, 50, 50)
    turn = rng.uniform(-25, 25)
    b.arc(p.pale, 0, 50, 50, 50, 60 + turn, 102 + turn)
    a = math.radians(81 + turn)
    b.polygon(p.pale, [(0, 50)] + [(50 * math.cos(a + d), 50 + 50 * math.sin(a + d)) for d in (-0.37, 0.37)])
    a += math.pi
    b.arc(p.pale, 0, 50, 50, 50, 240 + turn, 282 + turn)
    b.polygon(p.pale, [(0, 50)] + [(50 * math.cos(a + d), 50 + 50 * math.sin(a + d)) for d in (-0.37, 0.37)])
    b.ellipse(p.pale, 0, 50, 10)
    b.ellipse(p.light, -22, 66, 8, 6, 40)


def umbrella(b: Brush, p: Paint, rng: Generator) -> None:
    b.stroke(p.wood, [(0, 60), (0, 10), (4, 2), (12, 2), (16, 10)], 6)
    b.stroke(p.wood, [(0, 90), (0, 100)], 6)
    b.arc(p.main, 0, 50, 50, 45, 0, 180)
    b.arc(p.dark, 0, 50, 17, 44, 0, 180)
    for x in (-33.5, 0, 33.5):
        b.ellipse(p.main if x else p.dark, x, 50, 16.5, 8)


def teapot(b: Brush, p: Paint, rng: Generator) -> None:
    b.stroke(p.dark, [(-26, 50), (-46, 54), (-48, 30), (-26, 18)], 9)
    b.polygon(p.dark, [(24, 16), (30, 40), (40, 62), (54, 62), (44, 42), (36, 14)])
    b.blob(p.main, [(-22, 0), (22, 0), (36, 24), (26, 54), (-26, 54), (-36, 24)])
    b.arc(p.dark, 0, 55, 23, 14, 0, 180)
    b.ellipse(p.main, 0, 72, 6.5)
    b.ellipse(p.pale, 0, 27, 12)
    b.ellipse(p.dark, 0, 27, 5.5)


def balloon(b: Brush, p: Paint, rng: Generator) -> None:
    swing = rng.uniform(-7, 7)
    b.stroke(p.edge, [(0, 44), (7 + swing / 2, 30), (-5 + swing, 14), (2 + swing, 0)], 4)
    b.polygon(p.dark, [(-7, 36), (7, 36), (0, 46)])
    b.blob(p.main, [(0, 41), (20, 55), (28, 76), (18, 95), (0, 100), (-18, 95), (-28, 76), (-20, 55)])
    b.ellipse(p.light, -12, 82, 5, 10, -20)


def kite(b: Brush, p: Paint, rng: Generator) -> None:
    swing = rng.uniform(-6, 6)
    tail = [(0, 36), (9 + swing, 26), (-5 + swing, 14), (4 + swing, 2)]
    b.stroke(p.edge, tail, 3.5)
    for x, y in tail[1:]:
        b.polygon(p.dark, [(x, y), (x - 8, y + 5), (x - 8, y - 5)])
        b.polygon(p.dark, [(x, y), (x + 8, y + 5), (x + 8, y - 5)])
    b.polygon(p.main, [(0, 100), (30, 72), (0, 34), (-30, 72)])
    b.polygon(p.dark, [(0, 72), (30, 72), (0, 34)])
    b.polygon(p.light, [(0, 100), (0, 72), (-30, 72)])
