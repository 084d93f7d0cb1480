"""Many requests of one person at once: submitted so that they share the loop and leave room for others."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sd_demo.errors import JobCancelled, PictureWithheld, QueueFull
from sd_demo.events import Cancelled, Event, ResultImage
from sd_demo.requests import AnyRequest

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.job import Job


@dataclass(frozen=True)
class Progress:
    """`done` of `total` requests are finished; `event` is the latest of the one that is waited for."""

    done: int
    total: int
    event: Event


class Jobs:
    """The jobs of such a run so far; any thread may cancel them, and then none is added."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel all; harmless after their end."""
        self.is_cancelled = True
        for job in list(self.jobs):
            job.cancel()


def run_together(
    engine: Engine,
    requests: Sequence[AnyRequest],
    *,
    visitor: str,
    origin: str = "",
    jobs: Jobs | None = None,
    is_kept: bool = True,
) -> Generator[Progress, None, list[ResultImage | None]]:
    """Run all requests, yield their progress, and return their pictures in order; None for what the model's safety
    checker withheld, which takes nothing else with it, but is raised where it was all.

    Closing the generator cancels what has not ended. `jobs`: where the jobs come into, for another thread to cancel;
    JobCancelled is raised then. is_kept: False saves no file of any of them.

    At most as many are in the queue as can run at once, so that a large run neither fills the queue for others nor
    fails where it is nearly full. Raises what a request raises, and QueueFull where not one of them gets in.
    """
    window = max(1, engine.settings.max_rows // 2)  # two rows a picture with guidance
    jobs = jobs or Jobs()

    def submit_more() -> None:
        waiting = sum(not job.is_ended for job in jobs.jobs)
        while len(jobs.jobs) < len(requests) and waiting < window and not jobs.is_cancelled:
            try:
                asked = requests[len(jobs.jobs)]
                # Of a run that keeps none of its parts, nothing would be left where its visitor's seconds ran out.
                is_accepted = bool(jobs.jobs) and not is_kept
                job = engine.submit(asked, visitor=visitor, origin=origin, is_kept=is_kept, is_accepted=is_accepted)
                jobs.jobs.append(job)
            except QueueFull:
                if not waiting:
                    raise
                return
            waiting += 1

    try:
        submit_more()
        images: list[ResultImage | None] = []
        withheld: PictureWithheld | None = None
        for k in range(len(requests)):
            if jobs.is_cancelled:  # then the next one may never have been submitted
                raise JobCancelled("It was cancelled.")
            for event in jobs.jobs[k].events():
                if jobs.is_cancelled or isinstance(event, Cancelled):
                    raise JobCancelled("It was cancelled.")
                submit_more()
                yield Progress(sum(job.is_ended for job in jobs.jobs), len(requests), event)
            try:
                images += jobs.jobs[k].result().images
            except PictureWithheld as error:
                images.append(None)
                withheld = error
        if withheld is not None and not any(images):
            raise withheld
        return images
    finally:
        jobs.cancel()
