"""A job: one request on its way, what it tells, and the flag that stops it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from sd_demo.errors import JobCancelled, PlaygroundError
from sd_demo.events import Cancelled, Done, Event, Failed, Step
from sd_demo.logs import FIELDS
from sd_demo.registry import ModelEntry
from sd_demo.requests import AnyRequest

log = logging.getLogger(__name__)


class Job:
    """Made by `Engine.submit`. Any number of threads may read its events; each sees all of them in order.

    on_cancel: called when somebody asks for its end, which the engine's worker may be too busy to see.
    """

    def __init__(
        self, request: AnyRequest, *, visitor: str, origin: str = "", has_previews: bool, is_kept: bool = True,
        is_accepted: bool = False, on_cancel: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(4)
        self.request = request
        self.entry: ModelEntry  # of its model, from `Engine.submit` on
        self.visitor = visitor
        self.origin = origin
        self.has_previews = has_previews
        self.is_kept = is_kept
        self._on_cancel = on_cancel
        self.is_accepted = is_accepted  # a later part of what was let in as a whole
        self.submitted_at = time.monotonic()
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._cancel = threading.Event()
        self.steps_when_cancelled: int | None = None

    def events(self) -> Iterator[Event]:
        """Every event from the first on, waiting for the next; ends after Done, Failed or Cancelled."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > seen)  # noqa: B023 # waited for at once
                event = self._events[seen]
            seen += 1
            yield event
            if isinstance(event, Done | Failed | Cancelled):
                return

    def cancel(self) -> None:
        """Ask for the job to stop: at most the step in progress is finished. Harmless after its end."""
        with self._changed:
            if self.steps_when_cancelled is None:
                self.steps_when_cancelled = next((e.index for e in reversed(self._events) if isinstance(e, Step)), 0)
        self._cancel.set()
        self._on_cancel()

    @property
    def is_cancelled(self) -> bool:
        """Somebody asked for the job to stop."""
        return self._cancel.is_set()

    @property
    def is_ended(self) -> bool:
        """The last event is there."""
        with self._changed:
            return bool(self._events) and isinstance(self._events[-1], Done | Failed | Cancelled)

    def result(self, timeout_s: float | None = None) -> Done:
        """Wait for the end and return it.

        Raises the error of a failed job, JobCancelled for a cancelled one, TimeoutError after `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._events and self._is_end(self._events[-1]), timeout_s):
                raise TimeoutError(f"The job is not done after {timeout_s} s.")
            end = self._events[-1]
        if isinstance(end, Failed):
            raise end.error
        if isinstance(end, Cancelled):
            raise JobCancelled("The job was cancelled.")
        if not isinstance(end, Done):
            raise PlaygroundError("The job ended without a result.")
        return end

    def tell(self, event: Event) -> None:
        """Append an event; the engine calls this. Nothing follows an end."""
        with self._changed:
            if self._events and self._is_end(self._events[-1]):
                return
            self._events.append(event)
            self._changed.notify_all()
        if self._is_end(event):
            self._log_end(event)

    def _log_end(self, event: Event) -> None:
        seconds = round(time.monotonic() - self.submitted_at, 3)
        outcome = type(event).__name__.lower()
        fields: dict[str, Any] = {"request_id": self.id, "task": self.request.task, "outcome": outcome}
        fields |= {"visitor": self.visitor, "seconds": seconds}
        fields |= {name: getattr(self.request, name) for name in ("prompt", "negative_prompt")}
        if isinstance(event, Failed):
            fields["error"] = str(event.error)
        log.info("job %s %s after %.1f s", self.id, outcome, seconds, extra={FIELDS: fields})

    @staticmethod
    def _is_end(event: Event) -> bool:
        return isinstance(event, Done | Failed | Cancelled)
