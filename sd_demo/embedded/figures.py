"""The figures of an evaluation, the bars that a good edition reaches, and how both are told."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

BARS = {
    "scene": 98.0,
    "object_one_object": 97.0,
    "colour_one_object": 97.0,
    "position": 95.0,
    "all_correct_one_object": 93.0,
    "all_correct_one_object_held_out": 88.0,
    "all_correct_two_objects": 80.0,
    "reconstruction_psnr": 32.0,
    "clip_right_among_20": 95.0,
    "image_to_image_recoloured": 85.0,
    "inpaint_added": 85.0,
    "diversity": 70.0,
    "picture_s": 1.5,
    "decode_s": 0.2,
    "weights_mb": 40.0,
}
"""What a good edition reaches: at least, but for seconds and megabytes at most.

image_to_image_recoloured: at strength 0.6 with another colour in the prompt, the object is kept and its colour changed.
inpaint_added: put into an empty place, the right object in the right colour is inside the mask. diversity: in percent
of the world's own. picture_s, decode_s: seconds on two CPU cores for 256x256 with the defaults of the page, from the
prompt to the pixels and of those to decode; on other machines and with other settings they have no bar.
"""


@dataclass(frozen=True)
class Figure:
    """One measured number. of: how many cases it is the mean of. world: the same measured on the renderer's own
    pictures, which shows how far the judge itself can be trusted. bar: what a good edition reaches."""

    name: str
    value: float
    unit: str
    of: int
    world: float | None = None
    bar: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is reached, None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.unit in ("s", "MB") else self.value >= self.bar


def as_lines(figures: Iterable[Figure]) -> str:
    """The figures as a table for people."""
    lines = []
    for f in figures:
        own = "" if f.world is None else f"(the world's own: {f.world:.1f})"
        bar = "" if f.bar is None else f"{'reached' if f.is_met else 'MISSED'}, bar {f.bar:g}"
        lines.append(f"{f.name.replace('_', ' '):36} {f.value:8.2f} {f.unit:2}  of {f.of:<4} {bar:20} {own}".rstrip())
    return "\n".join(lines)


def as_json(figures: Iterable[Figure]) -> dict[str, dict[str, Any]]:
    """The figures as plain values by their names."""
    return {f.name: {k: v for k, v in asdict(f).items() if k != "name"} | {"is_met": f.is_met} for f in figures}


def share(name: str, right: Sequence[bool], own: Sequence[bool] = ()) -> Figure:
    """How often something was right, in percent; own: the same for the renderer's own pictures."""
    return figure(name, 100 * statistics.mean(right), "%", len(right), 100 * statistics.mean(own) if own else None)


def figure(name: str, value: float, unit: str, of: int, own: float | None = None) -> Figure:
    """A figure with the bar of its name."""
    return Figure(name, round(value, 3), unit, of, None if own is None else round(own, 3), BARS.get(name))
