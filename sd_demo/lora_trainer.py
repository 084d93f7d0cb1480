"""The numbers of LoRA training: latents and embeddings made once, then a step, a look, a state at a time.

No threads and no files here; see lora_training.py and lora_checkpoint.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from sd_demo.embedded.plain_words import in_plain_words
from sd_demo.errors import DeviceFailure, InvalidRequest
from sd_demo.loaded_model import LoadedModel
from sd_demo.schedulers import make_scheduler
from sd_demo.training_events import Preparing
from sd_demo.training_pictures import TrainingPicture, without_trigger
from sd_demo.training_request import LoraTrainingRequest
from sd_demo.training_views import pixels_of, views_of

ADAPTER: Final = "trained"
TARGETS: Final = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    # Neither conv_in nor conv_out: so it fits an inpainting UNet of nine channels too.
    "all": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"],
}
TEXT_TARGETS: Final = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
_PRIOR_SHARE: Final = 2  # pictures of the model's own for each picture given


class LoraTrainer:
    """Trains a LoRA on `model`, which must be nobody else's: its layers are changed for good.

    request: with every choice made, by `with_defaults`. `prepare` first, then `step` 0, 1, …. Raises InvalidRequest for
    a model of another task than text to image.
    """

    def __init__(self, model: LoadedModel, request: LoraTrainingRequest, pictures: Sequence[TrainingPicture]) -> None:
        if model.unet.config.in_channels != model.vae.config.latent_channels or model.unet.config.time_cond_proj_dim:
            raise InvalidRequest(
                f"model: {model.entry.title} is no plain text-to-image model; train on the one that it was made from.",
                "model",
            )
        self.model, self.request, self.pictures = model, request, pictures
        self._unet, self._text_encoder = model.unet, model.components["text_encoder"]
        self._device, self._dtype = model.placement.device, model.placement.dtype
        self._is_half = self._dtype != torch.float32
        self._schedule = DDPMScheduler.from_config(model.scheduler_config)
        for part in (self._unet, self._text_encoder, model.vae):
            part.requires_grad_(False)
        torch.manual_seed(request.seed)
        self._add_layers()
        self.parameters = [p for part in (self._unet, self._text_encoder) for p in part.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()  # in half precision small steps would be lost
        self._optimizer = torch.optim.AdamW(self.parameters, lr=request.learning_rate or 1e-4, weight_decay=0.01)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype == torch.float16)
        self._latents: list[torch.Tensor] = []  # a picture's views as mean and deviation, [views, 2, 4, h, w]
        self._texts = torch.empty(0)  # token ids [pictures, 77], or the embeddings of them
        self._prior: tuple[torch.Tensor, torch.Tensor] | None = None  # latents [n, 4, h, w] and texts

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.request.steps or 1

    def learning_rate(self, index: int) -> float:
        """Up in a straight line, then down along a cosine to a tenth."""
        warmup = min(1.0, (index + 1) / max(1, min(50, self.total // 10)))
        return (self.request.learning_rate or 1e-4) * warmup * (0.55 + 0.45 * math.cos(math.pi * index / self.total))

    @torch.no_grad()
    def prepare(self) -> Iterator[Preparing]:
        """Make latents and embeddings, and the model's own pictures where asked for; a step of work for each event."""
        side = self.request.resolution or self.model.entry.native_size
        vae = self.model.vae
        # Half precision overflows in some autoencoders, and this is done once. (vae.to would log a warning each time.)
        torch.nn.Module.to(vae, torch.float32)
        for k, picture in enumerate(self.pictures):
            yield Preparing("pictures", k, len(self.pictures))
            views = views_of(picture, side, has_flips=self.request.random_flip, seed=self.request.seed + k)
            found = [vae.encode(pixels_of(view).to(self._device)).latent_dist for view in views]
            both = [torch.cat([d.mean, d.std]) * vae.config.scaling_factor for d in found]
            self._latents.append(torch.stack(both).cpu())
        torch.nn.Module.to(vae, self._dtype)
        self._texts = self._as_texts([picture.caption for picture in self.pictures])
        if self.request.prior_preservation:
            yield from self._prepare_prior(side)

    def step(self, index: int) -> float:
        """One step of the optimizer; the loss before it. Raises DeviceFailure where the loss is no number any more."""
        request, schedule = self.request, self._schedule
        generator = torch.Generator().manual_seed((request.seed << 20) + index)
        clean, texts = self._batch(index, generator)
        count = len(clean)
        noise = torch.randn(clean.shape, generator=generator).to(self._device)
        # One timestep from each of as many equal parts: the loss of a batch then varies less.
        parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        parts = parts[torch.randperm(count, generator=generator)]
        timesteps = (parts * schedule.config.num_train_timesteps).long().to(self._device)
        noisy = schedule.add_noise(clean, noise, timesteps)
        is_v = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(clean, noise, timesteps) if is_v else noise
        with torch.autocast(self._device.type, self._dtype, enabled=self._is_half):
            prediction = self._unet(noisy.to(self._dtype), timesteps, self._embeds(texts), return_dict=False)[0]
        errors = (prediction.float() - target).square().mean(dim=(1, 2, 3)) * self._weights(timesteps, is_v)
        loss = errors[: request.batch_size].mean()
        if self._prior is not None:
            loss = loss + request.prior_loss_weight * errors[request.batch_size :].mean()
        if not torch.isfinite(loss):
            raise DeviceFailure("The training diverged, its loss is no number; try again with a lower learning_rate.")
        self._descend(loss, self.learning_rate(index))
        return float(loss.detach())

    @torch.no_grad()
    def draw(self, prompts: Sequence[str]) -> tuple[Image.Image, ...]:
        """How the model draws `prompts` now, one picture each, from the training's seed."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._is_half):
            return tuple(self._run(prompts, self.request.seed, "pil"))

    def lora(self) -> dict[str, torch.Tensor]:
        """The trained layers, in the names of diffusers and PEFT."""
        found = {f"unet.{k}": v for k, v in get_peft_model_state_dict(self._unet, adapter_name=ADAPTER).items()}
        if self.request.train_text_encoder:
            for key, value in get_peft_model_state_dict(self._text_encoder, adapter_name=ADAPTER).items():
                found[f"text_encoder.text_model.{key.removeprefix('text_model.')}"] = value
        return {key: value.detach().cpu().contiguous() for key, value in found.items()}

    def is_cut(self, caption: str) -> bool:
        """Whether a caption is longer than the text encoder reads."""
        tokenizer = self.model.components["tokenizer"]
        return len(tokenizer(caption, verbose=False).input_ids) > tokenizer.model_max_length

    def state(self) -> dict[str, Any]:
        """All that a later run needs to go on as if nothing had happened."""
        return {
            "parameters": [p.detach().cpu() for p in self.parameters],
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which a training with the same request gave."""
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.data.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    def _add_layers(self) -> None:
        request, rank = self.request, self.request.rank or 1
        settings: dict[str, Any] = {"r": rank, "lora_alpha": rank, "init_lora_weights": "gaussian"}
        self._unet.add_adapter(LoraConfig(target_modules=TARGETS[request.target or "attention"], **settings), ADAPTER)
        if request.train_text_encoder:
            self._text_encoder.add_adapter(LoraConfig(target_modules=TEXT_TARGETS, **settings), ADAPTER)
        if self._device.type == "cpu":
            self._unet.set_attn_processor(AttnProcessor())  # on a CPU the fused kernel's way back is slow
        if request.gradient_checkpointing:
            self._unet.enable_gradient_checkpointing()
            self._unet.train()  # it is done in training mode only, and nothing else here hangs on that

    def _batch(self, index: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, 4, h, w] and texts of step `index`; with prior preservation twice as many."""
        size = self.request.batch_size or 1
        rows = [self._row(index * size + k, len(self.pictures), "pictures") for k in range(size)]
        latents = []
        for row in rows:
            views = self._latents[row]
            mean, deviation = views[int(torch.randint(len(views), (), generator=generator))]
            latents.append(mean + deviation * torch.randn(mean.shape, generator=generator))
        clean, texts = torch.stack(latents), self._texts[rows]
        if self._prior is not None:
            others = [self._row(index * size + k, len(self._prior[0]), "prior") for k in range(size)]
            clean, texts = torch.cat([clean, self._prior[0][others]]), torch.cat([texts, self._prior[1][others]])
        return clean.to(self._device), texts.to(self._device)

    def _row(self, position: int, count: int, what: str) -> int:
        """Each picture once, in a new order every time round."""
        turn = torch.Generator().manual_seed((self.request.seed << 24) + 2 * (position // count) + (what == "prior"))
        return int(torch.randperm(count, generator=turn)[position % count])

    def _as_texts(self, captions: list[str]) -> torch.Tensor:
        if self.model.entry.is_embedded:  # as it will read them when it draws
            captions = [in_plain_words(caption) for caption in captions]
        tokenizer = self.model.components["tokenizer"]
        ids = tokenizer(
            captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        if self.request.train_text_encoder:
            return ids
        return self._text_encoder(ids.to(self._device))[0].cpu()

    def _embeds(self, texts: torch.Tensor) -> torch.Tensor:
        return self._text_encoder(texts)[0] if self.request.train_text_encoder else texts.to(self._dtype)

    def _weights(self, timesteps: torch.Tensor, is_v: bool) -> torch.Tensor:
        """Min-SNR: min(SNR, gamma) / SNR for the noise, / (SNR + 1) for v (https://arxiv.org/abs/2303.09556)."""
        if self.request.snr_gamma is None:
            return torch.ones(len(timesteps), device=self._device)
        kept = self._schedule.alphas_cumprod.to(self._device)[timesteps]
        snr = kept / (1 - kept)
        return snr.clamp(max=self.request.snr_gamma) / (snr + 1 if is_v else snr)

    def _descend(self, loss: torch.Tensor, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def _prepare_prior(self, side: int) -> Iterator[Preparing]:
        """Latents that the model draws by itself, https://arxiv.org/abs/2208.12242 (they need not be decoded)."""
        count = _PRIOR_SHARE * len(self.pictures)
        given = [self.request.class_prompt or without_trigger(p.caption, self.request.trigger) for p in self.pictures]
        prompts = [given[k % len(given)] for k in range(count)]
        latents = []
        for start in range(0, count, 4):
            yield Preparing("the model's own pictures", start, count)
            latents.append(
                self._run(prompts[start : start + 4], self.request.seed + start, "latent", side).cpu().float()
            )
        self._prior = (torch.cat(latents), self._as_texts(prompts))

    def _run(self, prompts: Sequence[str], seed: int, output: str, side: int | None = None) -> Any:
        entry = self.model.entry
        side = side or self.request.resolution or entry.native_size
        pipe = self.model.pipeline("text_to_image", make_scheduler(entry.scheduler, self.model.scheduler_config))
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            list(prompts), height=side, width=side, num_inference_steps=entry.num_inference_steps,
            guidance_scale=entry.guidance_scale, output_type=output,
            generator=[torch.Generator().manual_seed(seed + k) for k in range(len(prompts))],
        ).images  # fmt: skip
