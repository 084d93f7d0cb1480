"""The tab that makes a picture from a picture and words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from sd_demo.requests import ImageToImage
from sd_demo.ui import task_tab
from sd_demo.ui.run import ReadPictures, Tab
from sd_demo.ui.uploads import given, uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine


def build(engine: Engine) -> Tab:
    """Lay the tab out where this is called; its one picture input takes a file, a drop or the clipboard."""
    return task_tab.build(engine, ImageToImage.task, _inputs)


def _inputs() -> tuple[tuple[Component, ...], ReadPictures]:
    image = gr.Image(
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        label="Picture to start from",
        show_label=False,
        buttons=["fullscreen"],
        placeholder="Drop a picture to start from,\npaste one, or click to choose",
        elem_id=f"{ImageToImage.task}-image",
        elem_classes=["field-image", "picture-input"],
    )
    return (image,), _read


def _read(image: Any) -> dict[str, Any]:
    return given({"image": uploaded_file(image, field="image")})
