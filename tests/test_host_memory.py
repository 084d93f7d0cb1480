"""Memory that was freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from sd_demo import host_memory

PROGRAM = """
import ctypes, sys
from sd_demo.host_memory import Keeper, keep_few_arenas, resident_bytes
keep_few_arenas()
keeper = Keeper()
before = resident_bytes()
blocks = [bytes([1]) * 100_000 for _ in range(2000)]  # below the size for which the C library asks the system each time
last = bytes([1]) * 100_000  # lies on top, so that the heap cannot simply shrink
grown = resident_bytes() - before
del blocks
kept = resident_bytes() - before
if "look" in sys.argv:
    keeper.look()
print(grown, kept, resident_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only; other systems are left alone")
def test_what_was_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "look"], capture_output=True, text=True, check=True)
    grown, kept, left = (int(number) for number in done.stdout.split())
    assert grown > 150e6
    assert kept > 100e6, "the C library keeps it by itself; if not, nothing here is needed"
    assert left < 32e6


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_most_that_was_held_is_in_bytes_on_every_system(
    system: str, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", answer)
    monkeypatch.setattr(sys, "platform", system)
    assert host_memory.peak_bytes() == 5000 * unit


def test_windows_has_no_module_for_that_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)  # then to import it is an error
    assert host_memory.peak_bytes() == 0
