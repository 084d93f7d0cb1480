"""The tab that makes a picture larger, refined in tiles, with before and after to slide between."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import JobCancelled, PlaygroundError, QueueFull
from sd_demo.together import Jobs, Progress
from sd_demo.ui import (
    controls,
    copy_as_code,
    introduction,
    lora_picker,
    passing_on,
    results,
    run,
    status_line,
    stopping,
    visitor,
)
from sd_demo.ui.header import Header
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.uploads import given, uploaded_file
from sd_demo.upscale import Upscale, Upscaling, plan_upscaling
from sd_demo.upscaling import run_upscaling

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = Upscale.task
TITLE: Final = "Upscale"
OF_SOME: Final = {"strength": (1,), "noise_level": (4,)}
"""Controls that act with models of these factors alone; 1 is a model that refines."""
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class UpscaleTab:
    """The components of the tab."""

    controls: dict[str, Any]
    image: gr.Image
    start: gr.Button
    cancel: gr.Button
    results: Results
    running: gr.State  # a stopping.Stop of the run in progress


class Planner:
    """Plans upscalings, one at a time for all who ask.

    Enlarging four megapixels takes a core for seconds, and comes before there is a job that could be refused.
    """

    def __init__(self, engine: Engine, *, patience_s: float = 10.0) -> None:
        self._engine, self._patience_s = engine, patience_s
        self._turn = threading.Lock()

    def plan(self, values: dict[str, Any]) -> Upscaling:
        """As plan_upscaling, with the model that `values` name. Raises QueueFull where others keep it busy."""
        model = values.get("model")
        entry = self._engine.defaults(model if isinstance(model, str) else None)
        if not self._turn.acquire(timeout=self._patience_s):
            wait = math.ceil(self._patience_s)
            raise QueueFull(f"Other pictures are being enlarged; try again in about {wait} s.", wait)
        try:
            return plan_upscaling(values, entry=entry)
        finally:
            self._turn.release()


def build(engine: Engine) -> UpscaleTab:
    """Lay the tab out where this is called."""
    entry = engine.defaults(None)

    def make(*names: str) -> dict[str, Any]:
        return controls.make_all(NAME, list(names), entry)

    with gr.Row(elem_classes=["workbench", NAME]):
        with gr.Column(elem_classes=["area-input"]):
            image = gr.Image(
                type="filepath",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard"],
                label="Picture to make larger",
                show_label=False,
                buttons=["fullscreen"],
                placeholder="Drop a picture to make larger,\npaste one, or click to choose",
                elem_id=f"{NAME}-image",
                elem_classes=["field-image", "picture-input"],
            )
        with gr.Column(elem_classes=["area-ask"]):
            made = make("scale", "strength", "prompt")
            with gr.Row(elem_classes=["go"]):
                start = stopping.start_button(f"{NAME}-start", TITLE)
                cancel = stopping.cancel_button(NAME)
        with gr.Column(elem_classes=["area-show"]):
            shown = results.build(NAME, introduction.html(NAME, entry, is_here=True))
            copy_as_code.build(engine, NAME, shown)
        with gr.Column(elem_classes=["area-settings"]), gr.Accordion("More", open=False, elem_classes=["more"]):
            made |= make("negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "noise_level", "seed")
            made |= lora_picker.build(engine, NAME)
    for name, factors in OF_SOME.items():
        made[name].visible = entry.upscale_factor in factors
    return UpscaleTab(made, image, start, cancel, shown, gr.State(None))


def listen(
    engine: Engine,
    planner: Planner,
    here: UpscaleTab,
    top: Header,
    places: passing_on.Places,
    chooser: gr.Tabs,
    visitor_id: gr.BrowserState,
) -> Any:
    """Wire the tab. places: where its pictures can be brought. The answer's `.then` follows a run."""
    parts = here.results
    stopping.listen_to_cancel(here.cancel, parts.status, here.running)
    ran = here.start.click(
        _handler(engine, planner, here),
        [visitor_id, top.model, parts.shown, here.image, *here.controls.values()],
        [parts.status, here.start, here.cancel, here.running, *parts.of_picture],
        preprocess=False,
        concurrency_limit=None,
        **_PRIVATE,
    )
    own = {name: here.controls[name] for name in OF_SOME}
    top.model.change(
        lambda model: _suited(engine, model), [top.model], list(own.values()), preprocess=False, queue=False, **_PRIVATE
    )
    passing_on.offer(parts, places, chooser)
    return ran


def _suited(engine: Engine, model: Any) -> list[Any]:
    """Which of OF_SOME the model takes."""
    try:
        factor = engine.defaults(model if isinstance(model, str) else None).upscale_factor
    except PlaygroundError:  # such as the name of a model that is not here
        return [gr.skip() for _ in OF_SOME]
    return [gr.update(visible=factor in OF_SOME[name]) for name in OF_SOME]


def _handler(engine: Engine, planner: Planner, here: UpscaleTab) -> Callable[..., Iterator[dict[Any, Any]]]:
    parts = here.results

    def make_larger(
        request: gr.Request, visitor_id: Any, model: Any, before: list[Shown], image: Any, *held: Any
    ) -> Iterator[dict[Any, Any]]:
        who = visitor.caller(visitor_id, request, engine.settings)
        busy, idle = stopping.busy(here.start, here.cancel), stopping.idle(here.start, here.cancel)
        try:
            pairs = zip(here.controls, held, strict=True)
            values = given({name: controls.request_value(NAME, name, value) for name, value in pairs})
            values |= given({"model": model, "image": uploaded_file(image, field="image")})
            upscaling = planner.plan(values)
            jobs = Jobs()
            yield {
                parts.status: status_line.running("Sending …"),
                here.running: stopping.Stop(jobs),
                **results.hide(parts),
                **busy,
            }
            # A closed page closes this generator, and so that one, which cancels its jobs.
            with closing(run_upscaling(engine, upscaling, jobs=jobs, **who)) as news:
                for one in news:
                    if isinstance(one, Progress):
                        tiles = len(upscaling.tiles)  # refining runs each twice
                        words = f"{one.done * tiles // one.total} of {tiles} tiles"
                        yield {parts.status: status_line.running(words, one.done / one.total)}
                        continue
                    made = one.result
                    shown = [Shown(made.path, made.receipt, results.published_before(one.enlarged, made.receipt))]
                    yield {
                        parts.status: status_line.ended("Done"),
                        **results.show(parts, shown, 0, engine.registry),
                        **idle,
                    }
            return
        except JobCancelled:
            status = status_line.ended("Cancelled.")
        except PlaygroundError as error:
            status = status_line.failed(str(error), getattr(error, "field", None))
        except Exception:
            status = run.unexpected(NAME)
        yield {parts.status: status, **results.show_again(parts, before, 0, engine.registry), **idle}

    return make_larger
