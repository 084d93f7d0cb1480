"""The helpers that PyTorch gives to each thread which computes on the CPU, and how to send them home.

GNU's OpenMP keeps a team for every thread that ever ran a parallel operation. As soon as all teams together are more
than the cores, every team sleeps between two operations in place of spinning for a moment, and a picture takes twice
the time (libgomp, gomp_throttled_spin_count_var): one look into a lesson would slow down every picture after it.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, Final

import torch

_SOFT: Final = 1  # omp_pause_soft of omp.h: threads go, settings stay


def rest() -> None:
    """End the calling thread's helpers; its next operation brings new ones, in a tenth of a millisecond.

    Does nothing where PyTorch computes without GNU's OpenMP.
    """
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@functools.cache
def _pause() -> Any:
    """omp_pause_resource_all of the library that PyTorch brings along, or None."""
    home = Path(torch.__file__).parent
    for file in [*sorted((home / "lib").glob("libgomp*.so*")), *sorted(home.parent.glob("torch.libs/libgomp*.so*"))]:
        try:
            return ctypes.CDLL(str(file)).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
    return None
