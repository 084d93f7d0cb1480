"""Choosing LoRAs: files of the folder by name, a weight where one is typed, and on one's own machine a file added."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.components import Component

from sd_demo.errors import PlaygroundError
from sd_demo.lora import read_lora
from sd_demo.lora_folder import SUFFIX, add_lora, lora_names
from sd_demo.requests import TextToImage
from sd_demo.ui import controls, status_line
from sd_demo.ui.uploads import uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

FIELD: Final = "loras"
HINT: Final = "Small trained additions from the LoRA folder. Each acts with weight 1; type name:0.6 for another."
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def build(engine: Engine, place: str) -> dict[str, Component]:
    """Lay the picker out, with its wires, where this is called. place: what its id begins with."""
    folder = engine.settings.lora_dir
    made = controls.make_all(TextToImage.task, [FIELD], engine.defaults(None))
    picker: Any = made[FIELD]
    picker.elem_id, picker.info = f"{place}-{FIELD}", HINT

    def refresh() -> Any:
        return gr.update(choices=lora_names(folder))

    picker.focus(refresh, None, [picker], queue=False, **_PRIVATE)
    if engine.settings.limits.takes_paths:  # strangers do not write into a folder that all share
        add = gr.UploadButton(
            "Add a LoRA file", file_types=[SUFFIX], size="sm", elem_id=f"{place}-add-lora", elem_classes=["quiet"]
        )
        said = gr.HTML("", js_on_load=None, elem_id=f"{place}-lora-status")

        def take_in(file: Any, chosen: Any) -> tuple[Any, str]:
            try:
                return _taken_in(file, chosen, folder)
            except PlaygroundError as error:
                return gr.skip(), status_line.failed(str(error))

        add.upload(take_in, [add, picker], [picker, said], preprocess=False, **_PRIVATE)
    return made


def _taken_in(file: Any, chosen: Any, folder: Path) -> tuple[Any, str]:
    """The updates after an upload: the file is in the folder, and chosen."""
    path = uploaded_file(file, field="The LoRA")
    if path is None:
        return gr.skip(), ""
    read_lora(path, path.name)  # raises with its reason where it is none
    name = add_lora(path, path.name, folder)
    held = [one for one in chosen if isinstance(one, str)] if isinstance(chosen, list) else []
    return (
        gr.update(choices=lora_names(folder), value=[*held, name]),
        status_line.ended(f"{name} is in the folder {folder.name} now, and chosen."),
    )
