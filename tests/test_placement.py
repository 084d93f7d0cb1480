"""In which precision a model runs: chosen by the processor, and alike at every start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sd_demo import placement
from sd_demo.errors import InvalidRequest
from sd_demo.placement import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    placement._is_bfloat16_faster.cache_clear()
    yield
    placement._is_bfloat16_faster.cache_clear()


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
    monkeypatch.setattr(placement, "_fastest", lambda *_, **__: pytest.fail("nothing is to be measured here"))
    assert choose_dtype("auto", CPU) == chosen


def test_the_embedded_model_runs_in_float32_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_instructions(monkeypatch, amx_bf16=True)
    assert choose_dtype("auto", CPU, is_embedded=True) == torch.float32
    assert choose_dtype("bfloat16", CPU, is_embedded=True) == torch.bfloat16, "unless it is asked for"


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, torch.bfloat16), (0.9, torch.float32), (4.0, torch.float32)])
def test_else_the_clearly_faster_one_of_a_convolution_is_taken(
    ratio: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(call: torch.nn.Module, repeats: int) -> float:
        dtype = call.func.weight.dtype  # type: ignore[union-attr]
        return ratio if dtype == torch.bfloat16 else 1.0

    with_instructions(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(placement, "_fastest", seconds)
    assert choose_dtype("auto", CPU) == chosen


def test_what_was_asked_for_is_taken_and_float16_refused_on_a_cpu() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(InvalidRequest, match="float16 is too slow on a CPU"):
        choose_dtype("float16", CPU)
