"""The two buttons that begin and end a run of a tab, and what a page holds of a run to stop it."""

from __future__ import annotations

import json
import weakref
from typing import Any, Final

import gradio as gr

from sd_demo.ui import status_line

CANCEL: Final = "Cancel"


class Stop:
    """What a page holds of a running job, or several: cancels them, and does not keep their pictures in memory."""

    def __init__(self, job: Any) -> None:
        self._job = weakref.ref(job)

    @property
    def is_running(self) -> bool:
        """Whether the job, a single one, has yet to end."""
        job = self._job()
        return job is not None and not job.is_ended

    def cancel(self) -> None:
        """Cancel what is still there."""
        job = self._job()
        if job is not None:
            job.cancel()


def refuse_second(running: Stop | None) -> None:
    """Raise a sentence for the page where a tab's run has yet to end: Cancel would reach the newer one alone."""
    if running is not None and running.is_running:
        raise gr.Error("A picture is in progress here; wait for it, or cancel it first.", print_exception=False)


def cancel(running: Stop | None) -> None:
    """Ask a running job to stop; it does within a step, and its handler then says so."""
    if running is not None:
        running.cancel()


def listen_to_cancel(button: gr.Button, status: gr.HTML, running: gr.State) -> None:
    """Let `button` cancel what `running` holds (a Stop), and say so at once in `status`."""
    button.click(None, None, [status, button], js=cancelling(), show_progress="hidden", queue=False)
    button.click(cancel, [running], show_progress="hidden", queue=False, api_visibility="private")


def start_button(elem_id: str, title: str) -> gr.Button:
    """The button that begins a run of a tab; page.js presses it, and the next one, at keys."""
    return gr.Button(title, variant="primary", elem_id=elem_id, elem_classes=["generate"], scale=3)


def cancel_button(task: str) -> gr.Button:
    """The button that ends it."""
    look: dict[str, Any] = {"elem_id": f"{task}-cancel", "elem_classes": ["cancel"], "scale": 1, "min_width": 100}
    return gr.Button(CANCEL, interactive=False, **look)


def busy(start: gr.Button, cancel: gr.Button) -> dict[Any, Any]:
    """The updates with which a run begins."""
    return {start: gr.update(interactive=False), cancel: gr.update(interactive=True)}


def idle(start: gr.Button, cancel: gr.Button) -> dict[Any, Any]:
    """The updates with which it ends."""
    return {start: gr.update(interactive=True), cancel: gr.update(value=CANCEL, interactive=False)}


def cancelling() -> str:
    """JavaScript that says so at the click. An answer of the server could come after the run's last word."""
    said = [
        status_line.running("Cancelling …"),
        {"__type__": "update", "value": "Cancelling …", "interactive": False},
    ]
    return f"() => {json.dumps(said)}"
