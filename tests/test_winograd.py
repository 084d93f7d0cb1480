"""Winograd's convolutions give the ordinary ones' numbers with a quarter of the multiplications."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from sd_demo.winograd import FROM_WIDTH, WinogradConv2d, WinogradUpsample, use_winograd

SIZES = [(8, 8), (16, 12), (7, 9), (1, 1), (2, 3), (5, 4)]


def conv(channels: int = 64, made: int = 80, **more: Any) -> torch.nn.Conv2d:
    torch.manual_seed(0)
    return torch.nn.Conv2d(channels, made, 3, **{"padding": 1, **more}).requires_grad_(False)


def fast(layer: torch.nn.Module, from_rows: int = 1) -> torch.nn.Sequential:
    network = torch.nn.Sequential(copy.deepcopy(layer))
    use_winograd(network, from_rows=from_rows)
    return network


def flops(network: torch.nn.Module, x: torch.Tensor) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def is_close(found: torch.Tensor, layer: torch.nn.Module, x: torch.Tensor) -> bool:
    expected = copy.deepcopy(layer).double()(x.double())
    return found.shape == expected.shape and (found - expected).abs().max().item() <= 1e-5 * expected.std().item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_together", [True, False])
def test_the_numbers_are_those_of_the_ordinary_convolution(
    size: tuple[int, int], has_bias: bool, is_together: bool
) -> None:
    layer = conv(bias=has_bias)
    x = torch.randn(3, 64, *size, generator=torch.Generator().manual_seed(1))
    x = x.to(memory_format=torch.channels_last) if is_together else x
    network = fast(layer)
    assert type(network[0]) is WinogradConv2d
    before = x.clone()
    with torch.inference_mode():
        assert is_close(network(x), layer, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_twice_over_need_not_be_made(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Upsample2D(64, use_conv=True, out_channels=96).requires_grad_(False)
    network = fast(layer)
    x = torch.randn(2, 64, *size).to(memory_format=torch.channels_last)
    assert type(network[0]) is WinogradUpsample
    with torch.inference_mode():
        assert is_close(network(x), layer, x)
        odd = [2 * side - 1 for side in size]  # of a picture whose side is no multiple of what the UNet halves
        expected = layer.conv(torch.nn.functional.interpolate(x, size=odd, mode="nearest"))
        assert torch.allclose(network[0](x, odd), expected, atol=1e-4)


def test_a_quarter_of_the_multiplications_is_left() -> None:
    wide = conv(256, 256)
    x = torch.randn(1, 256, 16, 16)
    assert 0.25 < flops(fast(wide), x) / flops(wide, x) < 0.35
    doubled = Upsample2D(256, use_conv=True)
    assert 0.25 < flops(fast(doubled), x) / flops(doubled, x) < 0.35


def test_few_rows_are_answered_as_ever_to_the_last_bit() -> None:
    layer, doubled = conv(), Upsample2D(64, use_conv=True).requires_grad_(False)
    x = torch.randn(8, 64, 12, 12)
    for plain in (layer, doubled):
        network = fast(plain, from_rows=8)
        with torch.inference_mode():
            assert torch.equal(network(x[:7]), plain(x[:7]))
            assert not torch.equal(network(x), plain(x))
            assert is_close(network(x), plain, x)


def test_gradients_and_other_precisions_go_the_ordinary_way() -> None:
    layer = conv()
    x = torch.randn(1, 64, 8, 8, requires_grad=True)
    network = fast(layer)
    found = network(x)
    assert torch.equal(found, layer(x))
    found.sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        half = x.detach().bfloat16()
        assert torch.equal(fast(layer).bfloat16()(half), layer.bfloat16()(half))


@pytest.mark.parametrize(
    "other",
    [
        conv(FROM_WIDTH - 1), conv(made=FROM_WIDTH - 1), conv(stride=2), conv(padding=0), conv(dilation=2, padding=2),
        conv(groups=2), conv(padding_mode="circular"), torch.nn.Conv2d(64, 64, 1), torch.nn.Conv2d(64, 64, 5, padding=1)
    ],
)  # fmt: skip
def test_other_convolutions_stay_what_they_are(other: torch.nn.Conv2d) -> None:
    assert type(fast(other)[0]) is torch.nn.Conv2d


def test_no_file_gets_the_transformed_weights() -> None:
    layer = conv()
    assert fast(layer).state_dict().keys() == torch.nn.Sequential(layer).state_dict().keys()


@pytest.mark.parametrize("rows", [1, 8])
def test_a_lora_is_worn_and_trained(rows: int) -> None:
    """peft makes a LoRA's own layers by the class of the convolution, and these have no transformed weights."""
    network = fast(conv(made=64), from_rows=8)
    layer = LoraConfig(r=64, target_modules=["0"], init_lora_weights=False)
    worn = inject_adapter_in_model(layer, network)
    x = torch.randn(rows, 64, 8, 8)
    found = worn(x)
    found.sum().backward()
    assert all(weights.grad is not None for name, weights in worn.named_parameters() if "lora" in name)
    with torch.inference_mode():
        assert torch.allclose(worn(x), found, atol=1e-4)
        assert not torch.allclose(network[0].base_layer(x), found, atol=1e-2)


@pytest.mark.filterwarnings("ignore")  # PyTorch calls tracing deprecated, see traced_calls.py
def test_a_trace_answers_other_numbers_of_rows_and_sides() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = torch.nn.Sequential(fast(conv(made=64)), fast(Upsample2D(64, use_conv=True)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.of(x)

    both = Both().requires_grad_(False)
    with torch.inference_mode():
        trace = torch.jit.trace(both, (torch.randn(8, 64, 8, 8),), check_trace=False)
        for shape in ((16, 8, 8), (8, 16, 12), (9, 7, 5), (1, 1, 3)):
            x = torch.randn(shape[0], 64, *shape[1:])
            assert torch.equal(trace(x), both(x))


def test_a_lora_in_the_convolutions_place_is_asked() -> None:
    class Wearing(torch.nn.Module):
        def __init__(self, base: torch.nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: torch.Tensor) -> Any:
            return self.base(x) + 1.0

    doubled = Upsample2D(64, use_conv=True).requires_grad_(False)
    network = fast(doubled)
    network[0].conv = Wearing(network[0].conv)
    x = torch.randn(1, 64, 6, 6)
    with torch.inference_mode():
        assert torch.allclose(network(x), doubled(x) + 1.0, atol=1e-4)
