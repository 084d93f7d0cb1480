"""What the judge is shown in training: the renderer's pictures as a small diffusion model might have drawn them.

Softened, bent, noisy, moved or enlarged a little, in other cells and colours, each time otherwise, or gone through the
model's autoencoder with latents as uneven as a UNet's. The labels say what they show then, and no UNet has a part in
it: who learned from a model's pictures would mark them kindly.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from sd_demo.embedded.architecture import NATIVE_SIZE
from sd_demo.embedded.picture import STYLES
from sd_demo.embedded.styles import PIXEL_CELLS
from sd_demo.embedded.train_vae import MARK_STRENGTHS, pixel_art_mark, to_tensor, uneven
from sd_demo.embedded.training_state import has_fast_bfloat16

PIXEL_ART = STYLES.index("pixel art")
PICTURE_BOOK = STYLES.index("picture book")
CELLS_SHARE = 0.06  # of picture-book drawings are cut into the cells of pixel art, and are such
FEW_SHARE = 0.08  # of smooth pictures come in steps of colour, as a diffusion model's fog does, and are none for that
CRISP_SHARE = 0.75  # of pixel art has crisp cells in their places, whatever else was done to it
BENT_BY = 0.012  # of the side, how far a deviation of the bent pictures' places goes at most
MOST_BLUR = 0.9  # how much of the way to the mean of its neighbours a latent goes at most
MOST_NOISE = 0.08, 0.5  # deviations, at most: of flat areas, and beyond that of things, where a UNet errs most


def moved(pictures: torch.Tensor, things: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the pictures mirrored; of half the batches, all shifted and scaled a little, their labels with them."""
    count = len(pictures)
    scale, shift = np.ones(count), np.zeros((count, 2))
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    things = things.clone()
    if rng.random() < 0.5:
        scale, shift = np.exp(rng.uniform(-0.18, 0.18, count)), rng.uniform(-0.09, 0.09, (count, 2))
        theta = np.zeros((count, 2, 3), dtype=np.float32)  # from a pixel of the result to where it comes from, -1..1
        theta[:, 0, 0], theta[:, 1, 1] = mirror / scale, 1 / scale
        theta[:, 0, 2], theta[:, 1, 2] = -2 * mirror * shift[:, 0] / scale, -2 * shift[:, 1] / scale
        grid = F.affine_grid(torch.from_numpy(theta), list(pictures.shape), align_corners=False)
        pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    else:
        flipped = torch.from_numpy(mirror < 0)
        pictures = torch.where(flipped[:, None, None, None], pictures.flip(3), pictures)
    is_thing = things[..., 0] >= 0
    factor = torch.from_numpy(np.stack([mirror * scale, scale], axis=1)).float()[:, None]
    centres = (things[..., 2:4] - 0.5) * factor + 0.5 + torch.from_numpy(shift).float()[:, None]
    sides = things[..., 4:6] * torch.from_numpy(scale).float()[:, None, None]
    things[..., 2:4] = torch.where(is_thing[..., None], centres, -1.0)
    things[..., 4:6] = torch.where(is_thing[..., None], sides, -1.0)
    return pictures, things


def softened(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The faults of a small diffusion model: blur, coarse and fine noise, contrast and tint a little off."""
    count, whole = len(pictures), pictures.shape[-1]
    kind = rng.random()
    if kind < 0.3:  # blur
        sigma = rng.uniform(0.6, 2.6) * whole / NATIVE_SIZE
        offsets = torch.arange(-6, 7).float()
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, 13).contiguous()
        pictures = F.conv2d(F.pad(pictures, (6, 6, 0, 0), mode="replicate"), kernel, groups=3)
        pictures = F.conv2d(F.pad(pictures, (0, 0, 6, 6), mode="replicate"), kernel.transpose(2, 3), groups=3)
    elif kind < 0.45:  # detail lost
        side = round(whole * rng.uniform(0.44, 0.75))
        small = F.interpolate(pictures, size=(side, side), mode="area")
        pictures = F.interpolate(small, size=(whole, whole), mode="bilinear")
    torch.manual_seed(int(rng.integers(2**31)))
    if rng.random() < 0.5:
        for side in (whole, whole // 8):  # of a pixel, and of a latent
            noise = torch.randn(count, 3, side, side) * rng.uniform(0, 0.07)
            pictures = pictures + F.interpolate(noise, size=(whole, whole), mode="bilinear")
    if rng.random() < 0.7:
        contrast = 1 + 0.08 * (2 * torch.rand(count, 1, 1, 1) - 1)
        tint = 0.05 * (2 * torch.rand(count, 3, 1, 1) - 1)
        pictures = pictures * contrast + tint
    return pictures.clamp(-1, 1)


def bent(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures [B, 3, h, w] whose lines are not quite where they were, as a hand draws them."""
    count, _, height, width = pictures.shape
    coarse = rng.standard_normal((count, 2, 10, 10)) * rng.uniform(0, 2 * BENT_BY, (count, 1, 1, 1))
    shifts = F.interpolate(torch.from_numpy(coarse).float(), size=(height, width), mode="bicubic")
    straight = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, straight + shifts.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def cut_into_cells(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, h, w] in the cells of pixel art, but in all their colours."""
    cells = F.adaptive_avg_pool2d(pictures, PIXEL_CELLS)
    return F.interpolate(cells, size=pictures.shape[-2:], mode="nearest")


def in_few_colours(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, h, w] in the steps of colour of pixel art (styles.few_colours), but smooth."""
    return (((((pictures + 1) * 127.5).round() + 8) / 16).floor() * 16 / 127.5 - 1).clamp(-1, 1)


def shown(
    pictures: torch.Tensor, things: torch.Tensor, wholes: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures [B, 3, h, w], their things and wholes as Labelled has them, each as the judge is shown it this time."""
    count, style = len(pictures), wholes[:, -1]
    pictures, things = moved(pictures, things, rng)
    if rng.random() < 0.5:
        smooth = (style != PIXEL_ART)[:, None, None, None]  # cells that are bent are none
        pictures = torch.where(smooth, bent(pictures, rng), pictures)
    part = torch.from_numpy(rng.random(count))
    is_cut = (style == PICTURE_BOOK) & (part < CELLS_SHARE)
    has_few = (style != PIXEL_ART) & (part > 1 - FEW_SHARE)
    pictures = torch.where(is_cut[:, None, None, None], cut_into_cells(pictures), pictures)
    pictures = torch.where(has_few[:, None, None, None], in_few_colours(pictures), pictures)
    wholes = torch.cat([wholes[:, :-1], torch.where(is_cut, PIXEL_ART, style)[:, None]], dim=1)
    pictures = softened(pictures, rng)
    is_crisp = (wholes[:, -1] == PIXEL_ART) & torch.from_numpy(rng.random(count) < CRISP_SHARE)
    return torch.where(is_crisp[:, None, None, None], cut_into_cells(pictures), pictures), things, wholes


@torch.inference_mode()
def redrawn_by_decoder(
    vae: AutoencoderKL, images: np.ndarray, styles: np.ndarray, seed: int, rows: int = 16
) -> np.ndarray:
    """Pictures uint8 [N, h, w, 3] through the autoencoder, their latents blurred and noisy, each by its own amount.

    styles: [N], indices of STYLES; pixel art has its mark in training and gets it here.
    """
    drawn = np.empty_like(images)
    for start in range(0, len(images), rows):
        rng = np.random.default_rng((seed, 4, start))
        some = slice(start, start + rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16("cpu")):
            latents = vae.encode(to_tensor(images[some])).latent_dist.mode().float()
        count, _, *shape = latents.shape
        blurred = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        parts = rng.uniform(0, MOST_BLUR, (count, 1, 1, 1)) * rng.random((count, 1, 1, 1))
        flat, more = (torch.from_numpy(rng.uniform(0, most, (count, 1, 1, 1))).float() for most in MOST_NOISE)
        strength = flat + more * uneven(latents).clamp(max=1.0)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        latents = torch.lerp(latents, blurred, torch.from_numpy(parts).float()) + strength * noise
        is_marked = torch.from_numpy(styles[some] == PIXEL_ART)[:, None, None, None]
        strengths = torch.from_numpy(rng.uniform(*MARK_STRENGTHS, (count, 1, 1, 1))).float()
        mark = torch.from_numpy(pixel_art_mark((shape[0], shape[1])))
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16("cpu")):
            pixels = vae.decode(latents + is_marked * strengths * mark).sample.float().clamp(-1, 1)
        drawn[some] = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return drawn
