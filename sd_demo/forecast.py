"""When each waiting job is likely to begin: what the engine will do, played through with what was measured here.

Jobs that run take a step each in turn. One that waits joins them where it can share the model and its rows fit, and
whoever stands behind it waits with it (`Engine._admit`). Each row of a step is taken to cost what one did of late; what
it takes to read another model, or a training beside it, is not known and left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sd_demo.gate import Gate
from sd_demo.job import Job
from sd_demo.preflight import rows_of, size_of
from sd_demo.registry import ModelEntry
from sd_demo.requests import AnyRequest, SuperResolution
from sd_demo.running import Running
from sd_demo.speed import Speed, Work

LEAST_S: Final = 1.0  # that anybody is told to wait


@dataclass(frozen=True)
class Part:
    """A job in the play. Jobs of one `key` can run together; `room`: rows that it is let in with, `rows`: it has."""

    key: Hashable
    room: int
    rows: int
    work: Work


def starts_s(running: Sequence[Part], waiting: Sequence[Part], max_rows: int) -> list[float]:
    """Seconds from now at which each of `waiting` begins, taken in order."""
    now, active, starts = 0.0, list(running), []
    for part in waiting:
        while active and (part.key != active[0].key or sum(a.rows for a in active) + part.room > max_rows):
            rounds = min(a.work.calls for a in active)
            now += rounds * sum(a.work.call_s for a in active)
            now += sum(a.work.decode_s for a in active if a.work.calls == rounds)
            active = [replace(a, work=a.work.after(rounds)) for a in active if a.work.calls > rounds]
        starts.append(now)
        active.append(part)
    return starts


class Forecast:
    """Of an engine's queue."""

    def __init__(self, speed: Speed, gate: Gate, max_rows: int) -> None:
        self._speed, self._gate, self._max_rows = speed, gate, max_rows

    def starts_s(self, running: Sequence[Running], waiting: Sequence[Job]) -> list[float] | None:
        """Seconds until each of `waiting` is likely to begin, 1 at least; None before a job has ended here."""
        usual = self._speed.job_s()
        if usual is None:
            return None
        now = [self._left(one, usual) for one in running]
        starts = starts_s(now, [self._whole(job, usual) for job in waiting], self._max_rows)
        return [max(LEAST_S, start) for start in starts]

    def _left(self, running: Running, usual_s: float) -> Part:
        denoising, rows = running.denoising, running.denoising.rows
        key = denoising.model.entry.name, running.job.request.loras
        return Part(key, rows, rows, self._speed.left(denoising) or Work(1, usual_s, 0.0))

    def _whole(self, job: Job, usual_s: float) -> Part:
        request, entry = job.request, job.entry
        asked = {name: getattr(request, name) for name in ("guidance_scale", "num_images_per_prompt")}
        rows = rows_of(asked, entry, is_distilled=entry.scheduler == "lcm")
        work = self._work(request, entry, rows) or Work(1, self._speed.job_s(entry.name) or usual_s, 0.0)
        return Part((entry.name, request.loras), 2 * request.num_images_per_prompt, rows, work)

    def _work(self, request: AnyRequest, entry: ModelEntry, rows: int) -> Work | None:
        if isinstance(request, SuperResolution):  # whose latents have another size
            return None
        asked = self._gate.lowered(request, entry)
        values = {name: getattr(asked, name) for name in ("num_inference_steps", "num_images_per_prompt", "scheduler")}
        values |= size_of({"width": asked.width, "height": asked.height, "image": _size(asked)}, entry)
        if hasattr(asked, "strength"):
            values["strength"] = asked.strength
        return self._speed.work(values, entry, rows)


def _size(request: AnyRequest) -> tuple[int, int] | None:
    image = getattr(request, "image", None)
    return None if image is None else image.size
