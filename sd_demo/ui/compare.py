"""The tab that varies one or two parameters and shows every picture in one labelled sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.compare import AXES, plan_comparison
from sd_demo.comparing import run_comparison
from sd_demo.errors import JobCancelled, PlaygroundError
from sd_demo.requests import ImageToImage, TextToImage
from sd_demo.together import Jobs, Progress
from sd_demo.ui import controls, copy_as_code, lora_picker, passing_on, results, run, status_line, stopping, visitor
from sd_demo.ui.header import Header
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.uploads import given, uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "compare"
TITLE: Final = "Compare"
HELP: Final = (
    "Values with commas between them, or a range: 1, 3, 5 or 1..10:3. Sizes as 256x256. For words, the first is "
    "replaced in the prompt by each. At most 36 pictures."
)
INTRO: Final = (
    '<div class="intro"><p>One picture for each value, side by side, with the same seed unless that varies.</p></div>'
)
FIRST: Final = {"x": ("guidance_scale", "1, 3, 5, 7"), "y": (None, "")}
_SIZE: Final = ("width", "height")  # of all pictures, where none is given that they are to be like
_BASE: Final = ("num_inference_steps", "guidance_scale", "scheduler", *_SIZE, "seed")
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
    running: gr.State  # a stopping.Stop of the run in progress


def build(engine: Engine) -> CompareTab:
    """Lay the tab out where this is called."""
    with gr.Row(elem_classes=["workbench", NAME]):
        with gr.Column(elem_classes=["area-ask"]):
            made = _made(engine, TextToImage.task, ["prompt"])
            axes = [part for axis in FIRST for part in _axis(axis)]
            gr.HTML(f'<p class="tokens">{HELP}</p>', js_on_load=None)
            with gr.Row(elem_classes=["go"]):
                start = stopping.start_button(f"{NAME}-start", TITLE)
                cancel = stopping.cancel_button(NAME)
        with gr.Column(elem_classes=["area-show"]):
            sheet = gr.Image(
                label="All pictures in one sheet",
                show_label=False,
                interactive=False,
                visible=False,
                format="png",
                buttons=["download", "fullscreen"],
                elem_id=f"{NAME}-sheet",
            )
            cells = results.build(NAME, INTRO)
            copy_as_code.build(engine, NAME, cells)
        with (
            gr.Column(elem_classes=["area-settings"]),
            gr.Accordion("What all have in common", open=False, elem_id=f"{NAME}-common"),
        ):
            made |= _made(engine, TextToImage.task, ["negative_prompt", *_BASE])
            image = gr.Image(
                type="filepath",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard"],
                label="A picture to start from, where strength is to vary",
                elem_id=f"{NAME}-image",
            )
            made |= _made(engine, ImageToImage.task, ["strength"])
            made |= lora_picker.build(engine, NAME)
    return CompareTab(made, image, axes, start, cancel, sheet, cells, gr.State(None))


def listen(
    engine: Engine,
    here: CompareTab,
    top: Header,
    places: passing_on.Places,
    chooser: gr.Tabs,
    visitor_id: gr.BrowserState,
) -> Any:
    """Wire the tab. places: where its pictures can be brought. The answer's `.then` follows a run."""
    parts = here.cells
    updated = [parts.status, here.sheet, here.start, here.cancel, here.running, *parts.of_picture]
    inputs = [visitor_id, top.model, *here.axes, here.image, *here.controls.values()]
    ran = here.start.click(
        _handler(engine, here), inputs, updated, preprocess=False, concurrency_limit=None, **_PRIVATE
    )

    stopping.listen_to_cancel(here.cancel, parts.status, here.running)
    passing_on.offer(parts, places, chooser)

    def select(shown: list[Shown], event: gr.SelectData) -> dict[Any, Any]:
        return results.select(parts, shown, event.index, engine.registry)

    def size_follows_the_picture(image: Any) -> list[Any]:
        return [gr.update(visible=image is None)] * len(_SIZE)

    sizes = [here.controls[name] for name in _SIZE]
    here.image.change(size_follows_the_picture, [here.image], sizes, preprocess=False, queue=False, **_PRIVATE)
    parts.strip.select(select, [parts.shown], parts.of_picture, **_PRIVATE)
    return ran


def _handler(engine: Engine, here: CompareTab) -> Callable[..., Iterator[dict[Any, Any]]]:
    parts = here.cells

    def make_table(
        request: gr.Request, visitor_id: Any, model: Any, x: Any, xs: Any, y: Any, ys: Any, image: Any, *held: Any
    ) -> Iterator[dict[Any, Any]]:
        who = visitor.caller(visitor_id, request, engine.settings)
        busy, idle = stopping.busy(here.start, here.cancel), stopping.idle(here.start, here.cancel)
        try:
            values = _values(list(here.controls), held) | given({"model": model})
            picture = uploaded_file(image, field="image")
            task = TextToImage.task
            if picture is None:
                del values["strength"]
            else:
                task = ImageToImage.task
                values = {name: value for name, value in values.items() if name not in _SIZE}
                values["image"] = picture
            comparison = plan_comparison(task, values, f"{x}: {xs}", f"{y}: {ys}" if y else "")
            running = Jobs()
            yield {
                parts.status: status_line.running("Sending …"),
                here.running: stopping.Stop(running),
                **busy,
            }
            # A closed page closes this generator, and so that one, which cancels its jobs.
            with closing(run_comparison(engine, comparison, jobs=running, **who)) as news:
                for one in news:
                    if isinstance(one, Progress):
                        words = f"{one.done} of {one.total} pictures"
                        yield {parts.status: status_line.running(words, one.done / one.total)}
                        continue
                    shown = [Shown(cell.path, cell.receipt) for cell in one.images]
                    ended = f"Done: {len(shown)} pictures" + (f". {one.about_withheld}" if one.withheld else "")
                    yield {
                        parts.status: status_line.ended(ended),
                        here.sheet: gr.update(
                            value=results.published(one.path), visible=True, alt_text=comparison.title
                        ),
                        **results.show(parts, shown, 0, engine.registry),
                        **idle,
                    }
        except JobCancelled:
            yield {
                parts.status: status_line.ended("Cancelled. There is no sheet; finished pictures are in History."),
                **idle,
            }
        except PlaygroundError as error:
            yield {
                parts.status: status_line.failed(str(error), getattr(error, "field", None)),
                **idle,
            }
        except Exception:
            yield {parts.status: run.unexpected(NAME), **idle}

    return make_table


def _values(names: list[str], held: tuple[Any, ...]) -> dict[str, Any]:
    pairs = zip(names, held, strict=True)
    return given({name: controls.request_value(TextToImage.task, name, value) for name, value in pairs})


def _made(engine: Engine, task: str, names: list[str]) -> dict[str, Any]:
    made = controls.make_all(task, names, engine.defaults(None))
    for name, control in made.items():
        control.elem_id = f"{NAME}-{name}"
    return made


def _axis(axis: str) -> tuple[gr.Dropdown, gr.Textbox]:
    name, values = FIRST[axis]
    choices = [(controls.LOOKS[n].label if n in controls.LOOKS else n.replace("_", " ").capitalize(), n) for n in AXES]
    with gr.Row(elem_classes=["pair"]):
        return (
            gr.Dropdown(
                [*choices, *([("Nothing", "")] if axis == "y" else [])],
                value=name or "",
                label="Across" if axis == "x" else "Down",
                elem_id=f"{NAME}-{axis}",
            ),
            gr.Textbox(values, label="Values", max_lines=1, elem_id=f"{NAME}-{axis}-values"),
        )
