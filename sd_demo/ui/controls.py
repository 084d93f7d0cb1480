"""The controls of a task, made from the fields of its request: bounds, defaults and help are read from there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import gradio as gr
from gradio.components import Component

from sd_demo.errors import PlaygroundError
from sd_demo.registry import ModelEntry
from sd_demo.requests import (
    MAX_LORAS,
    PICTURE_FIELDS,
    TextToImage,
    bounds,
    parse_request,
)
from sd_demo.schedulers import available
from sd_demo.upscale import KINDS, Upscale, guidance_for

SCHEDULER_TITLES: Final = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "pndm": "PNDM",
    "lms": "LMS (K-LMS)",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}


@dataclass(frozen=True)
class Look:
    """How a field appears. An optional number is typed, and empty where the program shall choose."""

    label: str
    widget: Literal["text", "slider", "number", "optional number", "choice", "names"]
    step: float | None = None
    placeholder: str | None = None
    lines: int = 1


LOOKS: Final = {
    "prompt": Look("Prompt", "text", placeholder="a red house by the sea", lines=2),
    "negative_prompt": Look("Negative prompt", "text", placeholder="what should not be there"),
    "scale": Look("Scale", "slider", step=0.1),
    "strength": Look("Strength", "slider", step=0.01),
    "noise_level": Look("Noise level", "slider", step=1),
    "num_inference_steps": Look("Steps", "slider", step=1),
    "guidance_scale": Look("Guidance", "slider", step=0.1),
    "width": Look("Width", "slider", step=8),
    "height": Look("Height", "slider", step=8),
    "num_images_per_prompt": Look("Images", "number", step=1),
    "keep_best": Look("Keep best", "optional number", placeholder="all"),
    "grid": Look("Contact sheet", "text", placeholder="none; auto, or 2x3"),
    "seed": Look("Seed", "optional number", placeholder="random"),
    "scheduler": Look("Scheduler", "choice"),
    "loras": Look("LoRAs", "names"),
}
OF_THE_MODEL: Final = ("num_inference_steps", "guidance_scale", "scheduler")  # follow the chosen model


def names_of(task: str) -> list[str]:
    """The fields of `task` that have a control here, in the page's order (pictures and model have their own)."""
    fields = KINDS[task].model_fields
    unplaced = set(fields) - set(LOOKS) - {*PICTURE_FIELDS, "model"}
    if unplaced:
        raise LookupError(f"controls.LOOKS has no look for {', '.join(sorted(unplaced))}.")
    return [name for name in LOOKS if name in fields]


def default_value(task: str, name: str, entry: ModelEntry) -> Any:
    """What the control shows at first: the request's default, or the model's where that is None."""
    default = KINDS[task].model_fields[name].default
    if LOOKS[name].widget == "names":
        return list(default)
    if task == Upscale.task and name == "guidance_scale":
        return guidance_for(entry)
    if default is None and name in OF_THE_MODEL:
        return getattr(entry, name)
    if name in ("width", "height") and task == TextToImage.task:
        return entry.native_size
    return default


def make(task: str, name: str, entry: ModelEntry) -> Component:
    """The control of one field."""
    kind, look = KINDS[task], LOOKS[name]
    low, high = bounds(kind, name)
    shared: dict[str, Any] = {
        "label": look.label,
        "info": kind.model_fields[name].description,
        "value": default_value(task, name, entry),
        "elem_id": f"{task}-{name}",
        "elem_classes": ["control", f"field-{name}"],
        "min_width": 80,
    }
    if look.widget == "text":
        return gr.Textbox(**shared, lines=look.lines, max_lines=6, placeholder=look.placeholder)
    if look.widget == "choice":
        return gr.Dropdown(**shared, choices=[(SCHEDULER_TITLES[key], key) for key in available()])
    if look.widget == "names":  # what can be chosen is read from disk, by who places it
        return gr.Dropdown(**shared, choices=[], multiselect=True, allow_custom_value=True, max_choices=MAX_LORAS)
    if is_optional_number(task, name):
        # A text box, because gr.Number and gr.Slider turn "nothing" into 0.
        shared["value"] = "" if shared["value"] is None else str(shared["value"])
        return gr.Textbox(**shared, max_lines=1, placeholder=look.placeholder or "as the picture")
    if look.widget == "number":
        return gr.Number(**shared, minimum=low, maximum=high, step=look.step or 1)
    is_above = any(getattr(item, "gt", None) is not None for item in kind.model_fields[name].metadata)
    minimum = look.step if is_above and low == 0 else low
    return gr.Slider(**shared, minimum=minimum or 0, maximum=high or 1, step=look.step)


def is_optional_number(task: str, name: str) -> bool:
    """Whether the control of a number may be left empty: the seed, and a size that a given picture has already."""
    is_size_of_picture = name in ("width", "height") and task != TextToImage.task
    return LOOKS[name].widget == "optional number" or is_size_of_picture


def request_value(task: str, name: str, value: Any) -> Any:
    """What a control holds as a request value: typed digits become a number, an empty field None."""
    if not is_optional_number(task, name) or not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,20}", text):
        return int(text)
    return text or None


def make_all(task: str, names: list[str], entry: ModelEntry) -> dict[str, Component]:
    """Controls of several fields, standing where this is called."""
    return {name: make(task, name, entry) for name in names}


def acceptable(task: str, values: object) -> dict[str, Any]:
    """The entries of remembered settings that still fit a control of `task`; whatever else is there is left out."""
    if not isinstance(values, dict):
        return {}
    return {name: values[name] for name in names_of(task) if name in values and _fits(task, name, values)}


def _fits(task: str, name: str, held: dict[Any, Any]) -> bool:
    value = request_value(task, name, held[name])
    if value is None:
        return is_optional_number(task, name)
    if name == "strength":  # not among the fields of a request that needs no picture
        return isinstance(value, (int, float)) and 0 < value <= 1
    if name == "scheduler":
        return value in available()
    # A sheet must have room for the pictures that it was chosen for.
    others = ("num_images_per_prompt", "keep_best") if name == "grid" else ()
    counts = {other: request_value(task, other, held[other]) for other in others if held.get(other) is not None}
    try:
        parse_request(TextToImage.task, {"prompt": "a", "num_images_per_prompt": 16, **counts, name: value})
    except PlaygroundError:
        return False
    return True


def held_value(task: str, name: str, value: Any) -> Any:
    """What the control of a field holds for a request value; the other way round from `request_value`."""
    if LOOKS[name].widget == "names":
        return [_held_lora(one["name"], one["weight"]) for one in value]
    if value is None:
        return ""
    return str(value) if is_optional_number(task, name) else value


def _held_lora(name: str, weight: float) -> str:
    """Text that is read back as just these; after a colon in the name itself a weight must stand in any case."""
    return name if weight == 1 and ":" not in name else f"{name}:{weight!r}"
