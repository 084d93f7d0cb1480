"""Upscaling as data: a picture enlarged, and the tiles in which image to image refines it; or a model that enlarges.

A tile of the enlarged picture is as large as what the model was trained on, so image to image at a low strength can
give it details of its own; tiles overlap, and are blended where they do. An autoencoder loses something of any picture,
and a model that sees a part only is tempted to draw the whole prompt into it. So each tile runs once more with next to
no noise, and what is added to the enlarged picture is the difference, as far as it is finer than a part of the tile.
At low strengths most of that is what two runs of an autoencoder differ by, so only a part of it is added.

A model that was trained to make pictures larger does it by itself: it gets tiles of the small picture, and its own
large ones are blended.
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
from sd_demo.known_models import ModelEntry
from sd_demo.requests import MIN_SIDE, REQUESTS, SEED_LIMIT, ImageToImage, Number, Request, SuperResolution, parse

MAX_PIXELS: Final = 2048 * 2048
OVERLAP: Final = 0.25  # of a tile's side
FINE: Final = 1 / 64  # of a tile's side: the deviation of the Gaussian whose rest is a detail
WHOLE_FROM: Final = 0.2  # strength from which all of the difference is added; below it, in proportion
UNCHANGED: Final[dict[str, Any]] = {"num_inference_steps": 20, "strength": 0.05, "guidance_scale": 1.0}  # one step
HINT: Final = 1.0  # guidance in refining: a tile shows a part of what the prompt says
X2_SCHEDULER: Final = "euler"  # the only one that works with what an x2 latent upscaler answers
NOT_TAKEN: Final = ("width", "height", "num_images_per_prompt", "keep_best", "grid")


class Upscale(SuperResolution):
    """A larger picture from a picture, by what the model does: image to image on what was enlarged, or enlarging."""

    task: ClassVar[Any] = "upscale"  # none of the engine's: it runs as many of another task

    scale: Annotated[float, Number] = Field(
        default=2.0, ge=1, le=4, description="How many times longer each side becomes; 1 only refines."
    )
    strength: Annotated[float, Number] = Field(
        default=0.1, gt=0, le=1, description="How much of the details may change: low keeps them, high makes new ones. "
        "Models that make pictures larger by themselves take none.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_no_size(self) -> Upscale:
        for name in NOT_TAKEN:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise InvalidRequest(
                    f"upscale takes no {name}: it makes one picture, as large as scale says; leave it out.", name
                )
        return self


@dataclass(frozen=True)
class Tile:
    """A window of the enlarged picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


KINDS: Final[dict[str, type[Request]]] = {**REQUESTS, Upscale.task: Upscale}
"""By task: what a person may ask for."""


@dataclass(frozen=True)
class Upscaling:
    """Everything decided: `source` (RGB), the same `enlarged`, and what is asked of the model for each tile.

    Refining: `requests` refine a tile of the enlarged picture, and `unchanged` are what model and autoencoder make of
    the same tile with next to no noise. Where the model makes pictures `factor` times as long by itself: `requests`
    make a tile of its own large picture, and `unchanged` is empty. Tiles are windows of what is asked for, or of that
    large picture, whose size is `made`.
    """

    source: Image.Image
    enlarged: Image.Image
    made: tuple[int, int]
    tiles: tuple[Tile, ...]
    requests: tuple[ImageToImage | SuperResolution, ...]
    unchanged: tuple[ImageToImage | SuperResolution, ...]
    scale: float
    seed: int
    factor: int = 1

    @property
    def added(self) -> float:
        """The part of what the model changes that is added when it refines, up to 1."""
        return min(1.0, max(getattr(one, "strength", 1.0) for one in self.requests) / WHOLE_FROM)


def guidance_for(entry: ModelEntry) -> float:
    """The guidance of an upscaling that names none."""
    return entry.guidance_scale if entry.upscale_factor > 1 else HINT


def plan_upscaling(values: dict[str, Any], *, entry: ModelEntry) -> Upscaling:
    """The upscaling of untrusted `values`, fields of Upscale, with the model of `entry`.

    Raises InvalidRequest or InvalidImage in one sentence.
    """
    whole, factor = parse(Upscale, values), entry.upscale_factor
    source = whole.image
    width, height = (round(side * whole.scale) for side in source.size)
    _check_size(source, (width, height))
    if factor > 1:
        _check_for_model(whole, entry)
    elif min(width, height) < MIN_SIDE:
        raise InvalidImage(f"{width}x{height} is too small to refine; {MIN_SIDE} pixels a side is the least.", "image")
    made = (source.width * factor, source.height * factor) if factor > 1 else (width, height)
    side = entry.native_size // factor
    small = tuple(length // factor for length in made)  # of what tiles are cut from
    tiles = tuple(
        Tile(left * factor, top * factor, min(side, small[0]) * factor, min(side, small[1]) * factor)
        for top in _starts(small[1], side)
        for left in _starts(small[0], side)
    )
    seed = secrets.randbelow(SEED_LIMIT) if whole.seed is None else whole.seed
    enlarged = enlarge(source, (width, height))
    chosen = {"guidance_scale": guidance_for(entry) if whole.guidance_scale is None else whole.guidance_scale}
    kind = SuperResolution if factor > 1 else ImageToImage
    shared = {name: getattr(whole, name) for name in kind.model_fields if name not in ("image", *NOT_TAKEN)} | chosen
    requests: list[ImageToImage | SuperResolution] = []
    for k, tile in enumerate(tiles):
        left, top = tile.left // factor, tile.top // factor
        corners = left, top, left + tile.width // factor, top + tile.height // factor
        cut = (source if factor > 1 else enlarged).crop(corners)
        size = {} if factor > 1 else {"width": tile.width, "height": tile.height}
        requests.append(kind(**{**shared, **size, "seed": (seed + k) % SEED_LIMIT, "image": cut}))
    as_is = {**UNCHANGED, "prompt": "", "negative_prompt": ""}
    unchanged = () if factor > 1 else tuple(one.model_copy(update=as_is) for one in requests)
    return Upscaling(source, enlarged, made, tiles, tuple(requests), unchanged, whole.scale, seed, factor)


def _check_size(source: Image.Image, size: tuple[int, int]) -> None:
    if math.prod(size) > MAX_PIXELS:
        most = math.floor((MAX_PIXELS / math.prod(source.size)) ** 0.5 * 10) / 10
        remedy = f"choose a scale of at most {most:g}" if most >= 1 else "choose a smaller picture"
        raise InvalidRequest(f"{size[0]}x{size[1]} is more than four megapixels; {remedy}.", "scale")


def _check_for_model(whole: Upscale, entry: ModelEntry) -> None:
    """What a model that makes pictures larger by itself cannot do. Raises InvalidRequest."""
    factor, (width, height) = entry.upscale_factor, whole.image.size
    if whole.scale > factor:
        raise InvalidRequest(f"{entry.title} makes pictures {factor} times as long; choose a scale up to it.", "scale")
    if width * height * factor**2 > MAX_PIXELS:
        size = f"{width * factor}x{height * factor}"
        raise InvalidRequest(
            f"{entry.title} would make {size}, more than four megapixels; choose a smaller picture.", "image"
        )
    if factor == 2 and whole.scheduler not in (None, X2_SCHEDULER):
        raise InvalidRequest(f"{entry.title} works with the scheduler {X2_SCHEDULER} alone; choose that.", "scheduler")
    if whole.loras:
        raise InvalidRequest(f"{entry.title} takes no LoRAs; leave them out.", "loras")


def joined(upscaling: Upscaling, images: Sequence[Image.Image], unchanged: Sequence[Image.Image]) -> Image.Image:
    """The picture (RGB) at the size asked for, of what the model made of the `requests` and of the `unchanged`."""
    if upscaling.factor == 1:
        return _refined(upscaling, images, unchanged)
    values = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
    large = Image.fromarray((blend(upscaling.tiles, values, upscaling.made) + 0.5).clip(0, 255).astype(np.uint8))
    size = upscaling.enlarged.size
    return large if large.size == size else large.resize(size, Image.Resampling.LANCZOS)


def _refined(upscaling: Upscaling, images: Sequence[Image.Image], unchanged: Sequence[Image.Image]) -> Image.Image:
    """The enlarged picture with the details by which `images` of the tiles differ from the `unchanged` ones."""
    changes = [
        np.asarray(one.convert("RGB"), dtype=np.float32) - np.asarray(other.convert("RGB"), dtype=np.float32)
        for one, other in zip(images, unchanged, strict=True)
    ]
    change = blend(upscaling.tiles, changes, upscaling.enlarged.size)
    sigma = FINE * max(upscaling.tiles[0].width, upscaling.tiles[0].height)
    change -= np.stack([blurred(np.ascontiguousarray(change[..., k]), sigma) for k in range(3)], axis=-1)
    refined = np.asarray(upscaling.enlarged) + upscaling.added * change
    return Image.fromarray((refined + 0.5).clip(0, 255).astype(np.uint8))


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
