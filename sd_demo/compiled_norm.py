"""Group norms as a compiler makes good kernels of them where channels are kept together.

PyTorch's asks for each channel in one piece. Of Stable Diffusion 1.5's UNet at 512x512, two rows in float16, Inductor
(PyTorch 2.11, for a Hopper, whose code it writes without one) makes four kernels for each of the 61 norms, three of
them to add up, and has what they read of a concatenation in that layout; of what stands here three, and all stays
together: 272 kernels of its own a step, where there were 311 (a script of the moment). Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch


class TogetherNorm(torch.nn.GroupNorm):
    """The same numbers but for last bits: sums and sums of squares in float32, along the channels first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W], channels together, to the same; other shapes, and without a compiler, as ever."""
        if x.ndim != 4 or not torch.compiler.is_compiling():
            return super().forward(x)
        rows, channels, height, width = x.shape
        groups, each = self.num_groups, channels // self.num_groups
        values = x.permute(0, 2, 3, 1).float()
        sums = torch.stack((values.sum(2), values.square().sum(2)))  # [2, B, H, C], in one pass
        mean, square = sums.view(2, rows, height, groups, each).sum((2, 4)) / (height * width * each)  # [B, G] each
        scale = torch.rsqrt((square - mean.square()).clamp(min=0) + self.eps)  # [B, G]
        scale, mean = (
            one[:, :, None].expand(rows, groups, each).reshape(rows, 1, 1, channels) for one in (scale, mean)
        )
        answer = (values - mean) * (scale * self.weight.float()) + self.bias.float()
        return answer.to(x.dtype).permute(0, 3, 1, 2)


def keep_norms_together(unet: Any) -> None:
    """Let the group norms of diffusers' `UNet2DConditionModel`, in the layout channels_last, be such from now on."""
    for module in unet.modules():
        if type(module) is torch.nn.GroupNorm and module.affine:
            module.__class__ = TogetherNorm
