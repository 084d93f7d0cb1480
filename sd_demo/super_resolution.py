"""Models that make a small picture larger, in the shared loop: what differs from drawing, and nothing else.

The x4 upscaler sees the small picture, a little noisy, beside its latents; the x2 latent upscaler sees its latents, and
is trained as Karras et al. precondition (https://arxiv.org/abs/2206.00364, table 1). In float32 the latents equal those
of diffusers' StableDiffusionUpscalePipeline and StableDiffusionLatentUpscalePipeline for the same generators
(tests/test_super_resolution.py).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers.utils.torch_utils import randn_tensor

from sd_demo.canvas import plan as plan_canvas
from sd_demo.canvas import plan_larger
from sd_demo.denoising import Denoising
from sd_demo.loaded_model import LoadedModel
from sd_demo.plan import Plan
from sd_demo.prompts import PromptEmbeds
from sd_demo.requests import AnyRequest, SuperResolution
from sd_demo.twin_rows import twice

X2_BLOCK: Final = 32  # pixels of the small picture: at twice its size the latents can be halved three times
NOISE_FEATURES: Final = 64  # of each kind that tell the x2 model how noisy the small picture is: not at all


def begin(model: LoadedModel, plan: Plan, request: AnyRequest, embeds: PromptEmbeds) -> Denoising:
    """The denoising of a request whose choices are made, on its canvas."""
    if not isinstance(request, SuperResolution):
        canvas = plan_canvas(request, native_size=model.entry.native_size, multiple=model.latent_pixels)
        return Denoising(model, plan, canvas, embeds)
    factor = model.entry.upscale_factor
    kind, block = (_X4, model.latent_pixels) if factor == 4 else (_X2, X2_BLOCK)
    return kind(model, plan, plan_larger(request, factor=factor, multiple=block), embeds)


class _X4(Denoising):
    """Latents of the small picture's size, [n, 4, h, w]; each stands for 4x4 pixels of the large one."""

    def _conditions(self, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        labels = torch.full((len(embeds),), self.plan.noise_level or 0, device=embeds.device)
        return {"encoder_hidden_states": embeds, "class_labels": labels}

    def _start(self, n: int) -> torch.Tensor:
        device, dtype = self.model.placement.device, self.model.placement.dtype
        self.scheduler.set_timesteps(self.plan.num_inference_steps)
        self.timesteps = self.scheduler.timesteps
        pixels = self.pipe.image_processor.preprocess(self.canvas.image).to(device, dtype)  # [1, 3, h, w] in -1..1
        noises = [randn_tensor(pixels.shape, generator=g, device=device, dtype=dtype) for g in self.generators]
        level = torch.tensor([self.plan.noise_level or 0], device=device)
        self.extra_channels = self.pipe.low_res_scheduler.add_noise(pixels, torch.cat(noises), level)
        channels = self.model.vae.config.latent_channels
        return self.pipe.prepare_latents(n, channels, *pixels.shape[2:], dtype, device, self.generators)


class _X2(Denoising):
    """Latents of twice the small picture's, [n, 4, 2h, 2w]; the UNet answers with the clean ones, scaled."""

    @property
    def time(self) -> torch.Tensor:
        return self._levels[self.index]

    def take(self, predictions: torch.Tensor) -> None:
        sigma, t = self.scheduler.sigmas[self.index], self.timesteps[self.index]
        latents = twice(self.latents) if self.has_two_rows else self.latents
        scale = self.scheduler.scale_model_input(sigma, t)
        super().take((1 / (sigma**2 + 1)) * latents + scale * predictions[:, :-1])  # the last channel is not used

    def _conditions(self, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        words, pooled = embeds[:, :-1], embeds[:, -1]  # as PooledPromptEncoder joins them
        is_clean = pooled.new_ones(len(pooled), NOISE_FEATURES), pooled.new_zeros(len(pooled), NOISE_FEATURES)
        return {"encoder_hidden_states": words, "timestep_cond": torch.cat([*is_clean, pooled], dim=1)}

    def _extras(self) -> dict[str, Any]:
        return {}

    def _start(self, n: int) -> torch.Tensor:
        device, dtype = self.model.placement.device, self.model.placement.dtype
        self.scheduler.set_timesteps(self.plan.num_inference_steps)
        self.timesteps = self.scheduler.timesteps
        self._levels = (torch.log(self.scheduler.sigmas) * 0.25).to(device)
        small = self._encode(self.pipe.image_processor.preprocess(self.canvas.image))
        self.extra_channels = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest")
        height, width = self.extra_channels.shape[2:]
        channels = self.model.vae.config.latent_channels
        return self.pipe.prepare_latents(n, channels, height, width, dtype, device, self.generators)
