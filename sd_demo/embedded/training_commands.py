"""What the commands that train the model and its companions share: how bad input is found, and how it is told.

Each runs for half an hour or more, so that whatever can be known to fail at the end is asked before the beginning.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path

from sd_demo.errors import InvalidRequest, PlaygroundError
from sd_demo.requests import SEED_LIMIT
from sd_demo.writable import check_folder, check_writable

LOGGER = logging.getLogger(__name__)


def check_settings(minutes: float, seed: int, *, file: Path | None = None, **folders: Path) -> None:
    """Raises InvalidRequest where minutes are below 0 or without end, the seed is not below SEED_LIMIT or negative,
    `file` (--output) cannot be written, or no file can be made in one of `folders`, by the flags that name them; they
    are made if need be."""
    if not 0 <= minutes < math.inf:
        raise InvalidRequest(f"minutes: {minutes} is out of range; choose a number of 0 or more.", "minutes")
    if not 0 <= seed < SEED_LIMIT:
        raise InvalidRequest(f"seed: {seed} is out of range; choose a whole number from 0 to {SEED_LIMIT - 1}.", "seed")
    if file is not None:
        check_writable(file, "output")
    for name, folder in folders.items():
        check_folder(folder, name)


def run_command(command: Callable[[], None]) -> None:
    """Run it as this process's own: an expected error is one sentence on standard error, and the exit code is that of
    the program's other commands, 2 for bad input and 1 else."""
    try:
        command()
    except PlaygroundError as error:
        LOGGER.error("%s", error)
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
