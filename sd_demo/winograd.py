"""Convolutions of 3x3 pixels with a quarter of the multiplications: Winograd's F(4x4, 3x3).

4x4 numbers of an answer follow from 6x6 of the input by 144 products; of transforms of both, 36 are enough. They are
summed over the channels before the answer is transformed back, so that nearly all the work is 36 matrix products (Lavin
and Gray 2015, https://arxiv.org/abs/1509.09308). PyTorch's library for CPUs computes the 144 in float32, as fast as
the processor can; where channels are many this takes half of its time (BENCHMARKS.md). Its points are not the paper's:
with those rounding errors are twice as large (Barabasz et al. 2018, https://arxiv.org/abs/1803.10986, tells why), with
these five times the ordinary convolution's, a millionth of the answer. The transformed weights take four times the
memory of the weights.

Where the input is each pixel twice over, in both directions, 4x4 of it hold the 6x6, and it need not be made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers.models.upsampling import Upsample2D

FROM_WIDTH: Final = 64  # channels of input and answer from which on the transforms pay, by measurement
POINTS: Final = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)  # at which polynomials are multiplied, infinity the sixth
_TWICE: Final = (0, 1, 1, 2, 2, 3)  # which of four pixels each of the six is, where each is there twice


def _transforms() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of six pixels [6, 6], three weights [6, 3] and six products [4, 6]; the products' sum of each row is one of four.

    Weights and answers are polynomials, w and y: the answer's values at the points are the products. The input's
    matrix is the transpose of what makes coefficients of values, Lagrange's polynomials.
    """
    count = len(POINTS) + 1
    weight, answer, pixels = (
        torch.zeros(size, dtype=torch.float64) for size in ((count, 3), (4, count), (count, count))
    )
    for index, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        powers = torch.tensor([point**power for power in range(4)], dtype=torch.float64)
        weight[index] = powers[:3] / math.prod(point - other for other in others)
        answer[:, index] = powers
        pixels[index, : count - 1] = _with_roots(others)
    weight[-1, -1] = answer[-1, -1] = 1.0
    pixels[-1] = _with_roots(POINTS)
    return pixels, weight, answer


def _with_roots(roots: Sequence[float]) -> torch.Tensor:
    """The coefficients of a polynomial, of its lowest power first."""
    made = torch.ones(1, dtype=torch.float64)
    for root in roots:
        made = torch.nn.functional.pad(made, (1, 0)) - root * torch.nn.functional.pad(made, (0, 1))
    return made


def _both_ways(matrix: torch.Tensor) -> torch.Tensor:
    """For rows and columns at once: [n, m] to [n * n, m * m]."""
    return torch.kron(matrix, matrix).float()


_pixels, _weight, _answer = _transforms()
INPUT, ANSWER = _both_ways(_pixels), _both_ways(_answer)
HALF = _both_ways(_pixels @ torch.eye(4, dtype=torch.float64)[list(_TWICE)])


class WinogradConv2d(torch.nn.Conv2d):
    """The same numbers but for rounding. Where gradients are wanted, or in another precision, it computes as ever."""

    tiles: torch.Tensor  # [36, C, D]; of no state_dict
    from_rows = math.inf  # of a layer without tiles: peft makes a LoRA's own by the class of the one they are for

    def is_meant_for(self, x: torch.Tensor) -> bool:
        """Whether it answers `x` in Winograd's way."""
        if x.shape[0] < self.from_rows or torch.is_grad_enabled():
            return False
        return x.dtype == self.tiles.dtype == torch.float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, D, H, W]."""
        if not self.is_meant_for(x):
            return super().forward(x)
        return _convolve(x, self.tiles, self.bias, INPUT, step=4)


class WinogradUpsample(Upsample2D):
    """Each pixel twice over, in both directions, and a `WinogradConv2d` of that in one."""

    def forward(self, x: torch.Tensor, output_size: Any = None, *args: Any, **more: Any) -> torch.Tensor:
        """[B, C, H, W] to [B, D, 2H, 2W], or to another size asked for."""
        # A LoRA may stand in the convolution's place.
        if output_size is not None or type(self.conv) is not WinogradConv2d or not self.conv.is_meant_for(x):
            return super().forward(x, output_size, *args, **more)
        return _convolve(x, self.conv.tiles, self.conv.bias, HALF, step=2)


def use_winograd(network: Any, *, from_rows: int = 1) -> None:
    """Let the wide convolutions of a float32 `network` be Winograd's from now on, on a CPU.

    from_rows: of how many a call must have; those of fewer are answered as ever.
    """
    layers: list[Any] = [module for module in network.modules() if type(module) is torch.nn.Conv2d and _suits(module)]
    for layer in layers:
        layer.__class__ = WinogradConv2d
        layer.register_buffer("tiles", _transformed(layer.weight.detach()), persistent=False)
        layer.from_rows = from_rows
    for module in network.modules():
        is_plain = type(module) is Upsample2D and module.norm is None and module.interpolate
        if is_plain and type(getattr(module, "conv", None)) is WinogradConv2d:
            module.__class__ = WinogradUpsample


def _suits(layer: torch.nn.Conv2d) -> bool:
    ways = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    return ways == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and min(layer.weight.shape[:2]) >= FROM_WIDTH


def _transformed(weight: torch.Tensor) -> torch.Tensor:
    """[D, C, 3, 3] to [36, C, D]."""
    return torch.einsum("ai,bj,dcij->abcd", _weight, _weight, weight.double()).flatten(0, 1).float().contiguous()


def _convolve(
    x: torch.Tensor, tiles: torch.Tensor, bias: torch.Tensor | None, transform: torch.Tensor, step: int
) -> torch.Tensor:
    """[B, C, H, W] to [B, D, H * 4 / step, W * 4 / step]; transform: [36, n * n] of windows of n = step + 2 pixels."""
    batch, channels, height, width = x.shape
    rows, columns = (height + step - 1) // step, (width + step - 1) // step
    side, times = step + 2, 4 // step
    fill = (0, 0, 1, 1 + columns * step - width, 1, 1 + rows * step - height)
    filled = torch.nn.functional.pad(x.permute(0, 2, 3, 1), fill)
    windows = filled.unfold(1, side, step).unfold(2, side, step).permute(0, 1, 2, 4, 5, 3)  # [B, …, …, n, n, C]
    inputs = torch.matmul(transform, windows.reshape(-1, side * side, channels))  # [T, 36, C]
    del filled, windows  # each is as large as the answer, or larger
    products = torch.bmm(inputs.transpose(0, 1), tiles)  # [36, T, D]
    del inputs
    answers = torch.matmul(ANSWER, products.transpose(0, 1))  # [T, 16, D]
    del products
    if bias is not None:
        answers += bias
    answers = answers.view(batch, rows, columns, 4, 4, -1).permute(0, 1, 3, 2, 4, 5)
    whole = answers.reshape(batch, 4 * rows, 4 * columns, -1)
    return whole[:, : height * times, : width * times].permute(0, 3, 1, 2)
