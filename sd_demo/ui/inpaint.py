"""The tab that repaints a part of a picture: the mask is painted with mouse or finger, or uploaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from PIL import ImageOps

from sd_demo.errors import InvalidImage, PlaygroundError
from sd_demo.requests import Inpaint
from sd_demo.ui import mask_editor, status_line, task_tab
from sd_demo.ui.mask_editor import Blobs
from sd_demo.ui.run import ReadPictures, Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine


def build(engine: Engine) -> Tab:
    """Lay the tab out where this is called."""
    blobs = Blobs()
    tools: dict[str, Any] = {}

    def inputs() -> tuple[tuple[Component, ...], ReadPictures]:
        editor = mask_editor.build(f"{Inpaint.task}-image", blobs)
        with gr.Row(elem_classes=["actions"]):
            tools["invert"] = gr.Button("Invert mask", size="sm", elem_id="inpaint-invert")
            tools["clear"] = gr.Button("Clear mask", size="sm", elem_id="inpaint-clear")
            tools["upload"] = gr.UploadButton(
                "Upload mask", size="sm", file_types=["image"], type="filepath", elem_id="inpaint-upload-mask"
            )
        return (editor,), lambda value: mask_editor.read(value, blobs)

    tab = task_tab.build(engine, Inpaint.task, inputs)
    editor = tab.picture_inputs[0]

    def changed(value: Any, file: Any, action: str) -> tuple[Any, str]:
        try:
            values = mask_editor.read(value, blobs)
            if action == "upload":
                return mask_editor.with_uploaded_mask(values, file), status_line.IDLE
            if "image" not in values:
                raise InvalidImage("Choose a picture first.", "image")
            mask = ImageOps.invert(values["mask_image"]) if action == "invert" else None
            return mask_editor.painted(values["image"], mask), status_line.IDLE
        except PlaygroundError as error:
            return gr.skip(), status_line.failed(str(error), "mask_image")

    def listen(action: str) -> Any:
        return lambda value, file=None: changed(value, file, action)

    for action in ("invert", "clear"):
        tools[action].click(
            listen(action),
            inputs=[editor],
            outputs=[editor, tab.results.status],
            preprocess=False,
            show_progress="hidden",
            api_visibility="private",
        )
    tools["upload"].upload(
        listen("upload"),
        inputs=[editor, tools["upload"]],
        outputs=[editor, tab.results.status],
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return tab
