"""Traced UNet calls: the same answers to the bit, whatever the sizes, and ordinary calls where a trace would not do."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from sd_demo import pipeline_manager, traced_calls
from sd_demo.engine import Engine
from sd_demo.host_memory import give_back, resident_bytes
from sd_demo.known_models import EMBEDDED
from sd_demo.outputs import Outputs
from sd_demo.requests import parse_request
from sd_demo.row_independence import use_whole_blocks
from sd_demo.settings import Settings
from sd_demo.traced_calls import AT_LAST, FROM_CALL, MOST, TracedCalls


def tiny(dtype: torch.dtype = torch.float32) -> Any:
    """Three levels, so that sides that are no multiple of four take another way through it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return unet.eval().to(dtype)


def inputs_of(
    count: int, side: int = 16, words: int = 7, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 4, side, 16, generator=generator).to(dtype)
    embeds = torch.randn(count, words, 8, generator=generator).to(dtype)
    return rows, torch.rand(count, generator=generator) * 999, {"encoder_hidden_states": embeds}


def plain(unet: Any, rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
    return unet(rows, times, **conditions, return_dict=False)[0]


def meet(unet: Any, traced: TracedCalls, *inputs: Any) -> None:
    """As many calls as a trace is wanted from, and the lull in which it is made."""
    for _ in range(FROM_CALL):
        traced(unet, *inputs)
    traced.prepare()


class Counted(torch.nn.Module):
    """A network, and how often Python ran it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.times_run = network, 0

    def forward(self, *inputs: torch.Tensor, **others: Any) -> Any:
        self.times_run += 1
        return self.network(*inputs, **others)


@pytest.fixture(autouse=True)
def tries(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Grows with each try to make a trace."""
    made, real = [], traced_calls._traced
    monkeypatch.setattr(traced_calls, "_traced", lambda *given: (made.append(1), real(*given))[1])
    with torch.inference_mode():
        yield made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_same_to_the_bit_for_calls_of_all_sizes(dtype: torch.dtype) -> None:
    unet, traced = tiny(dtype), TracedCalls()
    use_whole_blocks(unet)  # what it is filled up with depends on the size
    meet(unet, traced, *inputs_of(2, dtype=dtype))
    assert traced.count == 1
    for count, side, words in ((2, 16, 7), (4, 16, 7), (16, 16, 7), (3, 24, 7), (2, 32, 14), (40, 16, 7)):
        inputs = inputs_of(count, side, words, dtype)
        for _ in range(3):
            assert torch.equal(traced(unet, *inputs), plain(unet, *inputs)), (count, side, words)
    assert traced.count == 1, "one trace serves them all"
    assert None not in traced._known.values(), "and not one call was ordinary"
    for side in (17, 18, 19):  # upsampled to the size that there was, and not by two
        inputs = inputs_of(2, side, dtype=dtype)
        for _ in range(3):
            assert torch.equal(traced(unet, *inputs), plain(unet, *inputs)), side
            traced.prepare()
    assert 1 < traced.count <= MOST


def test_python_runs_the_unet_only_until_there_is_a_trace() -> None:
    unet, traced = Counted(tiny()), TracedCalls()
    meet(unet, traced, *inputs_of(2))
    for _ in range(10):
        traced(unet, *inputs_of(2))
    assert unet.times_run == FROM_CALL + 1, "once more for the trace, and never again"
    for _ in range(5):
        traced(unet, *inputs_of(4))
    assert unet.times_run == FROM_CALL + 2, "another size is compared once"


def test_a_trace_is_left_to_a_lull_but_not_for_ever() -> None:
    unet, traced = Counted(tiny()), TracedCalls()
    for _ in range(FROM_CALL - 1):
        traced(unet, *inputs_of(2))
    assert traced.is_settled, "whoever draws so little is not worth a trace"
    for _ in range(AT_LAST):
        traced(unet, *inputs_of(2))
        assert not traced.is_settled
    assert (traced.count, unet.times_run) == (0, FROM_CALL - 1 + AT_LAST), "nobody waited for one"
    traced(unet, *inputs_of(2))
    assert (traced.count, traced.is_settled) == (1, True)


def test_what_is_forgotten_is_wanted_no_more() -> None:
    unet, traced = tiny(), TracedCalls()
    for _ in range(FROM_CALL):
        traced(unet, *inputs_of(2))
    traced.forget()
    assert traced.is_settled
    traced.prepare()
    assert traced.count == 0


class Moody(torch.nn.Module):
    """Answers more each time: a trace, which has one answer, differs."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = 0.0

    def forward(self, rows: torch.Tensor, times: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        self.mood += 1.0
        return (rows + self.mood,)


class Stubborn(torch.nn.Module):
    def forward(self, rows: torch.Tensor, times: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        if torch.jit.is_tracing():
            raise TypeError("not to be traced")
        return (rows,)


def test_a_trace_that_answers_otherwise_is_not_used(tries: list[int]) -> None:
    unet, traced = Moody(), TracedCalls()
    rows, times, _ = inputs_of(2)
    for _ in range(FROM_CALL + 3):
        before = unet.mood
        assert torch.equal(traced(unet, rows, times, {}), rows + (before + 1))
        traced.prepare()
    assert traced.count == 0
    assert tries == [1]


def test_what_cannot_be_traced_goes_on_as_before_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    unet, traced = Stubborn(), TracedCalls()
    with caplog.at_level(logging.WARNING):
        for count in (2, 4, 6):
            for _ in range(FROM_CALL):
                rows, times, _ = inputs_of(count)
                assert torch.equal(traced(unet, rows, times, {}), rows)
            traced.prepare()
    assert traced.count == 0
    assert caplog.text.count("not to be traced") == 1


def test_an_answer_that_is_not_finite_is_compared_with_nothing() -> None:
    unet, traced = tiny(), TracedCalls()
    rows, times, conditions = inputs_of(2)
    meet(unet, traced, torch.full_like(rows, float("nan")), times, conditions)
    assert traced.count == 0
    meet(unet, traced, rows, times, conditions)
    assert traced.count == 1


def test_what_fails_in_a_trace_is_raised_and_the_next_call_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    unet, traced = tiny(), TracedCalls()
    meet(unet, traced, *inputs_of(2))
    with monkeypatch.context() as patch:
        patch.setattr(traced_calls, "_run", fail)
        with pytest.raises(torch.OutOfMemoryError):
            traced(unet, *inputs_of(2))
    assert torch.equal(traced(unet, *inputs_of(2)), plain(unet, *inputs_of(2)))


def test_traces_hold_no_weights_once_their_model_is_gone() -> None:
    unet, traced = tiny(), TracedCalls()
    weights = [weakref.ref(parameter) for parameter in unet.parameters()]
    meet(unet, traced, *inputs_of(2))
    assert traced.count == 1
    traced(unet, *inputs_of(4))
    del unet, traced
    gc.collect()
    assert not any(reference() is not None for reference in weights)


def test_other_weights_answer_after_forget_and_the_first_ones_once_they_are_back() -> None:
    unet, traced = Counted(tiny()), TracedCalls()
    meet(unet, traced, *inputs_of(2))
    first = unet.network.conv_out.weight
    for weight, traces in ((torch.nn.Parameter(first * 2), 2), (first, 2)):
        unet.network.conv_out.weight = weight
        traced.forget()
        expected = plain(unet, *inputs_of(2))
        for _ in range(3):
            assert torch.equal(traced(unet, *inputs_of(2)), expected)
            traced.prepare()
        assert traced.count == traces
    before = unet.times_run
    traced(unet, *inputs_of(2))
    assert unet.times_run == before, "the trace that was made first serves again"


def test_what_wears_a_lora_is_not_traced() -> None:
    unet, traced = tiny(), TracedCalls()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    for _ in range(FROM_CALL + 2):
        assert torch.equal(traced(unet, *inputs_of(2)), plain(unet, *inputs_of(2)))
        traced.prepare()
    assert traced.count == 0
    unet.unload_lora()
    traced.forget()
    meet(unet, traced, *inputs_of(2))
    assert traced.count == 1


def test_traces_go_with_their_models() -> None:
    held = []
    for _ in range(30):
        traced = TracedCalls()
        meet(tiny(), traced, *inputs_of(2))
        assert traced.count == 1
        del traced
        gc.collect()
        give_back()
        held.append(resident_bytes())
    assert held[-1] - held[9] < 64 * 2**20, "20 that torch.jit.trace makes leave 431 MiB behind"


def test_weights_that_want_gradients_want_them_after_it() -> None:
    unet, traced = tiny(), TracedCalls()
    unet.conv_in.requires_grad_(False)
    meet(unet, traced, *inputs_of(2))
    assert traced.count == 1
    wanting = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    assert wanting == {name for name, _ in unet.named_parameters() if not name.startswith("conv_in.")}


def test_the_picture_book_is_traced_in_a_lull_and_draws_the_same(tmp_path: Path) -> None:
    settings = Settings(device="cpu", model=EMBEDDED, output_dir=tmp_path, data_dir=tmp_path)
    asked = {"prompt": "a red house", "num_inference_steps": 12, "width": 128, "height": 128, "seed": 3}
    with closing(Engine(settings, outputs=Outputs(tmp_path))) as engine:
        engine.start()

        def drawn(**values: Any) -> bytes:
            image = engine.submit(parse_request("text_to_image", asked | values)).result(120).images[0].image
            return image.tobytes()

        first, pair = drawn(), drawn(num_images_per_prompt=2)
        model = engine._manager.current
        assert model is not None
        assert isinstance(model.captured, TracedCalls)
        end = time.monotonic() + 60
        while not engine.status().is_settled and time.monotonic() < end:
            time.sleep(0.01)
        assert model.captured.count == 1
        assert engine._manager.lull_s is None, "nothing is left to be done"
        assert (drawn(), drawn(num_images_per_prompt=2)) == (first, pair)


def test_who_came_while_another_had_the_device_waits_for_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.loaded_model.LULL_S", 0.3)
    settings = Settings(device="cpu", model=EMBEDDED, output_dir=tmp_path, data_dir=tmp_path)
    request = parse_request("text_to_image", {"prompt": "a", "num_inference_steps": 12, "width": 128, "height": 128})
    waiting: list[int] = []
    with closing(Engine(settings, outputs=Outputs(tmp_path))) as engine:
        prepare = engine._manager.prepare
        monkeypatch.setattr(engine._manager, "prepare", lambda: (waiting.append(len(engine._queue)), prepare())[1])
        engine.start()
        engine.submit(request).result(120)
        with engine.device_turns:  # such as a lesson
            time.sleep(0.6)  # the lull ends, and the worker asks for its turn
            job = engine.submit(request)
        job.result(120)
        end = time.monotonic() + 60
        while not engine.status().is_settled and time.monotonic() < end:
            time.sleep(0.01)
    assert waiting
    assert set(waiting) == {0}


def test_nobody_waits_for_a_trace_who_draws_one_picture_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: list[int]
) -> None:
    monkeypatch.setattr("sd_demo.loaded_model.LULL_S", 3600.0)  # a lull that no slow machine takes for one
    settings = Settings(device="cpu", model=EMBEDDED, output_dir=tmp_path, data_dir=tmp_path)
    engine = Engine(settings, outputs=Outputs(tmp_path))
    with closing(engine):
        engine.start()
        values = {"prompt": "a red house", "num_inference_steps": 12, "width": 128, "height": 128}
        engine.submit(parse_request("text_to_image", values)).result(120)
        assert not engine.status().is_settled
    assert not engine._worker.is_alive()
    assert tries == []


def test_only_the_embedded_model_on_a_cpu_is_traced() -> None:
    here, there = torch.device("cpu"), torch.device("mps")
    for settings, device, is_embedded in (
        (Settings(), here, False),
        (Settings(), there, True),
        (Settings(compile="on"), here, True),
    ):
        calls = pipeline_manager._captured_calls(settings, device, is_embedded=is_embedded)
        assert not isinstance(calls, TracedCalls), (settings.compile, device, is_embedded)
    assert isinstance(pipeline_manager._captured_calls(Settings(), here, is_embedded=True), TracedCalls)
