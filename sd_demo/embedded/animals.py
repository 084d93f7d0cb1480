"""The animals: each drawn facing right, in the brush's units (see drawing.py)."""

from __future__ import annotations

from numpy.random import Generator

from sd_demo.embedded.drawing import Brush, Paint


def cat(b: Brush, p: Paint, rng: Generator) -> None:
    sway = rng.uniform(-4, 8)
    b.stroke(p.dark, [(-14, 8), (-38, 10), (-44, 30 + sway), (-34, 44 + sway)], 10)
    b.blob(p.main, [(-26, 0), (26, 0), (28, 18), (18, 48), (-18, 48), (-28, 18)])
    b.blob(p.light, [(-9, 4), (9, 4), (10, 24), (0, 36), (-10, 24)])
    b.polygon(p.main, [(-31, 66), (-30, 98), (-6, 84)])
    b.polygon(p.main, [(31, 66), (30, 98), (6, 84)])
    b.polygon(p.dark, [(-26, 76), (-26, 91), (-14, 82)])
    b.polygon(p.dark, [(26, 76), (26, 91), (14, 82)])
    b.ellipse(p.main, 0, 64, 33, 26)
    b.eye(-13, 67, 5)
    b.eye(13, 67, 5)
    b.polygon((236, 130, 140), [(-5, 58), (5, 58), (0, 52)])


def dog(b: Brush, p: Paint, rng: Generator) -> None:
    wag = rng.uniform(-6, 8)
    b.stroke(p.main, [(-32, 42), (-44, 52), (-50, 66 + wag)], 9)
    for x in (-28, -14, 12, 25):
        b.box(p.dark if x in (-14, 12) else p.main, x - 6, 0, x + 6, 30, 4)
    b.box(p.main, -37, 22, 32, 52, 14)
    b.blob(p.main, [(12, 40), (32, 40), (40, 62), (30, 84), (10, 80), (6, 58)])
    b.box(p.main, 20, 54, 57, 72, 8)
    b.ellipse(p.ink, 55, 69, 6, 5)
    b.blob(p.dark, [(4, 82), (16, 84), (16, 60), (8, 44), (-2, 56)])
    b.eye(27, 74, 4.5)
    b.box((226, 70, 62), 8, 42, 34, 49, 3)


def rabbit(b: Brush, p: Paint, rng: Generator) -> None:
    flop = rng.uniform(-8, 8)
    b.ellipse(p.main, -9, 84, 8, 24, 8 + flop)
    b.ellipse(p.main, 10, 84, 8, 24, -8 + flop)
    b.ellipse((246, 176, 188), -9, 84, 3.6, 17, 8 + flop)
    b.ellipse((246, 176, 188), 10, 84, 3.6, 17, -8 + flop)
    b.ellipse(p.pale, -25, 12, 9)
    b.blob(p.main, [(-22, 0), (22, 0), (25, 16), (14, 38), (-14, 38), (-25, 16)])
    b.ellipse(p.light, 0, 16, 13, 14)
    b.ellipse(p.dark, -13, 3, 10, 5)
    b.ellipse(p.dark, 13, 3, 10, 5)
    b.ellipse(p.main, 0, 51, 23, 20)
    b.eye(-9, 54, 4.3)
    b.eye(9, 54, 4.3)
    b.ellipse((236, 130, 140), 0, 46, 4, 3)


def fish(b: Brush, p: Paint, rng: Generator) -> None:
    b.polygon(p.dark, [(-22, 32), (-50, 58), (-44, 32), (-50, 6)])
    b.polygon(p.dark, [(-10, 52), (14, 52), (-2, 70)])
    b.blob(p.main, [(-30, 32), (-8, 54), (24, 52), (48, 32), (24, 12), (-8, 10)])
    b.arc(p.light, 4, 32, 9, 21, 90, 270)
    b.arc(p.light, -12, 32, 7, 18, 90, 270)
    b.polygon(p.dark, [(6, 28), (-10, 22), (2, 14)])
    b.eye(29, 38, 5)


def duck(b: Brush, p: Paint, rng: Generator) -> None:
    lift = rng.uniform(-3, 3)
    b.polygon((242, 150, 40), [(34, 62), (56, 58), (34, 50)])
    b.blob(p.main, [(-48, 40), (-34, 8), (-4, 0), (26, 6), (34, 28), (12, 38), (-16, 30)])
    b.ellipse(p.main, 22, 40, 14, 20)
    b.ellipse(p.main, 22, 58, 19)
    b.blob(p.dark, [(-32, 28 + lift), (-10, 32 + lift), (8, 22), (-8, 8), (-24, 12)])
    b.eye(27, 63, 4.5)


def snail(b: Brush, p: Paint, rng: Generator) -> None:
    body = (232, 198, 150)
    b.stroke(body, [(38, 22), (34, 44)], 5)
    b.stroke(body, [(44, 22), (50, 42)], 5)
    b.ellipse(p.ink, 34, 46, 5)
    b.ellipse(p.ink, 50, 44, 5)
    b.blob(body, [(-50, 0), (44, 0), (52, 14), (46, 28), (34, 26), (26, 14), (-30, 12)])
    b.ellipse(p.main, -7, 37, 34, 33)
    b.ellipse(p.dark, -6, 36, 23, 22)
    b.ellipse(p.main, -4, 37, 17, 16)
    b.ellipse(p.dark, -2, 36, 8)


def bird(b: Brush, p: Paint, rng: Generator) -> None:
    lift = rng.uniform(-8, 8)
    b.polygon(p.dark, [(-20, 38), (-52, 52), (-46, 38), (-52, 26)])
    b.polygon(p.dark, [(6, 44), (-6, 84 + lift), (-26, 80 + lift), (-14, 46)])
    b.polygon((242, 170, 40), [(42, 48), (57, 42), (41, 37)])
    b.blob(p.main, [(-28, 38), (-8, 52), (24, 58), (44, 46), (36, 30), (8, 22), (-14, 28)])
    b.blob(p.main, [(12, 44), (4, 72 + lift), (-10, 92 + lift), (-34, 88 + lift), (-22, 66 + lift), (-10, 42)])
    b.eye(31, 47, 4.5)


def butterfly(b: Brush, p: Paint, rng: Generator) -> None:
    spread = rng.uniform(-3, 3)
    for s in (-1, 1):
        b.blob(p.main, [(3 * s, 46), (14 * s, 78), (38 * s, 92 + spread), (50 * s, 74), (40 * s, 50), (18 * s, 42)])
        b.blob(p.main, [(3 * s, 46), (24 * s, 44), (38 * s, 28), (28 * s, 8 - spread), (10 * s, 18)])
        b.ellipse(p.light, 32 * s, 71, 9, 10)
        b.ellipse(p.dark, 22 * s, 27, 7)
        b.stroke(p.ink, [(2 * s, 72), (8 * s, 88), (15 * s, 94)], 3.5)
    b.ellipse(p.ink, 0, 46, 5, 30)
