"""The LoRA tab: teach the model something new from a few pictures, and watch it learn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.lora_training import LoraTraining
from sd_demo.training_events import (
    Paused,
    Preparing,
    Resumed,
    SamplePictures,
    Trained,
    TrainingCancelled,
    TrainingEvent,
    TrainingFailed,
    TrainingStep,
)
from sd_demo.training_request import MAX_PICTURES, MIN_PICTURES, PICTURE_SUFFIXES, LoraTrainingRequest
from sd_demo.ui import run, status_line
from sd_demo.ui.header import Header
from sd_demo.ui.line_chart import line_chart
from sd_demo.ui.training_desk import TrainingDesk

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "train"
TITLE: Final = "LoRA"
PAUSE, RESUME = "Pause", "Go on"
TELL_EVERY_S: Final = 0.5
MOST_POINTS: Final = 200  # of the chart
# What the tab offers of a training's options, with a label; the rest has the defaults of the command line.
LABELS: Final = {
    "steps": "Steps", "rank": "Rank", "learning_rate": "Learning rate", "resolution": "Resolution",
    "batch_size": "Pictures in a step", "sample_every": "Steps between samples",
    "prior_preservation": "Prior preservation", "random_flip": "Mirror pictures",
    "gradient_checkpointing": "Gradient checkpointing", "resume": "Go on from where it was cancelled",
}  # fmt: skip
SWITCHES: Final = ("prior_preservation", "random_flip", "gradient_checkpointing", "resume")
INTRO: Final = (
    f"<p>Drop {MIN_PICTURES} to {MAX_PICTURES} pictures of one thing or in one style, and give it a word of its own. "
    "A small file learns it while the model itself stays as it is; afterwards the word works in every prompt for which "
    "you choose the LoRA under More.</p>"
)
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class TrainTab:
    """The components of the tab."""

    files: gr.File
    name: gr.Textbox
    trigger: gr.Textbox
    captions: gr.Textbox
    options: dict[str, Any]
    start: gr.Button
    pause: gr.Button
    cancel: gr.Button
    status: gr.HTML
    chart: gr.HTML
    samples: gr.Gallery


@dataclass
class _Seen:
    """What the events have told so far."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    samples: list[tuple[Any, str]] = field(default_factory=list)


def build(place: gr.Tab, engine: Engine, top: Header) -> None:
    """Lay the tab out where this is called, and wire it. place: the tab around it."""
    with gr.Row(elem_classes=["workbench", NAME]):
        with gr.Column(elem_classes=["area-input"]):
            files = gr.File(
                file_count="multiple", file_types=[*PICTURE_SUFFIXES, ".txt", ".jsonl"], height=200,
                label="Pictures, and captions in .txt files of the same names", elem_id=f"{NAME}-images",
            )  # fmt: skip
        with gr.Column(elem_classes=["area-ask"]):
            trigger = gr.Textbox(label="Word", placeholder="snowman", elem_id=f"{NAME}-trigger", max_lines=1)
            name = gr.Textbox(label="Name of the file", placeholder="snowman", elem_id=f"{NAME}-name", max_lines=1)
            captions = gr.Textbox(
                label="Captions", lines=3, max_lines=12, elem_id=f"{NAME}-captions",
                placeholder="one line for each picture, in their order; or leave it empty",
            )  # fmt: skip
            with gr.Row(elem_classes=["go"]):
                start = gr.Button("Train", variant="primary", elem_id=f"{NAME}-start", scale=2)
                pause = gr.Button(PAUSE, interactive=False, elem_id=f"{NAME}-pause", scale=1, min_width=80)
                cancel = gr.Button("Cancel", interactive=False, elem_id=f"{NAME}-cancel", scale=1, min_width=80)
        with gr.Column(elem_classes=["area-show"]):
            status = gr.HTML(status_line.IDLE, elem_id=f"{NAME}-status", elem_classes=["status-line"], js_on_load=None)
            chart = gr.HTML(INTRO, elem_id=f"{NAME}-chart", elem_classes=["intro", "lesson-chart"], js_on_load=None)
            samples = gr.Gallery(
                label="Samples on the way", show_label=False, columns=4, interactive=False, visible=False,
                format="png", elem_id=f"{NAME}-samples",
            )  # fmt: skip
        with gr.Column(elem_classes=["area-settings"]), gr.Accordion("More", open=False, elem_classes=["more"]):
            options = {option: _control(option) for option in LABELS}
    tab = TrainTab(files, name, trigger, captions, options, start, pause, cancel, status, chart, samples)
    _listen(engine, tab, place, top)


def _control(name: str) -> Any:
    declared = LoraTrainingRequest.model_fields[name]
    shared: dict[str, Any] = {"label": LABELS[name], "info": declared.description, "elem_id": f"{NAME}-{name}"}
    if name in SWITCHES:
        return gr.Checkbox(**shared, value=bool(declared.default))
    value = "" if declared.default is None else f"{declared.default:g}"
    return gr.Textbox(**shared, value=value, max_lines=1, placeholder="what suits the model")


def _listen(engine: Engine, tab: TrainTab, place: gr.Tab, top: Header) -> None:
    desk = TrainingDesk(engine)
    shown = [tab.status, tab.chart, tab.samples, tab.start, tab.pause, tab.cancel]

    def train(model: Any, files: Any, name: Any, trigger: Any, captions: Any, *values: Any) -> Iterator[dict[Any, Any]]:
        try:
            options = {key: _number(value) for key, value in zip(tab.options, values, strict=True)}
            options = {key: value for key, value in options.items() if value is not None}
            options |= {"trigger": str(trigger or "").strip(), "model": model if isinstance(model, str) else None}
            training = desk.begin(files, str(name or "").strip() or trigger, captions, options)
        except PlaygroundError as error:
            yield {tab.status: status_line.failed(str(error))}
        except Exception:
            yield {tab.status: run.unexpected(NAME)}
        else:
            yield from watch(training)

    def watch(training: LoraTraining) -> Iterator[dict[Any, Any]]:
        seen = _Seen()
        # The text lies where samples will be, and these come before the first point of the chart.
        yield {tab.chart: "", tab.samples: gr.update(value=[], visible=False), **_busy(tab, training)}
        told_at, untold = 0.0, dict[Any, Any]()
        for event in training.events():
            untold |= _told(tab, event, seen, training)
            is_step = isinstance(event, TrainingStep) and event.index < event.total
            if is_step and time.monotonic() - told_at < TELL_EVERY_S:
                continue  # a small model makes more steps than a page can draw
            told_at, updates, untold = time.monotonic(), untold, {}
            yield updates

    def watch_again() -> Iterator[dict[Any, Any]]:
        """For a page that comes back while a training runs."""
        if desk.current is not None and desk.is_busy:
            yield from watch(desk.current)
        else:
            yield {tab.pause: gr.skip()}

    def pause() -> str | Any:
        training = desk.current
        if training is None or training.is_ended:
            return gr.skip()
        if training.is_paused:
            training.resume()
            return PAUSE
        training.pause()
        return RESUME

    def cancel() -> None:
        if desk.current is not None:
            desk.current.cancel()

    asked = [top.model, tab.files, tab.name, tab.trigger, tab.captions, *tab.options.values()]
    tab.start.click(train, asked, shown, preprocess=False, concurrency_limit=None, **_PRIVATE)
    place.select(watch_again, None, shown, concurrency_limit=None, **_PRIVATE)
    tab.pause.click(pause, None, [tab.pause], queue=False, **_PRIVATE)
    tab.cancel.click(cancel, None, None, queue=False, **_PRIVATE)


def _number(value: Any) -> Any:
    """A typed number as one, an empty field as None; anything else as it is, for the one gate to refuse."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value.strip())
        except ValueError:
            continue
    return value.strip() or None


def _busy(tab: TrainTab, training: LoraTraining) -> dict[Any, Any]:
    return {
        tab.start: gr.update(interactive=False),
        tab.pause: gr.update(interactive=True, value=RESUME if training.is_paused else PAUSE),
        tab.cancel: gr.update(interactive=True),
    }


def _idle(tab: TrainTab) -> dict[Any, Any]:
    return {
        tab.start: gr.update(interactive=True),
        tab.pause: gr.update(interactive=False, value=PAUSE),
        tab.cancel: gr.update(interactive=False),
    }


def _told(tab: TrainTab, event: TrainingEvent, seen: _Seen, training: LoraTraining) -> dict[Any, Any]:
    """The updates that show one event."""
    match event:
        case Preparing(what=what, done=done, total=total):
            return {tab.status: status_line.running(f"Preparing: {what}", done / max(1, total))}
        case TrainingStep(index=index, total=total, mean_loss=loss, remaining_s=left):
            seen.losses.append((float(index), loss))
            words = f"Step {index} of {total}, loss {loss:.3f}, about {left:.0f} s left"
            points = seen.losses[:: 1 + len(seen.losses) // MOST_POINTS]
            chart = line_chart({"loss, mean of 20 steps": points}, label=f"Loss {loss:.3f}", across="step")
            return {tab.status: status_line.running(words, index / total), tab.chart: chart}
        case SamplePictures(index=index, prompts=prompts, images=images):
            seen.samples += [(image, f"step {index}: {prompt}") for image, prompt in zip(images, prompts, strict=True)]
            return {tab.samples: gr.update(value=seen.samples[-24:], visible=True)}
        case Paused(index=index):
            return {tab.status: status_line.running(f"Paused after step {index}"), tab.pause: RESUME}
        case Resumed(index=index):
            return {tab.status: status_line.running(f"Going on after step {index}"), tab.pause: PAUSE}
        case Trained(path=path, steps=steps, elapsed_s=seconds, notes=notes):
            words = f"Done: {path.stem}, {steps} steps in {seconds:.0f} s. Choose it under More. {' '.join(notes)}"
            return {tab.status: status_line.ended(words.strip()), **_idle(tab)}
        case TrainingFailed(error=error):
            return {tab.status: status_line.failed(str(error)), **_idle(tab)}
        case TrainingCancelled(index=index, can_go_on=can_go_on):
            how = "To go on, train again under this name with that option of More."
            words = f"Cancelled after step {index}. {how if can_go_on else 'Nothing was kept of it.'}"
            return {tab.status: status_line.ended(words), **_idle(tab)}
    return _busy(tab, training)
