"""The helpers that PyTorch gives to each thread which computes on the CPU: when they wait awake, and when they leave.

GNU's OpenMP keeps a team for every thread that ever ran a parallel operation. Between two operations a team spins for
up to three milliseconds, so that the next one begins at once; as soon as all teams together are more than the cores,
it sleeps instead (libgomp, gomp_throttled_spin_count_var). Which is right depends on who else is there:

- Alone, sleeping takes twice the time for a picture: one look into a lesson, by a thread that keeps its team, would
  slow down every picture after it. So whoever is done sends its helpers home (`rest`).
- Beside other programs, spinning takes up to thirteen times the time of sleeping (`python -m tests.crowded_bar`):
  helpers use up on waiting what the system gives them, and are away when there is work. So while others want the
  cores, an idle team is kept (`at_work`), which makes all of them sleep.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

_SOFT: Final = 1  # omp_pause_soft of omp.h: threads go, settings stay
_LOOK_EVERY_S: Final = 0.2
CROWDED_ABOVE: Final = 0.75
"""Cores that other programs have, beyond those that no helper needs, from which on helpers sleep.

On two cores of an AMD EPYC (Zen 4), `python -m tests.crowded_bar`: a UNet call of the picture-book model, two rows,
takes 28 to 31 ms alone. Beside programs that want 0.4, 0.6, 1.2 and 2 cores it takes 50, 68, 67 and 123 ms spinning,
and 54, 50, 48 and 50 ms sleeping; sixteen rows beside 0.6 cores 153 and 198 ms, beside 2 cores 736 and 194 ms.
"""


def rest() -> None:
    """End the calling thread's helpers; its next operation brings new ones, in a tenth of a millisecond.

    Does nothing where PyTorch computes without GNU's OpenMP.
    """
    library = _library()
    if library is not None:
        library.omp_pause_resource_all(_SOFT)


@contextmanager
def at_work() -> Iterator[None]:
    """While inside, all helpers of this process sleep between operations when other programs want the cores.

    May be entered by any number of threads. Does nothing without GNU's OpenMP or Linux' /proc/stat.
    """
    watch = _watch()
    if watch is None:
        yield
        return
    watch.enter()
    try:
        yield
    finally:
        watch.leave()


def cores_taken(before: tuple[float, float], now: tuple[float, float]) -> float:
    """Core-seconds that other programs, and other guests of the host, had between two answers of `_core_seconds`."""
    (all_before, own_before), (all_now, own_now) = before, now
    return (all_now - all_before) - (own_now - own_before)


def is_crowd(taken: float, room: int, *, is_crowded: bool) -> bool:
    """Whether helpers should sleep where others have `taken` cores and `room` are spare; is_crowded: they do so far."""
    limit = CROWDED_ABOVE * 2 / 3 if is_crowded else CROWDED_ABOVE  # apart, so as not to waver
    return taken - room > limit


class _Watch:
    """A thread that sees who has the cores while somebody here computes, and keeps an idle team when others do."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._inside = 0
        self._changed = threading.Condition()
        self.is_crowded = False
        # Asked here, as a measurement may run with one thread just when the other one begins.
        room = len(_cores()) - torch.get_num_threads()
        threading.Thread(target=self._look, args=(room,), name="cores", daemon=True).start()

    def enter(self) -> None:
        with self._changed:
            self._inside += 1
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1

    def _look(self, room: int) -> None:
        cores = _cores()
        while True:
            with self._changed:
                patience = _LOOK_EVERY_S if self.is_crowded else None
                is_awaited = self._changed.wait_for(lambda: self._inside > 0, patience)
            if not is_awaited:  # between two steps somebody is soon back; longer, and the idle team goes home
                self._change(False)
                continue
            start, before = time.monotonic(), _core_seconds(cores)
            time.sleep(_LOOK_EVERY_S)
            taken = cores_taken(before, _core_seconds(cores)) / (time.monotonic() - start)
            self._change(is_crowd(taken, room, is_crowded=self.is_crowded))

    def _change(self, is_crowded: bool) -> None:
        if is_crowded and not self.is_crowded:  # a team of one more than the cores, which has nothing to do
            nothing = ctypes.cast(self._library.omp_get_level, ctypes.c_void_p)
            self._library.GOMP_parallel(nothing, None, len(_cores()) + 1, 0)
        elif self.is_crowded and not is_crowded:
            rest()
        self.is_crowded = is_crowded


def _cores() -> frozenset[str]:
    """The cores that this process may use, as /proc/stat calls them."""
    return frozenset(f"cpu{number}" for number in os.sched_getaffinity(0))


def _core_seconds(cores: frozenset[str]) -> tuple[float, float]:
    """Seconds that `cores` were in use since the machine began, and seconds of all cores that this process had."""
    ticks = 0
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *fields = line.split()
            if name in cores:
                user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields[:8])
                ticks += user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK"), time.process_time()


@functools.cache
def _watch() -> _Watch | None:
    library = _library()
    if library is None or not os.access("/proc/stat", os.R_OK):
        return None
    try:
        return _Watch(library)
    except RuntimeError:  # no thread is to be had, and nobody's work hangs on this one
        return None


@functools.cache
def _library() -> Any:
    """GNU's OpenMP that PyTorch brings along, or None."""
    home = Path(torch.__file__).parent
    for file in [*sorted((home / "lib").glob("libgomp*.so*")), *sorted(home.parent.glob("torch.libs/libgomp*.so*"))]:
        try:
            library = ctypes.CDLL(str(file))
            library.omp_pause_resource_all, library.GOMP_parallel, library.omp_get_level  # noqa: B018 - is it there?
        except (OSError, AttributeError):
            continue
        library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        library.GOMP_parallel.restype = None
        return library
    return None
