"""A comparison on the engine: its cells submitted so that they share the loop, and answered as one labelled sheet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sd_demo.compare import Comparison
from sd_demo.contact_sheet import contact_sheet
from sd_demo.errors import JobCancelled, QueueFull
from sd_demo.events import Cancelled, Event, ResultImage

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.job import Job


@dataclass(frozen=True)
class Progress:
    """`done` of `total` cells are finished; `event` is the latest of the cell that is waited for."""

    done: int
    total: int
    event: Event


@dataclass(frozen=True)
class Compared:
    """The end: the sheet's file and pixels (RGB), and each cell on its own, row by row."""

    path: Path
    sheet: Image.Image
    images: tuple[ResultImage, ...]


class Cells:
    """The jobs of a comparison so far; any thread may cancel them, and then none is added."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel all; harmless after their end."""
        self.is_cancelled = True
        for job in list(self.jobs):
            job.cancel()


def run_comparison(
    engine: Engine, comparison: Comparison, *, visitor: str = "local", cells: Cells | None = None
) -> Generator[Progress | Compared]:
    """Run all cells and yield their progress, then the end. Closing the iterator cancels what has not ended.

    `cells`: where the jobs come into, for another thread to cancel; JobCancelled is raised then.

    At most as many cells are in the queue as can run at once, so that a large comparison neither fills the queue for
    others nor fails where it is nearly full. Raises what a cell raises, and QueueFull where not one cell gets in.
    """
    requests = list(comparison.requests)
    window = max(1, engine.settings.max_rows // 2)  # two rows a picture with guidance
    cells = cells or Cells()
    jobs = cells.jobs

    def submit_more() -> None:
        waiting = sum(not job.is_ended for job in jobs)
        while len(jobs) < len(requests) and waiting < window and not cells.is_cancelled:
            try:
                jobs.append(engine.submit(requests[len(jobs)], visitor=visitor))
            except QueueFull:
                if not waiting:
                    raise
                return
            waiting += 1

    try:
        submit_more()
        images: list[ResultImage] = []
        for k in range(len(requests)):
            for event in jobs[k].events():
                if cells.is_cancelled or isinstance(event, Cancelled):
                    raise JobCancelled("The comparison was cancelled.")
                submit_more()
                yield Progress(sum(job.is_ended for job in jobs), len(requests), event)
            images += jobs[k].result().images
    finally:
        cells.cancel()
    sheet = contact_sheet(
        [one.image for one in images],
        columns=comparison.columns,
        column_labels=comparison.column_labels,
        row_labels=comparison.row_labels,
        title=comparison.title,
    )
    path = engine.outputs.save_sheet(sheet, [one.receipt for one in images], visitor=visitor)
    yield Compared(path, sheet, tuple(images))
