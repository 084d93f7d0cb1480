"""What is tuned for which device: looked at without one, as nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sd_demo import random_model
from sd_demo.compiled_norm import TogetherNorm
from sd_demo.kept_conditions import KeepingUnet
from sd_demo.lean_decoder import LeanGroupNorm, LeanResnetBlock
from sd_demo.lean_transformer import LeanTransformer
from sd_demo.row_independence import WholeBlocks
from sd_demo.tuned_networks import WINOGRAD_ROWS, must_rows_agree, tune
from sd_demo.winograd import WinogradConv2d

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture(autouse=True)
def _benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before


def tuned(device: torch.device, dtype: torch.dtype, *, is_embedded: bool) -> tuple[Any, Any, list[type]]:
    parts = random_model.build("sd-1.5", "tiny", dtype=dtype)
    tune(parts["unet"], parts["vae"], device, dtype, is_embedded=is_embedded)
    return parts["unet"], parts["vae"], [type(module) for module in parts["unet"].modules()]


@pytest.mark.parametrize("is_embedded", [False, True])
def test_on_a_gpu_channels_stay_together_everywhere(is_embedded: bool) -> None:
    unet, vae, kinds = tuned(CUDA, torch.float16, is_embedded=is_embedded)
    assert TogetherNorm in kinds
    assert torch.nn.GroupNorm not in kinds
    assert all(module.keeps_layout for module in unet.modules() if isinstance(module, LeanTransformer))
    assert any(isinstance(module, LeanGroupNorm) for module in vae.decoder.modules())
    assert type(unet) is KeepingUnet
    assert unet.shares is not is_embedded, "of a small UNet that was measured not to pay"
    assert WholeBlocks not in kinds
    assert torch.backends.cudnn.benchmark


def test_on_a_cpu_larger_models_round_as_diffusers_does() -> None:
    unet, vae, kinds = tuned(CPU, torch.float32, is_embedded=False)
    assert TogetherNorm not in kinds
    assert not any(module.keeps_layout for module in unet.modules() if isinstance(module, LeanTransformer))
    assert unet.conv_in.weight.is_contiguous()
    assert not any(isinstance(module, LeanGroupNorm) for module in vae.modules())
    assert any(isinstance(module, LeanResnetBlock) for module in vae.decoder.modules())
    assert type(unet) is KeepingUnet
    assert not unet.shares


@pytest.mark.parametrize(("device", "dtype", "is_tried"), [
    (CPU, torch.bfloat16, True), (CPU, torch.float32, False), (CUDA, torch.bfloat16, False), (MPS, torch.float16, False)
])  # fmt: skip
def test_rows_are_made_alike_where_the_picture_book_is_in_bfloat16_on_a_cpu(
    device: torch.device, dtype: torch.dtype, is_tried: bool
) -> None:
    assert must_rows_agree(device, dtype, is_embedded=True) is is_tried
    assert not must_rows_agree(device, dtype, is_embedded=False)
    _, _, kinds = tuned(device, dtype, is_embedded=True)
    assert (WholeBlocks in kinds) is is_tried
    assert LeanTransformer in kinds or any(issubclass(kind, LeanTransformer) for kind in kinds)


@pytest.mark.parametrize(("device", "dtype", "is_embedded", "is_tuned"), [
    (CPU, torch.float32, True, True), (CPU, torch.bfloat16, True, False), (CPU, torch.float32, False, False),
    (CUDA, torch.float32, True, False), (MPS, torch.float32, True, False),
])  # fmt: skip
def test_the_picture_book_in_float32_on_a_cpu_has_fewer_multiplications(
    device: torch.device, dtype: torch.dtype, is_embedded: bool, is_tuned: bool
) -> None:
    parts = random_model.build("sd-1.5", "tiny", dtype=dtype)
    parts["unet"] = UNet2DConditionModel.from_config({**parts["unet"].config, "block_out_channels": (64, 64, 64, 64)})
    parts["vae"] = AutoencoderKL.from_config({**parts["vae"].config, "block_out_channels": (64, 64, 64, 64)})
    tune(parts["unet"], parts["vae"], device, dtype, is_embedded=is_embedded)
    of_unet, of_decoder, of_encoder = (
        {layer.from_rows for layer in network.modules() if isinstance(layer, WinogradConv2d)}
        for network in (parts["unet"], parts["vae"].decoder, parts["vae"].encoder)
    )
    assert of_unet == ({WINOGRAD_ROWS} if is_tuned else set()), "up to three pictures alone round as ever"
    assert of_decoder == ({1} if is_tuned else set())
    assert of_encoder == set(), "latents of a given picture are diffusers' own"


def test_where_small_products_may_be_slow_multiplications_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    parts = random_model.build("sd-1.5", "tiny", dtype=torch.float32)
    parts["vae"] = AutoencoderKL.from_config({**parts["vae"].config, "block_out_channels": (64, 64, 64, 64)})
    tune(parts["unet"], parts["vae"], CPU, torch.float32, is_embedded=True)
    assert not any(isinstance(layer, WinogradConv2d) for layer in parts["vae"].modules())


def test_a_decoder_stays_as_it_is_on_an_apple_gpu() -> None:
    _, vae, _ = tuned(MPS, torch.float16, is_embedded=False)
    assert not any(isinstance(module, LeanResnetBlock | LeanGroupNorm) for module in vae.modules())
