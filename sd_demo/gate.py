"""The one gate before the queue: what a visitor may ask here, how much may wait, how long the device is theirs.

Shape and range of a request are checked where it is made (requests.py); this is about sharing one device.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sd_demo.errors import InvalidRequest, QueueFull
from sd_demo.limits import Limits
from sd_demo.registry import ModelEntry
from sd_demo.requests import PICTURE_FIELDS, AnyRequest

HOUR_S: Final = 3600.0
SLICE_S: Final = 60.0  # use is kept by the minute, so that a visitor costs at most 61 numbers
MAX_VISITORS: Final = 10_000  # remembered at once; the one seen longest ago is forgotten first


class Gate:
    """Thread-safe. `clock` answers seconds and only ever rises."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._used: OrderedDict[str, dict[int, float]] = OrderedDict()  # visitor -> minute -> seconds
        self._lock = threading.Lock()

    def check_request(self, request: AnyRequest, entry: ModelEntry) -> None:
        """Raises InvalidRequest naming the field that asks for more than one visitor may have here."""
        limits = self.limits
        sides = [request.height, request.width]
        if not any(name in type(request).model_fields for name in PICTURE_FIELDS):
            sides = [side or entry.native_size for side in sides]
        for name, value, most in (
            ("height", sides[0], max(limits.max_side, entry.native_size)),
            ("width", sides[1], max(limits.max_side, entry.native_size)),
            ("num_inference_steps", request.num_inference_steps, limits.max_steps),
            ("num_images_per_prompt", request.num_images_per_prompt, limits.max_images),
        ):
            if value is not None and value > most:
                raise InvalidRequest(f"{name} may be at most {most} on this server; ask for less.", name)
        for name in ("prompt", "negative_prompt"):
            if len(getattr(request, name)) > limits.max_prompt_characters:
                raise InvalidRequest(
                    f"{name} may have at most {limits.max_prompt_characters:,} characters on this server; shorten it.",
                    name,
                )

    def check_visitor(self, visitor: str, jobs: int, wait_s: float) -> None:
        """Raises QueueFull where `visitor`, with `jobs` waiting or running, has had a fair share for now.

        `wait_s`: seconds until one of those jobs is likely to have ended.
        """
        if self.limits.max_visitor_jobs and jobs >= self.limits.max_visitor_jobs:
            raise QueueFull(
                f"You have {jobs} jobs here already, and {self.limits.max_visitor_jobs} at once is the most; "
                f"try again in about {math.ceil(wait_s)} s.",
                wait_s,
            )
        after = self._free_after_s(visitor)
        if after > 0:
            raise QueueFull(
                f"You have used the {self.limits.max_device_seconds} s of the device that a visitor has in an hour; "
                f"try again in about {math.ceil(after)} s.",
                after,
            )

    def charge(self, visitor: str, seconds: float) -> None:
        """Count `seconds` of the device as used by `visitor`."""
        if not self.limits.max_device_seconds:
            return
        with self._lock:
            used = self._used.setdefault(visitor, {})
            self._used.move_to_end(visitor)
            now = int(self._clock() // SLICE_S)
            used[now] = used.get(now, 0.0) + seconds
            while len(self._used) > MAX_VISITORS:
                self._used.popitem(last=False)

    def used_s(self, visitor: str) -> float:
        """Seconds of the device that `visitor` used in the last hour."""
        with self._lock:
            return sum(self._recent(visitor).values())

    def _free_after_s(self, visitor: str) -> float:
        """Seconds until enough of the last hour's use is over; 0 where something is left now."""
        most = self.limits.max_device_seconds
        with self._lock:
            recent = self._recent(visitor)
            left = sum(recent.values())
            if not most or left < most:
                return 0.0
            for minute, seconds in sorted(recent.items()):
                left -= seconds
                if left < most:
                    return max(1.0, (minute + 1) * SLICE_S + HOUR_S - self._clock())
        return HOUR_S

    def _recent(self, visitor: str) -> dict[int, float]:
        used = self._used.get(visitor)
        if used is None:
            return {}
        oldest = (self._clock() - HOUR_S) // SLICE_S
        for minute in [minute for minute in used if minute < oldest]:
            del used[minute]
        if not used:
            del self._used[visitor]
        return used
