"""What a request will take before it runs: seconds, memory, and the nearest smaller one where it will not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sd_demo.loaded_model import LoadedModel
from sd_demo.memory_need import Shape, room_mib
from sd_demo.registry import ModelEntry
from sd_demo.requests import MIN_SIDE
from sd_demo.settings import Settings
from sd_demo.speed import Estimate, Speed

STEP: Final = 64  # pixels by which a smaller size is looked for


def estimate(
    values: dict[str, Any], entry: ModelEntry, speed: Speed, model: LoadedModel | None, settings: Settings
) -> Estimate:
    """For a request with these field values. model: the one in memory; of another than the entry's no more is known."""
    if model is None or model.entry.name != entry.name:
        return Estimate()
    seconds, device = speed.seconds(values, entry), model.placement.device
    room = room_mib(device, model.weights_mib)
    if room is None:
        return Estimate(seconds)
    room = min(room, settings.memory_limit_mib) if settings.memory_limit_mib else room

    def peak(values: dict[str, Any]) -> float:
        shape = _shape(values, entry, settings.max_rows)
        rung = "resident" if device.type == "cpu" else model.need.rung_for(shape, room)
        return model.need.peak_mib(shape, rung)

    needed = peak(values)
    options = _smaller(values, entry) if needed > room else iter(())
    smaller = next((fields for fields in options if peak({**values, **fields}) <= room), {})
    return Estimate(seconds, needed, room, smaller)


def _shape(values: dict[str, Any], entry: ModelEntry, max_rows: int) -> Shape:
    guidance = values.get("guidance_scale") or entry.guidance_scale
    rows = (values.get("num_images_per_prompt") or 1) * (2 if guidance > 1 else 1)
    sides = (values.get(name) or entry.native_size for name in ("height", "width"))
    return Shape(min(rows, max_rows), *sides)


def _smaller(values: dict[str, Any], entry: ModelEntry) -> Iterator[dict[str, int]]:
    """First fewer pictures at once, then smaller ones of about the same shape."""
    count = values.get("num_images_per_prompt") or 1
    while count > 1:
        count //= 2
        yield {"num_images_per_prompt": count}
    height, width = ((values.get(name) or entry.native_size) for name in ("height", "width"))
    for longest in range(max(height, width) - STEP, MIN_SIDE - 1, -STEP):
        sides = (max(MIN_SIDE, round(side * longest / max(height, width) / 8) * 8) for side in (height, width))
        yield {"num_images_per_prompt": 1, **dict(zip(("height", "width"), sides, strict=True))}
