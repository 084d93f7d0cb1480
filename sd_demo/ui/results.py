"""What a tab shows of its pictures: the large one, the others of its run, and what really ran."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.processing_utils import save_file_to_cache, save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from sd_demo.errors import InvalidImage
from sd_demo.receipt import Receipt, read_receipt
from sd_demo.registry import Registry
from sd_demo.ui import status_line

FOR_GOOD_S: Final = 10 * 365 * 86_400.0
GONE: Final = "This picture is no longer here; generate it again."
RECEIPT_LABEL: Final = "What really ran"
ONWARD: Final = {"image_to_image": "Use as input", "inpaint": "Inpaint this", "upscale": "Upscale this"}


@dataclass(frozen=True)
class Shown:
    """A finished picture as the page holds it; `before` is the published file of what it started from.

    Pictures themselves stay out of it: Gradio keeps the states of a closed page for an hour.
    """

    path: Path
    receipt: Receipt
    before: str | None = None

    def __hash__(self) -> int:  # Gradio tells by it whether a gr.State has changed; a receipt cannot be hashed
        return hash(self.path)


@dataclass(frozen=True)
class Results:
    """The components of one tab's results."""

    status: gr.HTML
    intro: gr.HTML
    picture: gr.Image
    compare: gr.ImageSlider
    strip: gr.Gallery
    actions: gr.Row
    onward: dict[str, gr.Button]  # by the tab that each brings the picture to
    receipt: gr.Accordion
    receipt_json: gr.JSON
    notes: gr.HTML
    shown: gr.State  # list[Shown] of the last run
    selected: gr.State  # which of them is large

    @property
    def of_picture(self) -> list[Any]:
        """Everything that `show` may update."""
        shown = [self.picture, self.compare, self.strip, self.actions, self.receipt, self.receipt_json, self.notes]
        return [*shown, self.shown, self.selected]


def build(task: str, intro: str) -> Results:
    """Lay the components out where this is called; `intro` (HTML) stands where the picture will be."""
    status = gr.HTML(status_line.IDLE, elem_id=f"{task}-status", elem_classes=["status-line"], js_on_load=None)
    picture = gr.Image(
        label="Picture",
        show_label=False,
        interactive=False,
        format="jpeg",  # of the previews only: a finished picture is shown from its own PNG file
        buttons=["download", "fullscreen"],
        elem_id=f"{task}-picture",
        elem_classes=["picture"],
    )
    intro_card = gr.HTML(intro, elem_classes=["intro"], js_on_load=None)
    compare = gr.ImageSlider(
        label="Before and after",
        show_label=False,
        interactive=False,
        visible=False,
        format="png",
        buttons=["download", "fullscreen"],
        elem_id=f"{task}-compare",
        elem_classes=["picture"],
    )
    strip = gr.Gallery(
        label="Pictures of this run",
        show_label=False,
        columns=8,
        allow_preview=False,
        interactive=False,
        visible=False,
        format="png",
        buttons=[],
        elem_id=f"{task}-gallery",
        elem_classes=["strip"],
    )
    with gr.Row(visible=False, elem_classes=["actions"]) as actions:
        onward = {
            place: gr.Button(words, size="sm", elem_id=f"{task}-{words.lower().replace(' ', '-')}")
            for place, words in ONWARD.items()
        }
    notes = gr.HTML("", elem_id=f"{task}-notes", js_on_load=None)
    with gr.Accordion(
        RECEIPT_LABEL, open=False, visible=False, elem_id=f"{task}-receipt", elem_classes=["receipt"]
    ) as receipt:
        receipt_json = gr.JSON(show_label=False, elem_id=f"{task}-receipt-json", max_height=360)
    return Results(
        status=status,
        intro=intro_card,
        picture=picture,
        compare=compare,
        strip=strip,
        actions=actions,
        onward=onward,
        receipt=receipt,
        receipt_json=receipt_json,
        notes=notes,
        shown=gr.State([]),
        selected=gr.State(0),
    )


def hide(results: Results) -> dict[Any, Any]:
    """The updates that take away what belongs to the last run's pictures, as another one begins.

    The large picture stays until there is another, for the page not to jump.
    """
    hidden = (results.strip, results.actions, results.receipt)
    return {results.notes: "", **{part: gr.update(visible=False) for part in hidden}}


def show_again(results: Results, shown: list[Shown], index: int, registry: Registry) -> dict[Any, Any]:
    """The updates after a run that left no picture: those of the run before it, or nothing."""
    try:
        return show(results, shown, index, registry)
    except (OSError, IndexError):  # deleted since, or there was none
        return {
            results.picture: gr.update(value=None, visible=True, alt_text=None),
            results.compare: gr.update(value=None, visible=False),
            results.shown: [],
            results.selected: 0,
        }


def select(results: Results, shown: list[Shown], index: Any, registry: Registry) -> dict[Any, Any]:
    """The updates after a click at thumbnail `index`; the others stay as they are."""
    if not shown or not isinstance(index, int) or not 0 <= index < len(shown):
        return {results.selected: 0}
    try:
        return _large(results, shown, index, registry)
    except OSError:
        return {results.notes: GONE}


def show(results: Results, shown: list[Shown], index: int, registry: Registry) -> dict[Any, Any]:
    """The updates that show `shown[index]` large, with its receipt, and all of them as a strip.

    Raises OSError where one of the files is gone, IndexError where none is shown.
    """
    strip = gr.update(value=[(published(s.path), None) for s in shown], visible=len(shown) > 1)
    return _large(results, shown, index, registry) | {results.strip: strip}


def _large(results: Results, shown: list[Shown], index: int, registry: Registry) -> dict[Any, Any]:
    one = shown[min(index, len(shown) - 1)]
    file = published(one.path)
    updates: dict[Any, Any] = {
        results.compare: gr.update(visible=False),
        results.picture: gr.update(value=file, visible=True, alt_text=alt_text(one.receipt.prompt)),
        results.actions: gr.update(visible=True),
        results.receipt: gr.update(label=f"{RECEIPT_LABEL}: {one.receipt.summary()}", visible=True),
        results.receipt_json: one.receipt.model_dump(mode="json"),
        results.notes: notes(one.receipt, registry),
        results.shown: shown,
        results.selected: index,
    }
    if one.before is not None and _touched(one.before):
        updates[results.picture] = gr.update(visible=False)
        updates[results.compare] = gr.update(value=(one.before, file), visible=True)
    elif one.before is not None:  # swept away since
        updates[results.compare] = gr.update(value=None, visible=False)
    return updates


def alt_text(prompt: str) -> str:
    """What a screen reader says of a picture of `prompt`."""
    return prompt.strip() or "a picture without a prompt"


def published_before(image: Image.Image | None, receipt: Receipt) -> str | None:
    """The file that Gradio may serve of the picture that another one started from; None where sizes differ."""
    if image is None or image.size != (receipt.done.width, receipt.done.height):
        return None
    return save_pil_to_cache(image, cache_dir=get_upload_folder(), format="png")


def _touched(file: str) -> bool:
    """Whether the file is still there; if so, it counts as used now."""
    try:
        os.utime(file)
    except OSError:
        return False
    return True


def published(path: Path, *, is_for_good: bool = False) -> str:
    """The same PNG file where Gradio may serve it: under a folder named by its content, which nobody can guess.

    It counts as used now, and its age is not the original's. is_for_good: it stays for as long as the process lives, in
    a folder of its own, as Gradio makes what it is given again as young as any other.
    """
    folder = os.path.join(get_upload_folder(), "for-good") if is_for_good else get_upload_folder()
    file = save_file_to_cache(path, cache_dir=folder)
    used = time.time() + (FOR_GOOD_S if is_for_good else 0.0)
    os.utime(file, (used, used))
    return file


def notes(receipt: Receipt, registry: Registry) -> str:
    """Where done is not asked, and which model made it, in plain lines."""
    lines = [f'<li class="differs">{escape(note)}</li>' for note in receipt.notes]
    name = receipt.done.model
    entry = next((entry for entry in registry if entry.name == name), None)
    made_by = escape(entry.title if entry else name)
    if entry is not None and entry.is_embedded:
        made_by += ", a small model of a picture-book world"
    name_of_slider = escape(alt_text(receipt.prompt))  # page.js gives it, as Gradio cannot
    return f'<ul class="notes" data-prompt="{name_of_slider}">{"".join(lines)}<li>Made by {made_by}.</li></ul>'


def reread(paths: list[Path]) -> list[Shown]:
    """Pictures of an earlier run, with the receipts that stand in the files."""
    found = []
    for path in paths:
        try:
            with Image.open(path, formats=("PNG",)) as image:
                found.append(Shown(path, read_receipt(image)))
        except (OSError, InvalidImage):
            continue  # gone or damaged since: the others are still worth showing
    return found
