"""A starting point for the autoencoder from which it can be trained in minutes: it already knows block averages.

From random weights the colour of a flat area takes hundreds of steps to find its way through the normalisations.
Here seven channels of every layer carry it from the start: +RGB, -RGB and a constant. SiLU(x) - SiLU(-x) = x, so a
pair of signs passes the activations unchanged, and the constant is what the normalisation is measured against.
Residual branches start at zero (Goyal et al., arXiv 1706.02677) and learn the detail.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

CARRIED = 7  # channels: +R +G +B -R -G -B constant
START_LOG_VARIANCE = -8.0


@torch.no_grad()
def initialise(vae: AutoencoderKL) -> None:
    """Set the weights of a fresh `vae` so that it encodes and decodes the average colour of 8x8 blocks."""
    encoder, decoder = vae.encoder, vae.decoder
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut)
    _split_signs(encoder.conv_in)
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or ():
            _carry(sampler.conv, taps=((0, 0), (0, 1), (1, 0), (1, 1)))  # padded right and below: the 2x2 average
    _join_signs(encoder.conv_out)
    means = encoder.conv_out.out_channels // 2
    encoder.conv_out.weight[means:] = 0.0
    encoder.conv_out.bias[means:] = START_LOG_VARIANCE
    for conv in (vae.quant_conv, vae.post_quant_conv):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    _split_signs(decoder.conv_in)
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or ():
            _carry(sampler.conv)
    _join_signs(decoder.conv_out)


def _carry(conv: torch.nn.Conv2d, taps: tuple[tuple[int, int], ...] | None = None) -> None:
    """Pass the carried channels on, averaged over `taps` (by default the middle one)."""
    height, width = conv.kernel_size
    taps = taps or ((height // 2, width // 2),)
    _emptied(conv, CARRIED)
    for channel in range(CARRIED):
        for y, x in taps:
            conv.weight[channel, channel, y, x] = 1.0 / len(taps)


def _split_signs(conv: torch.nn.Conv2d) -> None:
    bias = _emptied(conv, CARRIED)
    for colour in range(3):
        conv.weight[colour, colour, 1, 1] = 1.0
        conv.weight[colour + 3, colour, 1, 1] = -1.0
    bias[CARRIED - 1] = 1.0


def _join_signs(conv: torch.nn.Conv2d) -> None:
    _emptied(conv, 3)
    for colour in range(3):
        conv.weight[colour, colour, 1, 1] = 0.5
        conv.weight[colour, colour + 3, 1, 1] = -0.5


def _emptied(conv: torch.nn.Conv2d, channels: int) -> torch.Tensor:
    """Set the first output channels of `conv` to nothing; returns its bias."""
    assert conv.bias is not None, "every convolution of the autoencoder has a bias"
    conv.weight[:channels] = 0.0
    conv.bias[:channels] = 0.0
    return conv.bias
