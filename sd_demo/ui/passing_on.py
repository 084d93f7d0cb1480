"""From one picture to the next step: another thumbnail, its seed again, or the picture as input of another tab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import InvalidImage
from sd_demo.images import read_picture
from sd_demo.requests import Inpaint
from sd_demo.ui import mask_editor, results
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

Places = Mapping[str, tuple[Any, Any]]
"""By tab: the component that takes a picture, and its prompt."""
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def listen(engine: Engine, tab: Tab) -> None:
    """Wire the buttons under a tab's picture."""
    parts = tab.results

    def select(shown: list[Shown], event: gr.SelectData) -> Any:
        return results.select(parts, shown, event.index, engine.registry)

    def reuse_seed(shown: list[Shown], selected: int) -> Any:
        return str(shown[selected].receipt.done.seed) if shown else gr.skip()

    parts.strip.select(
        select,
        [parts.shown],
        parts.of_picture,
        **_PRIVATE,
    )
    tab.reuse_seed.click(reuse_seed, [parts.shown, parts.selected], [tab.controls["seed"]], **_PRIVATE)
    tab.random_seed.click(None, None, [tab.controls["seed"]], js="() => ''", **_PRIVATE)


def offer(parts: Results, places: Places, chooser: gr.Tabs) -> None:
    """Wire the buttons that bring a picture of `parts`, with its own prompt, to the tabs that start from one."""
    for task, button in parts.onward.items():
        button.click(sender(task), [parts.shown, parts.selected], [chooser, *places[task]], **_PRIVATE)


def sender(task: str) -> Any:
    """The handler that brings a shown picture and its prompt to the tab of `task`."""

    def send(shown: list[Shown], selected: int) -> tuple[Any, Any, Any]:
        if not shown:
            return gr.skip(), gr.skip(), gr.skip()
        one = shown[min(selected, len(shown) - 1)]
        path = one.path
        try:
            value: Any = results.published(path)
            if task == Inpaint.task:
                value = mask_editor.painted(read_picture(path), None)
        except (OSError, InvalidImage):
            raise gr.Error(results.GONE, print_exception=False) from None
        return gr.Tabs(selected=task), value, one.receipt.prompt

    return send
