"""`serve`: the page, exactly as `python app.py` opens it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Final

from sd_demo.errors import PlaygroundError

APP: Final = Path(__file__).parents[2] / "app.py"


def run(arguments: list[str]) -> int:
    """Run app.py with these flags until it is stopped."""
    if not APP.is_file():
        raise PlaygroundError("app.py is not here; run this in a checkout of the whole project.")
    sys.argv = [str(APP), *arguments]
    runpy.run_path(str(APP), run_name="__main__")
    return 0
