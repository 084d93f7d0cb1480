"""`soak`: load and abuse against a server of its own, and what came of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser

ON_ONE_SERVER: Final = ("load", "fairness", "cancels", "visitors", "pictures", "fuzz", "memory")
MOST: Final = 10  # times the full load
MODES: Final = (*ON_ONE_SERVER, "kills", "signals", "switches")


def run(arguments: list[str]) -> int:
    """Run the chosen modes one after another; 1 where a bar was missed."""
    parser = Parser(prog="python -m sd_demo soak", description=__doc__)
    parser.add_argument("--mode", choices=(*MODES, "all"), default="all", help="What to run. [all]")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="Share of the full load, such as 0.02. [1]"
    )
    parser.add_argument("--json", action="store_true", help="Print JSON, one line for each mode.")
    asked = parser.parse_args(arguments)
    if not 0 < asked.scale <= MOST:  # NaN is neither
        raise InvalidRequest(f"--scale must be a number above 0 and at most {MOST}.", "scale")

    chosen = MODES if asked.mode == "all" else (asked.mode,)
    missed = 0
    for mode, figures in _run(chosen, asked.scale):
        missed += not figures["holds"]
        figures = {"mode": mode, "scale": asked.scale, **figures}
        print(json.dumps(figures) if asked.json else _row(figures), flush=True)
    return 1 if missed else 0


def _run(modes: Sequence[str], scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each mode with its figures; those that can share a server do."""
    from sd_demo.soak import abuse, endings, loads
    from sd_demo.soak.server import started

    with contextlib.ExitStack() as running:
        server = running.enter_context(started()) if set(modes) & set(ON_ONE_SERVER) else None
        for mode in modes:
            start = time.perf_counter()
            if mode in ON_ONE_SERVER:
                figures = getattr(abuse if hasattr(abuse, mode) else loads, mode)(server, scale)
            else:
                running.close()
                figures = getattr(endings, mode)(scale)
            yield mode, {**figures, "seconds": round(time.perf_counter() - start, 1)}


def _row(figures: dict[str, Any]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in figures.items() if name not in ("mode", "holds"))
    return f"{figures['mode']:<10} {'holds' if figures['holds'] else 'MISSED'}: {words}"
