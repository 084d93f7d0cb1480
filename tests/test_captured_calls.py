"""Recorded UNet calls, by a recorder that keeps its inputs in place as a CUDA graph does; the graphs need a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sd_demo import captured_calls, pipeline_manager
from sd_demo.captured_calls import MOST, CapturedCalls
from sd_demo.engine import Engine
from sd_demo.outputs import Outputs
from sd_demo.recordings import NotNow, Recording, RecordOnCuda
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

MODEL = "random:sd-1.5:tiny"


class Unet:
    """Answers what depends on every input, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(
        self, rows: torch.Tensor, times: torch.Tensor, *, words: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        assert not return_dict
        self.calls.append(len(rows))
        return (rows * 2 + times[:, None, None, None] + words.mean(dim=(1, 2))[:, None, None, None],)


class InPlace(Recording):
    """As a CUDA graph: inputs are copied into the memory that was there when it was recorded."""

    def __init__(self, call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
        self.call, self.inputs, self.replays = call, [value.clone() for value in inputs], 0
        self.is_closed = False

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.replays += 1
        for kept, value in zip(self.inputs, inputs, strict=True):
            kept.copy_(value)
        return self.call(*self.inputs).clone()

    def close(self) -> None:
        self.is_closed = True


def inputs_of(count: int, seed: int, side: int = 4) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    words = {"words": torch.randn(count, 3, 5, generator=generator)}
    return torch.randn(count, 4, side, side, generator=generator), torch.rand(count, generator=generator), words


def test_calls_of_a_shape_are_recorded_and_answer_as_before() -> None:
    unet, captured = Unet(), CapturedCalls(InPlace)
    for seed in range(4):
        for count in (1, 2, 3, 5, 16, 17, 33):
            rows, times, words = inputs_of(count, seed)
            expected = Unet()(rows, times, **words, return_dict=False)[0]
            assert torch.allclose(captured(unet, rows, times, words), expected, atol=1e-6), (count, seed)
    assert captured.count == 5, "sizes 1, 2, 4, 6 and 16; more rows are beyond them"
    assert set(unet.calls) == {1, 2, 4, 6, 16, 20, 33}, "the first calls of a shape are filled up as well"
    assert unet.calls[-7:] == [1, 2, 4, 6, 16, 20, 33], "the last ones filled up, and more than anything is filled to"


def test_rows_of_any_layout_are_asked_for_in_one() -> None:
    met: list[bool] = []

    class Looking(Unet):
        def __call__(self, rows: torch.Tensor, *others: Any, **more: Any) -> Any:
            met.append(rows.is_contiguous())
            return super().__call__(rows, *others, **more)

    captured, unet = CapturedCalls(InPlace), Looking()
    rows, times, words = inputs_of(2, 0)
    expected = Unet()(rows, times, **words, return_dict=False)[0]
    for _ in range(4):
        encoded = rows.to(memory_format=torch.channels_last)
        assert torch.equal(captured(unet, encoded, times, words), expected)
    assert met
    assert all(met)


def test_more_shapes_in_turn_than_are_kept_are_not_made_anew_each_time() -> None:
    made: list[InPlace] = []

    def record(call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> InPlace:
        made.append(InPlace(call, inputs))
        return made[-1]

    unet, captured = Unet(), CapturedCalls(record)
    for seed in range(5):
        for side in range(1, MOST + 2):
            captured(unet, *inputs_of(2, seed, side))
    assert len(made) == MOST
    assert [one.replays for one in made] == [1 + 3] * MOST, "once to compare, then in each round"


def test_the_recordings_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_calls, "IN_USE", 10)
    made: list[InPlace] = []

    def record(call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> InPlace:
        made.append(InPlace(call, inputs))
        return made[-1]

    unet, captured = Unet(), CapturedCalls(record)
    for side in range(1, MOST + 4):
        for seed in range(2):
            captured(unet, *inputs_of(2, seed, side))
    assert captured.count == MOST
    assert [one.is_closed for one in made] == [True] * 3 + [False] * MOST, "the oldest gave way"
    captured.forget()
    assert captured.count == 0
    assert all(one.is_closed for one in made)


@pytest.mark.parametrize("fault", ["raises", "differs", "nan"])
def test_a_recording_that_fails_or_differs_is_never_used(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(InPlace):
        def __init__(self, call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
            super().__init__(call, inputs)
            made.append(self)
            if fault == "raises":
                raise RuntimeError("operation not permitted when stream is capturing")

        def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            return super().replay(inputs) * (torch.nan if fault == "nan" else 1.1)

    made: list[Wrong] = []
    unet, captured = Unet(), CapturedCalls(Wrong)
    for seed in range(5):
        rows, times, words = inputs_of(2, seed)
        expected = Unet()(rows, times, **words, return_dict=False)[0]
        assert torch.equal(captured(unet, rows, times, words), expected)
    assert captured.count == 0
    assert len(made) == 1
    assert made[0].is_closed or fault == "raises", "what was made is let go of"
    assert caplog.text.count("UNet calls of this model are recorded no more") == 1


def test_a_shape_that_has_no_memory_for_its_recording_leaves_the_others_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Short(InPlace):
        def __init__(self, call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
            super().__init__(call, inputs)
            tries.append(len(inputs[0]))
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

    tries: list[int] = []
    unet, captured = Unet(), CapturedCalls(Short)
    for seed in range(6):
        for count in (1, 4):
            rows, times, words = inputs_of(count, seed)
            expected = Unet()(rows, times, **words, return_dict=False)[0]
            assert torch.allclose(captured(unet, rows, times, words), expected, atol=1e-6)
    assert captured.count == 1
    assert tries == [1, 4, 1], "all memory was given back, and what fits was recorded again"
    assert "UNet calls with 4 rows of this size are not recorded" in caplog.text


def test_an_answer_that_is_not_finite_is_no_reason_to_record_no_more() -> None:
    unet, captured = Unet(), CapturedCalls(InPlace)
    for seed in range(4):
        rows, times, words = inputs_of(2, seed)
        captured(unet, rows * torch.nan if seed < 3 else rows, times, words)
        assert captured.count == (seed == 3)


def test_what_cannot_be_recorded_now_is_recorded_later() -> None:
    def record(call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> InPlace:
        if len(calls) < 3:
            raise NotNow
        return InPlace(call, inputs)

    unet, captured = Unet(), CapturedCalls(record)
    calls = unet.calls
    for seed in range(4):
        captured(unet, *inputs_of(2, seed))
    assert captured.count == 1


def started(settings: Settings, folder: Path, **changes: Any) -> Engine:
    engine = Engine(settings.model_copy(update=changes), outputs=Outputs(folder))
    engine.start()
    return engine


def drawn(engine: Engine, **values: Any) -> np.ndarray:
    asked = {"prompt": "a house", "num_inference_steps": 4, "seed": 4, "width": 64, "height": 64, **values}
    return np.asarray(engine.submit(parse_request("text_to_image", asked)).result(120).images[0].image, dtype=float)


def test_the_engine_draws_the_same_with_recordings_and_lets_go_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(device="cpu", dtype="float32", attention="sdpa", model=MODEL)
    asked: list[dict[str, Any]] = [{}, {"num_images_per_prompt": 3}, {"guidance_scale": 1.0}]
    with closing(started(settings, tmp_path / "plain")) as plain:
        expected = [drawn(plain, **values) for values in asked]
        assert plain._manager.current is not None
        assert plain._manager.current.captured is None, "there are none on a CPU"
    monkeypatch.setattr(pipeline_manager, "_captured_calls", lambda *_, **__: CapturedCalls(InPlace))
    with closing(started(settings, tmp_path / "recorded")) as engine:
        for values, before in zip(asked, expected, strict=True):
            assert np.abs(drawn(engine, **values) - before).mean() < 1
        model = engine._manager.current
        assert model is not None
        assert model.captured is not None
        assert model.captured.count == 3
        monkeypatch.setattr(model.residence, "_can_step_down", True)  # as on a device with memory of its own
        model.residence.step_down()
        assert model.captured.count == 0, "the weights have moved"
        assert np.abs(drawn(engine) - expected[0]).mean() < 1
        assert model.captured.count == 1, "the UNet stays on the device where the text encoder alone is away"
        model.residence.step_down()
        assert np.abs(drawn(engine) - expected[0]).mean() < 1
        assert model.captured.count == 0, "the UNet comes and goes"


def test_calls_are_recorded_on_cuda_alone_and_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_manager, "RecordOnCuda", lambda: InPlace)
    here, there = torch.device("cpu"), torch.device("cuda")
    assert pipeline_manager._captured_calls(Settings(), here, is_embedded=False) is None
    assert pipeline_manager._captured_calls(Settings(cuda_graphs=False, compile="off"), there, is_embedded=True) is None
    assert pipeline_manager._captured_calls(Settings(compile="off"), there, is_embedded=False) is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_answers_as_the_call() -> None:
    record = RecordOnCuda()
    captured = CapturedCalls(record)
    layer = torch.nn.Conv2d(4, 4, 3, padding=1).cuda().half()

    def unet(rows: torch.Tensor, times: torch.Tensor, *, words: torch.Tensor, return_dict: bool) -> Any:
        return (layer(rows) + (times * words.mean(dim=(1, 2)))[:, None, None, None],)

    with torch.inference_mode():
        for seed in range(4):
            for count in (1, 3):
                rows, times, words = inputs_of(count, seed)
                there = rows.cuda().half(), times.cuda().half(), {"words": words["words"].cuda().half()}
                expected = unet(there[0], there[1], **there[2], return_dict=False)[0]
                assert torch.allclose(captured(unet, *there), expected, atol=1e-2)
    assert captured.count == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recording_that_breaks_off_leaves_nothing_behind() -> None:
    record, inputs = RecordOnCuda(), [torch.ones(2, 4, 512, 512, device="cuda")]

    def waits(rows: torch.Tensor) -> torch.Tensor:
        return rows * rows.sum().item()  # which no graph can hold

    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            record(waits, inputs)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before < 2 * inputs[0].nbytes
    recording = record(lambda rows: rows * 2, inputs)
    assert torch.equal(recording.replay(inputs), inputs[0] * 2)
