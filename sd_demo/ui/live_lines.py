"""The small lines that follow what is typed: tokens and unknown words under a prompt, the time beside Generate."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.embedded.vocabulary import unknown_words
from sd_demo.errors import PlaygroundError
from sd_demo.requests import MAX_PROMPT_CHARACTERS
from sd_demo.ui import status_line
from sd_demo.ui.controls import acceptable
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

COSTLY: Final = ("num_inference_steps", "guidance_scale", "width", "height", "num_images_per_prompt", "strength")

_QUIET: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "preprocess": False,
    "queue": False,
    "api_visibility": "private",
}


def listen(engine: Engine, tab: Tab, model: gr.Dropdown, ran: Any) -> None:
    """Keep both lines of a tab true while the person types, and after each run, which teaches what one costs."""

    def tokens(prompt: Any, model: Any) -> str:
        return token_line(engine, prompt, model)

    def cost(*values: Any) -> str:
        return estimate_line(engine, tab, values)

    tab.controls["prompt"].change(tokens, [tab.controls["prompt"], model], [tab.token_line], **_QUIET)
    costly = [tab.controls[name] for name in COSTLY if name in tab.controls]
    for event in (*(control.change for control in costly), ran.then):
        event(cost, list(tab.controls.values()), [tab.estimate], **_QUIET)


def token_line(engine: Engine, prompt: Any, model: Any) -> str:
    """How many tokens the prompt has of those that fit, and the words that the model does not know."""
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT_CHARACTERS:
        return ""
    report = engine.token_report(prompt)
    if report is None:
        return ""
    chunks = f" in {report.chunks} parts" if report.chunks > 1 else ""
    parts = [f"{report.count} of {report.limit * report.chunks} tokens{chunks}"]
    if report.dropped_words:
        parts.append(f'<span class="over">not read: {_words(report.dropped_words)}</span>')
    try:
        unknown = unknown_words(prompt) if engine.defaults(model).is_embedded else []
    except PlaygroundError:  # the name of a model that is not here
        unknown = []
    if unknown:
        parts.append(f"not known to this model: {_words(unknown)}")
    return f'<p class="tokens">{" · ".join(parts)}</p>'


def estimate_line(engine: Engine, tab: Tab, values: tuple[Any, ...]) -> str:
    """About how long and how much memory, from what was measured here; empty while nothing is known."""
    try:
        estimate = engine.estimate(acceptable(tab.task, tab.asked(values)))
    except PlaygroundError:
        return ""
    if estimate is None:
        return ""
    return f'<p class="tokens">about {status_line.seconds(estimate.seconds)}</p>'


def _words(words: Sequence[str]) -> str:
    listed = ", ".join(f"<b>{escape(word[:40])}</b>" for word in words[:12])
    return listed + (" …" if len(words) > 12 else "")
