"""Faults put in on purpose, at every stage: the person gets a sentence, and the next same-seed picture is the same."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from sd_demo import decoding as decoding_module
from sd_demo import denoising as denoising_module
from sd_demo import engine as engine_module
from sd_demo import finishing as finishing_module
from sd_demo import running as running_module
from sd_demo import saving as saving_module
from sd_demo import super_resolution as begin_module
from sd_demo.engine import Engine
from sd_demo.errors import DeviceFailure, InvalidRequest, NonFiniteImage, OutOfMemory, OutputFailed, QueueFull
from sd_demo.events import Cancelled, Step
from sd_demo.job import Job
from sd_demo.loaded_model import LoadedModel
from sd_demo.outputs import TEMPORARY_PREFIX, Outputs
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.prompts import PromptEncoder
from sd_demo.receipt import Receipt
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

WAIT_S = 120


def make(folder: Path, **settings: Any) -> Engine:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=folder, **settings))
    engine.start()
    return engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:  # so that Python runs every call of the UNet, and can fail there
        patch.setattr("sd_demo.traced_calls.FROM_CALL", sys.maxsize)
        engine = make(tmp_path_factory.mktemp("faults"))
        yield engine
        engine.close()


def submit(engine: Engine, *, has_previews: bool = False, **values: Any) -> Job:
    small = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
    return engine.submit(parse_request("text_to_image", small | values), has_previews=has_previews)


def pixels(engine: Engine) -> np.ndarray:
    return np.asarray(submit(engine).result(WAIT_S).images[0].image, dtype=np.int16)


@pytest.fixture(scope="module")
def before(engine: Engine) -> np.ndarray:
    return pixels(engine)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def no_space() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device")


def unforeseen() -> Exception:
    return RuntimeError("expected scalar type Half but found Float")


# Every point of an inpainting at which something can fail, in the order in which they are passed.
POINTS: dict[str, Callable[[LoadedModel], tuple[Any, str]]] = {
    "model": lambda _: (PipelineManager, "get"),
    "plan": lambda _: (engine_module, "make_plan"),
    "canvas": lambda _: (begin_module, "plan_canvas"),
    "prompt": lambda _: (PromptEncoder, "encode"),
    "tokens": lambda _: (PromptEncoder, "_tokenize"),
    "text encoder": lambda model: (model.components["text_encoder"], "forward"),
    "denoising": lambda _: (begin_module, "Denoising"),
    "scheduler": lambda _: (denoising_module, "make_scheduler"),
    "vae encode": lambda model: (model.vae, "encode"),
    "step": lambda _: (engine_module, "advance"),
    "rows": lambda _: (denoising_module.Denoising, "rows_in"),
    "unet": lambda model: (model.unet, "forward"),
    "scheduler step": lambda _: (DPMSolverMultistepScheduler, "step"),
    "take": lambda _: (denoising_module.Denoising, "take"),
    "end": lambda _: (engine_module, "finish"),
    "decode": lambda _: (finishing_module, "decode"),
    "vae decode": lambda model: (model.vae, "decode"),
    "picture": lambda _: (decoding_module, "to_picture"),
    "receipt": lambda _: (finishing_module, "what_ran"),
    "asked": lambda _: (saving_module, "asked"),
    "fingerprint": lambda _: (saving_module, "fingerprint"),
    "chunks of the PNG": lambda _: (Receipt, "png_info"),
    "save": lambda _: (Outputs, "save"),
    "encoder of the PNG": lambda _: (Image.Image, "save"),
    "fsync": lambda _: (os, "fsync"),
    "name": lambda _: (Outputs, "_free_name"),
    "rename": lambda _: (os, "replace"),
}
WRITING = ("encoder of the PNG", "fsync", "name", "rename")
ERRORS: dict[str, tuple[Callable[[], Exception], type[Exception]]] = {
    "memory": (out_of_memory, OutOfMemory),
    "host memory": (MemoryError, OutOfMemory),
    "unforeseen": (unforeseen, DeviceFailure),
    "disk": (no_space, DeviceFailure),
}


def fail_with(error: Callable[[], Exception]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error()

    return fail


def inpaint(engine: Engine) -> Job:
    picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    values = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 1, "image": picture, "mask_image": mask}
    return engine.submit(parse_request("inpaint", values))


@pytest.fixture(scope="module")
def inpainted(engine: Engine) -> np.ndarray:
    return np.asarray(inpaint(engine).result(WAIT_S).images[0].image, dtype=np.int16)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault_at_any_point_is_a_sentence_and_leaves_nothing_behind(
    engine: Engine, inpainted: np.ndarray, point: str, kind: str
) -> None:
    error, expected = ERRORS[kind]
    model = engine._manager.current
    assert model is not None
    model.prompts.clear()  # else the text encoder would not be asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*POINTS[point](model), fail_with(error))
        with pytest.raises(OutputFailed if kind == "disk" and point in WRITING else expected, match=r"\.$") as caught:
            inpaint(engine).result(WAIT_S)
    assert "\n" not in str(caught.value)
    assert list(engine.outputs.folder.rglob(f"{TEMPORARY_PREFIX}*")) == []
    again = inpaint(engine).result(WAIT_S).images[0].image
    assert np.array_equal(np.asarray(again, dtype=np.int16), inpainted)
    assert engine.health().fault == ""


def test_a_model_that_answers_nan_is_said_and_the_next_picture_is_right(engine: Engine, before: np.ndarray) -> None:
    real = engine_module.advance

    def poison(denoisings: Any) -> Any:
        failures = real(denoisings)
        for denoising in denoisings:
            denoising.latents = denoising.latents * float("nan")
        return failures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "advance", poison)
        with pytest.raises(NonFiniteImage):
            submit(engine).result(WAIT_S)
    assert np.array_equal(pixels(engine), before)


def test_a_preview_that_fails_costs_only_the_preview(engine: Engine, before: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_module, "preview", fail_with(out_of_memory))
        done = submit(engine, has_previews=True).result(WAIT_S)
    assert np.array_equal(np.asarray(done.images[0].image, dtype=np.int16), before)


def test_a_folder_that_was_deleted_is_made_again(engine: Engine, before: np.ndarray) -> None:
    shutil.rmtree(engine.outputs.folder)
    assert np.array_equal(pixels(engine), before)
    assert len(list(engine.outputs.folder.rglob("*.png"))) == 1


def test_faults_are_counted_by_their_kind(engine: Engine) -> None:
    failures = engine.metrics.value("failures_total", kind="OutOfMemory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "advance", fail_with(out_of_memory))
        with pytest.raises(OutOfMemory):
            submit(engine).result(WAIT_S)
    assert engine.metrics.value("failures_total", kind="OutOfMemory") == failures + 1
    text = engine.metrics_text()
    assert "sd_demo_healthy 1" in text
    assert "sd_demo_model_loaded 1" in text
    assert engine.metrics.value("stage_seconds_total", stage="decode") > 0


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Engine]:
    engine = make(tmp_path)
    yield engine
    engine.close()


def test_a_lost_device_ends_all_jobs_and_is_told_to_the_supervisor(another: Engine) -> None:
    assert another.health().fault == ""
    go_on = threading.Event()

    def lose(_: Any) -> Any:
        assert go_on.wait(WAIT_S)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "advance", lose)
        jobs = [submit(another, model=None, seed=seed) for seed in range(3)]
        go_on.set()
        for job in jobs:
            with pytest.raises(DeviceFailure, match="must be started again"):
                job.result(WAIT_S)
    health = another.health()
    assert "started again" in health.fault
    assert not health.is_ready
    assert (another.status().state, another.status().message) == ("failed", health.fault)
    with pytest.raises(DeviceFailure, match="must be started again"):
        submit(another)


class Panic(BaseException):
    """As tokenizers' and safetensors' Rust raises it."""


@pytest.mark.parametrize(("place", "name", "error"), [
    (Engine, "_admit", SystemError), (PipelineManager, "get", Panic), (engine_module, "finish", Panic)
])  # fmt: skip
def test_a_worker_that_died_leaves_nobody_waiting(
    another: Engine, place: Any, name: str, error: type[BaseException]
) -> None:
    submit(another).result(WAIT_S)  # its model is there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, fail_with(lambda: error("something is confused")))
        job = submit(another)
        with pytest.raises(DeviceFailure, match="must be started again"):
            job.result(WAIT_S)
    assert "worker ended" in another.health().fault
    assert "sd_demo_healthy 0" in another.metrics_text()


def test_stopping_hands_back_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    engine = make(tmp_path, max_rows=2)
    jobs = [submit(engine, seed=seed, num_inference_steps=150, width=256, height=256) for seed in range(4)]
    next(event for event in jobs[0].events() if isinstance(event, Step))  # one runs, the others wait
    engine.close(0.2)
    assert [type(list(job.events())[-1]) for job in jobs] == [Cancelled] * 4
    assert (engine.health().fault, engine.health().is_ready) == ("", False)
    with pytest.raises(QueueFull, match="shutting down"):
        submit(engine)
    assert list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*")) == []


def test_the_gate_stands_before_the_queue(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", output_dir=tmp_path, max_visitor_jobs=2, max_steps=10))
    for seed in range(2):
        submit(engine, seed=seed)  # nobody works: they wait
    with pytest.raises(QueueFull, match="2 at once is the most"):
        submit(engine)
    with pytest.raises(InvalidRequest, match="num_inference_steps may be at most 10"):
        submit(engine, num_inference_steps=11)
    assert engine.metrics.value("jobs_total", outcome="refused") == 2
    assert engine.status().queued == 2


def test_a_visitor_is_charged_for_its_own_share_of_the_device(tmp_path: Path) -> None:
    engine = make(tmp_path, max_device_seconds=100_000)
    asked = {"prompt": "a ball", "num_inference_steps": 8, "seed": 1, "width": 64, "height": 64}
    try:
        submit(engine).result(WAIT_S)
        with engine.device_turns:  # so that both begin together
            jobs = [engine.submit(parse_request("text_to_image", asked), visitor=name) for name in "ab"]
        done = [job.result(WAIT_S).images[0].receipt.done for job in jobs]
    finally:
        engine.close()
    assert [one.shared_with for one in done] == [1, 1]
    for name, one in zip("ab", done, strict=True):
        own_s = one.encode_s + one.denoise_s / 2 + one.decode_s
        assert engine._gate.used_s(name) == pytest.approx(own_s, abs=1e-3)
