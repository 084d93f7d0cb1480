"""What a request will take before it runs: seconds, memory, and the nearest smaller one where it will not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sd_demo.canvas import working_size
from sd_demo.gate import lowered_fields
from sd_demo.loaded_model import LoadedModel
from sd_demo.memory_need import Shape, room_mib
from sd_demo.registry import ModelEntry
from sd_demo.requests import MIN_SIDE, ImageToImage
from sd_demo.settings import Settings
from sd_demo.speed import Estimate, Speed

STEP: Final = 64  # pixels by which a smaller size is looked for


def estimate(
    values: dict[str, Any], entry: ModelEntry, speed: Speed, model: LoadedModel | None, settings: Settings
) -> Estimate:
    """For a request with these field values, "image" the (width, height) of the given picture where that is known.

    model: the entry's, where it is in memory; of others no more is known.
    """
    if model is None:
        return Estimate()
    entry = model.entry  # what suits a single file is known from its weights
    asked, values = values, {**values, **lowered_fields(values, entry, settings.limits)}
    values |= _size(values, entry)
    seconds, device = speed.seconds(values, entry, _rows(values, model)), model.placement.device
    room = room_mib(device, model.weights_mib)
    if room is None:
        return Estimate(seconds)
    room = min(room, settings.memory_limit_mib) if settings.memory_limit_mib else room

    def peak(values: dict[str, Any]) -> float:
        shape = Shape(min(_rows(values, model), settings.max_rows), values["height"], values["width"])
        if device.type == "cpu":  # networks that are away are there
            return model.need.peak_mib(shape)
        return model.need.peak_mib(shape, model.need.rung_for(shape, room, model.residence.rung))

    needed = peak(values)
    options = _smaller(asked, values) if needed > room else iter(())
    smaller = next((fields for fields in options if peak({**values, **fields}) <= room), {})
    return Estimate(seconds, needed, room, smaller)


def _size(values: dict[str, Any], entry: ModelEntry) -> dict[str, int]:
    """The size of the work, which follows from the given picture where no other was asked for."""
    wanted = values.get("width"), values.get("height")
    if values.get("image"):
        width, height, _ = working_size(ImageToImage.task, values["image"], wanted, entry.native_size)
    else:
        width, height = (side or entry.native_size for side in wanted)
    return {"width": width, "height": height}


def _rows(values: dict[str, Any], model: LoadedModel) -> int:
    """Of one step of all pictures."""
    guidance = values.get("guidance_scale") or model.entry.guidance_scale
    return (values.get("num_images_per_prompt") or 1) * (2 if model.is_guided(guidance) else 1)


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
