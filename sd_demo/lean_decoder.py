"""A decoder that holds less at its widest: norms that keep channels together, and activations in place.

On CUDA PyTorch's group norm answers in its own layout (aten/src/ATen/native/group_norm.cpp), and the convolution after
it copies that back. With the copy, the input that waits to be added and the activation's input, the first block at full
size then holds seven maps of its output's size; here five. At 512x512 a map is 64 MiB, in float16.
"""

from __future__ import annotations

from typing import Any, Final

import torch

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


def make_lean(decoder: Any) -> None:
    """Let diffusers' `Decoder` decode with less memory from now on, and without gradients."""
    for module in decoder.modules():
        if type(module) is torch.nn.GroupNorm:
            module.__class__ = LeanGroupNorm
        for name in ("nonlinearity", "conv_act"):
            if isinstance(getattr(module, name, None), torch.nn.SiLU):
                setattr(module, name, torch.nn.SiLU(inplace=True))  # its input, a norm's answer, is read by nobody else
