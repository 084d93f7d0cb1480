"""Weights in memory of their own: libraries leave them mapped onto their file where nothing is to be cast.

Another file written over that one would then change a model in memory, under its old hash, and end the process while
the file is shorter. A page of the file goes as soon as it was copied, so that at most one tensor is there twice.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any

from sd_demo.host_memory import forget_pages


def own(network: Any) -> None:
    """Copy the weights of a torch.nn.Module that lie in a file; all of them where the system does not say which do."""
    mapped = _mapped()
    starts = None if mapped is None else [start for start, _ in mapped]
    for tensor in (*network.parameters(), *network.buffers()):
        before = tensor.data
        if mapped is None or starts is None:
            tensor.data = before.clone()
            continue
        place = bisect_right(starts, before.data_ptr()) - 1
        if place >= 0 and before.data_ptr() < mapped[place][1]:
            tensor.data = before.clone()
            forget_pages(before.data_ptr(), before.nbytes)  # while `before` keeps anybody else from having them


def _mapped() -> list[tuple[int, int]] | None:
    """The addresses from and to which files are mapped, in order; None where the system does not say."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = [line.split(maxsplit=5) for line in lines]  # address, rights, offset, device, inode, path
    places = (each[0].split("-") for each in fields if len(each) == 6 and each[4] != "0")
    return sorted((int(start, 16), int(end, 16)) for start, end in places)
