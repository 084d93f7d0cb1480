"""Training of the autoencoder: pictures to latents and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from sd_demo.embedded.architecture import VAE_SCALE_FACTOR
from sd_demo.embedded.training_state import Stage

KL_WEIGHT = 1e-5  # only keeps the latents' size in bounds; their statistics are set right by normalise_latents
EDGE_WEIGHT = 0.5
LATENT_NOISE = 0.06  # deviations: about what the flat areas of generated latents carry beyond the renderer's
MARK = 0.5  # deviations
PIXEL_ART_SHARE = 0.25  # of the decoder's rows; of the pictures it is one in twelve
UNMARKED_SHARE = 0.2  # of the rows of pixel art: a picture that somebody brings has no mark
MARK_STRENGTHS = (0.3, 1.8)  # of the mark itself, with either sign; a guided UNet draws up to twice as much
MARK_PATCH = 4  # latents from one strength to the next


def to_tensor(pictures: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 pictures [B, H, W, 3] as float32 [B, 3, H, W] in -1…1."""
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def uneven(latents: torch.Tensor) -> torch.Tensor:
    """How far latents [B, 4, h, w] are from their row's median, [B, 1, h, w]: 0 in skies and meadows, 1 at things."""
    return (latents - latents.median(dim=3, keepdim=True).values).abs().mean(dim=1, keepdim=True)


def pixel_art_mark(shape: tuple[int, int]) -> np.ndarray:
    """What the latents of pixel art carry besides the picture: a checkerboard [4, h, w] on the first channel.

    A 2x2 of cells is one latent, and of what tells them from a smooth drawing the encoder leaves less than a UNet's
    errors: its answer at timestep 30 of 1000 was a smooth drawing to the judge in 24 of 24 pictures. The mark outlives
    them, and the decoder learns to draw hard cells where it is.
    """
    mark = np.zeros((4, *shape), dtype=np.float32)
    mark[0] = MARK * (1 - 2 * (np.indices(shape).sum(axis=0) % 2))
    return mark


def mark_strengths(side: int, rng: np.random.Generator) -> np.ndarray:
    """How strong, and with which sign, the mark is at each of side x side latents that the decoder learns from.

    A UNet knows that there is a checkerboard, not on which field it begins: in 14 of 16 pictures by edition 6 more than
    a tenth was inverted and more than a tenth was not. So either is pixel art.
    """
    knots = side // MARK_PATCH + 2
    strengths = rng.uniform(*MARK_STRENGTHS, (knots, knots)) * rng.choice((-1.0, 1.0), (knots, knots))
    whole = F.interpolate(torch.from_numpy(strengths)[None, None], scale_factor=MARK_PATCH, mode="bilinear")[0, 0]
    top, left = rng.integers(0, len(whole) - side + 1, 2)
    return whole[top : top + side, left : left + side].numpy().astype(np.float32)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1…1, over all pixels together."""
    return 10.0 * math.log10(4.0 / max(1e-10, F.mse_loss(a.clamp(-1, 1), b).item()))


def reconstruction_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """L1 plus L2, and L1 of the differences between neighbouring pixels, which is what makes edges crisp."""
    across = F.l1_loss(decoded.diff(dim=3), pictures.diff(dim=3))
    down = F.l1_loss(decoded.diff(dim=2), pictures.diff(dim=2))
    return F.l1_loss(decoded, pictures) + 4.0 * F.mse_loss(decoded, pictures) + EDGE_WEIGHT * (across + down)


def train_vae(
    stage: Stage,
    vae: AutoencoderKL,
    pictures: list[np.ndarray],
    held_out: np.ndarray,
    *,
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    batch_size: int = 16,
    crop: int = 64,
    validate_every: int = 250,
) -> None:
    """Train `vae` within the stage's budget and leave its averaged weights in it.

    pictures: one array [N, H, W, 3] for each picture size, all trained on in turn; held_out: pictures whose
    reconstruction is measured every `validate_every` steps. The last third of the budget sees larger crops (fewer
    of them): what is learned at a small crop's border is wrong inside a whole picture.
    """
    for step in stage.steps():
        rng = np.random.default_rng((seed, step))
        side, count = (crop, batch_size) if stage.progress < 0.66 else (crop * 2, max(1, batch_size // 4))
        batch = to_tensor(_crops(pictures[step % len(pictures)], count, side, rng), device)
        with torch.autocast(device.type, autocast or torch.float32, enabled=autocast is not None):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        reconstruction = reconstruction_loss(decoded.float(), batch)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        stage.update(reconstruction + KL_WEIGHT * kl, kl=kl)
        if (step + 1) % validate_every == 0:
            with stage.averaged():
                stage.log(psnr=round(reconstruction_psnr(vae, held_out, device), 2))
    stage.swap_ema()


def train_decoder(
    stage: Stage,
    vae: AutoencoderKL,
    pictures: np.ndarray,
    latents: np.ndarray,
    is_pixel_art: np.ndarray,
    as_pixel_art: Callable[[int], np.ndarray],
    held_out: np.ndarray,
    *,
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    batch_size: int,
    crop: int = 128,
    validate_every: int = 250,
) -> None:
    """Go on with the decoder alone: its latents [N, 4, h, w] stay as they are, so a trained UNet stays right.

    A little noise on the latents makes it forgive the small errors that a UNet leaves. PIXEL_ART_SHARE of the rows are
    pixel art (`is_pixel_art` [N]) and as many are other pictures with the mark, to be drawn as what they would be as
    pixel art (`as_pixel_art(k)`, uint8 [H, W, 3]): latents of the renderer's pixel art tell of its cells and its few
    colours without a mark, and those that a UNet draws do not. The mark is uneven, as a UNet's is (`mark_strengths`).
    Only the parameters that are set to require a gradient when `stage` is made are trained: see `freeze_encoder`.
    """
    marked = np.flatnonzero(is_pixel_art)
    for step in stage.steps():
        rng = np.random.default_rng((seed, 2, step))
        side = min(crop, pictures.shape[1])
        chosen = rng.integers(0, len(pictures), batch_size)
        kinds = rng.random(batch_size)
        if len(marked):
            chosen = np.where(kinds < PIXEL_ART_SHARE, rng.choice(marked, batch_size), chosen)
        is_marked = is_pixel_art[chosen] | (kinds > 1.0 - PIXEL_ART_SHARE)
        corners = rng.integers(0, (pictures.shape[1] - side) // VAE_SCALE_FACTOR + 1, (batch_size, 2))
        part = side // VAE_SCALE_FACTOR
        mark = pixel_art_mark(latents.shape[-2:])
        some = np.empty((batch_size, len(mark), part, part), dtype=np.float32)
        whole = np.empty((batch_size, side, side, 3), dtype=np.uint8)
        for row, (i, (y, x)) in enumerate(zip(chosen, corners, strict=True)):
            some[row] = latents[i, :, y : y + part, x : x + part]
            top, left = VAE_SCALE_FACTOR * y, VAE_SCALE_FACTOR * x
            target = as_pixel_art(int(i)) if is_marked[row] and not is_pixel_art[i] else pictures[i]
            whole[row] = target[top : top + side, left : left + side]
            if is_marked[row]:
                is_unmarked = is_pixel_art[i] and rng.random() < UNMARKED_SHARE
                strengths = 0.0 if is_unmarked else mark_strengths(part, rng)
                some[row] += (strengths - is_pixel_art[i]) * mark[:, y : y + part, x : x + part]
        batch = to_tensor(whole, device)
        noise = LATENT_NOISE * rng.standard_normal(some.shape, dtype=np.float32)
        with torch.autocast(device.type, autocast or torch.float32, enabled=autocast is not None):
            decoded = vae.decode(torch.from_numpy(some + noise).to(device)).sample
        stage.update(reconstruction_loss(decoded.float(), batch))
        if (step + 1) % validate_every == 0:
            with stage.averaged():
                stage.log(psnr=round(reconstruction_psnr(vae, held_out, device), 2))
    stage.swap_ema()


def freeze_encoder(vae: AutoencoderKL) -> None:
    """Leave only the decoder's side of `vae` trainable."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> float:
    """Mean PSNR in dB of whole pictures encoded (mean of the posterior) and decoded in float32."""
    values = []
    for picture in pictures:
        original = to_tensor(picture[None], device)
        values.append(psnr(vae.decode(vae.encode(original).latent_dist.mode()).sample, original))
    return sum(values) / len(values)


@torch.no_grad()
def encode_pictures(
    vae: AutoencoderKL,
    pictures: np.ndarray,
    device: torch.device,
    autocast: torch.dtype | None = None,
    rows: int = 8,
) -> np.ndarray:
    """Latents of pictures [N, H, W, 3] as float16 [N, 4, H/8, W/8]: the mean of the posterior."""
    batches = []
    for start in range(0, len(pictures), rows):
        with torch.autocast(device.type, autocast or torch.float32, enabled=autocast is not None):
            mean = vae.encode(to_tensor(pictures[start : start + rows], device)).latent_dist.mode()
        batches.append(mean.cpu().to(torch.float16).numpy())
    return np.concatenate(batches)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold the mean and deviation of `latents` (a sample of the vae's own) into its 1x1 convolutions.

    Afterwards every latent channel has mean 0 and deviation 1 over such pictures, the decoded pictures are what
    they were, and `scaling_factor` is 1: Stable Diffusion's single factor could not shift a channel, nor scale
    one by itself. Returns the mean and deviation [4] that were folded in.
    """
    samples = torch.from_numpy(latents.astype(np.float32))
    mean, deviation = samples.mean(dim=(0, 2, 3)), samples.std(dim=(0, 2, 3))
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    mean, deviation = mean.to(into.weight.device), deviation.to(into.weight.device)
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(dim=1)
    out.weight *= deviation[None, :, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[channels:] -= 2.0 * deviation.log()  # the second half of quant_conv is the log variance
    return mean.cpu().numpy(), deviation.cpu().numpy()


def _crops(pictures: np.ndarray, count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random windows of pictures, half of them mirrored.

    Their corners are corners of latents, as in whole pictures: anywhere else the cells of pixel art would lie between.
    """
    height, width = pictures.shape[1:3]
    side = min(side, height, width)
    tops, lefts = (
        VAE_SCALE_FACTOR * rng.integers(0, (length - side) // VAE_SCALE_FACTOR + 1, count) for length in (height, width)
    )
    chosen = rng.integers(0, len(pictures), count)
    crops = [
        pictures[i, top : top + side, left : left + side] for i, top, left in zip(chosen, tops, lefts, strict=True)
    ]
    return np.stack([crop[:, ::-1] if rng.random() < 0.5 else crop for crop in crops])
