"""Compiled UNet calls behind those that run: PyTorch's own tracing, and compilers that are late, wrong or raise."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from sd_demo import compiled_calls, pipeline_manager
from sd_demo.captured_calls import CapturedCalls
from sd_demo.compiled_calls import CACHE_VARIABLE, CompiledBehind, Ordinary, Permit, Withdrawn, compiled, pays
from sd_demo.recordings import NotNow
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from tests.test_captured_calls import MODEL, InPlace, Unet, drawn, inputs_of, started

Call = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def at_once_and_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling begins with the first replay, and what was made of a call counts as the faster one."""
    monkeypatch.setattr(compiled_calls, "FROM_REPLAY", 1)
    monkeypatch.setattr(compiled_calls, "fastest", lambda calls, turns: dict(zip(calls, (1.0, 2.0), strict=True)))


class Compiler:
    """Waits for `go`, and answers with `better` of the call; counts what it began and how often that was called."""

    def __init__(self, better: Callable[[torch.Tensor], torch.Tensor] = lambda answer: answer) -> None:
        self.go, self.began, self.calls, self.better = threading.Event(), threading.Event(), 0, better

    def __call__(self, call: Call, permit: Permit) -> Call:
        self.began.set()
        assert self.go.wait(60)

        def compiled_call(*inputs: torch.Tensor) -> torch.Tensor:
            def made() -> torch.Tensor:
                self.calls += 1
                return self.better(call(*inputs))

            answer: torch.Tensor = permit.run(made)
            return answer

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
    captured, unet = CapturedCalls(CompiledBehind(record, compiler)), Unet()
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    assert answers_as_ever(captured)
    assert not captured.is_settled
    assert compiler.calls == 0, "nobody waited for it"
    assert not captured.was_compiled
    compiler.go.set()
    settled(captured, unet)
    before = compiler.calls
    assert answers_as_ever(captured)
    assert compiler.calls == before + 1
    assert captured.was_compiled


def test_once_settled_nothing_more_is_compiled() -> None:
    compiler, unet = Compiler(), Unet()
    behind = CompiledBehind(Ordinary, compiler)
    captured = CapturedCalls(behind, behind.wait, behind.settle)
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    compiler.go.set()
    captured.settle()
    assert captured.is_settled
    assert answers_as_ever(captured)
    assert captured.was_compiled, "what was begun is used"
    compiler.began.clear()
    for seed in range(4):
        captured(unet, *inputs_of(1, seed))
    captured.settle()
    assert not compiler.began.is_set()


def test_once_settled_a_compiler_that_ends_without_memory_begins_nothing_again() -> None:
    def no_memory(answer: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiler, unet = Compiler(no_memory), Unet()
    behind = CompiledBehind(Ordinary, compiler)
    captured = CapturedCalls(behind, behind.wait, behind.settle)
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)

    def let_it_end() -> None:
        while not behind.has_failed:
            time.sleep(0.01)
        compiler.go.set()

    ending = threading.Thread(target=let_it_end)
    ending.start()
    captured.settle()
    ending.join(60)
    assert behind.has_failed


def test_a_compiled_call_that_does_not_fit_beside_what_runs_is_not_tried_again() -> None:
    class Large(InPlace):
        def __init__(self, call: Call, inputs: Sequence[torch.Tensor]) -> None:
            made.append(self)
            if len(made) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(call, inputs)

    made: list[Large] = []
    compiler, unet = Compiler(), Unet()
    captured = CapturedCalls(CompiledBehind(Large, compiler))
    compiler.go.set()
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    settled(captured, unet)
    compiler.began.clear()
    for seed in range(8):
        captured(unet, *inputs_of(2, seed))
    assert answers_as_ever(captured)
    assert not captured.was_compiled
    assert captured.count == 1, "the recording that runs is kept"
    assert len(made) == 2
    assert not compiler.began.is_set()


def test_a_compiler_lets_those_who_draw_interrupt_it() -> None:
    compiler, unet, usual = Compiler(), Unet(), sys.getswitchinterval()
    behind = CompiledBehind(Ordinary, compiler)
    captured = CapturedCalls(behind, behind.wait, behind.settle)
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    assert sys.getswitchinterval() < usual / 10
    compiler.go.set()
    captured.settle()
    assert sys.getswitchinterval() == usual


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
    captured = CapturedCalls(CompiledBehind(Ordinary, compiler))
    for seed in range(2):
        captured(unet, *inputs_of(2, seed))
    settled(captured, unet)
    assert answers_as_ever(captured)
    assert captured.count == 1, "the ordinary call goes on"
    assert not captured.was_compiled
    assert caplog.text.count("UNet calls stay uncompiled: ") == 1
    assert "much more" not in caplog.text
    compiler.began.clear()
    for seed in range(2):
        captured(unet, *inputs_of(1, seed))
    settled(captured, unet, count=1)
    assert compiler.began.is_set() == (fault == "has no memory"), "what fails is not tried for each shape"


def test_an_answer_that_is_not_finite_puts_the_compiled_call_off() -> None:
    compiler, unet = Compiler(), Unet()
    captured = CapturedCalls(CompiledBehind(Ordinary, compiler))
    for seed in range(3):
        captured(unet, *inputs_of(2, seed))
    compiler.go.set()
    while not captured.is_settled:
        time.sleep(0.01)
    rows, times, words = inputs_of(2, 3)
    captured(unet, rows * torch.nan, times, words)
    assert not captured.was_compiled
    settled(captured, unet)
    assert answers_as_ever(captured)
    assert captured.was_compiled


def test_what_is_not_faster_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_calls, "fastest", lambda calls, turns: dict(zip(calls, (2.0, 1.9), strict=True)))
    compiler, unet, made = Compiler(), Unet(), []

    def record(call: Call, inputs: Sequence[torch.Tensor]) -> InPlace:
        made.append(InPlace(call, inputs))
        return made[-1]

    compiler.go.set()
    captured = CapturedCalls(CompiledBehind(record, compiler))
    for seed in range(2):
        captured(unet, *inputs_of(2, seed))
    settled(captured, unet)
    assert answers_as_ever(captured)
    assert not captured.was_compiled
    assert [one.is_closed for one in made] == [False, True]


def test_a_shape_that_is_used_a_little_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_calls, "FROM_REPLAY", 5)
    compiler, unet = Compiler(), Unet()
    compiler.go.set()
    captured = CapturedCalls(CompiledBehind(Ordinary, compiler))
    for seed in range(1 + 5):  # a shape's first call is not recorded, and its second one replayed for comparison
        assert not compiler.began.is_set()
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)


@pytest.mark.parametrize(
    ("wanted", "device", "has_compiler", "expected"),
    [
        ("auto", "cuda", True, True), ("auto", "cuda", False, False), ("auto", "cpu", True, False),
        ("on", "cpu", False, True), ("off", "cuda", True, False),
    ],
)  # fmt: skip
def test_auto_compiles_on_cuda_where_there_is_a_compiler(
    wanted: str, device: str, has_compiler: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_calls, "has_triton", lambda: has_compiler)
    assert pays(wanted, torch.device(device)) == expected


def test_nothing_is_recorded_while_something_compiles() -> None:
    compiler, unet, sizes = Compiler(), Unet(), []

    def record(call: Call, inputs: Sequence[torch.Tensor]) -> Ordinary:
        sizes.append(len(inputs[0]))
        return Ordinary(call, inputs)

    captured = CapturedCalls(CompiledBehind(record, compiler))
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


def test_what_compiles_is_left_to_itself_and_never_run() -> None:
    compiler, unet = Compiler(), Unet()
    behind = CompiledBehind(Ordinary, compiler)
    captured = CapturedCalls(behind, behind.wait)
    for seed in range(3):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    captured.forget()  # LoRAs change, or memory ran out: nobody waits
    assert captured.count == 0
    assert captured.is_settled
    compiler.go.set()
    captured.wait()
    assert compiler.calls == 0, "weights may have moved"
    compiler.began.clear()
    for seed in range(3):
        captured(unet, *inputs_of(2, seed))
    settled(captured, unet)
    assert captured.was_compiled, "it was no failure of the compiler"


def test_a_recording_that_was_let_go_of_is_not_kept_by_what_compiles_for_it() -> None:
    class Watched(InPlace):
        def __init__(self, call: Call, inputs: Sequence[torch.Tensor]) -> None:
            super().__init__(call, inputs)
            made.append(weakref.ref(self))

    made: list[weakref.ref[Watched]] = []
    compiler, unet = Compiler(), Unet()
    captured = CapturedCalls(CompiledBehind(Watched, compiler))
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    assert captured.forget()
    gc.collect()
    assert [recording() for recording in made] == [None]
    compiler.go.set()
    captured.wait()


def test_freeing_waits_for_what_compiles() -> None:
    compiler, unet = Compiler(), Unet()
    behind = CompiledBehind(Ordinary, compiler)
    captured = CapturedCalls(behind, behind.wait)
    for count in (1, 2):
        for seed in range(3):
            captured(unet, *inputs_of(count, seed))
    assert compiler.began.wait(60)
    captured.forget()
    waiting = threading.Thread(target=captured.wait)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "the compiler reads the weights still"
    compiler.go.set()
    waiting.join(60)
    assert not waiting.is_alive()
    assert answers_as_ever(captured)


@pytest.mark.usefixtures("traced_only")
def test_what_was_compiled_runs_until_its_permit_is_withdrawn() -> None:
    def call(rows: torch.Tensor) -> torch.Tensor:
        return rows * 2

    permit = Permit()
    with torch.inference_mode():
        better = compiled(call, permit)
        assert torch.equal(better(torch.ones(2)), torch.full((2,), 2.0))
        permit.withdraw()
        with pytest.raises(Withdrawn):
            better(torch.ones(2))


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch's own compiler without its last step, the one that takes minutes."""

    def compile_nothing(graph: Any, inputs: Any, *, config_patches: dict[str, Any]) -> Any:
        assert config_patches == {"reorder_for_locality": False}, "else it undoes the order of a residual block"
        return graph

    monkeypatch.setattr(compiled_calls, "lookup_backend", lambda name: compile_nothing)
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
                assert torch.allclose(compiled(call, Permit())(torch.ones(k, 4)), weights(torch.ones(k, 4)))
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
    with closing(started(settings, tmp_path / "compiled", compile="on")) as engine:
        for _ in range(600):
            again = drawn(engine)
            if engine.status().is_settled:
                break
        assert np.abs(again - expected).mean() < 1
        graphs = counters["stats"]["unique_graphs"]
        assert graphs == 1, "one shape, and the engine's thread found it compiled"
        request = parse_request("text_to_image", {"prompt": "a house", "num_inference_steps": 3, "seed": 4})
        asked = request.model_copy(update={"width": 64, "height": 64})
        assert engine.submit(asked).result(120).images[0].receipt.done.compiled_steps == 3
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
    settings = Settings(compile="on", data_dir=tmp_path)
    assert pipeline_manager._captured_calls(settings, torch.device("cpu"), is_embedded=True) is not None
    kept = "/elsewhere" if named == "/elsewhere" else str(tmp_path / "compiled")
    assert os.environ[CACHE_VARIABLE] == kept


def test_nothing_is_recorded_for_one_model_while_another_compiles() -> None:
    compiler, unet = Compiler(), Unet()
    captured = CapturedCalls(CompiledBehind(InPlace, compiler))
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert compiler.began.wait(60)
    other = CompiledBehind(InPlace, Compiler())
    rows, times, words = inputs_of(2, 1)
    with pytest.raises(NotNow):
        other(lambda *values: values[0], [rows, times, *words.values()])
    compiler.go.set()
    settled(captured, unet)
    other(lambda *values: values[0], [rows, times, *words.values()])
