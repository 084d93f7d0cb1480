"""A guided picture's two rows, without its prompt and with it, are one until the first cross-attention.

They have the same latents and the same time, and only the prompt tells them apart. Where a UNet call has nothing but
such twins, one beside the other, its first layers run on every second row, and what they made stands twice from where
the prompt is heard. The answer is the same but for last bits. Of the 1,601 GFLOP of Stable Diffusion 1.5's step at
512x512 it saves 41 (counted by PyTorch's FlopCounterMode); of the picture-book's, where copying costs as much as that
saves, nothing (BENCHMARKS.md). It is for GPUs: on a CPU, in float32, larger models' latents are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, DownBlock2D

from sd_demo.lean_transformer import LeanTransformer


def twice(x: torch.Tensor) -> torch.Tensor:
    """[B, …] to [2B, …], each row twice, one beside the other; in the same layout."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).repeat_interleave(2, dim=0).permute(0, 3, 1, 2)
    return x.repeat_interleave(2, dim=0)


class _Block:
    mark = 0  # the width of what is kept for times where rows are twins

    def one_of_two(self, x: torch.Tensor, temb: torch.Tensor | None) -> torch.Tensor | None:
        """Of twins [2B, …] one each, of what is that already the same, [B, …]; None of other rows."""
        if temb is None or temb.shape[-1] != self.mark:
            return None
        return x[::2] if x.shape[0] == temb.shape[0] else x


class _Down(_Block, DownBlock2D):
    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor | None = None, *others: Any, **more: Any) -> Any:
        one = self.one_of_two(hidden_states, temb)
        if one is None:
            return super().forward(hidden_states, temb, *others, **more)
        answer, skipped = super().forward(one, temb, *others, **more)
        return answer, tuple(twice(x) for x in skipped)


class _CrossDown(_Block, CrossAttnDownBlock2D):
    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor | None = None, *others: Any, **more: Any) -> Any:
        one = self.one_of_two(hidden_states, temb)
        return super().forward(hidden_states if one is None else one, temb, *others, **more)


class _Transformer(LeanTransformer):
    """The first that hears the prompt: [B, C, H, W] and a prompt of 2B rows to [2B, C, H, W]."""

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, *others: Any, **more: Any
    ) -> Any:
        words, count = encoder_hidden_states, hidden_states.shape[0]
        if words is None or words.shape[0] == count:
            return super().forward(hidden_states, words, *others, **more)
        height, width = hidden_states.shape[2:]
        tokens, inner_dim = self._operate_on_continuous_inputs(hidden_states)
        first, *blocks = self.transformer_blocks
        tokens = twice(first.attn1(first.norm1(tokens)) + tokens)
        tokens = first.attn2(first.norm2(tokens), encoder_hidden_states=words) + tokens
        tokens = first.ff(first.norm3(tokens)) + tokens
        for block in blocks:
            tokens = block(tokens, encoder_hidden_states=words)
        return (
            self._get_output_for_continuous_inputs(
                tokens, twice(hidden_states), 2 * count, height, width, inner_dim=inner_dim
            ),
        )


def let_share(down_blocks: Sequence[Any], mark: int) -> bool:
    """Let a UNet's `down_blocks` take twins as such where what they get for the time is `mark` wide.

    False where they are others than a Stable Diffusion v1's or v2's.
    """
    kinds = [type(block) for block in down_blocks]
    if CrossAttnDownBlock2D not in kinds:
        return False
    first = kinds.index(CrossAttnDownBlock2D)
    heard = down_blocks[first].attentions[0]
    begins = heard.transformer_blocks[0]
    is_known = (
        type(heard) in (Transformer2DModel, LeanTransformer) and heard.is_input_continuous
        and begins.norm_type == "layer_norm" and begins.pos_embed is None and begins._chunk_size is None
        and all(kind is DownBlock2D for kind in kinds[:first])
    )  # fmt: skip
    if is_known:
        for block in down_blocks[: first + 1]:
            block.__class__ = _CrossDown if block is down_blocks[first] else _Down
            block.mark = mark
        heard.__class__ = _Transformer
    return is_known
