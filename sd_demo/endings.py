"""How jobs end: each end is counted, and told to whoever waits for it."""

from __future__ import annotations

import logging

from sd_demo.errors import DeviceFailure, JobCancelled
from sd_demo.events import Cancelled, Done, Failed
from sd_demo.health import as_expected, is_fatal
from sd_demo.job import Job
from sd_demo.metrics import Metrics

log = logging.getLogger(__name__)


class Endings:
    """Of one engine. The worker ends jobs, and so does whoever saves their pictures."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.fault = ""  # why no job will ever run again in this process

    def done(self, job: Job, done: Done) -> None:
        """It has its pictures."""
        self._metrics.add_done(len(done.images))
        job.tell(done)

    def cancelled(self, job: Job, steps: int = 0) -> None:
        """It was cancelled, and ended after this many steps."""
        self._metrics.add_cancelled(late=max(0, steps - (job.steps_when_cancelled or 0)))
        job.tell(Cancelled())

    def failed(self, jobs: list[Job], error: Exception, steps: int = 0) -> None:
        """`error` ended all of them after this many steps; JobCancelled is no failure.

        One that the device does not survive is this engine's fault from then on.
        """
        if is_fatal(error) and not self.fault:
            log.critical("the device is lost", exc_info=error)
            self.fault = "The device failed and cannot be used again; the program must be started again."
        for job in jobs:
            if isinstance(error, JobCancelled):
                self.cancelled(job, steps)
                continue
            expected = DeviceFailure(self.fault) if is_fatal(error) else as_expected(error, job.id)
            self._metrics.add_failure(expected)
            job.tell(Failed(expected, job.id))
