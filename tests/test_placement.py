"""In which precision a model runs: chosen by the processor, and alike at every start."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_demo import placement
from sd_demo.errors import InvalidRequest
from sd_demo.placement import choose_dtype, place
from sd_demo.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    placement._is_bfloat16_faster.cache_clear()
    before = dict(placement._chosen)
    placement._chosen.clear()
    yield
    placement._is_bfloat16_faster.cache_clear()
    placement._chosen.clear()
    placement._chosen.update(before)


def with_instructions(patch: pytest.MonkeyPatch, **has: bool) -> None:
    patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **has})


@pytest.mark.parametrize(
    ("has", "chosen"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
    ],
)
def test_instructions_decide_without_a_measurement(
    has: dict[str, bool], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_instructions(monkeypatch, **has)
    monkeypatch.setattr(placement, "fastest", lambda *_, **__: pytest.fail("nothing is to be measured here"))
    assert choose_dtype("auto", CPU) == chosen


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, torch.bfloat16), (0.9, torch.float32), (4.0, torch.float32)])
def test_else_the_clearly_faster_one_of_a_convolution_is_taken(
    ratio: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(call: functools.partial[torch.Tensor]) -> float:
        return ratio if call.func.weight.dtype == torch.bfloat16 else 1.0  # type: ignore[attr-defined]

    with_instructions(monkeypatch, bf16=True)
    monkeypatch.setattr(placement, "_seconds", seconds)
    assert choose_dtype("auto", CPU) == chosen


def test_what_was_asked_for_is_taken_and_float16_refused_on_a_cpu() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(InvalidRequest, match="float16 is too slow on a CPU"):
        choose_dtype("float16", CPU)


class Clock:
    """In place of the time of a call: plain attention is twice as slow, and work beside falls on the calls named."""

    def __init__(self, disturbed: range) -> None:
        self.disturbed, self.calls = disturbed, 0

    def __call__(self, call: functools.partial[None]) -> float:
        self.calls += 1
        own = {"sdpa": 1.0, "plain": 2.0}[call.args[1]]
        return own * (100 if self.calls in self.disturbed else 1)


def small_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).to(torch.bfloat16)  # fmt: skip


@pytest.mark.parametrize("first", [1, 6, 11])
def test_work_beside_the_measurement_does_not_choose_the_attention(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_seconds", Clock(range(first, first + 10)))
    assert place(small_unet(), Settings(), CPU, torch.bfloat16).attention == "sdpa"


def test_a_model_that_is_read_anew_gets_the_attention_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = place(small_unet(), Settings(), CPU, torch.bfloat16)
    monkeypatch.setattr(placement, "_seconds", lambda _: pytest.fail("what is known is not measured again"))
    assert chosen.attention != "sliced"
    again = small_unet()
    assert place(again, Settings(), CPU, torch.bfloat16) == chosen
    assert {type(processor) for processor in again.attn_processors.values()} == {
        type(placement._processor(chosen.attention))
    }


def test_an_attention_that_had_no_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(placement, "_attend", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
        assert place(small_unet(), Settings(), CPU, torch.bfloat16).attention == "sliced"
    assert place(small_unet(), Settings(), CPU, torch.bfloat16).attention != "sliced"
