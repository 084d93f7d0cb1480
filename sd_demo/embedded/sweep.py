"""A sweep: how right the model's pictures are for each scheduler, number of steps and guidance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sd_demo.embedded import evaluation_prompts as prompts
from sd_demo.embedded.drawing import mix
from sd_demo.embedded.evaluate import Evaluator

_CELL, _LABEL, _LINE, _MARGIN = 86, 168, 34, 18  # pixels
_LOW, _HIGH = (250, 232, 214), (46, 125, 92)
_INK, _PAPER = (40, 36, 48), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """One combination. right: pictures of one and of two things with everything right, in percent."""

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    count: int
    right: float
    seconds_a_picture: float

    def told(self) -> str:
        """One line for people."""
        return (
            f"{self.scheduler}, {self.num_inference_steps} steps, guidance {self.guidance_scale:g}: "
            f"{self.right:.1f} % right, {self.seconds_a_picture:.2f} s a picture"
        )


def measure_cell(evaluator: Evaluator, values: dict[str, Any], count: int) -> Cell:
    """Draw and mark `count` pictures, half of two things, with these request fields; the same prompts every time."""
    asked = [*prompts.ask(count - count // 2, 1, evaluator.seed), *prompts.ask(count // 2, 2, evaluator.seed)]
    start = time.perf_counter()
    marks = replace(evaluator, options=values).mark_drawn(asked)
    elapsed = time.perf_counter() - start
    right = 100 * sum(m.is_all_right for m in marks) / len(marks)
    return Cell(**values, count=count, right=round(right, 2), seconds_a_picture=round(elapsed / count, 3))


def draw_table(cells: Sequence[Cell], file: Path) -> None:
    """The sweep as a PNG: a row for each scheduler and number of steps, a column for each guidance, the best framed."""
    columns = sorted({cell.guidance_scale for cell in cells})
    rows = list(dict.fromkeys((cell.scheduler, cell.num_inference_steps) for cell in cells))
    best = max(cells, key=lambda cell: cell.right)
    lowest, span = min(cell.right for cell in cells), max(1.0, best.right - min(cell.right for cell in cells))
    width = _LABEL + _CELL * len(columns) + 2 * _MARGIN
    image = Image.new("RGB", (width, _LINE * (len(rows) + 2) + 2 * _MARGIN), _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)

    def write(x: float, y: float, text: str, colour: tuple[int, int, int] = _INK, anchor: str = "mm") -> None:
        pen.text((x, y), text, fill=colour, font=font, anchor=anchor)

    write(_MARGIN, _MARGIN + _LINE / 2, f"everything right, % of {cells[0].count}; guidance:", anchor="lm")
    for k, guidance in enumerate(columns):
        write(_MARGIN + _LABEL + _CELL * (k + 0.5), _MARGIN + _LINE * 1.5, f"{guidance:g}")
    for j, (scheduler, steps) in enumerate(rows):
        write(_MARGIN, _MARGIN + _LINE * (j + 2.5), f"{scheduler}, {steps} steps", anchor="lm")
    for cell in cells:
        row = rows.index((cell.scheduler, cell.num_inference_steps))
        x, y = _MARGIN + _LABEL + _CELL * columns.index(cell.guidance_scale), _MARGIN + _LINE * (row + 2)
        part = (cell.right - lowest) / span
        frame = _INK if cell is best else None
        pen.rectangle([x + 1, y + 1, x + _CELL - 2, y + _LINE - 2], mix(_LOW, _HIGH, part), frame, 3)
        write(x + _CELL / 2, y + _LINE / 2, f"{cell.right:.1f}", _PAPER if part > 0.5 else _INK)
    image.save(file)
