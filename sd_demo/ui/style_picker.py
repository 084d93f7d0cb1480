"""Choosing a style: its words come into the prompt, to be read and changed there; another one replaces them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.styles import Style, put_on, read_styles
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

logger: Final = logging.getLogger(__name__)

NONE: Final = "None"
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}


def build(engine: Engine, task: str) -> gr.Dropdown:
    """The dropdown, standing where this is called."""
    return gr.Dropdown(
        label="Style",
        info="Puts words around the prompt, where you can change them.",
        choices=_choices(engine, None),
        value=NONE,
        elem_id=f"{task}-style",
        elem_classes=["control"],
        min_width=80,
    )


def listen(engine: Engine, tab: Tab, top: Header) -> None:
    """Wire a tab's dropdown to its prompts and to the model."""
    prompts = [tab.controls["prompt"], tab.controls["negative_prompt"]]

    def choose(name: Any, model: Any, prompt: Any, negative_prompt: Any) -> list[Any]:
        style = next((one for one in _styles(engine, model) if one.name == name), None)
        # The prompt may still wear a style of the model before.
        known = [*_read(engine, is_picture_book=True), *_read(engine, is_picture_book=False)]
        return list(put_on(style, str(prompt or ""), str(negative_prompt or ""), known))

    tab.style.input(choose, [tab.style, top.model, *prompts], prompts, preprocess=False, **_PRIVATE)
    top.model.change(
        lambda model: gr.update(choices=_choices(engine, model), value=NONE),
        [top.model],
        [tab.style],
        preprocess=False,
        **_PRIVATE,
    )


def _choices(engine: Engine, model: Any) -> list[str]:
    return [NONE, *(style.name for style in _styles(engine, model))]


def _styles(engine: Engine, model: Any) -> tuple[Style, ...]:
    try:
        is_picture_book = engine.defaults(model if isinstance(model, str) else None).is_embedded
    except PlaygroundError:  # the name of a model that is not here
        is_picture_book = False
    return _read(engine, is_picture_book=is_picture_book)


def _read(engine: Engine, *, is_picture_book: bool) -> tuple[Style, ...]:
    try:
        return read_styles(engine.settings.data_dir / "styles.json", is_picture_book=is_picture_book)
    except PlaygroundError as error:
        logger.warning("%s", error)
        return ()
