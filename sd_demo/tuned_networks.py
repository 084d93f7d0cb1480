"""A model's networks as they were read, made fast and small for the device that they will draw on.

Each of these gives the same numbers, or says where it is allowed not to. None is for saving. A LoRA is trained on a
UNet that is tuned so (tests/test_lean_transformer.py); the weights themselves are not.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from sd_demo.compiled_norm import keep_norms_together
from sd_demo.kept_conditions import let_keep
from sd_demo.lean_decoder import make_lean
from sd_demo.lean_transformer import make_lean_transformers
from sd_demo.placement import lay_out
from sd_demo.row_independence import use_whole_blocks
from sd_demo.winograd import use_winograd

WINOGRAD_ROWS: Final = 8
"""Rows of a UNet call from which on convolutions are Winograd's. Calls of fewer, so of up to three pictures with
guidance, round as diffusers' own do in the same layout: at a guidance of 7.5 five steps of pndm make 2e-4 of last bits,
and tests/test_denoising.py allows 1e-4."""


def must_rows_agree(device: torch.device, dtype: torch.dtype, *, is_embedded: bool) -> bool:
    """Whether each row of a UNet call must be answered alike, bit for bit, whoever shares it (row_independence.py).

    Of the picture-book in bfloat16, where a last bit makes another picture after some steps.
    """
    return is_embedded and device.type == "cpu" and dtype == torch.bfloat16


def tune(unet: Any, vae: Any, device: torch.device, dtype: torch.dtype, *, is_embedded: bool) -> None:
    """Tune diffusers' `UNet2DConditionModel` and `AutoencoderKL`, which will run on `device` in `dtype`."""
    lay_out(unet, vae, device, is_embedded=is_embedded)
    make_lean_transformers(unet)
    if must_rows_agree(device, dtype, is_embedded=is_embedded):
        use_whole_blocks(unet)
    # Elsewhere small products may run one after another; not measured.
    has_fast_products = device.type == "cpu" and torch.backends.mkl.is_available()
    if is_embedded and has_fast_products and dtype == torch.float32:
        use_winograd(unet, from_rows=WINOGRAD_ROWS)
        use_winograd(vae.decoder)
    if device.type != "mps":  # not tried there
        make_lean(vae.decoder, has_own_norms=device.type == "cuda")
    if device.type == "cuda":
        keep_norms_together(unet)
    let_keep(unet, shares=device.type != "cpu" and not is_embedded)
