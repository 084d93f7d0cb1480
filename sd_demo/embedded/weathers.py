"""Rain, snowfall and fog over a picture, in few and bold marks."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw


def _scattered(rng: Generator, columns: int, rows: int) -> list[tuple[float, float]]:
    """Points spread evenly but not in line."""
    return [
        ((i + 0.5 * (j % 2) + rng.uniform(0.1, 0.6)) / columns, (j + rng.uniform(0.1, 0.7)) / rows)
        for j in range(rows)
        for i in range(columns)
    ]


def overlay(image: Image.Image, weather: str, rng: Generator) -> None:
    """Draw the weather onto a picture of any side, in place."""
    side = image.width
    if weather == "rain":
        image.paste((92, 112, 146), mask=Image.new("L", image.size, 70))
        pen = ImageDraw.Draw(image)
        for x, y in _scattered(rng, 6, 6):
            start, end = (x * side, y * side), ((x - 0.022) * side, (y + 0.075) * side)
            pen.line([start, end], fill=(206, 228, 250), width=max(1, round(side * 0.0125)))
    elif weather == "snowfall":
        pen = ImageDraw.Draw(image)
        for x, y in _scattered(rng, 7, 7):
            r = rng.uniform(0.011, 0.017) * side
            pen.ellipse([x * side - r, y * side - r, x * side + r, y * side + r], fill=(255, 255, 255))
    elif weather == "fog":
        height = (np.arange(side) + 0.5) / side
        strength = 0.36 + 0.46 * np.exp(-(((height - 0.5) / 0.2) ** 2))
        mask = Image.fromarray((255 * strength).astype(np.uint8)[:, None], "L").resize((side, side))
        image.paste((226, 230, 234), mask=mask)
