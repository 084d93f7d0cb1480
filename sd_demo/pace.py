"""How far a worker may run ahead of a device that computes while it goes on."""

from __future__ import annotations

from typing import Any

import torch


class Pace:
    """Keeps a worker at most one step ahead of a GPU.

    Launching a step takes less time than the step itself. Without this a worker whose scheduler never reads from the
    device would launch a whole picture at once: a cancel would come too late, a request that came meanwhile could not
    join, and each step's seconds would be those of its launch. One step ahead, the device still never waits.
    """

    def __init__(self) -> None:
        self._last: Any = None

    def keep(self, device: torch.device) -> None:
        """Wait until the step before the one just launched on `device` is done."""
        if device.type not in ("cuda", "mps"):
            return  # a CPU's steps are done when they return
        launched = torch.cuda.Event() if device.type == "cuda" else torch.mps.Event()
        launched.record()
        before, self._last = self._last, launched
        if before is not None:
            before.synchronize()
