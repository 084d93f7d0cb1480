"""From latents to the picture that a person gets: decoded, checked to be finite, put back in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from sd_demo.denoising import Denoising
from sd_demo.errors import NonFiniteImage
from sd_demo.residence import Residence
from sd_demo.tiled_vae import whole_or_tiled

IN_TILES = "in tiles, because the memory was too small for the whole"
PREVIEW_SIDE = 32  # latents of a side; previews of larger pictures are decoded from averaged latents


@dataclass(frozen=True)
class Decoded:
    """The pictures of one request in order, and for each what the autoencoder tried again, also before the steps."""

    images: list[Image.Image]
    retries: list[list[str]]


@torch.inference_mode()
def decode(denoising: Denoising, go_on: Callable[[], None] = lambda: None) -> Decoded:
    """Decode the final latents one image at a time (so that memory does not grow with the batch).

    go_on: called before each; what it raises ends the work.

    A half-precision VAE that answers NaN is run again in float32, as its activations may overflow
    (https://huggingface.co/madebyollin/sdxl-vae-fp16-fix tells why); one for which the device's memory is too small
    in overlapping tiles. Raises NonFiniteImage where the latents are not finite, or the float32 picture is not either.
    """
    vae, residence = denoising.model.vae, denoising.model.residence
    before = [f"the given picture was encoded {IN_TILES}"] if denoising.is_encoded_in_tiles else []
    images, retries = [], []
    if not torch.isfinite(denoising.latents).all():
        raise NonFiniteImage(
            "The model answered NaN or infinity, not a picture; try another seed or scheduler, or --dtype float32."
        )
    scaled = denoising.latents / vae.config.scaling_factor
    for latents in scaled.split(1):
        go_on()
        pixels, said = residence.run("vae", partial(_decoded, vae, latents, residence))
        retries.append([*before, *said])
        if not torch.isfinite(pixels).all():
            raise NonFiniteImage("The picture could not be decoded, also not in float32; try another seed.")
        images.append(denoising.canvas.restore(to_picture(pixels)))
    return Decoded(images, retries)


@torch.inference_mode()
def preview(denoising: Denoising) -> tuple[Image.Image, ...]:
    """Small pictures of the current estimate of the clean image, one an image.

    One at a time and tried once: for a look at a picture nothing is given up that the pictures themselves need.
    """
    vae, canvas, residence = denoising.model.vae, denoising.canvas, denoising.model.residence
    latents = denoising.clean_estimate() / vae.config.scaling_factor
    shrink = -(-max(latents.shape[-2:]) // PREVIEW_SIDE)
    if shrink > 1:
        latents = torch.nn.functional.avg_pool2d(latents, shrink, ceil_mode=True)
    size = (max(1, canvas.width // shrink), max(1, canvas.height // shrink))

    def look(row: torch.Tensor) -> Image.Image:
        pixels = residence.attempt("vae", lambda: vae.decode(row, return_dict=False)[0])
        return to_picture(torch.nan_to_num(pixels)).crop((0, 0, *size))

    return tuple(look(row) for row in latents.to(vae.dtype).split(1))


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """[1, 3, H, W] in -1..1 to an RGB picture."""
    values = ((pixels[0].float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().cpu().numpy())


def _decoded(vae: Any, latents: torch.Tensor, residence: Residence) -> tuple[torch.Tensor, list[str]]:
    """The pixels [1, 3, H, W] of latents [1, 4, h, w], and what had to be tried again."""
    pixels, is_tiled = _decoded_as(vae.dtype, vae, latents, residence)
    is_again = vae.dtype != torch.float32 and not torch.isfinite(pixels).all()
    if is_again:
        pixels, was_tiled_again = _decoded_in_float32(vae, latents, residence)
        is_tiled |= was_tiled_again
    said = {
        f"decoded {IN_TILES}": is_tiled,
        "decoded again in float32, because the half-precision picture was not finite": is_again,
    }
    return pixels, [text for text, is_so in said.items() if is_so]


def _decoded_in_float32(vae: Any, latents: torch.Tensor, residence: Residence) -> tuple[torch.Tensor, bool]:
    before = vae.dtype
    try:
        with residence.changing():
            vae.to(torch.float32)  # one parameter after another, and there may be no memory for all
        return residence.run("vae", partial(_decoded_as, torch.float32, vae, latents, residence))
    finally:
        with residence.changing():
            vae.to(before)


def _decoded_as(dtype: torch.dtype, vae: Any, latents: torch.Tensor, residence: Residence) -> tuple[torch.Tensor, bool]:
    """The pixels by a `vae` in precision `dtype`, and whether they were decoded in tiles."""
    return whole_or_tiled(vae, residence, lambda: vae.decode(latents.to(dtype), return_dict=False)[0])
