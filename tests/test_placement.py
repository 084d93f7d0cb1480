"""In which precision a model runs: chosen by the processor, and alike at every start."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_demo import placement
from sd_demo.errors import InvalidRequest
from sd_demo.placement import choose_device, choose_dtype, lay_out, place
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
    ],
)
def test_instructions_decide_without_a_measurement(
    has: dict[str, bool], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_instructions(monkeypatch, **has)
    monkeypatch.setattr(placement, "fastest", lambda *_, **__: pytest.fail("nothing is to be measured here"))
    assert choose_dtype("auto", CPU) == chosen


@pytest.mark.parametrize("name", ["bf16", "avx512_bf16"])
@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, torch.bfloat16), (0.9, torch.float32), (4.0, torch.float32)])
def test_else_the_clearly_faster_one_of_a_convolution_is_taken(
    ratio: float, name: str, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(call: functools.partial[torch.Tensor]) -> float:
        assert torch.get_num_threads() == 1
        return ratio if call.func.weight.dtype == torch.bfloat16 else 1.0  # type: ignore[attr-defined]

    before = torch.get_num_threads()
    with_instructions(monkeypatch, **{name: True})
    monkeypatch.setattr(placement, "_seconds", seconds)
    assert choose_dtype("auto", CPU) == chosen
    assert torch.get_num_threads() == before


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


@pytest.mark.parametrize("name", ["plain", "sliced"])
def test_each_attention_answers_as_any_other(name: str) -> None:
    torch.manual_seed(0)
    unet = small_unet().float()
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([900.0, 100.0]), torch.randn(2, 77, 32)
    answers = []
    for attention in ("sdpa", name):
        assert place(unet, Settings(attention=attention), CPU, torch.float32).attention == attention
        with torch.inference_mode():
            answers.append(unet(*inputs, return_dict=False)[0])
    assert torch.allclose(*answers, atol=1e-5)


def test_an_attention_that_cannot_run_is_said_and_no_other_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel for this device\nand much more")

    unet = small_unet()
    before = {type(one) for one in unet.attn_processors.values()}
    monkeypatch.setattr(placement, "_attend", fails)
    with pytest.raises(InvalidRequest) as caught:
        place(unet, Settings(attention="xformers"), CPU, torch.bfloat16)
    assert str(caught.value) == (
        "The attention xformers cannot run on cpu bfloat16 here (no kernel for this device); use --attention auto."
    )
    assert {type(one) for one in unet.attn_processors.values()} == before


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_is_taken_in_half_precision(
    has_cuda: bool, has_mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    device = choose_device("auto")
    assert device.type == chosen
    assert (choose_dtype("auto", device) == torch.float16) == (chosen != "cpu")
    for name, is_here in (("cuda", has_cuda), ("mps", has_mps)):
        if not is_here:
            with pytest.raises(InvalidRequest, match=f"There is no {name} device on this machine"):
                choose_device(name)


def test_on_cuda_channels_lie_together_and_algorithms_are_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    unet, vae = small_unet(), torch.nn.Conv2d(4, 8, 3)
    lay_out(unet, vae, CPU, is_embedded=False)
    assert not vae.weight.is_contiguous(memory_format=torch.channels_last)
    assert not torch.backends.cudnn.benchmark
    lay_out(unet, vae, torch.device("cuda"), is_embedded=False)
    for weight in (unet.conv_in.weight, vae.weight):
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.backends.cudnn.benchmark
