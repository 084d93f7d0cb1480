"""What all lessons of the Learn tab look like: two sentences, controls, pictures with captions, and the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.images import read_picture
from sd_demo.ui import run, status_line
from sd_demo.ui.uploads import uploaded_file

if TYPE_CHECKING:
    from PIL import Image

    from sd_demo.learn.classroom import Classroom

ClassroomOf = Callable[[], "Classroom"]
SIDE: Final = 256  # of a lesson's pictures on the page
AT_ONCE: Final = 2  # of everybody's lessons: each takes turns with the pictures that are being made, one for one
PRIVATE: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": AT_ONCE,
    "concurrency_id": "lessons",
}
EXPLANATION = '<div class="explanation"><h3>{title}</h3><p>{text}</p></div>'


def explain(title: str, text: str) -> None:
    """A heading and the two sentences that tell what one is looking at; known words, no one's input."""
    gr.HTML(EXPLANATION.format(title=title, text=text), js_on_load=None)


def shown(label: str, elem_id: str) -> gr.Image:
    """A place for a picture that the lesson makes."""
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        buttons=["download"],
        height=SIDE + 44,
        elem_id=elem_id,
        elem_classes=["lesson-picture"],
    )


def own_picture(elem_id: str) -> gr.Image:
    """Where a person gives a picture; empty, a page of the picture book stands in."""
    return gr.Image(
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        label="Your picture (without one: a page of the picture book)",
        height=SIDE + 44,
        elem_id=elem_id,
    )


def code(elem_id: str) -> gr.Code:
    """The fold with the script that makes the same pictures."""
    with gr.Accordion("Copy as code", open=False, elem_classes=["receipt"], elem_id=f"{elem_id}-fold"):
        return gr.Code(
            language="python", interactive=False, show_label=False, label="Copy as code", wrap_lines=True, max_lines=24,
            elem_id=elem_id,
        )  # fmt: skip


def given_picture(value: Any) -> Image.Image:
    """The uploaded picture's middle square, or the picture book's. Raises InvalidImage for what is no picture."""
    from sd_demo.learn.classroom import page_of_the_book, square

    path: Path | None = uploaded_file(value, field="image")
    return page_of_the_book() if path is None else square(read_picture(path))


def answering(
    name: str, status: gr.HTML, work: Callable[..., Iterator[dict[Any, Any]]]
) -> Callable[..., Iterator[dict[Any, Any]]]:
    """`work`, which yields updates, as a listener: an error becomes the sentence in `status`, and success clears it."""

    def listener(*values: Any) -> Iterator[dict[Any, Any]]:
        try:
            yield from work(*values)
            yield {status: status_line.IDLE}
        except PlaygroundError as error:
            yield {status: status_line.failed(str(error), getattr(error, "field", None))}
        except Exception:
            yield {status: run.unexpected(name)}

    return listener


def listen(
    answer: Callable[..., Any], events: list[Callable[..., Any]], inputs: list[Any], outputs: list[Any]
) -> Callable[[gr.Tab], None]:
    """Answer each of `events`, and, by what is returned, the opening of a tab: a lesson is never met empty."""
    wires: dict[str, Any] = {"preprocess": False, "trigger_mode": "always_last", **PRIVATE}
    for event in events:
        event(answer, inputs, outputs, **wires)

    def show_on_opening(tab: gr.Tab) -> None:
        tab.select(answer, inputs, outputs, **wires)

    return show_on_opening


def status_place() -> gr.HTML:
    """Where progress and errors of a lesson are told."""
    return gr.HTML(status_line.IDLE, js_on_load=None, elem_classes=["lesson-status"])
