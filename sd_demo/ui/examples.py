"""Examples as pictures: a click fills every control and runs.

`examples/gallery/index.json` is a list of `{"task", "file", "prompt", …}`: `file` is the picture shown, `image` and
`mask_image` are files beside it, everything else is a request field. `examples/gallery/draw.py` makes the pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from PIL import Image

from sd_demo.errors import PlaygroundError
from sd_demo.images import read_mask, read_picture
from sd_demo.requests import Inpaint
from sd_demo.ui import controls, mask_editor, results, run, stopping, style_picker
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

FOLDER: Final = Path(__file__).parents[2] / "examples" / "gallery"


@dataclass(frozen=True)
class Example:
    """One picture of the row."""

    file: Path
    task: str
    values: dict[str, Any]
    image: Path | None = None
    mask_image: Path | None = None


def read(folder: Path = FOLDER) -> list[Example]:
    """The examples of a folder whose pictures are there."""
    index = folder / "index.json"
    if not index.is_file():
        return []
    found = []
    for entry in json.loads(index.read_text(encoding="utf-8")):
        pictures = {name: folder / entry.pop(name) for name in ("image", "mask_image") if name in entry}
        found.append(Example(folder / entry.pop("file"), entry.pop("task"), entry, **pictures))
    return [one for one in found if all(f.is_file() for f in (one.file, one.image, one.mask_image) if f is not None)]


def build(
    engine: Engine, tab: Tab, header: Header, visitor_id: gr.BrowserState, listed: list[Example], generate: Any
) -> None:
    """Lay out the row of a tab's examples where this is called; nothing where there are none."""
    here = [example for example in listed if example.task == tab.task]
    if not here:
        return
    row = gr.Gallery(
        [(results.published(one.file, is_for_good=True), str(one.values.get("prompt", ""))) for one in here],
        label="Try",
        show_label=False,
        columns=len(here),
        rows=1,
        allow_preview=False,
        interactive=False,
        format="png",
        object_fit="cover",
        buttons=[],
        elem_id=f"{tab.task}-examples",
        elem_classes=["examples"],
    )

    def fill(model: Any, running: stopping.Stop | None, event: gr.SelectData) -> dict[Any, Any]:
        stopping.refuse_second(running)
        if not isinstance(event.index, int) or not 0 <= event.index < len(here):
            return {tab.results.selected: 0}
        example = here[event.index]
        try:
            entry = engine.defaults(model)
        except (PlaygroundError, TypeError):  # the run that follows says so
            entry = engine.defaults(None)
        updates: dict[Any, Any] = {tab.style: style_picker.NONE} | {
            control: example.values.get(name, controls.default_value(tab.task, name, entry))
            for name, control in tab.controls.items()
        }
        if tab.picture_inputs and example.image is not None:
            updates[tab.picture_inputs[0]] = _picture(tab.task, example)
        return updates

    row.select(
        fill,
        [header.model, tab.job],
        [*tab.inputs, tab.style, tab.results.selected],
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
    ).success(
        generate,
        [visitor_id, header.model, *run.held(tab), *tab.inputs],
        run.outputs(tab),
        preprocess=False,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )


def _picture(task: str, example: Example) -> Any:
    if example.image is None:
        return None
    if task != Inpaint.task:
        return results.published(example.image)
    with Image.open(example.image) as image:
        picture = read_picture(image)
    return mask_editor.painted(picture, read_mask(example.mask_image) if example.mask_image else None)
