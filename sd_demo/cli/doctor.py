"""`doctor`: what is here, what will be used, and why; each precision and attention is tried once."""

from __future__ import annotations

import contextlib
import json
import sys

from sd_demo.flags import Parser, flag
from sd_demo.settings import Settings

PLACE_FIELDS = ("model", "device", "dtype", "attention", "data_dir")


def run(arguments: list[str]) -> int:
    """Print the findings; the exit code is 1 where a start with these settings would fail."""
    parser = Parser(prog="python -m sd_demo doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print all of it as JSON.")
    for name in PLACE_FIELDS:
        words = f"{Settings.model_fields[name].description} [{Settings.model_fields[name].default}]"
        parser.add_argument(flag(name), dest=name, metavar=name.rpartition("_")[2].upper(), help=words)
    options = vars(parser.parse_args(arguments))
    is_json = options.pop("json")
    settings = Settings.read([f"{flag(name)}={value}" for name, value in options.items() if value is not None])
    from sd_demo.doctor import examine, readable  # torch only after bad input was answered

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer, whatever a library prints
        found = examine(settings)
    print(json.dumps(found, indent=2) if is_json else readable(found))
    return 1 if found["will_use"]["error"] else 0
