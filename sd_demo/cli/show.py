"""`show`: the receipt inside a PNG, for reading or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sd_demo.flags import Parser
from sd_demo.receipt import Receipt, read_receipt_file


def run(arguments: list[str]) -> int:
    """Print the receipt of one file."""
    parser = Parser(prog="python -m sd_demo show", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.png", help="A picture that this program made.")
    parser.add_argument("--json", action="store_true", help="Print all of it as JSON.")
    options = parser.parse_args(arguments)
    receipt = read_receipt_file(options.file)
    print(receipt.model_dump_json(indent=2) if options.json else readable(receipt))
    return 0


def readable(receipt: Receipt) -> str:
    """Asked, done and notes, a line each; what was not asked for is left out."""
    asked = {name: value for name, value in receipt.asked.items() if value not in (None, "", [])}
    done = {name: value for name, value in receipt.done.model_dump().items() if value not in (None, [])}
    lines = [f"{receipt.task}, sd_demo {receipt.version}", "asked"]
    lines += _table(asked)
    lines += ["done", *_table(done)]
    return "\n".join(lines + [f"note: {_plain(note)}" for note in receipt.notes])


def _table(values: dict[str, Any]) -> list[str]:
    return [f"  {name:<22} {_plain(value)}" for name, value in values.items()]


def _plain(value: Any) -> str:
    """Text without quotes, in which control characters (a file may be anybody's) cannot reach the terminal."""
    shown = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown.strip('"'))
