"""What a request will take before it runs: seconds, memory, and the nearest smaller one where it will not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from sd_demo.canvas import working_size
from sd_demo.gate import lowered_fields
from sd_demo.loaded_model import LoadedModel, is_guided
from sd_demo.memory_need import MemoryNeed, Shape, room_mib
from sd_demo.memory_outline import is_distilled, outlined
from sd_demo.placement import choose_device, choose_dtype
from sd_demo.registry import ModelEntry
from sd_demo.requests import MIN_SIDE, ImageToImage
from sd_demo.residence import RUNGS
from sd_demo.settings import Rung, Settings
from sd_demo.speed import Estimate, Speed

STEP: Final = 64  # pixels by which a smaller size is looked for


class Sized(NamedTuple):
    """What a model's memory and rows follow from. held_mib: what it has of the memory, or others that would go."""

    entry: ModelEntry
    need: MemoryNeed
    device: torch.device
    rung: Rung
    held_mib: float
    is_distilled: bool


def estimate(
    values: dict[str, Any],
    entry: ModelEntry,
    speed: Speed,
    loaded: Sequence[LoadedModel],
    path: Path | None,
    settings: Settings,
) -> Estimate:
    """For a request with these field values, "image" the (width, height) of the given picture where that is known.

    loaded: the models in memory. path: where the entry's weights lie, which tell of one that is not among them.
    """
    model = _sized(entry, loaded, path, settings)
    if model is None:
        return Estimate()
    entry = model.entry  # what suits a single file is known from its weights
    asked, values = values, {**values, **lowered_fields(values, entry, settings.limits)}
    values |= size_of(values, entry)
    work, device = speed.work(values, entry, rows_of(values, entry, is_distilled=model.is_distilled)), model.device
    seconds = work.total_s if work else None
    room = room_mib(device, model.held_mib)
    if room is None:
        return Estimate(seconds)
    room = min(room, settings.memory_limit_mib) if settings.memory_limit_mib else room

    def peak(values: dict[str, Any]) -> float:
        rows = rows_of(values, entry, is_distilled=model.is_distilled)
        shape = Shape(min(rows, settings.max_rows), values["height"], values["width"])
        if device.type == "cpu":  # networks that are away are there
            return model.need.peak_mib(shape)
        return model.need.peak_mib(shape, model.need.rung_for(shape, room, model.rung))

    needed = peak(values)
    options = _smaller(asked, values) if needed > room else iter(())
    smaller = next((fields for fields in options if peak({**values, **fields}) <= room), {})
    return Estimate(seconds, needed, room, smaller)


def _sized(entry: ModelEntry, loaded: Sequence[LoadedModel], path: Path | None, settings: Settings) -> Sized | None:
    """Of the entry's model as it is in memory, else as its files tell of it; None where nothing does."""
    model = next((one for one in loaded if one.entry.name == entry.name), None)
    if model is not None:
        where = model.placement.device, model.residence.rung, model.weights_mib
        return Sized(model.entry, model.need, *where, model.is_distilled)
    if path is None or settings.attention == "plain":  # whose scores only the network itself tells
        return None
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    need = outlined(path, dtype, has_checker=settings.safety_checker)
    if need is None:
        return None
    rung: Rung = RUNGS[0] if settings.memory == "auto" or entry.is_embedded else settings.memory
    held_mib = sum(sum(one.need.weights.values()) for one in loaded)  # all others can make room for it
    return Sized(entry, need, device, rung, held_mib, is_distilled(path) and entry.upscale_factor == 1)


def size_of(values: Mapping[str, Any], entry: ModelEntry) -> dict[str, int]:
    """The size of the work, which follows from the given picture where no other was asked for."""
    wanted = values.get("width"), values.get("height")
    if values.get("image"):
        width, height, _ = working_size(ImageToImage.task, values["image"], wanted, entry.native_size)
    else:
        width, height = (side or entry.native_size for side in wanted)
    return {"width": width, "height": height}


def rows_of(values: Mapping[str, Any], entry: ModelEntry, *, is_distilled: bool) -> int:
    """Of one step of all pictures."""
    guidance = values.get("guidance_scale") or entry.guidance_scale
    each = 2 if is_guided(guidance, is_distilled=is_distilled) else 1
    return (values.get("num_images_per_prompt") or 1) * each


def _smaller(asked: dict[str, Any], values: dict[str, Any]) -> Iterator[dict[str, int]]:
    """First fewer pictures at once, then smaller sizes of one picture.

    Where a picture is given and the size asked for does not crop it, these have its exact shape: rounded to eights, as
    all others are, they would crop it. Where one will be given and is not known yet, nothing is said of sizes, unless
    both sides were asked for.
    """
    count = values.get("num_images_per_prompt") or 1
    while count > 1:
        count //= 2
        yield {"num_images_per_prompt": count}
    width, height, picture, task = values["width"], values["height"], asked.get("image"), ImageToImage.task
    is_shape_asked = bool(asked.get("width") and asked.get("height"))
    if "strength" in asked and not picture and not is_shape_asked:
        return
    is_cropped = bool(picture and is_shape_asked and working_size(task, picture, (width, height), width)[2])
    for longest in range(max(height, width) - STEP, MIN_SIDE - 1, -STEP):
        if picture and not is_cropped:
            wanted = (longest, None) if width >= height else (None, longest)
            sides = working_size(task, picture, wanted, longest)[:2]
        else:
            sides = tuple(max(MIN_SIDE, round(side * longest / max(height, width) / 8) * 8) for side in (width, height))
        yield {"num_images_per_prompt": 1, "width": sides[0], "height": sides[1]}
