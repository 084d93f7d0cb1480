"""The reverse process, one step at a time: what goes into the UNet, what it answers, and what that means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from sd_demo.canvas import Canvas
from sd_demo.denoising import Denoising
from sd_demo.learn.attention import Watch, watching
from sd_demo.learn.classroom import Classroom, decode, latents_picture
from sd_demo.plan import Plan


@dataclass(frozen=True, eq=False)
class Frame:
    """One step. noisy: the latents that went in; clean: the picture that the model expects at the end, at that moment.

    The tensors [1, 4, h, w] are the input and the two answers in terms of the clean latents: without the prompt and
    with it, from which any guidance scale can be put together.
    """

    index: int
    t: float
    sigma: float  # noise over signal
    noisy: Image.Image
    clean: Image.Image
    without_prompt: torch.Tensor
    with_prompt: torch.Tensor


@dataclass(frozen=True)
class Guided:
    """The answers at one step as pictures; difference: with prompt less without, grey where the prompt says nothing."""

    without_prompt: Image.Image
    with_prompt: Image.Image
    difference: Image.Image
    together: Image.Image


def trace(classroom: Classroom, plan: Plan, prompt: str, negative_prompt: str, watch: Watch | None = None) -> Iterator[
    Frame | Image.Image
]:  # fmt: skip
    """Each step of a text-to-image run as a Frame, then the picture, the very one that the engine makes of `plan`.

    plan: for one image; a guidance scale above 1 gives both answers, else the two are the same. watch: collects
    cross-attention. Raises InvalidRequest for a prompt that cannot be encoded.
    """
    with classroom.turn() as model:
        side = model.entry.native_size
        embeds = model.prompts.encode(
            prompt, negative_prompt, device=model.placement.device, dtype=model.placement.dtype, key=()
        )
        denoising = Denoising(model, plan, Canvas(side, side, side, side), embeds)
    while not denoising.is_finished:
        with classroom.turn(), watching(denoising.model.unet, watch):
            frame = _step(denoising)
        yield frame
    with classroom.turn() as model:
        picture = decode(model, denoising.latents)
    yield picture


def guided(classroom: Classroom, frame: Frame, guidance_scale: float) -> Guided:
    """What another guidance scale would have made of this step (https://arxiv.org/abs/2207.12598)."""
    with classroom.turn() as model:
        without, with_prompt = frame.without_prompt, frame.with_prompt
        difference = with_prompt - without
        return Guided(
            decode(model, without),
            decode(model, with_prompt),
            latents_picture(difference * 2),
            decode(model, without + guidance_scale * difference),
        )


def _step(denoising: Denoising) -> Frame:
    index = denoising.index
    t = denoising.timesteps[index]
    noisy = denoising.latents
    rows = denoising.rows_in()
    given = rows[:1]
    predictions = denoising.model.unet(rows, denoising.times_in(), **denoising.conditions, return_dict=False)[0]
    sigma = _own_sigma(denoising.scheduler, index)
    denoising.take(predictions)
    alpha_bar = denoising.scheduler.alphas_cumprod[int(t)].to(given)
    without, with_prompt = (_clean(given, part, alpha_bar, denoising) for part in (predictions[:1], predictions[-1:]))
    clean = without + denoising.plan.guidance_scale * (with_prompt - without) if len(rows) > 1 else with_prompt
    return Frame(
        index,
        float(t),
        float(((1 - alpha_bar) / alpha_bar) ** 0.5 if sigma is None else sigma),
        latents_picture(noisy),
        decode(denoising.model, clean),
        without,
        with_prompt,
    )


def _own_sigma(scheduler: Any, index: int) -> Any:
    """Noise over signal at this call of the UNet where a scheduler has its own and t is the nearest; else None."""
    if hasattr(scheduler, "mid_point_sigma") and not scheduler.state_in_first_order:  # DPM++ SDE's second look
        return scheduler.mid_point_sigma
    sigmas = getattr(scheduler, "sigmas", None)
    return None if sigmas is None else sigmas[index]


def _clean(x: torch.Tensor, prediction: torch.Tensor, alpha_bar: torch.Tensor, denoising: Denoising) -> torch.Tensor:
    """The clean latents that a prediction stands for (https://arxiv.org/abs/2202.00512 for v)."""
    if denoising.scheduler.config.prediction_type == "v_prediction":
        return alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * prediction
    return (x - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
