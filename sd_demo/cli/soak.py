"""`soak`: load and abuse against a server of its own, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from sd_demo.cli.parser import Parser

MODES: Final = ("load", "fairness", "cancels", "visitors", "pictures", "fuzz", "memory")


def run(arguments: list[str]) -> int:
    """Run the chosen modes one after another on one server; 1 where a bar was missed."""
    parser = Parser(prog="python -m sd_demo soak", description=__doc__)
    parser.add_argument("--mode", choices=(*MODES, "all"), default="all", help="What to run. [all]")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="Share of the full load, such as 0.02. [1]"
    )
    parser.add_argument("--json", action="store_true", help="Print JSON, one line for each mode.")
    asked = parser.parse_args(arguments)

    from sd_demo.soak import abuse, loads
    from sd_demo.soak.server import Server, started

    modes: dict[str, Callable[[Server, float], dict[str, Any]]] = {
        name: getattr(abuse if hasattr(abuse, name) else loads, name) for name in MODES
    }
    missed = 0
    with started() as server:
        for name in MODES if asked.mode == "all" else (asked.mode,):
            start = time.perf_counter()
            figures = modes[name](server, asked.scale)
            figures = {"mode": name, "scale": asked.scale, **figures, "seconds": round(time.perf_counter() - start, 1)}
            missed += not figures["holds"]
            print(json.dumps(figures) if asked.json else _row(figures), flush=True)
    return 1 if missed else 0


def _row(figures: dict[str, Any]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in figures.items() if name not in ("mode", "holds"))
    return f"{figures['mode']:<10} {'holds' if figures['holds'] else 'MISSED'}: {words}"
