"""A UNet's transformer blocks without the copies that nothing needs: the same numbers, fewer passes over them.

diffusers' `Transformer2DModel` answers in a layout of its own, which a convolution that keeps its channels together
copies back (last bits may follow from another layout), and its gated activation makes a third tensor for the product of
two. On a CPU, where most of the picture-book's operations are as short as a copy, that is felt (BENCHMARKS.md).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.transformers.transformer_2d import Transformer2DModel


class LeanTransformer(Transformer2DModel):
    """Keeps channels together where its neighbours do."""

    keeps_layout = False

    def _get_output_for_continuous_inputs(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, batch_size: int, height: int, width: int,
        inner_dim: int,
    ) -> torch.Tensor:  # fmt: skip
        """[B, H * W, D] and what came in, [B, C, H, W], to [B, C, H, W]."""
        if not self.keeps_layout:
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        hidden_states = hidden_states.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        if not self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        return hidden_states + residual


class LeanGeglu(GEGLU):
    """The product in the memory of the gate, which nobody else reads (https://arxiv.org/abs/2002.05202)."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[…, in] to […, out]."""
        hidden_states, gate = self.proj(hidden_states).chunk(2, dim=-1)
        return self.gelu(gate).mul_(hidden_states)


def make_lean_transformers(unet: Any) -> None:
    """Let the transformers of diffusers' `UNet2DConditionModel` be lean from now on, in the layout that it has now."""
    first = unet.conv_in.weight
    for module in unet.modules():
        if type(module) is Transformer2DModel and module.is_input_continuous:
            module.__class__ = LeanTransformer
            module.keeps_layout = not first.is_contiguous() and first.is_contiguous(memory_format=torch.channels_last)
        elif type(module) is GEGLU:
            module.__class__ = LeanGeglu
