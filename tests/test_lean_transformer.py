"""Lean transformer blocks: diffusers' own numbers, to the bit where its layout is kept, with fewer copies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode

from sd_demo.lean_transformer import LeanGeglu, LeanTransformer, make_lean_transformers
from sd_demo.placement import LeanAttention


def tiny(*, is_linear: bool = False) -> Any:
    """Stable Diffusion's blocks; is_linear: with version 2's projections."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=4, use_linear_projection=is_linear, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet.set_attn_processor(AttnProcessor2_0())
    return unet.eval()


def answer(unet: Any, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 4, 16, 16, generator=generator).to(unet.dtype)
    words = torch.randn(count, 7, 8, generator=generator).to(unet.dtype)
    return unet(rows, torch.arange(count) * 100.0, encoder_hidden_states=words, return_dict=False)[0]


class Copies(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def counted(unet: Any) -> Counter[str]:
    with torch.no_grad(), Copies() as copies:
        answer(unet)
    return copies.counts


@pytest.mark.parametrize("is_linear", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_numbers_are_diffusers_own(dtype: torch.dtype, layout: torch.memory_format, is_linear: bool) -> None:
    unet = tiny(is_linear=is_linear).to(dtype, memory_format=layout)
    expected = answer(unet)
    make_lean_transformers(unet)
    unet.set_attn_processor(LeanAttention())
    lean = [module for module in unet.modules() if type(module) is LeanTransformer]
    assert len(lean) == 4
    assert all(module.keeps_layout is (layout is torch.channels_last) for module in lean)
    assert not any(type(module) in (GEGLU, Transformer2DModel) for module in unet.modules())
    found = answer(unet)
    if layout is torch.contiguous_format:  # as larger models have it on a CPU
        assert torch.equal(found, expected)
    assert (found - expected).norm() / expected.norm() < (1e-6 if dtype == torch.float32 else 2e-2)


def test_channels_stay_together_and_nothing_is_divided_by_one() -> None:
    unet = tiny().to(memory_format=torch.channels_last)
    before = counted(unet)
    make_lean_transformers(unet)
    unet.set_attn_processor(LeanAttention())
    after = counted(unet)
    assert before["div"] - after["div"] == 8, "one for each attention"
    assert before["clone"] - after["clone"] >= 4, "one for each transformer"
    assert (before["mul"] - after["mul"], after["mul_"]) == (4, 4), "the gate's product is made in its place"


@torch.no_grad()
def test_an_attention_that_has_more_to_it_goes_diffusers_way() -> None:
    torch.manual_seed(0)
    x, words, picture = torch.randn(2, 6, 16), torch.randn(2, 5, 8), torch.randn(2, 16, 3, 2)
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({}, (x,)),
        ({"cross_attention_dim": 8}, (x, words)),
        ({"cross_attention_dim": 8}, (x, words, torch.tensor([[[0.0, 0, -9, -9, -9]], [[0.0, 0, 0, -9, -9]]]))),
        ({"residual_connection": True}, (x,)),
        ({"rescale_output_factor": 2.0}, (x,)),
        ({"norm_num_groups": 4}, (x,)),
        ({"qk_norm": "layer_norm"}, (x,)),
        ({"cross_attention_dim": 8, "cross_attention_norm": "layer_norm"}, (x, words)),
        ({}, (picture,)),
    ]
    for options, inputs in cases:
        layer = Attention(query_dim=16, heads=4, dim_head=4, **options).eval()
        layer.set_processor(AttnProcessor2_0())
        expected = layer(*inputs)
        layer.set_processor(LeanAttention())
        assert torch.equal(layer(*inputs), expected), options


def test_a_lora_is_worn_and_learned_as_ever() -> None:
    answers = []
    for is_lean in (False, True):
        unet = tiny()
        if is_lean:
            make_lean_transformers(unet)
            unet.set_attn_processor(LeanAttention())
        torch.manual_seed(1)
        targets = ["to_q", "to_v", "to_out.0", "ff.net.0.proj"]
        unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        found = answer(unet)
        found.square().mean().backward()
        grads = [p.grad for p in unet.parameters() if p.grad is not None]
        assert len(grads) > 30
        answers.append([found.detach(), *grads])
    for plain, lean in zip(*answers, strict=True):
        torch.testing.assert_close(lean, plain, rtol=1e-5, atol=1e-6)
    assert any(isinstance(module, LeanGeglu) for module in unet.modules())
