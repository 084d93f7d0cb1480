"""From made pictures to files with receipts, in a thread of its own, so that the device goes on with other jobs.

A PNG of 512x512 with grain takes longer than a large GPU takes for a step (outputs.py), and a disk may take its time.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

from PIL import Image

from sd_demo.contact_sheet import sheet_of
from sd_demo.endings import Endings
from sd_demo.errors import JobCancelled
from sd_demo.events import Done, ResultImage
from sd_demo.finishing import Made
from sd_demo.images import fingerprint
from sd_demo.job import Job
from sd_demo.outputs import Outputs
from sd_demo.receipt import Receipt
from sd_demo.requests import AnyRequest

MOST_WAITING: Final = 8  # jobs whose pictures are in memory only; then the worker waits for the disk
LAST_S: Final = 1.0  # for a job to see that it is cancelled


class Saver:
    """Saves the pictures of one job after another, and ends the jobs; its thread lives while there is something to do.

    A daemon, as a disk that hangs must not keep a program from its end. A job that is cancelled meanwhile ends when its
    turn comes.
    """

    def __init__(self, outputs: Outputs, endings: Endings) -> None:
        self._outputs, self._endings = outputs, endings
        self._made: deque[Made] = deque()  # the first is being saved
        self._changed = threading.Condition()

    def add(self, made: Made) -> None:
        """Save the pictures of `made.job` after those of others, and end it."""
        with self._changed:
            self._made.append(made)
            is_first = len(self._made) == 1
        if is_first:
            try:
                threading.Thread(target=self._work, name="saver", daemon=True).start()
            except RuntimeError:  # there may be no more threads
                self._work()

    def wait_for_room(self) -> None:
        """Return when fewer than MOST_WAITING jobs are to be saved."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._made) < MOST_WAITING)

    def close(self, timeout_s: float) -> None:
        """Let what is there be saved for `timeout_s` seconds; what is not by then is cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: not self._made, timeout_s)
            late = [made.job for made in self._made]
        for job in late:
            job.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._made, LAST_S)

    def _work(self) -> None:
        while True:
            self._save(self._made[0])
            with self._changed:
                self._made.popleft()
                self._changed.notify_all()
                if not self._made:  # whoever adds the next one begins another thread
                    return

    def _save(self, made: Made) -> None:
        try:
            self._endings.done(made.job, saved(made, self._outputs))
        except Exception as error:
            self._endings.failed([made.job], error)


def saved(made: Made, outputs: Outputs) -> Done:
    """Every picture with its receipt in a file of its own; in none where the job's are not kept.

    Raises OutputFailed where they cannot be written, and JobCancelled, with no file left behind, where the job is
    cancelled meanwhile: sixteen pictures of a large photo take a minute.
    """
    job, files, results = made.job, list[Path](), list[ResultImage]()

    def go_on() -> None:
        if job.is_cancelled:
            raise JobCancelled("The job was cancelled.")

    try:
        values = asked(job.request)  # once: the fingerprint of a large photo takes its time
        for image, done, notes in made.pictures:
            go_on()
            receipt = Receipt(task=job.request.task, asked=values, done=done, notes=notes)
            path = outputs.save(image, receipt, visitor=job.visitor) if job.is_kept else Path()
            files += [path] if job.is_kept else []
            results.append(ResultImage(path, image, receipt))
        go_on()
        return Done(tuple(results), _sheet(job, results, outputs))
    except JobCancelled:
        for path in files:
            path.unlink(missing_ok=True)
        raise


def _sheet(job: Job, results: list[ResultImage], outputs: Outputs) -> Path | None:
    if not job.request.grid or not job.is_kept:
        return None
    sheet = sheet_of(results, *job.request.rows_and_columns)
    return outputs.save_sheet(sheet, [one.receipt for one in results], visitor=job.visitor)


def asked(request: AnyRequest) -> dict[str, Any]:
    """The request's fields as JSON; a picture is named by its fingerprint and size, never stored."""
    values = request.model_dump()
    for name, value in values.items():
        if isinstance(value, Image.Image):
            values[name] = {"sha256": fingerprint(value), "width": value.width, "height": value.height}
    return {**values, "loras": list(values["loras"])}
