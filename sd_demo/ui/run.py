"""From a click to a picture: the generator handler that all tabs share.

A handler is a generator because Gradio closes one when its page is closed; leaving it cancels its job.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.components import Component
from PIL import Image

from sd_demo import events
from sd_demo.errors import PlaygroundError
from sd_demo.requests import AnyRequest, Inpaint, parse_request
from sd_demo.ui import controls, results, status_line, visitor
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.stopping import Stop, busy, idle, refuse_second
from sd_demo.ui.uploads import given

if TYPE_CHECKING:
    from sd_demo.engine import Engine

logger: Final = logging.getLogger(__name__)

GENERATE: Final = "Generate"
REDRAW_S: Final = 0.2

ReadPictures = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Tab:
    """One task's components and how its picture components become request values."""

    task: str
    controls: dict[str, Any]  # gr.Textbox, gr.Slider …: their events are made when gradio is imported
    results: Results
    sheet: gr.Image  # all pictures of the run, where that is asked for
    generate: gr.Button
    cancel: gr.Button
    token_line: gr.HTML
    estimate: gr.HTML
    smaller: gr.Button  # takes what fits, where the request does not
    random_seed: gr.Button
    reuse_seed: gr.Button
    settings: gr.BrowserState  # {field: value}
    last: gr.BrowserState  # file names of the last run's pictures
    job: gr.State  # a Stop of the run in progress
    style: gr.Dropdown
    picture_inputs: tuple[Component, ...] = ()
    read_pictures: ReadPictures = dict

    @property
    def fields(self) -> list[str]:
        """Request fields in the order of `inputs`."""
        return list(self.controls)

    @property
    def inputs(self) -> list[Component]:
        """What a run reads: the controls, then the picture components."""
        return [*self.controls.values(), *self.picture_inputs]

    def request(self, model: Any, values: tuple[Any, ...]) -> AnyRequest:
        """The request that stands in the controls. Raises InvalidRequest."""
        count = len(self.controls)
        asked = self.asked(values[:count]) | given({"model": model}) | self.read_pictures(*values[count:])
        return parse_request(self.task, asked)

    def asked(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The controls' values (in the order of `fields`) by field, without those left open."""
        pairs = zip(self.fields, values, strict=True)
        return given({name: controls.request_value(self.task, name, value) for name, value in pairs})


def page_handler(engine: Engine, tab: Tab) -> Callable[..., Iterator[dict[Any, Any]]]:
    """The handler of a tab's Generate: yields updates of `outputs(tab)` until the job ends."""
    parts = tab.results

    def generate(
        request: gr.Request,
        visitor_id: Any,
        model: Any,
        running: Stop | None,
        before: list[Shown],
        selected: int,
        sheet: Any,
        *values: Any,
    ) -> Iterator[dict[Any, Any]]:
        refuse_second(running)
        who = visitor.caller(visitor_id, request, engine.settings)

        def nothing() -> dict[Any, Any]:
            """Without a picture of its own a run leaves those of the run before it."""
            shown = results.show_again(parts, before, selected, engine.registry)
            return {**_idle(tab), **shown, tab.sheet: gr.update(visible=bool(sheet and before))}

        try:
            asked = tab.request(model, values)
            job = engine.submit(asked, has_previews=True, **who)
        except PlaygroundError as error:
            yield {parts.status: status_line.failed(str(error), getattr(error, "field", None))}
            return
        except Exception:
            yield {parts.status: unexpected(tab.task)}
            return
        try:
            yield {tab.job: Stop(job), **_started(tab)}
            for event in _unhurried(job.events()):
                is_over = isinstance(event, events.Failed | events.Cancelled)
                updates = nothing() if is_over else _update(engine, tab, asked, event)
                yield {parts.status: status_line.of_event(event), **updates}
        except Exception:
            yield {parts.status: unexpected(tab.task), **nothing()}
        finally:
            job.cancel()  # nothing where it has ended; where the page was closed, this frees the device

    return generate


def _unhurried(happened: Iterator[events.Event]) -> Iterator[events.Event]:
    """All events but the steps that come faster than a page is worth redrawing for: that costs the model's time."""
    last = float("-inf")
    for event in happened:
        now = time.monotonic()
        if isinstance(event, events.Step) and event.index < event.total and now - last < REDRAW_S:
            continue
        last = now
        yield event


def held(tab: Tab) -> list[Any]:
    """What a run must know of the one before it: inputs of its handler, before those of the tab."""
    return [tab.job, tab.results.shown, tab.results.selected, tab.sheet]


def outputs(tab: Tab) -> list[Any]:
    """Every component that a run may update."""
    return [tab.results.status, *tab.results.of_picture, tab.sheet, tab.generate, tab.cancel, tab.job, tab.last]


def unexpected(what: str) -> str:
    """Log the exception being handled and return a line with nothing but the id to quote."""
    request_id = secrets.token_hex(4)
    logger.exception("%s failed unexpectedly, id %s", what, request_id)
    return status_line.failed("Something went wrong here; try again, and quote this id if it stays.", None, request_id)


def _started(tab: Tab) -> dict[Any, Any]:
    return {
        tab.results.status: status_line.running("Sending …"),
        **results.hide(tab.results),
        tab.sheet: gr.update(visible=False),
        **busy(tab.generate, tab.cancel),
        tab.generate: gr.update(value="Generating …", interactive=False),
    }


def _idle(tab: Tab) -> dict[Any, Any]:
    return {
        **idle(tab.generate, tab.cancel),
        tab.generate: gr.update(value=GENERATE, interactive=True),
        tab.job: None,
    }


def _update(engine: Engine, tab: Tab, asked: AnyRequest, event: events.Event) -> dict[Any, Any]:
    if isinstance(event, events.Step) and event.previews:
        words = f"in progress: {asked.prompt}"
        return {
            tab.results.picture: gr.update(value=_side_by_side(event.previews), visible=True, alt_text=words),
            tab.results.compare: gr.update(visible=False),
        }
    if isinstance(event, events.Done):
        before = results.published_before(asked.image if isinstance(asked, Inpaint) else None, event.images[0].receipt)
        shown = [Shown(one.path, one.receipt, before) for one in event.images]
        names = [one.path.name for one in event.images]
        prompts = "; ".join(dict.fromkeys(one.receipt.prompt for one in event.images))
        sheet = results.published(event.sheet) if event.sheet else None
        of_sheet = gr.update(value=sheet, visible=sheet is not None, alt_text=results.alt_text(prompts))
        of_all = {tab.sheet: of_sheet, tab.last: names}
        return results.show(tab.results, shown, 0, engine.registry) | _idle(tab) | of_all
    return {}


def _side_by_side(previews: tuple[Image.Image, ...]) -> Image.Image:
    """Several previews as one picture, in rows that are about as many as the columns."""
    if len(previews) == 1:
        return previews[0]
    columns = next(n for n in range(1, 17) if n * n >= len(previews))
    rows = -(-len(previews) // columns)
    width, height = previews[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), (128, 128, 128))
    for k, preview in enumerate(previews):
        sheet.paste(preview, (k % columns * width, k // columns * height))
    return sheet
