"""Buildings, in the brush's units (see drawing.py)."""

from __future__ import annotations

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint

LIT = (255, 230, 146)


def house(b: Brush, p: Paint, rng: Generator) -> None:
    b.box(p.dark, 18, 66, 30, 96)
    b.box(p.main, -38, 0, 38, 54)
    b.polygon(p.dark, [(-50, 52), (50, 52), (22, 86), (-22, 86)])
    door = rng.choice([-9, -28])
    b.box(p.wood, door, 0, door + 17, 32, 3)
    b.box(LIT, 15, 18, 31, 36, 1)
    if door == -9:
        b.box(LIT, -31, 18, -15, 36, 1)


def castle(b: Brush, p: Paint, rng: Generator) -> None:
    b.box(p.main, -30, 0, 30, 50)
    for x in (-26, -8, 10):
        b.box(p.main, x, 48, x + 14, 60)
    for x in (-50, 26):
        b.box(p.main, x, 0, x + 24, 66)
        b.box(p.dark, x - 2, 62, x + 26, 69)
        b.polygon(p.dark, [(x - 4, 68), (x + 28, 68), (x + 12, 98)])
        b.box(LIT, x + 8, 40, x + 16, 54, 3)
    b.box(p.wood, -11, 0, 11, 20)
    b.arc(p.wood, 0, 19, 11, 12, 0, 180)


def tent(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.main, [(-50, 0), (50, 0), (4, 70), (-4, 70)])
    b.polygon(p.light, [(-50, 0), (-30, 0), (-1, 70), (-4, 70)])
    b.polygon((70, 54, 58), [(-14, 0), (14, 0), (0, 42)])
    b.polygon(p.dark, [(14, 0), (26, 0), (0, 46), (0, 42)])
    b.stroke(p.wood, [(0, 66), (0, 78)], 5)
    b.polygon((236, 84, 70), [(2, 80), (2, 69), (17, 75)])


def lighthouse(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.main, [(-22, 0), (22, 0), (13, 70), (-13, 70)])
    b.polygon(p.pale, [(-19.2, 20), (19.2, 20), (17.6, 32), (-17.6, 32)])
    b.polygon(p.pale, [(-15.6, 49), (15.6, 49), (14.2, 59), (-14.2, 59)])
    b.box(p.dark, -19, 68, 19, 75, 2)
    b.box(LIT, -11, 75, 11, 89)
    b.polygon(p.main, [(-17, 88), (17, 88), (0, 104)])
