"""Compiled UNet calls behind those that run: PyTorch's own tracing, and compilers that are late, wrong or raise."""

from __future__ import annotations

import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from sd_demo import pipeline_manager
from sd_demo.captured_calls import CapturedCalls
from sd_demo.compiled_calls import CACHE_VARIABLE, Ordinary, compiled, compiled_behind
from sd_demo.settings import Settings
from tests.test_captured_calls import MODEL, InPlace, Unet, drawn, inputs_of, started

Call = Callable[..., torch.Tensor]


class Compiler:
    """Waits for `go`, and answers with `better` of the call; counts what it began and how often that was called."""

    def __init__(self, better: Callable[[torch.Tensor], torch.Tensor] = lambda answer: answer) -> None:
        self.go, self.began, self.calls, self.better = threading.Event(), threading.Event(), 0, better

    def __call__(self, call: Call) -> Call:
        self.began.set()
        assert self.go.wait(60)

        def compiled_call(*inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.better(call(*inputs))

        return compiled_call


def settled(captured: CapturedCalls, unet: Unet, count: int = 2) -> None:
    """Call until nothing compiles any more, and once more, as what was compiled comes into use then."""
    for seed in range(600):
        has_settled = captured.is_settled
        captured(unet, *inputs_of(count, seed))
        if has_settled:
            return
        time.sleep(0.05)
    raise AssertionError("the compiler never ended")


def answers_as_ever(captured: CapturedCalls, count: int = 2) -> bool:
    rows, times, words = inputs_of(count, 9)
    expected = Unet()(rows, times, **words, return_dict=False)[0]
    return torch.allclose(captured(Unet(), rows, times, words), expected, atol=1e-6)


@pytest.mark.parametrize("record", [Ordinary, InPlace])
def test_calls_run_as_before_until_the_compiled_one_is_there(record: type) -> None:
    compiler = Compiler()
    captured, unet = CapturedCalls(compiled_behind(record, compiler)), Unet()
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    assert answers_as_ever(captured)
    assert not captured.is_settled
    assert compiler.calls == 0, "nobody waited for it"
    compiler.go.set()
    settled(captured, unet)
    before = compiler.calls
    assert answers_as_ever(captured)
    assert compiler.calls == before + 1


@pytest.mark.parametrize("fault", ["raises", "differs", "has no memory"])
def test_a_compiler_that_fails_or_answers_otherwise_changes_nothing(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(answer: torch.Tensor) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("no C++ compiler is here\nand much more")
        if fault == "has no memory":
            raise torch.OutOfMemoryError("CUDA out of memory")  # not the caller's
        return answer * 1.1

    compiler, unet = Compiler(wrong), Unet()
    compiler.go.set()
    captured = CapturedCalls(compiled_behind(Ordinary, compiler))
    for seed in range(2):
        captured(unet, *inputs_of(2, seed))
    settled(captured, unet)
    assert answers_as_ever(captured)
    assert captured.count == 1, "the ordinary call goes on"
    assert caplog.text.count("a UNet call stays uncompiled: ") == 1
    assert "much more" not in caplog.text


def test_nothing_is_recorded_while_something_compiles() -> None:
    compiler, unet, sizes = Compiler(), Unet(), []

    def record(call: Call, inputs: Sequence[torch.Tensor]) -> Ordinary:
        sizes.append(len(inputs[0]))
        return Ordinary(call, inputs)

    captured = CapturedCalls(compiled_behind(record, compiler))
    for seed in range(2):
        captured(unet, *inputs_of(1, seed))
    assert compiler.began.wait(60)
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert sizes == [1]
    compiler.go.set()
    settled(captured, unet, count=1)
    captured(unet, *inputs_of(2, 4))
    settled(captured, unet, count=2)
    assert sizes == [1, 1, 2, 2], "each as it is, and compiled"


def test_forgetting_waits_for_what_compiles() -> None:
    compiler, unet = Compiler(), Unet()
    captured = CapturedCalls(compiled_behind(Ordinary, compiler))
    for count in (1, 2):
        for seed in range(2):
            captured(unet, *inputs_of(count, seed))
    assert compiler.began.wait(60)
    forgetting = threading.Thread(target=captured.forget)
    forgetting.start()
    forgetting.join(0.2)
    assert forgetting.is_alive(), "the compiler reads the weights still"
    compiler.go.set()
    forgetting.join(60)
    assert not forgetting.is_alive()
    assert captured.count == 0
    assert compiler.calls == 1, "the one that compiled; the other was not recorded yet"
    assert answers_as_ever(captured)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch's own compiler without its last step, the one that takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()  # tensors without data, by which it traced, stay else, and other tests count tensors
    gc.collect()


@pytest.mark.usefixtures("traced_only")
def test_what_was_compiled_goes_with_its_recording() -> None:
    def weights_of_many_shapes() -> weakref.ref[torch.nn.Linear]:
        weights = torch.nn.Linear(4, 4)

        def call(rows: torch.Tensor) -> torch.Tensor:
            return weights(rows)

        with torch.inference_mode():
            for k in range(1, 13):  # more than PyTorch keeps for one function
                assert torch.allclose(compiled(call)(torch.ones(k, 4)), weights(torch.ones(k, 4)))
        return weakref.ref(weights)

    gone = weights_of_many_shapes()
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("traced_only")
def test_the_engine_draws_the_same_compiled_and_compiles_in_no_other_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(device="cpu", dtype="float32", attention="sdpa", model=MODEL, data_dir=tmp_path / "data")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with closing(started(settings, tmp_path / "plain")) as plain:
        expected = drawn(plain)
        assert plain.status().is_settled
    counters.clear()
    with closing(started(settings, tmp_path / "compiled", compile=True)) as engine:
        for _ in range(600):
            again = drawn(engine)
            if engine.status().is_settled:
                break
        assert np.abs(again - expected).mean() < 1
        graphs = counters["stats"]["unique_graphs"]
        assert graphs == 1, "one shape, and the engine's thread found it compiled"
        assert np.abs(drawn(engine) - expected).mean() < 1
        assert counters["stats"]["unique_graphs"] == graphs
        assert engine._manager.current is not None
        gone = weakref.ref(engine._manager.current.unet)
        engine._manager.free()
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("named", ["", default_cache_dir(), "/elsewhere"])
def test_compiled_code_is_kept_in_the_data_folder_or_where_the_environment_says(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, named)
    settings = Settings(compile=True, data_dir=tmp_path)
    assert pipeline_manager._captured_calls(settings, torch.device("cpu")) is not None
    kept = "/elsewhere" if named == "/elsewhere" else str(tmp_path / "compiled")
    assert os.environ[CACHE_VARIABLE] == kept
