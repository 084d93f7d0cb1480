"""When each waiting job is likely to begin: what the engine will do, played through with what was measured here.

Jobs that run take a step each in turn. One that waits joins them where it can share the model and its rows fit, and
whoever stands behind it waits with it (`Engine._admit`). What reading another model takes is not known, and left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sd_demo.errors import PlaygroundError
from sd_demo.gate import Gate
from sd_demo.job import Job
from sd_demo.loaded_model import is_guided
from sd_demo.preflight import size_of
from sd_demo.registry import ModelEntry
from sd_demo.requests import AnyRequest, SuperResolution
from sd_demo.running import Running
from sd_demo.speed import Speed, Work

EntryOf = Callable[[str | None], ModelEntry]

LEAST_S: Final = 1.0  # that anybody is told to wait


@dataclass(frozen=True)
class Part:
    """A job in the play. Jobs of one `key` can run together; `room` is how many rows it is counted with."""

    key: Hashable
    room: int
    work: Work


def starts_s(running: Sequence[Part], waiting: Sequence[Part], max_rows: int) -> list[float]:
    """Seconds from now at which each of `waiting` begins, taken in order."""
    now, active, starts = 0.0, list(running), []
    for part in waiting:
        while active and (part.key != active[0].key or sum(a.room for a in active) + part.room > max_rows):
            rounds = min(a.work.calls for a in active)
            now += rounds * sum(a.work.call_s for a in active)
            now += sum(a.work.decode_s for a in active if a.work.calls == rounds)
            active = [replace(a, work=a.work.after(rounds)) for a in active if a.work.calls > rounds]
        starts.append(now)
        active.append(part)
    return starts


class Forecast:
    """Of an engine's queue. entry_of: the entry of a request's model, None standing for the engine's own."""

    def __init__(self, speed: Speed, entry_of: EntryOf, gate: Gate, max_rows: int) -> None:
        self._speed, self._entry_of, self._gate, self._max_rows = speed, entry_of, gate, max_rows

    def starts_s(self, running: Sequence[Running], waiting: Sequence[Job]) -> list[float] | None:
        """Seconds until each of `waiting` is likely to begin, 1 at least; None before a job has ended here."""
        usual = self._speed.job_s()
        if usual is None:
            return None
        entry_of = functools.cache(self._entry_of)  # of a folder it reads files
        now = [self._left(one, usual) for one in running]
        then = [self._whole(job.request, entry_of, usual) for job in waiting]
        return [max(LEAST_S, start) for start in starts_s(now, then, self._max_rows)]

    def _left(self, running: Running, usual_s: float) -> Part:
        denoising = running.denoising
        key = denoising.model.entry.name, running.job.request.loras
        return Part(key, denoising.rows, self._speed.left(denoising) or Work(1, usual_s, 0.0))

    def _whole(self, request: AnyRequest, entry_of: EntryOf, usual_s: float) -> Part:
        room = 2 * request.num_images_per_prompt  # as the engine counts before it has begun
        try:
            entry = entry_of(request.model)
            work = self._work(request, entry) or Work(1, self._speed.job_s(entry.name) or usual_s, 0.0)
            return Part((entry.name, request.loras), room, work)
        except PlaygroundError:  # its model is gone from its place: it will end as it begins
            return Part((request.model, request.loras), room, Work(1, 0.0, 0.0))

    def _work(self, request: AnyRequest, entry: ModelEntry) -> Work | None:
        if isinstance(request, SuperResolution):  # whose latents have another size
            return None
        asked = self._gate.lowered(request, entry)
        values = {name: getattr(asked, name) for name in ("num_inference_steps", "num_images_per_prompt", "scheduler")}
        values |= size_of({"width": asked.width, "height": asked.height, "image": _size(asked)}, entry)
        if hasattr(asked, "strength"):
            values["strength"] = asked.strength
        guidance = asked.guidance_scale or entry.guidance_scale
        each = 2 if is_guided(guidance, is_distilled=entry.scheduler == "lcm") else 1
        return self._speed.work(values, entry, each * request.num_images_per_prompt)


def _size(request: AnyRequest) -> tuple[int, int] | None:
    image = getattr(request, "image", None)
    return None if image is None else image.size
