"""Upscaling as data: a picture enlarged, and the tiles in which image to image refines it.

A tile of the enlarged picture is as large as what the model was trained on, so image to image at a low strength can
give it details of its own; tiles overlap, and are blended where they do. An autoencoder loses something of any picture,
and a model that sees a part only is tempted to draw the whole prompt into it. So each tile runs once more with next to
no noise, and what is added to the enlarged picture is the difference, as far as it is finer than a part of the tile.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from sd_demo.enlarge import blurred, enlarge
from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.requests import MIN_SIDE, SEED_LIMIT, ImageToImage, Number, parse

MAX_PIXELS: Final = 2048 * 2048
OVERLAP: Final = 0.25  # of a tile's side
FINE: Final = 1 / 64  # of a tile's side: the deviation of the Gaussian whose rest is a detail
UNCHANGED: Final[dict[str, Any]] = {"num_inference_steps": 20, "strength": 0.05, "guidance_scale": 1.0}  # one step
NOT_TAKEN: Final = ("width", "height", "num_images_per_prompt", "keep_best")


class Upscale(ImageToImage):
    """A larger picture from a picture: image to image on what was enlarged, without its sizes and counts."""

    task: ClassVar[Any] = "upscale"  # none of the engine's: it runs as many of image to image

    scale: Annotated[float, Number] = Field(
        default=2.0, ge=1, le=4, description="How many times longer each side becomes; 1 only refines."
    )
    strength: Annotated[float, Number] = Field(
        default=0.1, gt=0, le=1, description="How much of the details may change: low keeps them, high makes new ones."
    )

    guidance_scale: Annotated[float | None, Number] = Field(
        default=1.0, ge=1, le=30, description="How hard the prompt pulls; 1 takes it as a hint, as a tile shows a part."
    )

    @model_validator(mode="after")
    def _has_no_size(self) -> Upscale:
        for name in NOT_TAKEN:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise InvalidRequest(f"upscale takes no {name}, as its size follows from scale; leave it out.", name)
        return self


@dataclass(frozen=True)
class Tile:
    """A window of the enlarged picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Upscaling:
    """Everything decided: `source` (RGB), the same `enlarged`, and for each tile of it two requests.

    `requests` refine; `unchanged` are what model and autoencoder make of the same tile with next to no noise.
    """

    source: Image.Image
    enlarged: Image.Image
    tiles: tuple[Tile, ...]
    requests: tuple[ImageToImage, ...]
    unchanged: tuple[ImageToImage, ...]
    scale: float
    seed: int


def plan_upscaling(values: dict[str, Any], *, native_size: int) -> Upscaling:
    """The upscaling of untrusted `values`, fields of Upscale. native_size: the model's, which tiles have.

    Raises InvalidRequest or InvalidImage in one sentence.
    """
    whole = parse(Upscale, values)
    source = whole.image
    width, height = (round(side * whole.scale) for side in source.size)
    if width * height > MAX_PIXELS:
        most = math.floor((MAX_PIXELS / math.prod(source.size)) ** 0.5 * 10) / 10
        remedy = f"choose a scale of at most {most:g}" if most >= 1 else "choose a smaller picture"
        raise InvalidRequest(f"{width}x{height} is more than four megapixels; {remedy}.", "scale")
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(f"{width}x{height} is too small to refine; {MIN_SIDE} pixels a side is the least.", "image")
    enlarged = enlarge(source, (width, height))
    seed = secrets.randbelow(SEED_LIMIT) if whole.seed is None else whole.seed
    tiles = tuple(
        Tile(left, top, min(native_size, width), min(native_size, height))
        for top in _starts(height, native_size)
        for left in _starts(width, native_size)
    )
    shared = {name: getattr(whole, name) for name in ImageToImage.model_fields if name not in ("image", *NOT_TAKEN)}
    requests = tuple(
        ImageToImage(
            **{**shared, "seed": (seed + k) % SEED_LIMIT},
            image=enlarged.crop((tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)),
            width=tile.width,
            height=tile.height,
        )
        for k, tile in enumerate(tiles)
    )
    unchanged = tuple(one.model_copy(update={**UNCHANGED, "prompt": "", "negative_prompt": ""}) for one in requests)
    return Upscaling(source, enlarged, tiles, requests, unchanged, whole.scale, seed)


def refined(upscaling: Upscaling, images: Sequence[Image.Image], unchanged: Sequence[Image.Image]) -> Image.Image:
    """The enlarged picture (RGB) with the details by which `images` of the tiles differ from the `unchanged` ones."""
    changes = [
        np.asarray(one.convert("RGB"), dtype=np.float32) - np.asarray(other.convert("RGB"), dtype=np.float32)
        for one, other in zip(images, unchanged, strict=True)
    ]
    change = blend(upscaling.tiles, changes, upscaling.enlarged.size)
    sigma = FINE * max(upscaling.tiles[0].width, upscaling.tiles[0].height)
    change -= np.stack([blurred(np.ascontiguousarray(change[..., k]), sigma) for k in range(3)], axis=-1)
    return Image.fromarray((np.asarray(upscaling.enlarged) + change + 0.5).clip(0, 255).astype(np.uint8))


def blend(tiles: Sequence[Tile], values: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Numbers [H, W, 3] of `size` (width, height) from those of tiles that cover it; the nearer middle wins.

    Weights fall evenly towards a tile's edge, so that the mean passes from one to the other without a seam.
    """
    width, height = size
    total = np.zeros((height, width, 3), dtype=np.float32)
    weights = np.zeros((height, width, 1), dtype=np.float32)
    for tile, here in zip(tiles, values, strict=True):
        weight = (_ramp(tile.height)[:, None] * _ramp(tile.width)[None, :])[..., None]
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        total[rows, columns] += weight * here
        weights[rows, columns] += weight
    return total / weights


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` begin along `length`: evenly, the first and last at its ends."""
    if length <= side:
        return [0]
    count = math.ceil((length - OVERLAP * side) / (side - OVERLAP * side))
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def _ramp(side: int) -> np.ndarray:
    """Weights [side], rising over the overlap from either edge to 1."""
    place = np.arange(side, dtype=np.float32) + 0.5
    return np.minimum(1.0, np.minimum(place, side - place) / (OVERLAP * side))
