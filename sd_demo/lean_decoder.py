"""A decoder that holds less at its widest: norms that keep channels together, activations and sums in place.

On CUDA PyTorch's group norm answers in its own layout (aten/src/ATen/native/group_norm.cpp), and the convolution after
it copies that back. With the copy, the input that waits to be added and the activation's input, the first block at full
size then holds seven maps of its output's size. Without the copy diffusers' own has six, at the sum that ends the
block, and this one five and a half, at the upsampling before it (counted by tests/test_lean_decoder.py). At 512x512 a
map is 64 MiB, in float16.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers.models.resnet import ResnetBlock2D

PARTS: Final = 4  # in which a norm's groups are taken; each part is in memory twice more while it is


class LeanGroupNorm(torch.nn.GroupNorm):
    """The same numbers, group by group; the answer has its input's layout. Not for training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same shape; other shapes as ever."""
        parts = min(PARTS, self.num_groups)
        is_together = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if not is_together or x.is_contiguous() or self.num_groups % parts:
            return super().forward(x)
        answer = torch.empty_like(x)
        groups, width = self.num_groups // parts, self.num_channels // parts
        for start in range(0, self.num_channels, width):
            part = slice(start, start + width)
            weight, bias = (None if value is None else value[part] for value in (self.weight, self.bias))
            answer[:, part] = torch.nn.functional.group_norm(x[:, part], groups, weight, bias, self.eps)
        return answer


class LeanResnetBlock(ResnetBlock2D):
    """The same numbers, added up in the memory of the last convolution's answer. Only of blocks of a decoder."""

    def forward(self, x: torch.Tensor, temb: None = None) -> torch.Tensor:
        """[B, C, H, W] to [B, D, H, W]."""
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden = self.nonlinearity(self.norm2(hidden))  # by itself: what it was made of is gone before more is made
        hidden = self.conv2(hidden)
        hidden += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return hidden if self.output_scale_factor == 1.0 else hidden.div_(self.output_scale_factor)


def make_lean(decoder: Any, *, has_own_norms: bool) -> None:
    """Let diffusers' `Decoder` decode with less memory from now on, and without gradients.

    has_own_norms: its group norms too; a CPU's keep channels together by themselves.
    """
    for module in decoder.modules():
        others = ("upsample", "downsample", "time_emb_proj")  # of blocks elsewhere
        if type(module) is ResnetBlock2D and all(getattr(module, name) is None for name in others):
            module.__class__ = LeanResnetBlock
        if has_own_norms and type(module) is torch.nn.GroupNorm:
            module.__class__ = LeanGroupNorm
        for name in ("nonlinearity", "conv_act"):
            if isinstance(getattr(module, name, None), torch.nn.SiLU):
                setattr(module, name, torch.nn.SiLU(inplace=True))  # its input, a norm's answer, is read by nobody else
