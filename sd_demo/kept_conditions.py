"""What a UNet makes of a prompt alone, or of a time alone, made once and kept.

Cross-attention's keys and values follow from the prompt, and what a residual block adds for the time follows from the
timestep: neither changes from step to step, nor by who shares the call. They are made when a request begins and go the
ways that the prompt's embeddings and the times go, a layer's part beside the next one's. A layer which gets that takes
its part, and one which gets what it always got computes as ever: trainings, lessons and LoRAs notice nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D

from sd_demo.architectures import MAX_TOKENS
from sd_demo.twin_rows import let_share

BLOCKS: Final = {"DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D"}
OTHERS: Final = ("class_embedding", "add_embedding", "encoder_hid_proj", "time_embed_act")  # what reads the same inputs


class _Kept:
    part = slice(0)  # of what is kept for all layers, in its last dimension
    whole = 0  # the width of all together


class _Projection(_Kept, torch.nn.Linear):
    """Keys or values of a cross-attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 77, D] or what is kept, [B, 77, whole], to [B, 77, C]."""
        return x[..., self.part] if x.shape[-1] == self.whole else super().forward(x)


class _Residual(_Kept, ResnetBlock2D):
    """Adds in place, and divides only by what is not 1."""

    def forward(self, x: torch.Tensor, temb: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        """[B, C, H, W] to [B, D, H, W]; temb: of the time [B, E], or what is kept, [B, whole]."""
        if temb.shape[-1] not in (self.whole, self.whole + 1):
            return super().forward(x, temb, *args, **more)
        if temb.shape[0] != x.shape[0]:  # of twins one is here
            temb = temb[::2]
        # Asked first, a convolution decides how a compiler lays out what it reads; last, it takes less memory.
        early = self.conv_shortcut(x) if self.conv_shortcut is not None and torch.compiler.is_compiling() else None
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden += temb[:, self.part, None, None]
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        hidden += early if early is not None else x if self.conv_shortcut is None else self.conv_shortcut(x)
        return hidden if self.output_scale_factor == 1.0 else hidden.div_(self.output_scale_factor)


class _Embedding(TimestepEmbedding):
    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Of sines [B, S], or what is kept as it is."""
        return super().forward(sample, condition) if sample.shape[-1] == self.linear_1.in_features else sample


class KeepingUnet(UNet2DConditionModel):
    """A UNet whose prompts and times can be given as what it makes of them; see `let_keep`."""

    shares = False  # takes twins as such (twin_rows.py)

    def get_time_embed(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor | None:
        """Sines of times, or what is kept for them, [B, whole], as it is."""
        if torch.is_tensor(timestep) and timestep.ndim == 2:
            return timestep
        return super().get_time_embed(sample, timestep)

    @torch.inference_mode()
    def of_prompts(self, embeds: torch.Tensor) -> torch.Tensor:
        """[B, 77, D] to what it takes in their place, [B, 77, whole]; as they are where a LoRA wraps a layer.

        As they are, too, of longer prompts: Stable Diffusion 1.5 makes 24,960 numbers of a token's 768.

        Each row is made by itself, so that it is the same whatever rows there are.
        """
        layers = _projections(self)
        if embeds.shape[1] > MAX_TOKENS or not all(type(layer) is _Projection for layer in layers):
            return embeds
        return torch.cat([torch.cat([layer(row) for layer in layers], dim=-1) for row in embeds.split(1)])

    @torch.inference_mode()
    def of_times(
        self, times: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Times [T] to what it takes in their place, [T, whole], and the conditions that are left beside it.

        A distilled UNet's "timestep_cond" [B, G], alike in all rows, is in what is kept. As they are where a LoRA wraps
        a layer.
        """
        residuals = _residuals(self)
        layers = [residual.time_emb_proj for residual in residuals]
        if not all(type(layer) is torch.nn.Linear for layer in layers):
            return times, conditions
        left = dict(conditions)
        distilled = left.pop("timestep_cond", None)
        sines = super().get_time_embed(times.new_empty(len(times), dtype=self.dtype), times)
        embedded = self.time_embedding(sines, None if distilled is None else distilled[:1])
        active = residuals[0].nonlinearity(embedded)
        return torch.cat([layer(active) for layer in layers], dim=-1), left

    def of_twins(self, times: torch.Tensor) -> torch.Tensor:
        """What is kept for times, [B, whole], with the mark that rows 2k and 2k + 1 have the same latents and time."""
        return torch.nn.functional.pad(times, (0, 1))


def let_keep(unet: Any, *, shares: bool) -> None:
    """Make a `KeepingUnet` of diffusers' `UNet2DConditionModel`, if it has the parts of a Stable Diffusion v1 or v2.

    shares: it takes twins as such (twin_rows.py), where there is much to compute for each and last bits do not count.
    It is for drawing alone: `save_pretrained` would write a class that diffusers does not know.
    """
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    if type(unet) is not UNet2DConditionModel or not {type(block).__name__ for block in blocks} <= BLOCKS:
        return
    transformers = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    residuals, projections = _residuals(unet), _projections(unet)
    is_known = (
        all(getattr(unet, name, None) is None for name in OTHERS)
        and all(type(layer) is torch.nn.Linear for layer in projections)
        and not any(block.only_cross_attention for block in transformers)
        and not any(block.attn2.norm_cross or block.attn2.added_kv_proj_dim for block in transformers)
        and all(type(block) is ResnetBlock2D and block.time_embedding_norm == "default" for block in residuals)
        and not any(block.skip_time_act or block.up or block.down for block in residuals)
    )
    if not is_known:
        return
    of_prompts = [layer.out_features for layer in projections]
    of_times = [residual.time_emb_proj.out_features for residual in residuals]
    # A layer knows what it gets by its width alone.
    if sum(of_prompts) in {layer.in_features for layer in projections}:
        return
    narrow = {unet.time_embedding.linear_1.in_features, residuals[0].time_emb_proj.in_features}
    if narrow & {sum(of_times), sum(of_times) + 1}:
        return
    _take_parts(projections, of_prompts, _Projection)
    _take_parts(residuals, of_times, _Residual)
    unet.time_embedding.__class__, unet.__class__ = _Embedding, KeepingUnet
    unet.shares = let_share(unet.down_blocks, sum(of_times) + 1) and shares


def _projections(unet: Any) -> list[Any]:
    """The layers of keys and values as they are now: a LoRA takes their places."""
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    return [layer for block in blocks for layer in (block.attn2.to_k, block.attn2.to_v)]


def _residuals(unet: Any) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]


def _take_parts(layers: Sequence[Any], widths: Sequence[int], kind: type[_Kept]) -> None:
    start = 0
    for layer, width in zip(layers, widths, strict=True):
        layer.__class__ = kind
        layer.part, layer.whole = slice(start, start + width), sum(widths)
        start += width
