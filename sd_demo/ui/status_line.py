"""The one line above the picture: what is happening, as small HTML made of escaped words and numbers only."""

from __future__ import annotations

from html import escape
from typing import Final

from sd_demo import events

IDLE: Final = ""


def of_event(event: events.Event) -> str:
    """The line for an event of a running job."""
    match event:
        case events.Queued(position, wait_s):
            ahead = "next" if position <= 1 else f"{position - 1} ahead of it"
            wait = "" if wait_s is None else f" · about {seconds(wait_s)}"
            return running(f"Waiting in the queue: {ahead}{wait}")
        case events.Loading(model):
            return running(f"Loading {model} …")
        case events.Encoding():
            return running("Reading the prompt …")
        case events.Step(index, total, remaining_s, _):
            left = f" · {seconds(remaining_s)} left" if index < total else ""
            return running(f"Step {index} of {total}{left}", index / max(total, 1))
        case events.Decoding():
            return running("Decoding …", 1.0)
        case events.Cancelled():
            return ended("Cancelled. Nothing was saved.")
        case events.Done(images):
            return ended("Done" if len(images) == 1 else f"Done: {len(images)} pictures")
        case events.Failed(error, request_id):
            return failed(str(error), error.field if hasattr(error, "field") else None, request_id)
    return IDLE


def running(text: str, fraction: float | None = None) -> str:
    """Work goes on; `fraction` from 0 to 1 fills the bar, None lets it wander."""
    if fraction is None:
        bar = '<div class="bar wander"><span></span></div>'
    else:
        percent = round(100 * min(max(fraction, 0.0), 1.0))
        bar = (
            f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}">'
            f'<span style="width:{percent}%"></span></div>'
        )
    return f'<div class="status is-running"><p>{escape(text)}</p>{bar}</div>'


def ended(text: str) -> str:
    """Work has ended as meant."""
    return f'<div class="status is-ended" role="status"><p>{escape(text)}</p></div>'


def failed(text: str, field: str | None = None, request_id: str | None = None) -> str:
    """Work has ended with an error; the control of `field` is marked by style.css, `request_id` is for the log."""
    where = f' data-field="{escape(field, quote=True)}"' if field else ""
    quote = f' <span class="id">id {escape(request_id)}</span>' if request_id else ""
    return f'<div class="status is-error" role="alert"{where}><p>{escape(text)}{quote}</p></div>'


def seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min: as exact as an estimate deserves."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min"
