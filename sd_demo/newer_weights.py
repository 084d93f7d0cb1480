"""Whether the name of a model in memory stands for other weights by now: a newer download, a file that was replaced."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from sd_demo.checkpoints import weights_of
from sd_demo.errors import PlaygroundError
from sd_demo.model_files import missing_in
from sd_demo.registry import Registry
from sd_demo.weight_hashes import Stamp, stamp_of

LOOK_EVERY_S: Final = 2.0  # at the files of one model, which may be on a slow disk


class NewerWeights:
    """Knows the files that each model in memory was read from. Not for several threads at once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stamps: dict[str, Stamp] = {}
        self._look_again: dict[str, float] = {}

    def note(self, name: str, stamp: Stamp) -> None:
        """The model called `name` was read from files of this stamp, taken before: what came meanwhile is newer."""
        self._stamps[name] = stamp

    def forget(self, name: str) -> None:
        """It is in memory no more."""
        self._stamps.pop(name, None)
        self._look_again.pop(name, None)

    def are_here(self, name: str) -> bool:
        """Whether others are here, and whole: what is damaged, on its way or gone costs nobody a model that works."""
        if time.monotonic() < self._look_again.get(name, 0.0):
            return False
        self._look_again[name] = time.monotonic() + LOOK_EVERY_S
        try:
            path = self._registry.weights(self._registry.get(name))
            if stamp_of(path) in ((), self._stamps.get(name)) or not _is_whole(path):
                return False
        except (PlaygroundError, OSError):
            return False
        self._look_again[name] = 0.0  # until they are read
        return True


def _is_whole(path: Path | None) -> bool:
    """Raises ModelUnavailable for a file that is still being copied, whose header says more than there is."""
    return path is not None and not (path.is_dir() and missing_in(path)) and weights_of(path) > 0
