"""Vehicles, in the brush's units (see drawing.py), most of them facing right."""

from __future__ import annotations

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint

TYRE = (52, 48, 56)
HUB = (214, 214, 218)


def wheel(b: Brush, x: float, r: float) -> None:
    b.ellipse(TYRE, x, r, r)
    b.ellipse(HUB, x, r, r * 0.45)


def car(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.main, [(-32, 34), (-22, 58), (14, 58), (30, 34)])
    b.polygon(p.glass, [(-23, 36), (-17, 52), (-4, 52), (-4, 36)])
    b.polygon(p.glass, [(2, 36), (2, 52), (11, 52), (21, 36)])
    b.box(p.main, -50, 9, 50, 38, 10)
    b.box(p.dark, -48, 9, 48, 17, 4)
    b.ellipse((255, 232, 140), 44, 29, 5)
    wheel(b, -27, 12)
    wheel(b, 27, 12)


def bus(b: Brush, p: Paint, rng: Generator) -> None:
    b.box(p.main, -50, 9, 50, 66, 9)
    b.box(p.dark, -50, 9, 50, 20, 5)
    for x in (-43, -23, -3):
        b.box(p.glass, x, 38, x + 15, 57, 3)
    b.box(p.glass, 19, 16, 32, 57, 3)
    b.box(p.glass, 38, 36, 50, 57, 3)
    wheel(b, -28, 12)
    wheel(b, 26, 12)


def train(b: Brush, p: Paint, rng: Generator) -> None:
    b.ellipse((236, 236, 240), -6 + rng.uniform(-4, 4), 88, 11, 9)
    b.ellipse((236, 236, 240), 10, 82, 9, 8)
    b.box(p.main, -46, 14, -14, 66, 3)
    b.box(p.dark, -50, 64, -10, 73, 3)
    b.box(p.glass, -39, 40, -21, 58, 3)
    b.box(p.main, -16, 16, 42, 48, 10)
    b.polygon(p.dark, [(18, 46), (34, 46), (38, 72), (14, 72)])
    b.ellipse(p.dark, 2, 48, 8)
    b.polygon(p.ink, [(36, 4), (54, 4), (42, 20)])
    b.box(p.dark, -48, 12, 44, 22, 3)
    wheel(b, -32, 13)
    wheel(b, 0, 10)
    wheel(b, 25, 10)


def boat(b: Brush, p: Paint, rng: Generator) -> None:
    b.box(p.wood, -4, 20, 2, 98, 2)
    b.polygon(p.main, [(6, 32), (6, 94), (42 + rng.uniform(-4, 2), 32)])
    b.polygon((250, 242, 222) if p.main[2] < 230 else p.pale, [(-8, 34), (-8, 84), (-34, 34)])
    b.polygon(p.main, [(-50, 27), (50, 27), (34, 0), (-34, 0)])
    b.polygon(p.dark, [(-41, 11), (41, 11), (34, 0), (-34, 0)])


def rocket(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.dark, [(-14, 36), (-34, 4), (-12, 12)])
    b.polygon(p.dark, [(14, 36), (34, 4), (12, 12)])
    b.box(p.ink, -9, 0, 9, 12, 2)
    b.blob(p.main, [(-14, 8), (14, 8), (20, 40), (14, 74), (0, 100), (-14, 74), (-20, 40)])
    b.blob(p.pale, [(0, 100), (11, 80), (0, 77), (-11, 80)])
    b.ellipse(p.dark, 0, 54, 11)
    b.ellipse(p.glass, 0, 54, 7.5)


def airplane(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.dark, [(-2, 38), (-16, 64), (-4, 64), (18, 38)])
    b.polygon(p.main, [(-46, 36), (-52, 64), (-38, 64), (-24, 40)])
    b.blob(p.main, [(-48, 36), (-20, 24), (30, 22), (50, 32), (46, 42), (28, 46), (-30, 46)])
    b.polygon(p.dark, [(10, 32), (-18, 4), (-32, 4), (-14, 32)])
    b.polygon(p.glass, [(30, 44), (46, 40), (46, 33), (30, 34)])
    for x in (-22, -6, 10):
        b.ellipse(p.glass, x, 38, 4.2)


def hot_air_balloon(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.edge, [(-16, 36), (-8, 16), (-5, 16), (-12, 36)])
    b.polygon(p.edge, [(16, 36), (8, 16), (5, 16), (12, 36)])
    b.box(p.wood, -11, 0, 11, 18, 4)
    b.blob(p.main, [(-14, 34), (14, 34), (36, 58), (32, 86), (0, 100), (-32, 86), (-36, 58)])
    b.blob(p.pale, [(-6, 34), (6, 34), (11, 62), (8, 88), (0, 97), (-8, 88), (-11, 62)])
    b.polygon(p.dark, [(-16, 30), (16, 30), (16, 38), (-16, 38)])
