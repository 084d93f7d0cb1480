"""One request's way through the denoising loop, and the step that several requests share.

A `Denoising` holds what one request needs from step to step: latents, its own scheduler and generators,
mask. `advance` moves any number of them by one step in a single UNet call, because the UNet takes a
timestep per row. The parts are diffusers': schedulers, and the preparation methods of its three pipelines;
in float32 the latents equal theirs for the same generators (tests/test_denoising.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sd_demo.canvas import Canvas
from sd_demo.loaded_model import LoadedModel, cut
from sd_demo.plan import Plan
from sd_demo.prompts import PromptEmbeds
from sd_demo.schedulers import make_scheduler, takes_seeds
from sd_demo.tiled_vae import whole_or_tiled
from sd_demo.twin_rows import twice


class Denoising:
    """One request between its first noise and its last latents.

    `latents`: [n, 4, height / 8, width / 8] for n images. One generator on the CPU for each image, so that
    image k of a batch can be made again alone.
    """

    def __init__(self, model: LoadedModel, plan: Plan, canvas: Canvas, embeds: PromptEmbeds) -> None:
        self.model, self.plan, self.canvas = model, plan, canvas
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in plan.seeds]
        self.scheduler = make_scheduler(plan.scheduler, model.scheduler_config)
        if takes_seeds(plan.scheduler):
            self.scheduler.noise_sampler_seed = list(plan.seeds)
        self.pipe = model.pipeline(plan.task, self.scheduler)
        self.index = self.most_shared = self.compiled_steps = 0
        self.first_rung = model.residence.rung
        self.is_encoded_in_tiles = False  # the given picture, where the memory was too small for the whole
        self.most_parts = 1  # in which a UNet call ran, where the memory was too small for the whole
        n, self.is_distilled = len(plan.seeds), model.is_distilled
        self.has_two_rows = model.is_guided(plan.guidance_scale)
        self.rows = 2 * n if self.has_two_rows else n  # that this brings to the UNet call
        words = [embeds.negative_prompt_embeds, embeds.prompt_embeds] if self.has_two_rows else [embeds.prompt_embeds]
        self.extra_channels: torch.Tensor | None = None  # [n, c, h, w]: what the UNet sees beside the latents
        self.mask: torch.Tensor | None = None  # [n, 1, h, w], for blending with a 4-channel UNet
        self.image_latents: torch.Tensor | None = None
        self.noise: torch.Tensor | None = None
        self._input: torch.Tensor | None = None
        self._prediction: torch.Tensor | None = None
        with torch.inference_mode():  # as in `advance`: a compiler makes a call anew for tensors of another kind
            self.latents = self._start(n)
            self.conditions = self._conditions(model.rows_of_prompts(words, n))
            times = self.timesteps.float().to(model.placement.device)
            self._times, self.conditions = model.kept_of_times(times, self.conditions)
        self._shared: tuple[list[Denoising], dict[str, torch.Tensor]] | None = None
        self._step_extras = self._extras()

    @property
    def key(self) -> tuple[Any, ...]:
        """Denoisings of one key share a UNet call."""
        words = self.conditions["encoder_hidden_states"]
        return (id(self.model), self.latents.shape[1:], words.shape[1:], self._times.shape[1:])

    @property
    def total(self) -> int:
        """UNet calls from the first to the last."""
        return len(self.timesteps)

    @property
    def is_finished(self) -> bool:
        return self.index >= self.total

    def rows_in(self) -> torch.Tensor:
        """This step's rows for the UNet, [rows, 4 or 9, h, w]: each image's without the prompt, then with it."""
        scaled = self.scheduler.scale_model_input(self.latents, self.timesteps[self.index])
        self._input = scaled
        if self.extra_channels is not None:
            scaled = torch.cat([scaled, self.extra_channels], dim=1)
        return twice(scaled) if self.has_two_rows else scaled

    @property
    def time(self) -> torch.Tensor:
        """This step's place in the schedule as the UNet reads it, a single number or what is kept for that, [K]."""
        return self._times[self.index]

    def times_in(self) -> torch.Tensor:
        """This step's time for each row, [rows] or [rows, K]."""
        return self.time.expand(self.rows, *self.time.shape)

    def conditions_with(self, others: Sequence[Denoising]) -> dict[str, torch.Tensor]:
        """Its own conditions and those of `others` in one, the same tensors as long as the others are the same."""
        if not others:
            self._shared = None
            return self.conditions
        before, shared = self._shared or ([], {})
        if len(before) != len(others) or any(a is not b for a, b in zip(before, others, strict=True)):
            self._shared = None  # before there is another
            each = [self.conditions, *(other.conditions for other in others)]
            shared = {name: torch.cat([one[name] for one in each]) for name in self.conditions}
            self._shared = list(others), shared
        return shared

    def take(self, predictions: torch.Tensor) -> None:
        """Finish this step with the UNet's answer for `rows_in()`."""
        if self.has_two_rows:  # classifier-free guidance, https://arxiv.org/abs/2207.12598
            without, with_prompt = predictions[::2], predictions[1::2]
            predictions = without + self.plan.guidance_scale * (with_prompt - without)
        t = self.timesteps[self.index]
        self._prediction = predictions
        latents = self.scheduler.step(predictions, t, self.latents, **self._step_extras, return_dict=False)[0]
        if self.mask is not None:
            latents = (1 - self.mask) * self._known_part() + self.mask * latents
        self.latents = latents
        self.index += 1
        if self.is_finished:  # memory is shortest while its picture is decoded
            self.conditions, self._shared = {}, None

    def clean_estimate(self) -> torch.Tensor:
        """The model's current idea of the clean latents x0, [n, 4, h, w], from its last prediction.

        Every scheduler here brings its latents to the variance-preserving form before the UNet sees them,
        so one formula serves all: x0 = (x - sqrt(1 - abar) eps) / sqrt(abar), and the like for v
        (https://arxiv.org/abs/2202.00512).
        """
        if self._prediction is None or self._input is None:
            return self.latents
        if self.scheduler.config.prediction_type in ("sample", "original_sample"):
            return self._prediction
        t = self.timesteps[self.index - 1]
        abar = self.scheduler.alphas_cumprod[int(t)].to(self.latents)
        x = self._input
        if self.scheduler.config.prediction_type == "v_prediction":
            return abar.sqrt() * x - (1 - abar).sqrt() * self._prediction
        return (x - (1 - abar).sqrt() * self._prediction) / abar.sqrt()

    def _conditions(self, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the UNet gets beside latents and time, each of `rows` rows; embeds: [rows, 77 k, D]."""
        distilled = {"timestep_cond": self._guidance_embedding(len(embeds))} if self.is_distilled else {}
        return {"encoder_hidden_states": embeds, **distilled}

    def _extras(self) -> dict[str, Any]:
        return self.pipe.prepare_extra_step_kwargs(self.generators, 0.0)  # only what this scheduler takes

    def _start(self, n: int) -> torch.Tensor:
        pipe, plan, canvas, model = self.pipe, self.plan, self.canvas, self.model
        device, dtype = model.placement.device, model.placement.dtype
        height, width = canvas.padded_height, canvas.padded_width
        # On the CPU, where the schedulers' tables are: looking a number up by one on a GPU waits for the GPU.
        self.scheduler.set_timesteps(plan.num_inference_steps)
        self.timesteps = self.scheduler.timesteps
        if canvas.image is None:
            return pipe.prepare_latents(
                n, model.vae.config.latent_channels, height, width, dtype, device, self.generators
            )
        strength = plan.effective_strength
        self.timesteps, _ = pipe.get_timesteps(plan.num_inference_steps, strength, device)
        first = self.timesteps[:1].repeat(n)
        pixels = pipe.image_processor.preprocess(canvas.image, height=height, width=width)  # [1, 3, H, W] in -1..1
        if canvas.mask is None:
            return pipe.prepare_latents(self._encode(pixels), first, n, 1, dtype, device, self.generators)
        is_nine_channels = model.unet.config.in_channels == 9
        image_latents = self._encode(pixels) if not is_nine_channels or strength != 1.0 else None
        latents, noise, *_ = pipe.prepare_latents(
            n, model.vae.config.latent_channels, height, width, dtype, device, self.generators,
            image=image_latents, timestep=first, is_strength_max=strength == 1.0, return_noise=True,
        )  # fmt: skip
        mask_pixels = pipe.mask_processor.preprocess(canvas.mask, height=height, width=width)  # [1, 1, H, W] of 0 and 1
        if is_nine_channels:
            masked = self._encode(pixels * (mask_pixels < 0.5))
            mask, masked = pipe.prepare_mask_latents(
                mask_pixels, masked, n, height, width, dtype, device, self.generators, False
            )
            self.extra_channels = torch.cat([mask, masked], dim=1)
            return latents
        # diffusers encodes the unused masked picture too: only its draw from the generators matters (ancestral ones).
        for generator in self.generators:
            torch.randn(latents.shape[1:], generator=generator)
        scaled = torch.nn.functional.interpolate(mask_pixels, size=latents.shape[-2:])
        self.mask = scaled.to(device=device, dtype=dtype).expand(n, -1, -1, -1)
        self.image_latents, self.noise = image_latents, noise
        return latents

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] to one sample of its latents per image, [n, 4, h, w]; the VAE runs once.

        In tiles where the memory is too small for the whole, as pictures are decoded.
        """
        vae, placement, residence = self.model.vae, self.model.placement, self.model.residence
        there = pixels.to(placement.device, vae.dtype)
        posterior, is_tiled = residence.run(
            "vae", lambda: whole_or_tiled(vae, residence, lambda: vae.encode(there).latent_dist)
        )
        self.is_encoded_in_tiles |= is_tiled
        return torch.cat([posterior.sample(g) for g in self.generators]).to(placement.dtype) * vae.config.scaling_factor

    def _known_part(self) -> torch.Tensor:
        """The picture outside the mask, as noisy as the latents are after this step."""
        if self.index + 1 >= self.total:
            return self.image_latents  # type: ignore[return-value]
        following = self.timesteps[self.index + 1 : self.index + 2]
        ends = torch.eye(2, dtype=self.latents.dtype).reshape(2, 2, 1, 1, 1)
        # Two factors, from tables that the scheduler would copy to a GPU's latents each time, and wait for.
        kept, noisy = (self.scheduler.add_noise(picture, noise, following).squeeze() for picture, noise in ends)
        return kept * self.image_latents + noisy * self.noise

    def _guidance_embedding(self, n: int) -> torch.Tensor:
        """A distilled UNet takes the guidance scale as an input (https://arxiv.org/abs/2210.03142)."""
        scale = torch.tensor(self.plan.guidance_scale - 1).repeat(n)
        embedding = self.pipe.get_guidance_scale_embedding(scale, self.model.unet.config.time_cond_proj_dim)
        return embedding.to(self.model.placement.device, self.model.placement.dtype)


@torch.inference_mode()
def advance(denoisings: Sequence[Denoising]) -> list[Exception | None]:
    """Move all `denoisings`, which have one `key`, by one step in one UNet call, or in several of at most `max_rows`.

    Where the device's memory is too small for so many rows at once, they run in parts, down to one row.
    Raises what the UNet raises, with nothing moved yet. What one request's own scheduler raises is returned
    in its place, so that the others have their step.
    """
    model = denoisings[0].model
    predictions, parts, was_compiled = model.residence.run("unet", lambda: _predictions(model, denoisings))
    model.pace.keep(model.placement.device)
    failures: list[Exception | None] = []
    for denoising, prediction in zip(denoisings, predictions.split([d.rows for d in denoisings]), strict=True):
        denoising.most_shared = max(denoising.most_shared, len(denoisings) - 1)
        denoising.most_parts = max(denoising.most_parts, parts)
        denoising.compiled_steps += was_compiled
        try:
            denoising.take(prediction)
            failures.append(None)
        except Exception as error:
            failures.append(error)
    return failures


def _predictions(model: LoadedModel, denoisings: Sequence[Denoising]) -> tuple[torch.Tensor, int, bool]:
    """The UNet's answers for this step, [rows, 4, h, w], in how many parts a call ran, and whether all was compiled."""
    rows, times = torch.cat([d.rows_in() for d in denoisings]), torch.cat([d.times_in() for d in denoisings])
    conditions, are_twins = denoisings[0].conditions_with(denoisings[1:]), all(d.has_two_rows for d in denoisings)
    every = rows, times.to(rows.device), conditions, are_twins
    most = model.max_rows // 2 * 2 if model.max_rows else len(times)  # even, as an odd row may be called for twice
    calls = [cut(every, slice(k, k + most)) for k in range(0, len(times), most)]
    answers, compiled = zip(*[(model.predict_in_parts(*call), model.was_compiled) for call in calls], strict=True)
    return torch.cat([part for parts in answers for part in parts]), max(map(len, answers)), all(compiled)
