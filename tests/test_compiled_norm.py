"""Group norms for a compiler: PyTorch's numbers in the layout of their input, and only where one compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_demo import random_model
from sd_demo.compiled_norm import TogetherNorm
from sd_demo.lean_transformer import LeanTransformer
from sd_demo.placement import LeanAttention
from sd_demo.tuned_networks import tune


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def norms(channels: int, groups: int, dtype: torch.dtype) -> tuple[torch.nn.GroupNorm, torch.nn.GroupNorm]:
    """PyTorch's and ours, with the same weights."""
    torch.manual_seed(0)
    plain = torch.nn.GroupNorm(groups, channels, eps=1e-6).to(dtype)
    torch.nn.init.normal_(plain.weight, 1.0, 0.3)
    torch.nn.init.normal_(plain.bias)
    ours = torch.nn.GroupNorm(groups, channels, eps=1e-6).to(dtype)
    ours.load_state_dict(plain.state_dict())
    ours.__class__ = TogetherNorm
    return plain, ours


def compiled(network: torch.nn.Module) -> Any:
    """As a compiler sees it, without one's last step."""
    return torch.compile(network, backend="eager", fullgraph=True, dynamic=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups", "side"), [(32, 32, 8), (40, 4, 16), (64, 8, 5), (24, 1, 1)])
@torch.no_grad()
def test_the_numbers_are_pytorchs_and_channels_stay_together(
    channels: int, groups: int, side: int, dtype: torch.dtype
) -> None:
    plain, ours = norms(channels, groups, dtype)
    x = (torch.randn(3, channels, side, side + 1) * 2 + 5).to(dtype, memory_format=torch.channels_last)
    exact = torch.nn.functional.group_norm(x.double(), groups, plain.weight.double(), plain.bias.double(), plain.eps)
    found = compiled(ours)(x)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    error, own = (float((one.double() - exact).norm() / exact.norm()) for one in (found, plain(x)))
    assert error < max(2e-5, 1.2 * own), "sums of squares lose a little in float32, which rounding hides else"
    twins = torch.randn(6, channels, side, side).to(dtype, memory_format=torch.channels_last)[::2]
    torch.testing.assert_close(compiled(ours)(twins), plain(twins), rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_a_channel_that_is_the_same_everywhere_is_no_root_of_a_negative_number() -> None:
    plain, ours = norms(8, 8, torch.float32)
    x = torch.full((2, 8, 16, 16), 1000.1)
    found = compiled(ours)(x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, plain(x), rtol=0, atol=0.5)  # a float32's rounding of 1000, over a root of 1e-6


@torch.no_grad()
def test_without_a_compiler_it_is_pytorchs_own() -> None:
    plain, ours = norms(32, 4, torch.float32)
    for x in (torch.randn(2, 32, 4, 4).to(memory_format=torch.channels_last), torch.randn(2, 32, 7)):
        assert torch.equal(ours(x), plain(x))
    words = torch.randn(2, 32, 7)
    assert torch.equal(compiled(ours)(words), plain(words)), "and of other shapes with one"


@torch.no_grad()
def test_a_whole_unet_answers_alike_when_it_is_compiled() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet = unet.eval().to(memory_format=torch.channels_last)
    rows, words = torch.randn(4, 4, 16, 16), torch.randn(4, 7, 8)
    expected = unet(rows, torch.full((4,), 7.0), encoder_hidden_states=words).sample
    vae = random_model.build("sd-1.5", "tiny")["vae"]
    before = torch.backends.cudnn.benchmark
    tune(unet, vae, torch.device("cuda"), torch.float16, is_embedded=False)  # all that a compiler meets on a GPU
    torch.backends.cudnn.benchmark = before
    unet.set_attn_processor(LeanAttention())
    assert any(module.keeps_layout for module in unet.modules() if isinstance(module, LeanTransformer))
    assert sum(type(module) is TogetherNorm for module in unet.modules()) > 15
    assert not any(type(module) is torch.nn.GroupNorm for module in unet.modules())
    times, conditions = unet.of_times(torch.full((4,), 7.0), {"encoder_hidden_states": unet.of_prompts(words)})
    order: list[str] = []
    block = unet.up_blocks[0].resnets[0]
    for name in ("conv_shortcut", "conv1"):
        getattr(block, name).register_forward_pre_hook(lambda *_, name=name: order.append(name))
    for network in (unet, compiled(unet)):
        found = network(rows, times, **conditions, return_dict=False)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    twins = rows[::2].repeat_interleave(2, dim=0)
    expected = unet(twins, times, **conditions, return_dict=False)[0]
    found = compiled(unet)(twins, unet.of_twins(times), **conditions, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert order[:4] == ["conv1", "conv_shortcut", "conv_shortcut", "conv1"], "compiled, the shortcut comes first"
