"""Who is next: one job of each visitor in turn, so that forty clicks of one person hold nobody up."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from sd_demo.events import Queued
from sd_demo.forecast import Forecast
from sd_demo.job import Job
from sd_demo.running import Running


class FairQueue:
    """Round robin over visitors, first come first served within one. The engine guards it with its lock."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self.beginning: list[Job] = []  # who was taken and does not run yet

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def add(self, job: Job) -> None:
        """Put a job at the end of its visitor's line."""
        self._waiting.setdefault(job.visitor, deque()).append(job)

    def first(self) -> Job | None:
        """The job that is next, left in its place."""
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    def take(self) -> Job:
        """Remove the job that is next, which is `beginning` then; its visitor goes to the end of the round."""
        visitor, jobs = next(iter(self._waiting.items()))
        job = jobs.popleft()
        del self._waiting[visitor]
        if jobs:
            self._waiting[visitor] = jobs
        self.beginning = [job]
        return job

    def drop_cancelled(self) -> list[Job]:
        """Remove the jobs that were cancelled while waiting, and return them."""
        dropped = [job for jobs in self._waiting.values() for job in jobs if job.is_cancelled]
        for visitor in list(self._waiting):
            kept = deque(job for job in self._waiting[visitor] if job not in dropped)
            if kept:
                self._waiting[visitor] = kept
            else:
                del self._waiting[visitor]
        return dropped

    def in_order(self) -> list[Job]:
        """All waiting jobs in the order in which they would be taken if nobody came."""
        lines = [deque(jobs) for jobs in self._waiting.values()]
        order: list[Job] = []
        while lines:
            for line in lines:
                order.append(line.popleft())
            lines = [line for line in lines if line]
        return order

    def starts_s(self, forecast: Forecast, running: Sequence[Running]) -> list[float] | None:
        """Seconds until each waiting job is likely to begin; None where nothing is known."""
        first = self.beginning
        starts = forecast.starts_s(running, [*first, *self.in_order()])
        return starts and starts[len(first) :]

    def tell_positions(self, forecast: Forecast, running: Sequence[Running]) -> None:
        """Tell each waiting job its place, and when it is likely to begin."""
        starts = self.starts_s(forecast, running)
        for index, job in enumerate(self.in_order()):
            job.tell(Queued(index + 1, starts[index] if starts else None))
