"""The one gate before the queue: what a visitor may ask here, how much may wait, how long the device is theirs.

Shape and range of a request are checked where it is made (requests.py); this is about sharing one device.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sd_demo.canvas import Canvas, working_size
from sd_demo.errors import InvalidRequest, QueueFull
from sd_demo.limits import Limits
from sd_demo.registry import ModelEntry
from sd_demo.requests import AnyRequest, ImageToImage, Inpaint
from sd_demo.schedulers import check_available

if TYPE_CHECKING:
    from sd_demo.job import Job

HOUR_S: Final = 3600.0
SLICE_S: Final = 60.0  # use is kept by the minute, so that a visitor costs at most 61 numbers
MAX_VISITORS: Final = 10_000  # and addresses, remembered at once; what was seen longest ago is forgotten first
_ADDRESS: Final = "address "  # no visitor's name has a space


class Gate:
    """Thread-safe. `clock` answers seconds and only ever rises."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._used: OrderedDict[str, dict[int, float]] = OrderedDict()  # visitor -> minute -> seconds
        self._lock = threading.Lock()

    def check_request(self, request: AnyRequest, entry: ModelEntry) -> None:
        """Raises InvalidRequest naming the field that asks for more than one visitor may have here, or there is."""
        limits = self.limits
        check_available(request.scheduler or entry.scheduler)
        width, height = _size(request, entry)
        sides = [height, width]
        for name, value, most in (
            ("height", sides[0], _longest_side(entry, limits)),
            ("width", sides[1], _longest_side(entry, limits)),
            ("num_inference_steps", _steps_that_run(request), limits.max_steps),
            ("num_images_per_prompt", request.num_images_per_prompt, limits.max_images),
        ):
            if value is not None and value > most:
                is_asked = getattr(request, name) is not None
                words = "" if is_asked else f", and would be {value} for this picture"
                raise InvalidRequest(f"{name} may be at most {most} on this server{words}; ask for less.", name)
        for name in ("prompt", "negative_prompt"):
            if len(getattr(request, name)) > limits.max_prompt_characters:
                raise InvalidRequest(
                    f"{name} may have at most {limits.max_prompt_characters:,} characters on this server; shorten it.",
                    name,
                )

    def lowered(self, request: AnyRequest, entry: ModelEntry) -> AnyRequest:
        """`request` as it runs here: the steps and the size that it leaves to the model are brought within the limits.

        What it asks for itself stays: `check_request` refuses that. The receipt says what was lowered.
        """
        names = ("num_inference_steps", "strength", "width", "height")
        values = {name: getattr(request, name, None) for name in names}
        picture = request.image.size if isinstance(request, ImageToImage | Inpaint) else None
        changes = lowered_fields({**values, "image": picture}, entry, self.limits)
        return request.model_copy(update=changes) if changes else request

    def check_visitor(self, job: Job, others: Sequence[Job], wait_s: float) -> None:
        """Raises QueueFull where the visitor of `job`, or its address, has had a fair share for now.

        others: all jobs that wait or run; wait_s: seconds until one of them is likely to have ended.
        """
        limits = self.limits
        theirs = sum(other.visitor == job.visitor and not other.is_cancelled for other in others)
        if limits.max_visitor_jobs and theirs >= limits.max_visitor_jobs:
            raise QueueFull(
                f"You have {theirs} jobs here already, and {limits.max_visitor_jobs} at once is the most; "
                f"try again in about {math.ceil(wait_s)} s.",
                wait_s,
            )
        most = limits.max_visitor_jobs * limits.max_visitors_per_address
        near = sum(other.origin == job.origin and not other.is_cancelled for other in others)
        if job.origin and most and near >= most:
            raise QueueFull(
                f"{near} jobs of your network address are here already, and {most} at once is the most; "
                f"try again in about {math.ceil(wait_s)} s.",
                wait_s,
            )
        if job.is_accepted:  # what its other parts took would be lost
            return
        after = self._free_after_s(job.visitor, limits.max_device_seconds)
        if after > 0:
            raise QueueFull(
                f"You have used the {limits.max_device_seconds} s of the device that a visitor has in an hour; "
                f"try again in about {math.ceil(after)} s.",
                after,
            )
        most = limits.max_device_seconds * limits.max_visitors_per_address
        after = self._free_after_s(_ADDRESS + job.origin, most) if job.origin else 0.0
        if after > 0:
            raise QueueFull(
                f"Your network address has used the {most} s of the device that all visitors from one address have "
                f"in an hour; try again in about {math.ceil(after)} s.",
                after,
            )

    def charge(self, job: Job, seconds: float) -> None:
        """Count `seconds` of the device as used by the visitor of `job`, and by its address where that is known."""
        if not self.limits.max_device_seconds:
            return
        with self._lock:
            for name in (job.visitor, _ADDRESS + job.origin) if job.origin else (job.visitor,):
                used = self._used.setdefault(name, {})
                self._used.move_to_end(name)
                now = int(self._clock() // SLICE_S)
                used[now] = used.get(now, 0.0) + seconds
            while len(self._used) > MAX_VISITORS:
                self._used.popitem(last=False)

    def used_s(self, visitor: str) -> float:
        """Seconds of the device that `visitor` used in the last hour."""
        with self._lock:
            return sum(self._recent(visitor).values())

    def _free_after_s(self, visitor: str, most: float) -> float:
        """Seconds until enough of the last hour's use is over; 0 where something of `most` is left now."""
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


def lowered_fields(values: Mapping[str, Any], entry: ModelEntry, limits: Limits) -> dict[str, int]:
    """What a request of these field values leaves to the model and the limits do not let it have, as they let it.

    "image" is the (width, height) of a picture to work on, where there is one.
    """
    lowered: dict[str, int] = {}
    steps, strength, picture = entry.num_inference_steps, values.get("strength") or 1.0, values.get("image")
    while steps > 1 and int(steps * strength) > limits.max_steps:
        steps -= 1
    if values.get("num_inference_steps") is None and steps < entry.num_inference_steps:
        lowered["num_inference_steps"] = steps
    if picture and not (values.get("width") or values.get("height")):
        task, most = ImageToImage.task, _longest_side(entry, limits)  # the size is the same in each task
        usual = working_size(task, picture, (None, None), entry.native_size)[:2]
        if max(usual) > most:
            wanted = (most, None) if usual[0] >= usual[1] else (None, most)
            lowered["width"], lowered["height"], _ = working_size(task, picture, wanted, entry.native_size)
    return lowered


def lowered_size(request: AnyRequest, canvas: Canvas, native_size: int) -> dict[str, int] | None:
    """The size of the work on a given picture, where a limit made it another than follows from request and model."""
    if not isinstance(request, ImageToImage | Inpaint) or request.width or request.height:
        return None
    usual = working_size(request.task, request.image.size, (None, None), native_size)[:2]
    return None if usual == (canvas.width, canvas.height) else {"width": canvas.width, "height": canvas.height}


def _longest_side(entry: ModelEntry, limits: Limits) -> int:
    """The most that a request may ask for: the model's own size is always allowed."""
    return max(limits.max_side, entry.native_size)


def _size(request: AnyRequest, entry: ModelEntry) -> tuple[int | None, int | None]:
    """(width, height) of the work that a request asks for; None where a picture alone decides, within bounds."""
    wanted, image = (request.width, request.height), getattr(request, "image", None)
    if image is None:
        return wanted[0] or entry.native_size, wanted[1] or entry.native_size
    if not any(wanted):
        return wanted
    return working_size(request.task, image.size, wanted, entry.native_size)[:2]


def _steps_that_run(request: AnyRequest) -> int | None:
    """The steps asked for, less those that a strength leaves out; None where the model chooses."""
    steps, strength = request.num_inference_steps, getattr(request, "strength", 1.0)
    return None if steps is None else max(1, int(steps * strength))
