"""The small lines that follow what is typed: tokens and unknown words under a prompt, the time beside Generate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from pydantic import ValidationError

from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.plain_words import in_plain_words
from sd_demo.errors import PlaygroundError
from sd_demo.images import size_in_file
from sd_demo.lora_folder import find_lora, trigger_words
from sd_demo.requests import MAX_PROMPT_CHARACTERS, TextToImage
from sd_demo.speed import Estimate
from sd_demo.ui import controls, status_line
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab
from sd_demo.ui.uploads import uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

COSTLY: Final = (
    "num_inference_steps", "guidance_scale", "width", "height", "num_images_per_prompt", "strength", "scheduler"
)  # fmt: skip

_QUIET: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "preprocess": False,
    "queue": False,
    "api_visibility": "private",
}


def listen(engine: Engine, tab: Tab, top: Header, ran: Any) -> None:
    """Keep both lines of a tab true while the person types, when the model is there, and after each run, which teaches
    what one costs."""
    model = top.model

    def tokens(prompt: Any, model: Any, loras: Any = None) -> str:
        return token_line(engine, prompt, model, loras)

    # A mask editor sends its whole picture with every event, which is more than a line is worth.
    pictures = [component for component in tab.picture_inputs if isinstance(component, gr.Image)]
    held = [*tab.controls.values(), *pictures]

    def cost(model: Any, *values: Any) -> tuple[str, Any]:
        expected = estimate(engine, tab, model, values)
        fields = expected.smaller or {}
        return cost_line(expected), gr.update(visible=bool(fields), value=f"Use {_in_words(fields)}" if fields else "")

    def take_smaller(model: Any, *values: Any) -> dict[Any, Any]:
        fields = estimate(engine, tab, model, values).smaller or {}
        taken = {tab.controls[name]: controls.held_value(tab.task, name, value) for name, value in fields.items()}
        return taken or {tab.smaller: gr.skip()}

    read = [tab.controls["prompt"], model, *(tab.controls[name] for name in ("loras",) if name in tab.controls)]
    for event in (*(control.change for control in read), ran.then):  # a run may have loaded another tokenizer
        event(tokens, read, [tab.token_line], **_QUIET)
    costly = [tab.controls[name] for name in COSTLY if name in tab.controls]
    for event in (*(control.change for control in [*costly, *pictures, model, top.state]), ran.then):
        event(cost, [model, *held], [tab.estimate, tab.smaller], **_QUIET)
    tab.smaller.click(take_smaller, [model, *held], [tab.smaller, *costly], **_QUIET)


def token_line(engine: Engine, prompt: Any, model: Any, loras: Any = None) -> str:
    """How many tokens the prompt has of those that fit, and the words that neither the model nor a LoRA knows."""
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT_CHARACTERS:
        return ""
    try:
        entry = engine.defaults(model)
    except PlaygroundError:  # the name of a model that is not here
        return ""
    parts = []
    report = engine.token_report(in_plain_words(prompt) if entry.is_embedded else prompt, entry)
    if report is not None:
        chunks = f" in {report.chunks} parts" if report.chunks > 1 else ""
        parts.append(f"{report.count} of {report.limit * report.chunks} tokens{chunks}")
        if report.dropped_words:
            parts.append(f'<span class="over">not read: {_words(report.dropped_words)}</span>')
    unknown = unknown_words(prompt, _taught(engine, loras)) if entry.is_embedded else []
    if unknown:
        parts.append(f"not known to this model: {_words(unknown)}")
    return f'<p class="tokens">{" · ".join(parts)}</p>' if parts else ""


def _taught(engine: Engine, loras: Any) -> list[str]:
    """What the chosen LoRAs, as they stand in the control, say that they were trained with."""
    found = []
    for typed in loras if isinstance(loras, list) else []:
        with contextlib.suppress(PlaygroundError, ValidationError):
            for choice in TextToImage.model_validate({"loras": [typed]}).loras:
                folder = engine.settings.lora_dir
                found.append(trigger_words(find_lora(choice.name, folder, takes_paths=False)))
    return found


def estimate(engine: Engine, tab: Tab, model: Any, values: tuple[Any, ...]) -> Estimate:
    """What the request that stands in the controls will take, as far as that is known."""
    try:
        count = len(tab.controls)
        asked = controls.acceptable(tab.task, tab.asked(values[:count]))
        for path in (uploaded_file(value, field="image") for value in values[count:]):
            asked["image"] = None if path is None else size_in_file(path)
        return engine.estimate({**asked, "model": model if isinstance(model, str) else None})
    except PlaygroundError:  # such as the name of a model that is not here
        return Estimate()


def cost_line(expected: Estimate) -> str:
    """About how much memory and how long; empty while neither is known, and in red what will not fit."""
    memory = "" if expected.peak_mib is None else _gigabytes(expected.peak_mib)
    if not expected.fits:
        room = _gigabytes(expected.room_mib or 0)
        return f'<p class="tokens"><span class="over">needs about {memory}, and there is room for {room}</span></p>'
    time = "" if expected.seconds is None else status_line.seconds(expected.seconds)
    words = " and ".join(word for word in (memory, time) if word)
    return f'<p class="tokens">about {words}</p>' if words else ""


def _gigabytes(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 100 else f"{mib:.0f} MiB"


def _in_words(fields: dict[str, int]) -> str:
    """As "4 images" or "1 image of 512x512"."""
    size = f"{fields['width']}x{fields['height']}" if "width" in fields else ""
    count = fields.get("num_images_per_prompt", 0)
    images = "1 image" if count == 1 else f"{count} images"
    return f"{images} of {size}" if size else images


def _words(words: Sequence[str]) -> str:
    listed = ", ".join(f"<b>{escape(word[:40])}</b>" for word in words[:12])
    return listed + (" …" if len(words) > 12 else "")
