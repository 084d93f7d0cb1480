"""From one picture to the next step: another thumbnail, its seed again, or the picture as input of another tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import InvalidImage
from sd_demo.images import read_picture
from sd_demo.requests import ImageToImage, Inpaint
from sd_demo.ui import mask_editor, results
from sd_demo.ui.results import Shown
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

GONE: Final = "This picture is no longer here; generate it again."
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def listen(engine: Engine, tab: Tab, tabs: dict[str, Tab], chooser: gr.Tabs) -> None:
    """Wire the buttons under a tab's picture."""
    parts = tab.results

    def select(shown: list[Shown], event: gr.SelectData) -> Any:
        if not shown or not isinstance(event.index, int) or not 0 <= event.index < len(shown):
            return {parts.selected: 0}
        try:
            return results.show(parts, shown, event.index, engine.registry) | {parts.strip: gr.skip()}
        except OSError:
            return {parts.notes: GONE}

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
    for button, task in ((parts.use_as_input, ImageToImage.task), (parts.inpaint_this, Inpaint.task)):
        target = tabs[task]
        button.click(
            sender(task),
            [parts.shown, parts.selected, tab.controls["prompt"]],
            [chooser, target.picture_inputs[0], target.controls["prompt"]],
            **_PRIVATE,
        )


def sender(task: str) -> Any:
    """The handler that brings a shown picture and a prompt to the tab of `task`."""

    def send(shown: list[Shown], selected: int, prompt: Any) -> tuple[Any, Any, Any]:
        if not shown:
            return gr.skip(), gr.skip(), gr.skip()
        path = shown[selected].path
        try:
            value: Any = results.published(path)
            if task == Inpaint.task:
                value = mask_editor.painted(read_picture(path), None)
        except (OSError, InvalidImage):
            raise gr.Error(GONE, print_exception=False) from None
        return gr.Tabs(selected=task), value, prompt

    return send
