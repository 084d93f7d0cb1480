"""How far pictures and latents are from those of an exact run, for the bench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from PIL import Image

from sd_demo.denoising import advance
from sd_demo.engine import Engine
from sd_demo.finishing import make_plan
from sd_demo.image_difference import psnr
from sd_demo.requests import AnyRequest
from sd_demo.super_resolution import begin

EQUAL_DB: Final = 99.0  # in place of infinity


def picture_errors(truth: Image.Image, **pictures: Image.Image) -> dict[str, Any]:
    """PSNR of each picture against the exact one in dB, higher is better, and the unit."""
    return {way: round(min(EQUAL_DB, psnr(truth, one)), 2) for way, one in pictures.items()} | {"unit": "dB"}


def latent_errors(truth: torch.Tensor, **latents: torch.Tensor) -> dict[str, Any]:
    """Distance of each [4, h, w] to the exact ones in parts of their norm, lower is better, and the unit."""
    norm = truth.float().norm()
    far = {way: float((one.float() - truth.float()).norm() / norm) for way, one in latents.items()}
    return {way: round(value, 6) for way, value in far.items()} | {"unit": "of the exact latents' norm"}


def last_latents(engine: Engine, request: AnyRequest) -> torch.Tensor:
    """The latents [4, h, w] that the engine decodes for `request`: by its own model, recordings and loop."""
    model = engine._manager.current  # what the engine gives back is a picture
    if model is None:
        raise LookupError("The engine has no model in memory.")
    placement = model.placement
    with engine.device_turns, torch.inference_mode():
        embeds = model.prompts.encode(request.prompt, "", device=placement.device, dtype=placement.dtype)
        denoising = begin(model, make_plan(request, model.entry), request, embeds)
        while not denoising.is_finished:
            advance([denoising])
        return denoising.latents[0]


@contextmanager
def cudnn(*, benchmark: bool, allow_tf32: bool) -> Iterator[None]:
    """cuDNN's settings, which are the process's, for the length of a with block."""
    settings = torch.backends.cudnn
    before = settings.benchmark, settings.allow_tf32
    settings.benchmark, settings.allow_tf32 = benchmark, allow_tf32
    try:
        yield
    finally:
        settings.benchmark, settings.allow_tf32 = before
