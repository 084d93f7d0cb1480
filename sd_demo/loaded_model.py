"""A model in memory: its components on their device, the decisions made for it, and its pipelines.

Task pipelines are built from one component set (`Pipeline(**components)`), which costs nothing and
shares every weight; only the scheduler is new each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
)
from PIL import Image

from sd_demo.captured_calls import CapturedCalls
from sd_demo.kept_conditions import KeepingUnet
from sd_demo.memory_errors import Answer, tried
from sd_demo.memory_need import MemoryNeed
from sd_demo.pace import Pace
from sd_demo.placement import Placement
from sd_demo.plan import Plan
from sd_demo.prompts import PromptEmbeds, PromptEncoder
from sd_demo.registry import ModelEntry
from sd_demo.requests import AnyRequest, SuperResolution
from sd_demo.residence import Residence, empty_cache
from sd_demo.row_independence import in_pairs
from sd_demo.safety import SafetyChecker
from sd_demo.traced_calls import TracedCalls
from sd_demo.worn_loras import WornLora

LULL_S: Final = 0.5  # a program that was asked for one picture has ended by then
TOO_MUCH_S: Final = 60.0  # memory may have come back after it
_PIPELINES: Final = {
    "text_to_image": StableDiffusionPipeline,
    "image_to_image": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
}


def is_guided(guidance_scale: float, *, is_distilled: bool) -> bool:
    """Whether a UNet is asked twice for each image; one that was distilled takes the guidance scale as an input."""
    return guidance_scale > 1 and not is_distilled


def cut(inputs: tuple[Any, ...], part: slice) -> tuple[Any, ...]:
    """Some of the rows of a UNet's inputs: rows [B, …], times [B, …], conditions [B, …], and whether they are twins."""
    rows, times, conditions, are_twins = inputs
    some = {name: value[part] for name, value in conditions.items()}
    whole = are_twins and (part.start or 0) % 2 == 0 and len(rows[part]) % 2 == 0
    return rows[part], times[part], some, whole


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One model's components on their device, and the decisions made for it; another object for other LoRAs."""

    entry: ModelEntry
    components: dict[str, Any]
    placement: Placement
    prompts: PromptEncoder
    model_hash: str
    residence: Residence
    need: MemoryNeed
    loras: tuple[WornLora, ...] = ()
    safety: SafetyChecker | None = None
    captured: CapturedCalls | TracedCalls | None = None
    in_pairs: bool = False  # rows are called for in pairs
    max_rows: int | None = None  # of one UNet call; None: any
    pace: Pace = field(default_factory=Pace)
    _too_much: dict[tuple[str, torch.Size], tuple[int, float]] = field(default_factory=dict, init=False)
    is_distilled: bool = field(init=False)
    """The UNet takes the guidance scale as an input, in place of a second row; the x2 upscaler's is another one."""

    def __post_init__(self) -> None:
        # A value of its own, as the page asks for it while the worker may be letting the components go.
        guidance = self.components["unet"].config.time_cond_proj_dim
        object.__setattr__(self, "is_distilled", guidance is not None and self.entry.upscale_factor == 1)

    @property
    def unet(self) -> Any:
        return self.components["unet"]

    @property
    def vae(self) -> Any:
        return self.components["vae"]

    @property
    def scheduler_config(self) -> Any:
        """The noise schedule that the model was trained with, as its folder states it."""
        return self.components["scheduler"].config

    @property
    def latent_pixels(self) -> int:
        """Pixels of a side that one latent stands for (8 for Stable Diffusion)."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether each image brings a second row, of the negative prompt; where not, the UNet hears nothing of that."""
        return is_guided(guidance_scale, is_distilled=self.is_distilled)

    @property
    def weights_mib(self) -> float:
        """Memory of all weights, and of what is made of them once (winograd.py), in MiB."""
        modules = [c for c in self.components.values() if isinstance(c, torch.nn.Module)]
        modules += [self.safety.network] if self.safety else []
        return sum(each.nbytes for m in modules for each in (*m.parameters(), *m.buffers())) / 2**20

    @property
    def was_compiled(self) -> bool:
        """Whether the last call of the UNet was answered by what a compiler made of it."""
        return self.captured is not None and self.captured.was_compiled and self.residence.stays("unet")

    @property
    def is_settled(self) -> bool:
        """Whether the UNet's calls run as they will go on to: nothing is being compiled, or left to be prepared."""
        return self.captured is None or self.captured.is_settled

    @property
    def lull_s(self) -> float | None:
        """Seconds without a request after which to `prepare`; None where there is nothing to be prepared."""
        return LULL_S if isinstance(self.captured, TracedCalls) and not self.is_settled else None

    def prepare(self) -> None:
        """Make what lets later pictures be faster."""
        if isinstance(self.captured, TracedCalls):
            self.captured.prepare()

    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Which pictures the model's safety checker takes for unsafe; none where it ships no checker."""
        if self.safety is None:
            return [False] * len(images)
        return self.residence.run("safety_checker", partial(self.safety.flags, images))

    def read(self, plan: Plan, request: AnyRequest) -> PromptEmbeds:
        """What the UNet gets of a request's prompts, or of what the model makes of them, one row for each image."""
        # A long negative prompt pads the other, so one that is not read must not be there.
        negative_prompt = plan.read_negative_prompt
        if negative_prompt is None:
            negative_prompt = request.negative_prompt
        if not self.is_guided(plan.guidance_scale):
            negative_prompt = ""
        encode = partial(
            self.prompts.encode, negative_prompt=negative_prompt,
            device=self.placement.device, dtype=self.placement.dtype,
            key=tuple((worn.sha256, worn.choice.weight) for worn in self.loras),
        )  # fmt: skip
        if not plan.read_prompts:
            return encode(request.prompt)
        each = [encode(prompt) for prompt in plan.read_prompts]
        return replace(each[0], prompt_embeds=torch.cat([one.prompt_embeds for one in each]))

    def rows_of_prompts(self, embeds: Sequence[torch.Tensor], n: int) -> torch.Tensor:
        """What the UNet hears for n images, [n * len(embeds), 77, D] or as kept; embeds: [1 or n, 77, D] each.

        The rows of an image stand one beside the other.
        """

        def stacked(each: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.stack([one.expand(n, -1, -1) for one in each], dim=1).flatten(0, 1)

        def kept() -> torch.Tensor:
            return stacked(self.unet.of_prompts(torch.cat(list(embeds))).split([len(one) for one in embeds]))

        return self._kept(kept, lambda: stacked(embeds))

    def kept_of_times(
        self, times: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the UNet takes in place of times [T] and conditions; both stay as they are where nothing is kept."""
        return self._kept(lambda: self.unet.of_times(times, conditions), lambda: (times, conditions))

    def _kept(self, make: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
        """`make`, where the UNet is at hand and the memory suffices: nothing is given up for what only saves time."""
        if not isinstance(self.unet, KeepingUnet) or not self.residence.stays("unet"):
            return otherwise()
        answer = tried(lambda: self.residence.attempt("unet", make))
        return otherwise() if isinstance(answer, RuntimeError) else answer

    def is_too_much(self, rows: torch.Tensor) -> bool:
        """Whether the memory was too small for so many rows [B, c, h, w] of that size a moment ago."""
        least, until = self._too_much.get((self.residence.rung, rows.shape[1:]), (0, 0.0))
        return len(rows) >= least and time.monotonic() < until

    def was_too_much(self, rows: torch.Tensor) -> None:
        """Do not try as many for a while: each try fails late, and takes the recordings of what fits along."""
        self._too_much[self.residence.rung, rows.shape[1:]] = len(rows), time.monotonic() + TOO_MUCH_S

    def predict(
        self,
        rows: torch.Tensor,
        times: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        are_twins: bool = False,
    ) -> torch.Tensor:
        """The UNet's answer [B, 4, h, w] for rows [B, c, h, w], times [B, …] and conditions [B, …]; it must be there.

        are_twins: rows 2k and 2k + 1 have the same latents and time.
        """
        if are_twins and times.ndim == 2 and self.unet.shares:
            times = self.unet.of_twins(times)
        if self.in_pairs and len(rows) % 2:
            return self.predict(*in_pairs(rows, times, conditions))[: len(rows)]
        if self.captured is None or not self.residence.stays("unet"):
            return self.unet(rows, times, **conditions, return_dict=False)[0]
        call = partial(self.captured, self.unet, rows, times, conditions)
        answer = tried(call)
        if isinstance(answer, RuntimeError) and self.residence.spared():  # recordings, which are only to be faster
            answer = tried(call)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    def predict_in_parts(self, *inputs: Any) -> list[torch.Tensor]:
        """The UNet's answers for inputs as of `predict`, in as few parts as the memory allows, down to one row."""
        rows = len(inputs[0])
        if rows == 1 or not self.is_too_much(inputs[0]):
            answer = tried(lambda: self.predict(*inputs))
            if not isinstance(answer, RuntimeError):
                return [answer]
            if rows == 1:
                raise answer
            self.was_too_much(inputs[0])
            empty_cache()
        half = rows // 4 * 2 or rows // 2  # twins stay together
        halves = slice(half), slice(half, None)
        return [answer for part in halves for answer in self.predict_in_parts(*cut(inputs, part))]

    def pipeline(self, task: str, scheduler: Any) -> Any:
        """The diffusers pipeline of `task` over these very weights, with its own `scheduler`."""
        parts = {**self.components, "scheduler": scheduler}
        if task == SuperResolution.task:
            is_x4 = "low_res_scheduler" in parts
            return (StableDiffusionUpscalePipeline if is_x4 else StableDiffusionLatentUpscalePipeline)(**parts)
        return _PIPELINES[task](**parts, requires_safety_checker=False)
