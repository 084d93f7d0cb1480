"""The line at the top: which model, its state, what it runs on; and the switch between light and dark."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.known_models import not_here

if TYPE_CHECKING:
    from sd_demo.engine import Engine

TITLE: Final = "Stable Diffusion Playground"
POLL_S: Final = 1.0
DEVICES: Final = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}
TOGGLE_THEME: Final = "() => window.sdDemo.toggleTheme()"


@dataclass(frozen=True)
class Header:
    """Its components; `timer` runs while the model is loaded."""

    model: gr.Dropdown
    state: gr.HTML
    timer: gr.Timer


def build(engine: Engine) -> Header:
    """Lay the header out where this is called."""
    with gr.Row(elem_classes=["header"]):
        gr.HTML(f"<h1>{TITLE}</h1>", elem_classes=["title"], js_on_load=None)
        model = gr.Dropdown(
            choices=choices(engine),
            value=engine.defaults(None).name,
            allow_custom_value=engine.registry.takes_paths,  # a hub id, a folder, a checkpoint
            label="Model",
            show_label=False,
            container=False,
            elem_id="model",
            elem_classes=["model"],
            min_width=290,
        )
        state = gr.HTML("", elem_id="state", elem_classes=["state"], js_on_load=None)
        theme = gr.Button("◐", size="sm", elem_id="theme", elem_classes=["theme"], min_width=36)
        theme.click(None, js=TOGGLE_THEME, api_visibility="private")
    return Header(model, state, gr.Timer(POLL_S, active=False))


def listen(engine: Engine, page: gr.Blocks, header: Header, *others: Any) -> None:
    """Show the state when the page is opened, again until the model is there, and after `others` (events)."""

    def look(chosen: Any) -> tuple[str, gr.Timer]:
        return state_line(engine, chosen), gr.Timer(active=engine.status().state == "loading")

    def arrived(chosen: Any) -> Any:
        """The model that the program fell back to, where the page was built before it did."""
        status, usual = engine.status(), header.model.value
        with suppress(PlaygroundError):  # its files may be gone from their place
            now = engine.defaults(None).name
            if status.state == "ready" and status.message and chosen == usual != now:
                return gr.update(value=now)
        return gr.skip()

    header.timer.tick(
        arrived, [header.model], [header.model], show_progress="hidden", queue=False, api_visibility="private"
    )
    for event in (page.load, header.timer.tick, header.model.change, *others):
        event(
            look,
            [header.model],
            [header.state, header.timer],
            preprocess=False,
            show_progress="hidden",
            queue=False,
            api_visibility="private",
        )


def state_line(engine: Engine, chosen: Any = None) -> str:
    """The state in a few words: of the model in memory, or that the one which is `chosen` on the page is not there."""
    status = engine.status()
    with suppress(PlaygroundError):  # its files may be gone from their place
        asked, usual = engine.defaults(engine.settings.model), engine.defaults(None)
        if status.message == not_here(asked) and engine.registry.weights(asked):  # they came since the start
            status = replace(status, message="")
            if asked.name == usual.name:  # else another one took its place, and it can be chosen
                status = replace(status, state="waiting", message="the next picture loads it")
        if isinstance(chosen, str) and status.state == "ready":
            wanted = engine.defaults(chosen)
            if wanted.name not in status.in_memory and engine.registry.is_here(wanted):
                status = replace(status, state="waiting", message="the next picture loads it")
    known = {"loading": "loading …", "ready": "ready", "failed": "not usable", "waiting": "not loaded yet"}
    words = known.get(status.state, status.state)
    parts = [f"<b>{escape(words)}</b>"]
    if status.state == "ready":
        parts.append(escape(f"{DEVICES.get(status.device, status.device)} {status.dtype}"))
        parts.append(f"{status.memory_mib:,.0f} MiB")
    if status.message:
        parts.append(escape(status.message))
    return f'<p class="dot {escape(status.state)}" role="status">{" · ".join(parts)}</p>'


def choices(engine: Engine) -> list[tuple[str, str]]:
    """(label, name) of every model, also of the one that the program was started with, if its files are in their place.

    Another one may have taken its place at the start, and it may be mended since.
    """
    entries = list(engine.registry)
    for name in (engine.settings.model, None):
        with suppress(PlaygroundError):
            chosen = engine.defaults(name)
            entries = entries if any(e.name == chosen.name for e in entries) else [chosen, *entries]
    return [(e.title + ("" if engine.registry.is_here(e) else " (not here yet)"), e.name) for e in entries]
