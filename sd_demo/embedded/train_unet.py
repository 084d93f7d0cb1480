"""Training of the denoising UNet and the text encoder, together, on latents of rendered pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from transformers import CLIPTextModel

from sd_demo.embedded.architecture import build_scheduler
from sd_demo.embedded.close_ups import CloseUps
from sd_demo.embedded.near_misses import NearMisses
from sd_demo.embedded.negatives import Denials
from sd_demo.embedded.train_vae import uneven
from sd_demo.embedded.training_state import Stage

PROMPT_DROPOUT = 0.1  # rows trained without a prompt, for classifier-free guidance (arXiv 2207.12598)
SNR_CAP = 5.0
THINGS_COUNT = 3.0
ONLY_WHOLE_FROM = 0.5  # progress of a stage, after which there are no close-ups
FINE_BELOW = 250  # timesteps where a picture's last details are drawn
FINE_SHARE = 0.25, 0.5  # of rows: of other styles and of pixel art
COARSE_FROM = 600  # timesteps where it is settled which thing goes where, and how large
COARSE_SHARE = 0.5  # of the rows of whole pictures
MISSED_FROM = 300  # timesteps where a thing can still become another
DENIED_FROM = 100  # timesteps below which to take away what is denied would be a velocity many times the usual
UNSAID_SHARE = 0.3  # of the rows that begin at a near miss have no caption


class TextToLatents(nn.Module):
    """UNet and text encoder as one module, so that they are trained, averaged and saved as one."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Prediction [B, 4, h, w] for noisy latents [B, 4, h, w], timesteps [B] and token ids [B, 77]."""
        features = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy, timesteps, features).sample


class NoiseSchedule:
    """Noising and its inverse target by the saved scheduler's betas: x_t = signal x_0 + noise eps."""

    def __init__(self, device: torch.device) -> None:
        kept = build_scheduler().alphas_cumprod.to(device)
        self._signal, self._noise = kept.sqrt(), (1.0 - kept).sqrt()
        self.length = len(kept)
        snr = kept / (1.0 - kept)
        # Min-SNR weighting (Hang et al., arXiv 2303.09556) with the weight of v, 1, kept where the noise is strong:
        # scene and colour are decided there, and a short training must hear of them. Timesteps are drawn as often
        # as they weigh, so that no row is spent on one that hardly counts.
        weights = (snr.clamp(max=SNR_CAP) + 1.0) / (snr + 1.0)
        self._shares = (weights.cumsum(0) / weights.sum()).cpu().numpy()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self._at(self._signal, timesteps) * latents + self._at(self._noise, timesteps) * noise

    def velocity(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the UNet predicts (Salimans and Ho, arXiv 2202.00512)."""
        return self._at(self._signal, timesteps) * noise - self._at(self._noise, timesteps) * latents

    def draw(self, parts: np.ndarray) -> np.ndarray:
        """Timesteps [B] for numbers [B] of 0 to 1, each timestep as often as it weighs."""
        return np.searchsorted(self._shares[:-1], parts)

    def velocity_towards(self, latents: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The velocity with which `noisy`, whatever it was made of, comes out at `latents`."""
        return (self._at(self._signal, timesteps) * noisy - latents) / self._at(self._noise, timesteps)

    def kept(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Of the variance at timesteps [B] the part [B], 0 to 1, that is not noise."""
        return self._signal[timesteps].square()

    @staticmethod
    def _at(values: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return values[timesteps][:, None, None, None]


def emphasis(latents: torch.Tensor, kept: torch.Tensor, belonging: torch.Tensor | None = None) -> torch.Tensor:
    """Weights [B, 1, h, w] for the loss of latents [B, 4, h, w]: four times more where things are.

    Skies and meadows hardly change along a row, and things do: what differs from its row's median is a thing or a
    detail. Things fill a tenth of a picture, and without this a short training learns scenery alone. A white thing on
    snow hardly differs, so belonging, [B, 1, h, w], tells of the boxes of things (layout.py); small ones weigh more.

    kept: [B], of each row's variance the part that is its picture's. The weight counts by that much alone: where noise
    hides the place of a thing, a weight that knows it would let the UNet's answer, an average over all places that are
    possible, have several times as much thing at each of them, and pictures may get things that nobody asked for.
    """
    distance = uneven(latents).clamp(max=1.0)
    if belonging is not None:
        distance = torch.maximum(distance, belonging)
    weights = 1.0 + THINGS_COUNT * kept[:, None, None, None] * distance
    return weights / weights.mean(dim=(2, 3), keepdim=True)


def train_unet(
    stage: Stage,
    model: TextToLatents,
    latents: np.ndarray,
    token_ids: np.ndarray,
    empty_ids: np.ndarray,
    is_pixel_art: np.ndarray,
    repeats: np.ndarray,
    belonging: np.ndarray,
    close_ups: CloseUps | None = None,
    near_misses: NearMisses | None = None,
    denials: Denials | None = None,
    *,
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    batch_size: int = 32,
    at_checkpoint: Callable[[], None] | None = None,
    checkpoint_every_s: float = 300.0,
) -> None:
    """Train `model` within the stage's budget and leave its averaged weights in it.

    latents: [N, 4, h, w]; token_ids: [N, captions, 77], one of the captions drawn at each use; empty_ids: [77], the
    tokens of no prompt; is_pixel_art: [N]; repeats: [N], how often each picture comes in a round; belonging:
    [N, h, w], how much each latent is a thing's (layout.py). With close_ups, in the stage's first half, five of eight
    rows of a batch give way to as many windows as cost about the same. at_checkpoint is called every
    `checkpoint_every_s` seconds with the averaged weights in place, for a look at samples or an early export.
    """
    schedule = NoiseSchedule(device)
    # Plain attention has the cheaper backward pass on a CPU, in bfloat16 above all; on a GPU the fused kernels win.
    is_cuda = device.type == "cuda"
    model.unet.set_attn_processor(AttnProcessor2_0() if is_cuda else AttnProcessor())
    model.text_encoder.set_attn_implementation("sdpa" if is_cuda else "eager")
    model.unet.to(memory_format=torch.channels_last)
    a_round = np.repeat(np.arange(len(latents)), repeats)
    order, epoch = _shuffled(a_round, seed, 0), 0
    looked = stage.spent_s

    def error(
        clean_rows: np.ndarray,
        ids: np.ndarray,
        is_pixels: np.ndarray,
        coarse_share: float,
        rng: np.random.Generator,
        missed: np.ndarray | None = None,
        denied: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Weighted squared error, summed over latents [B, 4, h, w] with a caption [B, 77] each.

        missed, denied: as NearMisses.drawn and Denials.drawn give them, for each row; near misses come first. boxes:
        [B, h, w], the things' of the rows' own pictures, also where another one is drawn.
        """
        count = len(clean_rows)
        is_missed = np.zeros(count, dtype=bool) if missed is None else missed >= 0
        is_denied = np.zeros(count, dtype=bool) if denied is None else (denied >= 0) & ~is_missed
        ids[~is_missed & ~is_denied & (rng.random(count) < PROMPT_DROPOUT)] = empty_ids
        clean = torch.from_numpy(clean_rows).to(device).float()
        begun = clean
        if near_misses is not None and missed is not None:
            numbers, is_unsaid = missed[is_missed], rng.random(is_missed.sum()) < UNSAID_SHARE
            ids[is_missed] = np.where(is_unsaid[:, None], empty_ids, near_misses.token_ids[numbers])
            where = torch.from_numpy(np.flatnonzero(is_missed)).to(device)
            between, meant = near_misses.mixed(clean[where], numbers, is_unsaid, rng)
            begun, clean = begun.index_copy(0, where, between), clean.index_copy(0, where, meant)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(device)
        # One timestep from each of as many equal parts as there are rows: the loss of a batch then varies less.
        parts = (np.arange(count) + rng.random(count)) / count
        is_fine = rng.random(count) < np.where(is_pixels, FINE_SHARE[1], FINE_SHARE[0])
        is_coarse = rng.random(count) < coarse_share
        drawn = np.where(is_coarse, rng.integers(COARSE_FROM, schedule.length, count), schedule.draw(parts))
        drawn = np.where(is_fine, rng.integers(0, FINE_BELOW, count), drawn)
        drawn = np.where(is_missed, rng.integers(MISSED_FROM, schedule.length, count), drawn)
        if denials is not None and denied is not None:
            drawn = np.where(is_denied, np.maximum(drawn, DENIED_FROM), drawn)
            numbers = denied[is_denied]
            ids[is_denied] = denials.tokens(numbers, rng)
            where = torch.from_numpy(np.flatnonzero(is_denied)).to(device)
            shown, stronger = denials.exaggerated(clean[where], numbers, drawn[is_denied], rng)
            begun, clean = begun.index_copy(0, where, shown), clean.index_copy(0, where, stronger)
        timesteps = torch.from_numpy(drawn).to(device)
        with torch.autocast(device.type, autocast or torch.float32, enabled=autocast is not None):
            noisy = schedule.add_noise(begun, noise, timesteps)
            prediction = model(noisy, timesteps, torch.from_numpy(ids.astype(np.int64)).to(device))
        target = schedule.velocity_towards(clean, noisy, timesteps)
        kept = schedule.kept(timesteps)
        inside = None if boxes is None else torch.from_numpy(boxes).to(device).float()[:, None]
        # what is there and what is to go
        weights = torch.maximum(emphasis(clean, kept, inside), emphasis(begun, kept, inside))
        return (weights * (prediction.float() - target).square()).sum()

    for step in stage.steps():
        rng = np.random.default_rng((seed, step))
        position = step * batch_size % len(order)
        if step * batch_size // len(order) != epoch:
            epoch = step * batch_size // len(order)
            order = _shuffled(a_round, seed, epoch)
        looks_closer = close_ups is not None and stage.progress < ONLY_WHOLE_FROM
        count = max(1, 3 * batch_size // 8) if looks_closer else batch_size
        rows = np.take(order, np.arange(position, position + count), mode="wrap")
        missed = None if near_misses is None else near_misses.drawn(rows, rng)
        denied = None if denials is None else denials.drawn(rows, rng)
        captions = token_ids[rows, rng.integers(0, token_ids.shape[1], count)]
        loss = error(latents[rows], captions, is_pixel_art[rows], COARSE_SHARE, rng, missed, denied, belonging[rows])
        numbers = count * latents[0].size
        if close_ups is not None and looks_closer:
            chosen = rng.integers(0, len(close_ups.rows), 2 * batch_size)
            cut = close_ups.cut(latents, chosen)
            captions = close_ups.token_ids[chosen, rng.integers(0, close_ups.token_ids.shape[1], len(chosen))]
            # Where a thing stands in a window is no place in a picture.
            loss = loss + error(cut, captions, is_pixel_art[close_ups.rows[chosen]], 0.0, rng)
            numbers += cut.size
        stage.update(loss / numbers)
        if at_checkpoint is not None and stage.spent_s - looked > checkpoint_every_s:
            looked = stage.spent_s
            with stage.averaged():
                at_checkpoint()
    stage.swap_ema()


def _shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, 1, epoch)).permutation(rows)
