"""The host's memory: how much this process holds, and how little its threads may keep for later."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Final

_M_ARENA_MAX: Final = -8  # of glibc's malloc.h
ARENAS: Final = 2
GROWTH_BYTES: Final = 32 * 2**20


def keep_few_arenas() -> None:
    """Let all threads share two of glibc's arenas; to be called before there are threads.

    Each of the web server's threads would otherwise keep what a large picture once needed: 25 pictures of
    9 megapixels left half a gigabyte behind.
    """
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # not in musl
            library.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return freed memory to the system now; glibc would keep what was freed in small pieces."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def forget_pages(address: int, size: int) -> None:
    """Let the system take back the whole pages there, of a file that is mapped and was only read."""
    if sys.platform.startswith("linux"):
        page = mmap.PAGESIZE
        start, end = -(-address // page) * page, (address + size) // page * page
        if start < end:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


class Keeper:
    """Gives freed memory back to the system whenever the process has grown, where the C library would keep it."""

    def __init__(self) -> None:
        self._least = resident_bytes()

    def look(self) -> None:
        """To be called now and then; costs milliseconds, and only after growth."""
        held = resident_bytes()
        if held > self._least + GROWTH_BYTES:
            give_back()
            self._least = resident_bytes()
        self._least = min(self._least, held)


def resident_bytes() -> int:
    """Memory of this process in bytes; where the system does not say, the most that it ever was."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process ever held, in bytes; 0 on Windows, which does not say it to Python."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
