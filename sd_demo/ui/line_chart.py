"""A small line chart as SVG, made of numbers and known names only; it takes the page's colours, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 460
HEIGHT: Final = 150
LEFT: Final = 50  # room for "0.00413"
BOTTOM: Final = 22
DASHES: Final = ("", "7 4", "2 3", "9 3 2 3")  # lines differ without their colour, too


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, label: str, across: str, mark: float | None = None
) -> str:
    """The chart of named lines of points (x, y), y from 0; `mark` draws an upright at that x. Axes start at 0.

    label: what a screen reader says. across: what x counts.
    """
    most_x = max((x for points in lines.values() for x, _ in points), default=1.0) or 1.0
    most_y = max((y for points in lines.values() for _, y in points), default=1.0) or 1.0

    def place(x: float, y: float) -> str:
        return f"{LEFT + x / most_x * (WIDTH - LEFT - 8):.1f},{8 + (1 - y / most_y) * (HEIGHT - BOTTOM - 8):.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">',
        f'<path class="axes" d="M{place(0, most_y)} L{place(0, 0)} L{place(most_x, 0)}"/>',
        f'<text x="{LEFT - 4}" y="14" text-anchor="end">{most_y:.3g}</text>',
        f'<text x="{LEFT - 4}" y="{HEIGHT - BOTTOM + 4}" text-anchor="end">0</text>',
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{escape(across)} {most_x:g}</text>',
    ]
    if mark is not None:
        parts.append(f'<path class="mark" d="M{place(mark, 0)} L{place(mark, most_y)}"/>')
    for number, points in enumerate(lines.values()):
        d = " L".join(place(x, y) for x, y in points)
        dash = DASHES[number % len(DASHES)]
        parts.append(f'<path class="line n{number % 6}" stroke-dasharray="{dash}" d="M{d}"/>')
    names = "".join(f'<span class="n{k % 6}">{escape(name)}</span>' for k, name in enumerate(lines))
    return f'<div class="chart">{"".join(parts)}</svg><p>{names}</p></div>'
