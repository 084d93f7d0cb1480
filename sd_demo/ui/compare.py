"""The tab that varies one or two parameters and shows every picture in one labelled sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.compare import AXES, plan_comparison
from sd_demo.comparing import Progress, run_comparison
from sd_demo.errors import PlaygroundError
from sd_demo.requests import ImageToImage, TextToImage
from sd_demo.ui import controls, copy_as_code, passing_on, results, run, status_line, visitor
from sd_demo.ui.header import Header
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.run import Tab
from sd_demo.ui.uploads import given, uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "compare"
COMPARE: Final = "Compare"
NOTHING: Final = "nothing"
HELP: Final = (
    "Values with commas between them, or a range: 1, 3, 5 or 1..10:3. Sizes as 256x256. For words, the first is "
    "replaced in the prompt by each. At most 36 pictures."
)
EXAMPLES: Final = {"x": ("guidance_scale", "1, 3, 5, 7"), "y": ("scheduler", "ddim, euler, dpmpp_2m")}
_BASE: Final = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height", "seed")
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class CompareTab:
    """The components of the tab."""

    controls: dict[str, Any]
    image: gr.Image
    axes: list[Any]  # x's name, x's values, y's name, y's values
    start: gr.Button
    cancel: gr.Button
    sheet: gr.Image
    cells: Results


def build(engine: Engine) -> CompareTab:
    """Lay the tab out where this is called."""
    with gr.Row(elem_classes=["workbench", NAME]):
        with gr.Column(elem_classes=["area-ask"]):
            made = _made(engine, ["prompt"])
            axes = [part for axis in ("x", "y") for part in _axis(axis)]
            gr.HTML(f'<p class="tokens">{HELP}</p>', js_on_load=None)
            with gr.Row(elem_classes=["go"]):
                start = gr.Button(COMPARE, variant="primary", elem_id=f"{NAME}-start", scale=3)
                cancel = gr.Button("Cancel", interactive=False, elem_id=f"{NAME}-cancel", scale=1, min_width=100)
        with gr.Column(elem_classes=["area-show"]):
            status = gr.HTML("", js_on_load=None, visible=False)
            sheet = gr.Image(
                label="Sheet", show_label=False, interactive=False, format="png", buttons=["download", "fullscreen"],
                visible=False, elem_id=f"{NAME}-sheet",
            )  # fmt: skip
            cells = results.build(NAME, "<div class='intro'><p>One picture for each value, side by side.</p></div>")
            copy_as_code.build(engine, NAME, cells)
            del status
        with gr.Column(elem_classes=["area-settings"]):
            with gr.Accordion("What all have in common", open=False):
                made |= _made(engine, ["negative_prompt", *_BASE])
                image = gr.Image(
                    type="filepath", image_mode=None, format="png", sources=["upload", "clipboard"],
                    label="A picture to start from (optional; strength needs it)", elem_id=f"{NAME}-image",
                )  # fmt: skip
                made |= _made(engine, ["strength"])
    return CompareTab(made, image, axes, start, cancel, sheet, cells)
