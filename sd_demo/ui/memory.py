"""What survives a reload: the model, a tab's settings and the pictures of its last run, kept by the browser alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.ui import header, results, visitor
from sd_demo.ui.controls import acceptable
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}


def listen(engine: Engine, page: gr.Blocks, tab: Tab, visitor_id: gr.BrowserState) -> None:
    """Restore a tab when the page is opened, and keep its settings whenever one changes."""
    names = ", ".join(tab.fields)
    pairs = ", ".join(f"{name}: {name}" for name in tab.fields)
    controls = list(tab.controls.values())
    # In the browser alone: typing costs the server nothing.
    gr.on(
        [control.change for control in controls],
        None,
        controls,
        [tab.settings],
        js=f"({names}) => ({{{pairs}}})",
        **_PRIVATE,
    )
    page.load(
        _restore(engine, tab),
        [visitor_id, tab.settings, tab.last],
        [*controls, *tab.results.of_picture],
        **_PRIVATE,
    )


def _restore(engine: Engine, tab: Tab) -> Callable[..., dict[Any, Any]]:
    def restore(request: gr.Request, visitor_id: Any, settings: Any, last: Any) -> dict[Any, Any]:
        updates = {tab.controls[name]: value for name, value in acceptable(tab.task, settings).items()}
        owner = visitor.folder_name(visitor_id, request)
        shown = results.reread(visitor.remembered_pictures(engine.outputs, owner, last))
        if shown:
            updates |= results.show(tab.results, shown, 0, engine.registry)
        return updates or {tab.results.selected: 0}

    return restore


def listen_for_visitor(page: gr.Blocks, visitor_id: gr.BrowserState) -> None:
    """Give a browser that comes for the first time its id."""
    page.load(visitor.known_or_new, [visitor_id], [visitor_id], **_PRIVATE)


def listen_for_model(engine: Engine, page: gr.Blocks, top: Header, chosen: Sequence[gr.State]) -> gr.BrowserState:
    """Choose the model again that was chosen, of those that are here by now.

    chosen: that of each tab whose settings are kept, and so its own.
    Returns where the choice is kept, in the form of `as_kept`. A model that the program falls back to is
    nobody's choice.
    """
    kept = visitor.browser_state("model")
    usual = top.model.value

    def restore(held: Any) -> dict[Any, Any]:
        held = held if isinstance(held, dict) else {}
        fresh = header.choices(engine)  # the page was built before the last download
        name, now = held.get("name"), usual
        with suppress(PlaygroundError):  # its files may be gone from their place
            now = engine.defaults(None).name
        # The page may also have been built before the program fell back to a model that it can use.
        fallen_back: dict[str, Any] = {"value": now} if now != usual else {}
        unheld = {top.model: gr.update(choices=fresh, **fallen_back)}
        if not isinstance(name, str) or held.get("usual") != usual:  # another one was named as the program was started
            return unheld
        try:
            name = engine.defaults(name).name
        except PlaygroundError:  # no longer known here
            return unheld
        return {top.model: gr.update(choices=fresh, value=name), **dict.fromkeys(chosen, name)}

    page.load(restore, [kept], [top.model, *chosen], **_PRIVATE)
    top.model.input(None, [top.model], [kept], js=f"(name) => ({{name, usual: {json.dumps(usual)}}})", **_PRIVATE)
    return kept


def as_kept(top: Header, name: str) -> dict[str, Any]:
    """The choice of the model `name` as the browser keeps it, and beside which one the program was started with."""
    return {"name": name, "usual": top.model.value}
