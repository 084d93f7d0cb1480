"""The model that the lessons take apart: a copy of the picture-book model that nobody else's picture depends on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from sd_demo.embedded import world
from sd_demo.known_models import EMBEDDED
from sd_demo.loaded_model import LoadedModel
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import Registry
from sd_demo.settings import Settings

SIDE: Final = 256
_PAGE: Final = 4  # seed of the page that stands in for a person's own picture


class Classroom:
    """Hands out the model for one stretch of work at a time.

    turns: entered for each stretch, as `Engine.device_turns`, so that pictures being made go on between two of them.
    A model of its own, because the lessons look inside its layers while it runs, and in float32, as each lesson's
    script has it: in half precision a picture of twenty steps is another one.
    """

    def __init__(
        self, settings: Settings, *, registry: Registry | None = None, turns: AbstractContextManager[Any] | None = None
    ) -> None:
        exact = settings.model_copy(update={"dtype": "float32"})
        self._manager = PipelineManager(exact, registry or Registry(models_dir=settings.models_dir))
        self._turns = turns or nullcontext()

    @contextmanager
    def turn(self) -> Iterator[LoadedModel]:
        """The model, for the length of a with block. Raises ModelUnavailable where it cannot be loaded."""
        with self._turns, torch.inference_mode():
            yield self._manager.get(EMBEDDED)


def encode(model: LoadedModel, picture: Image.Image) -> torch.Tensor:
    """The most likely latents [1, 4, h / 8, w / 8] of an RGB picture whose sides are multiples of 8."""
    values = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
    pixels = (values.float() / 127.5 - 1.0).to(model.placement.device, model.vae.dtype)
    latents: torch.Tensor = model.vae.encode(pixels).latent_dist.mode() * model.vae.config.scaling_factor
    return latents


def decode(model: LoadedModel, latents: torch.Tensor) -> Image.Image:
    """The RGB picture of latents [1, 4, h, w]."""
    pixels = model.vae.decode(latents.to(model.vae.dtype) / model.vae.config.scaling_factor, return_dict=False)[0]
    values = ((pixels[0].float() / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def latents_picture(latents: torch.Tensor) -> Image.Image:
    """Latents [1, 4, h, w] as they are, each 8x8 pixels large: three of the four channels as red, green and blue."""
    values = ((latents[0, :3].float() / 5 + 0.5).clamp(0, 1) * 255).round().byte()
    small = Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
    return small.resize((small.width * 8, small.height * 8), Image.Resampling.NEAREST)


@cache
def page_of_the_book() -> Image.Image:
    """What a lesson begins with where no picture was given: RGB, SIDE x SIDE pixels."""
    return world.draw(world.sample(np.random.default_rng(_PAGE)), SIDE)


def square(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The middle of a picture, as RGB of side x side pixels."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    middle = picture.convert("RGB").crop((left, top, left + short, top + short))
    return middle.resize((side, side), Image.Resampling.LANCZOS)
