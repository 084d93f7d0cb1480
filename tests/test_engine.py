"""The engine with the embedded model: jobs, sharing, cancel, faults of one job, and what is saved."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sd_demo import denoising as denoising_module
from sd_demo import engine as engine_module
from sd_demo import saving as saving_module
from sd_demo.engine import Engine
from sd_demo.errors import DeviceFailure, JobCancelled, ModelUnavailable, NonFiniteImage, OutOfMemory, QueueFull
from sd_demo.events import Cancelled, Decoding, Done, Encoding, Queued, ResultImage, Step
from sd_demo.fair_queue import FairQueue
from sd_demo.job import Job
from sd_demo.model_files import MANIFEST, repo_folder
from sd_demo.receipt import read_receipt
from sd_demo.requests import AnyRequest, TextToImage, parse_request
from sd_demo.restore import from_receipt
from sd_demo.settings import Settings

WAIT_S = 120


def request(task: str = "text_to_image", **values: Any) -> AnyRequest:
    small: dict[str, Any] = {"width": 64, "height": 64} if task == "text_to_image" else {}
    return parse_request(task, {"prompt": "a red ball", "num_inference_steps": 4, "seed": 1, **small, **values})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=folder, max_queue=8))
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Each `release()` of it lets the worker take one step."""
    gate = threading.Semaphore(0)
    real = engine_module.advance

    def one_at_a_time(denoisings: Any) -> list[Exception | None]:
        assert gate.acquire(timeout=WAIT_S)
        return real(denoisings)

    monkeypatch.setattr(engine_module, "advance", one_at_a_time)
    yield gate
    gate.release(100_000)


def wait_for_step(job: Job, index: int) -> None:
    for event in job.events():
        if isinstance(event, Step) and event.index >= index:
            return
    pytest.fail("the job ended before that step")


def pixels(job: Job) -> np.ndarray:
    return np.asarray(job.result(WAIT_S).images[0].image, dtype=np.int16)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a - b).astype(float) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def test_a_job_tells_its_way_in_order(engine: Engine) -> None:
    events = list(engine.submit(request()).events())
    kinds = [type(e) for e in events if not isinstance(e, Queued)]
    assert kinds == [Encoding, *[Step] * 4, Decoding, Done]
    assert [e.index for e in events if isinstance(e, Step)] == [1, 2, 3, 4]


def test_the_file_holds_the_picture_and_its_receipt(engine: Engine) -> None:
    job = engine.submit(request(prompt="a red dragon", negative_prompt="snow", num_images_per_prompt=2, seed=7))
    images = job.result(WAIT_S).images
    assert [i.receipt.done.seed for i in images] == [7, 8]
    for result in images:
        with Image.open(result.path) as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(result.image))
            assert read_receipt(saved) == result.receipt
            assert saved.text["parameters"].startswith("a red dragon\nNegative prompt: snow\nSteps: 4,")
        assert result.receipt.asked["prompt"] == "a red dragon"
        assert result.receipt.done.unknown_words == ["dragon"]
        assert (result.receipt.done.width, result.receipt.done.height) == (64, 64)


def test_previews_only_where_asked_for(engine: Engine) -> None:
    quiet = [e for e in engine.submit(request()).events() if isinstance(e, Step)]
    shown = [e for e in engine.submit(request(), has_previews=True).events() if isinstance(e, Step)]
    assert not any(e.previews for e in quiet)
    assert shown[0].previews[0].size == (64, 64)


def test_same_request_same_pixels_another_seed_others(engine: Engine) -> None:
    first, again, other = (pixels(engine.submit(request(seed=seed))) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert psnr(first, other) < 40


@pytest.mark.parametrize(
    ("model", "guidance", "is_read"),
    [("picture-book", 1.0, False), ("picture-book", 2.0, True), ("random:lcm:tiny", 8.0, False)],
)
def test_a_negative_prompt_that_is_not_read_changes_nothing(
    engine: Engine, model: str, guidance: float, is_read: bool
) -> None:
    """Longer than the text encoder it would lengthen what the UNet reads of the prompt."""
    made = [
        engine.submit(request(model=model, guidance_scale=guidance, negative_prompt=words)).result(WAIT_S).images[0]
        for words in ("", "snow and ice, " * 40)
    ]
    without, long = (np.asarray(one.image) for one in made)
    assert np.array_equal(without, long) != is_read
    done = made[1].receipt.done
    assert (done.is_guided, done.prompt_chunks > 1) == (is_read, is_read)
    assert any("negative prompt had no effect" in note for note in made[1].receipt.notes) != is_read


def test_no_model_means_the_one_the_program_started_with_as_its_description_says(engine: Engine) -> None:
    made = [engine.submit(request(model=name)).result(WAIT_S).images[0] for name in ("random:lcm:tiny", None)]
    assert [one.receipt.done.model for one in made] == ["random:lcm:tiny", "picture-book"]
    assert "empty means the one that the program started with" in str(TextToImage.model_fields["model"].description)


def test_image_three_of_four_alone(engine: Engine) -> None:
    four = engine.submit(request(seed=30, num_images_per_prompt=4, scheduler="euler_a")).result(WAIT_S).images
    alone = pixels(engine.submit(request(seed=four[2].receipt.done.seed, scheduler="euler_a")))
    assert psnr(np.asarray(four[2].image, dtype=np.int16), alone) >= 50


def test_jobs_share_steps_and_the_picture_stays_the_same(engine: Engine, held: threading.Semaphore) -> None:
    blocker = engine.submit(request(num_inference_steps=2))
    shared = [
        engine.submit(request(seed=40 + k, num_inference_steps=3 + k, scheduler=name), visitor=f"v{k}")
        for k, name in enumerate(("ddim", "euler_a", "lms", "heun", "unipc"))
    ]
    held.release(100_000)
    blocker.result(WAIT_S)
    together = [job.result(WAIT_S).images[0] for job in shared]
    for k, (job, result) in enumerate(zip(shared, together, strict=True)):
        assert result.receipt.done.shared_with >= 4
        alone = engine.submit(job.request).result(WAIT_S).images[0]
        assert alone.receipt.done.shared_with == 0
        a, b = (np.asarray(r.image, dtype=np.int16) for r in (result, alone))
        assert psnr(a, b) >= 50, k


def test_cancel_stops_within_a_step_and_the_next_job_works(engine: Engine, held: threading.Semaphore) -> None:
    before = set(engine.outputs.folder.glob("**/*.png"))
    late = engine.metrics.value("steps_after_cancel_total")
    job = engine.submit(request(num_inference_steps=50))
    held.release()
    wait_for_step(job, 1)
    job.cancel()
    held.release(2)
    events = list(job.events())
    assert isinstance(events[-1], Cancelled)
    assert max(e.index for e in events if isinstance(e, Step)) <= 2  # the first and the one in progress
    ran = max(e.index for e in events if isinstance(e, Step))
    assert engine.metrics.value("steps_after_cancel_total") == late + ran - 1
    with pytest.raises(JobCancelled):
        job.result(1)
    held.release(100_000)
    assert engine.submit(request()).result(WAIT_S).images
    assert len(set(engine.outputs.folder.glob("**/*.png")) - before) == 1


@pytest.mark.parametrize("stage", ["decode", "save", "the last save"])
def test_a_cancel_is_read_between_pictures_and_leaves_no_file(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    engine.submit(request()).result(WAIT_S)
    model = engine._manager.current
    assert model is not None
    before, calls, jobs = set(engine.outputs.folder.glob("**/*.png")), [], []
    where: tuple[Any, str] = (model.vae, "decode") if stage == "decode" else (engine.outputs, "save")
    real = getattr(*where)

    def cancelling(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if stage != "the last save" or len(calls) == 3:
            jobs[0].cancel()
        return real(*given, **options)

    monkeypatch.setattr(*where, cancelling)
    charged = engine.metrics.value("stage_seconds_total", stage="decode")
    with engine.device_turns:  # so that the job is known before it runs
        jobs.append(engine.submit(request(num_images_per_prompt=3, num_inference_steps=1)))
    assert isinstance(list(jobs[0].events())[-1], Cancelled)
    assert engine.metrics.value("stage_seconds_total", stage="decode") > charged, "it took the device's time"
    assert len(calls) == (3 if stage == "the last save" else 1)
    assert set(engine.outputs.folder.glob("**/*.png")) == before


def test_the_picture_that_came_in_is_named_once_for_all_that_came_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], saving_module.fingerprint
    monkeypatch.setattr(saving_module, "fingerprint", lambda image: (calls.append(image.size), real(image))[1])
    image = Image.effect_noise((64, 64), 40).convert("RGB")
    asked = request("image_to_image", image=image, num_images_per_prompt=3, num_inference_steps=1)
    names = [one.receipt.asked["image"] for one in engine.submit(asked).result(WAIT_S).images]
    assert names == [{"sha256": real(image), "width": 64, "height": 64}] * 3
    assert calls == [(64, 64)]


def test_a_waiting_job_is_cancelled_without_running(engine: Engine, held: threading.Semaphore) -> None:
    running = engine.submit(request(num_images_per_prompt=16))
    held.release()
    wait_for_step(running, 1)
    waiting = engine.submit(request(num_images_per_prompt=16))
    waiting.cancel()
    held.release(100_000)
    assert [type(e) for e in waiting.events() if not isinstance(e, Queued)] == [Cancelled]
    assert len(running.result(WAIT_S).images) == 16


def test_whoever_waits_behind_a_cancelled_job_moves_up(engine: Engine, held: threading.Semaphore) -> None:
    running = engine.submit(request(num_images_per_prompt=16))
    held.release()
    wait_for_step(running, 1)
    first, second = (engine.submit(request(num_images_per_prompt=16)) for _ in range(2))
    first.cancel()
    held.release()
    wait_for_step(running, 2)
    second.cancel()
    assert [event.position for event in second.events() if isinstance(event, Queued)] == [2, 1]
    running.cancel()
    held.release(100_000)
    assert isinstance(list(running.events())[-1], Cancelled), "or it would take the next test's steps"


def test_whoever_waits_is_told_when_it_will_begin(
    engine: Engine, held: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(num_images_per_prompt=16)  # 32 rows of 64 latents
    running = engine.submit(asked)
    held.release()
    wait_for_step(running, 1)
    monkeypatch.setattr(engine._speed, "_step_s", {"picture-book": 1 / (32 * 64)})
    monkeypatch.setattr(engine._speed, "_decode_s", {"picture-book": 2 / (16 * 64)})
    monkeypatch.setattr(engine._speed, "_any_job_s", 99.0)
    waiting = [engine.submit(asked) for _ in range(2)]
    told = [[(e.position, e.wait_s) for e in job._events if isinstance(e, Queued)][-1] for job in waiting]
    assert told == [(1, pytest.approx(3 * 1 + 2)), (2, pytest.approx((3 * 1 + 2) + (4 * 1 + 2)))]
    for learn in ("learn_step", "learn_job"):
        monkeypatch.setattr(engine._speed, learn, lambda *_: None)
    held.release(3)
    moved = next(e for e in waiting[1].events() if isinstance(e, Queued) and e.position == 1)
    assert moved.wait_s == pytest.approx(4 * 1 + 2), "the one that begins just now counts"
    waiting += [engine.submit(asked) for _ in range(7)]
    with pytest.raises(QueueFull, match=r"try again in about 6 s"):  # when the first of them leaves its place
        engine.submit(asked)
    waiting[2].cancel()
    monkeypatch.setattr(engine._speed, "_any_job_s", None)
    waiting.append(engine.submit(asked))
    assert waiting[-1]._events[-1] == Queued(8, None), "nothing has ended yet"
    for job in waiting:
        job.cancel()
    held.release(100_000)
    assert isinstance(list(waiting[0].events())[-1], Cancelled), "or it would take the next test's steps"


def test_a_job_that_is_cancelled_while_others_are_dropped_is_dropped_the_next_time() -> None:
    class Late(Job):
        looks = 0

        @property
        def is_cancelled(self) -> bool:
            self.looks += 1
            return self.looks > 1

    queue, job = FairQueue(), Late(request(), visitor="me", has_previews=False)
    queue.add(job)
    assert queue.drop_cancelled() == []
    assert queue.drop_cancelled() == [job], "or nobody would ever tell it its end"


def test_a_full_queue_says_when_to_come_back(engine: Engine, held: threading.Semaphore) -> None:
    jobs = [engine.submit(request(num_images_per_prompt=16))]
    held.release()
    wait_for_step(jobs[0], 1)
    jobs += [engine.submit(request(num_images_per_prompt=16)) for _ in range(8)]
    with pytest.raises(QueueFull, match=r"try again in about \d+ s"):
        engine.submit(request())
    assert next(e.position for e in jobs[8]._events if isinstance(e, Queued)) == 8
    for job in jobs:
        job.cancel()
    held.release(100_000)
    for job in jobs:
        list(job.events())


def test_cancelled_jobs_keep_nobody_out_of_the_queue(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", output_dir=tmp_path, max_queue=2))  # nobody works: they wait
    gone = [engine.submit(request(), visitor="a") for _ in range(2)]
    for job in gone:
        job.cancel()
    other = engine.submit(request(), visitor="b")
    assert [e.position for e in other._events if isinstance(e, Queued)] == [1]
    assert [type(job._events[-1]) for job in gone] == [Cancelled] * 2, "whoever waits for them is told"


def test_a_job_that_is_cancelled_while_another_one_is_begun_is_not_begun(
    engine: Engine, held: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = engine.submit(request(num_inference_steps=2))
    held.release()
    wait_for_step(blocker, 1)
    first, second = (engine.submit(request(), visitor=name) for name in ("a", "b"))
    begun, get = [], engine._manager.get

    def slow(*given: Any, **more: Any) -> Any:
        begun.append(given)
        second.cancel()
        return get(*given, **more)

    monkeypatch.setattr(engine._manager, "get", slow)
    held.release(100_000)
    assert [type(e) for e in second.events() if not isinstance(e, Queued)] == [Cancelled]
    assert first.result(WAIT_S).images
    assert len(begun) == 1


def test_while_a_model_is_read_whoever_leaves_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    get, jobs, ended = engine._manager.get, [], []

    def slow(*given: Any, **more: Any) -> Any:
        for job in jobs:
            job.cancel()
        ended.extend(job.is_ended for job in jobs)
        return get(*given, **more)

    monkeypatch.setattr(engine._manager, "get", slow)
    with engine.device_turns:  # so that both are known before one is begun
        jobs += [engine.submit(request(), visitor=name) for name in ("whose model is read", "who waits")]
    kinds = [[type(e) for e in job.events() if not isinstance(e, Queued)] for job in jobs]
    assert kinds == [[Cancelled], [Cancelled]], "not even the prompt of the first one was read"
    assert ended == [False, True]
    monkeypatch.undo()
    assert engine.submit(request()).result(WAIT_S).images


def test_tokens_are_counted_by_the_chosen_models_own_tokenizer(engine: Engine) -> None:
    engine.submit(request()).result(WAIT_S)
    report = engine.token_report("a red house", engine.defaults())
    assert report is not None
    assert report.count >= 3
    assert engine.token_report("a red house", engine.registry.get("sd-1.5")) is None, "it is not in memory"


def test_an_unknown_model_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(ModelUnavailable, match="picture-book"):
        engine.submit(request(model="no-such-model"))


def test_one_failing_job_does_not_take_the_others_with_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, held: threading.Semaphore
) -> None:
    waiting_real = engine_module.advance

    def fails_for_seed_66(denoisings: Any) -> list[Exception | None]:
        if any(66 in d.plan.seeds for d in denoisings):
            raise RuntimeError("a secret path: /etc/shadow")
        return waiting_real(denoisings)

    blocker = engine.submit(request(num_inference_steps=2))
    monkeypatch.setattr(engine_module, "advance", fails_for_seed_66)
    bad = engine.submit(request(seed=66))
    good = engine.submit(request(seed=67))
    held.release(100_000)
    blocker.result(WAIT_S)
    with pytest.raises(DeviceFailure, match=bad.id) as caught:
        bad.result(WAIT_S)
    assert "secret" not in str(caught.value)
    assert good.result(WAIT_S).images
    monkeypatch.setattr(engine_module, "advance", waiting_real)
    assert psnr(pixels(good), pixels(engine.submit(request(seed=67)))) >= 50


def test_a_failing_scheduler_stops_its_own_job_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, held: threading.Semaphore
) -> None:
    real_take = denoising_module.Denoising.take

    def breaks_for_seed_68(self: denoising_module.Denoising, predictions: torch.Tensor) -> None:
        if 68 in self.plan.seeds and self.index == 2:
            raise RuntimeError("broken")
        real_take(self, predictions)

    monkeypatch.setattr(denoising_module.Denoising, "take", breaks_for_seed_68)
    blocker = engine.submit(request(num_inference_steps=2))
    bad, good = engine.submit(request(seed=68)), engine.submit(request(seed=69))
    held.release(100_000)
    blocker.result(WAIT_S)
    with pytest.raises(DeviceFailure):
        bad.result(WAIT_S)
    assert psnr(pixels(good), pixels(engine.submit(request(seed=69)))) >= 50


def test_out_of_memory_is_said_and_survived(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixels(engine.submit(request(seed=70)))
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "advance", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
        with pytest.raises(OutOfMemory, match="smaller size"):
            engine.submit(request(seed=70)).result(WAIT_S)
    assert np.array_equal(before, pixels(engine.submit(request(seed=70))))


def test_nan_is_an_error_and_never_a_black_picture(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine_module.advance

    def poisoned(denoisings: Any) -> list[Exception | None]:
        failures = real(denoisings)
        denoisings[0].latents = denoisings[0].latents * float("nan")
        return failures

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "advance", poisoned)
        with pytest.raises(NonFiniteImage):
            engine.submit(request()).result(WAIT_S)
    assert engine.submit(request()).result(WAIT_S).images


@pytest.mark.parametrize("size", [(100, 75), (97, 131), (128, 64)])
def test_outside_the_mask_every_pixel_is_the_inputs(engine: Engine, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse((20, 10, 70, 60), fill=255)
    result = engine.submit(request("inpaint", image=picture, mask_image=mask)).result(WAIT_S).images[0]
    before, after, inside = (np.asarray(i) for i in (picture, result.image, mask.convert("1")))
    assert result.image.size == size
    assert np.array_equal(before[~inside], after[~inside])
    assert (before[inside] != after[inside]).any(axis=-1).mean() > 0.8


def test_a_large_picture_is_worked_on_smaller_and_says_so(engine: Engine) -> None:
    picture = Image.effect_noise((900, 500), 40).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle((300, 200, 500, 300), fill=255)
    result = engine.submit(request("inpaint", image=picture, mask_image=mask, num_inference_steps=1)).result(WAIT_S)
    image = result.images[0]
    assert image.image.size == (900, 500)
    assert "900x500 was worked on at 384x213" in " ".join(image.receipt.notes)
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(picture)[outside], np.asarray(image.image)[outside])


def test_what_a_limit_lowered_is_said_and_comes_back_where_there_is_none(engine: Engine, tmp_path: Path) -> None:
    engine.submit(request()).result(WAIT_S)  # two models that are read at the same time would disturb each other
    settings = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "output_dir": tmp_path}
    strict = Engine(Settings(**settings, max_side=256, max_steps=2))
    strict.start()
    picture = Image.effect_noise((900, 600), 40).convert("RGB")
    asked = parse_request("image_to_image", {"prompt": "a red ball", "image": picture, "seed": 3})
    one = strict.submit(asked).result(WAIT_S).images[0]
    mask = Image.new("L", picture.size, 255)
    repainted = strict.submit(parse_request("inpaint", {"image": picture, "mask_image": mask, "strength": 1.0}))
    notes = repainted.result(WAIT_S).images[0].receipt.notes
    strict.close()
    assert (one.receipt.done.width, one.receipt.done.height, one.receipt.done.effective_steps) == (256, 171, 2)
    assert (one.receipt.asked["width"], one.receipt.asked["num_inference_steps"]) == (None, None)
    assert "The picture was worked on at 256x171, as this server allows no more." in one.receipt.notes
    fewer = "This server allows fewer than the model's own 20 steps; "
    assert fewer + "4 were set, so that at most 2 run." in one.receipt.notes
    assert notes[:4] == ["The picture of 900x600 was worked on at 256x171 and put back at its own size.",
                         "256x171 was made as 256x176 and cropped.",
                         "This server allows no larger size.", fewer + "2 were set."]  # fmt: skip
    restored = from_receipt(one.receipt, registry=engine.registry, lora_dir=tmp_path)
    again = engine.submit(restored.request(image=picture)).result(WAIT_S).images[0]
    assert np.array_equal(np.asarray(again.image), np.asarray(one.image))


def test_odd_sizes_come_back_exactly(engine: Engine) -> None:
    result = engine.submit(request(width=71, height=93)).result(WAIT_S).images[0]
    assert result.image.size == (71, 93)
    assert result.receipt.notes == ["71x93 was made as 72x96 and cropped."]


def test_an_empty_prompt_makes_a_picture_and_says_so(engine: Engine) -> None:
    result = engine.submit(request(prompt=" ")).result(WAIT_S).images[0]
    own = result.receipt.done.read_prompt
    assert own
    assert f"The prompt is empty, so the model chose what to show: {own}." in result.receipt.notes
    assert result.receipt.asked["prompt"] == " "
    assert result.receipt.parameters().splitlines()[0] == own
    changed = engine.submit(request("image_to_image", prompt="", image=result.image)).result(WAIT_S).images[0]
    assert "The prompt is empty, so only the picture was followed." in changed.receipt.notes
    assert changed.receipt.done.read_prompt is None


def test_each_picture_without_a_prompt_is_one_of_its_own_words_which_make_it_again(
    engine: Engine, tmp_path: Path
) -> None:
    several = engine.submit(request(prompt="", num_images_per_prompt=3, seed=4, grid="1x3")).result(WAIT_S)
    owns = [one.receipt.done.read_prompt for one in several.images]
    assert len(set(owns)) == 3
    third = several.images[2]
    alone = engine.submit(request(prompt="", seed=6)).result(WAIT_S).images[0]
    told = engine.submit(request(prompt=owns[2], seed=6)).result(WAIT_S).images[0]
    back = from_receipt(third.receipt, registry=engine.registry, lora_dir=tmp_path)
    assert back.values["prompt"] == owns[2]
    again = engine.submit(back.request()).result(WAIT_S).images[0]
    for one in (told, again):
        assert np.array_equal(np.asarray(one.image), np.asarray(alone.image))
    shared, unshared = (np.asarray(one.image, dtype=np.int16) for one in (third, alone))
    assert psnr(shared, unshared) >= 50, "as of any image of several"
    assert alone.receipt.done.read_prompt == owns[2]
    assert told.receipt.done.read_prompt is None
    shunning = engine.submit(request(prompt="", negative_prompt="tree, red", seed=6)).result(WAIT_S).images[0]
    assert shunning.receipt.done.read_negative_prompt == "red", "no tree is made up, so none is to be denied"
    assert not any("negative" in note for note in shunning.receipt.notes)
    back = from_receipt(shunning.receipt, registry=engine.registry, lora_dir=tmp_path)
    assert (back.values["prompt"], back.values["negative_prompt"]) == (shunning.receipt.done.read_prompt, "red")
    again = engine.submit(back.request()).result(WAIT_S).images[0]
    assert np.array_equal(np.asarray(again.image), np.asarray(shunning.image))
    unguided = engine.submit(request(prompt="", negative_prompt="red", guidance_scale=1.0)).result(WAIT_S).images[0]
    heeded = "The negative prompt was heeded only in what the model chose, because guidance_scale is 1."
    assert heeded in unguided.receipt.notes
    assert re.findall("[a-z]+", owns[2] or "")[1] in alone.path.stem


def test_what_a_prompt_leaves_open_is_read_from_the_mask(engine: Engine, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    left = Image.new("L", (64, 64), 0)
    left.paste(255, (2, 32, 30, 60))

    def made(prompt: str, negative_prompt: str = "", **values: Any) -> ResultImage:
        given = {"image": noise, "mask_image": left, "negative_prompt": negative_prompt, **values}
        return engine.submit(request("inpaint", prompt=prompt, **given)).result(WAIT_S).images[0]

    read, left_out = "a red ball on the left", "What the negative prompt denies was left out of the prompt"
    one, denied = made("a red ball."), made("a red ball and a sun", "sun")
    unguided = made("a red ball", "fuzzy", guidance_scale=1.0)
    assert f"What the prompt leaves open was read from the mask: {read}." in one.receipt.notes
    assert f"{left_out}, and what that leaves open was read from the mask: {read}." in denied.receipt.notes
    assert "The negative prompt had no effect, because guidance_scale is 1." in unguided.receipt.notes
    for result, told, rest in ((one, f"{read}.", None), (denied, read, ""), (unguided, read, None)):
        assert (result.receipt.done.read_prompt, result.receipt.done.read_negative_prompt) == (told, rest)
        back = from_receipt(result.receipt, registry=engine.registry, lora_dir=tmp_path)
        assert back.values["prompt"] == result.receipt.asked["prompt"] == result.receipt.prompt
        same = made(told, rest or "", **({"guidance_scale": 1.0} if result is unguided else {}))
        assert np.array_equal(np.asarray(same.image), np.asarray(result.image))
        assert same.receipt.done.read_prompt is None
    assert made("a red ball", "tree", guidance_scale=1.0).receipt.done.read_negative_prompt is None, "none was read"
    assert not any("read from the mask" in note for note in made("sand").receipt.notes)


def test_what_a_negative_prompt_denies_is_left_out_of_the_prompt(engine: Engine, tmp_path: Path) -> None:
    def made(negative_prompt: str, prompt: str = "a house and a sun", **values: Any) -> ResultImage:
        asked = request(prompt=prompt, negative_prompt=negative_prompt, **values)
        return engine.submit(asked).result(WAIT_S).images[0]

    read = "a house"
    plain, both, unguided = made("sun"), made("no sun, fuzzy"), made("sun", guidance_scale=1.0)
    for one, negative, rest in ((plain, "sun", ""), (both, "no sun, fuzzy", "fuzzy"), (unguided, "sun", "")):
        receipt = one.receipt
        assert (receipt.done.read_prompt, receipt.done.read_negative_prompt) == (read, rest)
        assert (receipt.asked["prompt"], receipt.asked["negative_prompt"]) == ("a house and a sun", negative)
        assert f"What the negative prompt denies was left out of the prompt: {read}." in receipt.notes
        assert not any("had no effect" in note for note in receipt.notes)
        assert receipt.prompt == "a house and a sun"
        assert receipt.parameters().startswith(f"a house and a sun\nNegative prompt: {negative}\n")
        back = from_receipt(receipt, registry=engine.registry, lora_dir=tmp_path)
        assert (back.values["prompt"], back.values["negative_prompt"]) == ("a house and a sun", negative)
        again = engine.submit(back.request()).result(WAIT_S).images[0]
        assert np.array_equal(np.asarray(again.image), np.asarray(one.image))
        told = made(rest, read, **({"guidance_scale": 1.0} if one is unguided else {}))
        assert np.array_equal(np.asarray(told.image), np.asarray(one.image))
        assert told.receipt.done.read_prompt is told.receipt.done.read_negative_prompt is None
    fuzzy = made("sun, fuzzy", guidance_scale=1.0)
    assert "The rest of the negative prompt, fuzzy, had no effect, because guidance_scale is 1." in fuzzy.receipt.notes
    assert np.array_equal(np.asarray(fuzzy.image), np.asarray(unguided.image))

    by_picture = made("sun", "", task="image_to_image", image=plain.image)
    assert "The negative prompt was read as: no sun." in by_picture.receipt.notes
    assert (by_picture.receipt.done.read_prompt, by_picture.receipt.done.read_negative_prompt) == (None, "no sun")
    by_picture = made("sun", "", task="image_to_image", image=plain.image, guidance_scale=1.0)
    assert "The negative prompt had no effect, because guidance_scale is 1." in by_picture.receipt.notes


def test_what_acts_in_other_programs_and_is_text_here_is_said(engine: Engine) -> None:
    typed = "a red <lora:pencil:0.8> ball AND [cat:dog:0.5] \\[x|y\\]"
    done = engine.submit(request(prompt=typed, negative_prompt="[a|b]", num_inference_steps=1)).result(WAIT_S)
    assert [note for note in done.images[0].receipt.notes if "as words" in note] == [
        "<lora:pencil:0.8> is read as words; choose LoRAs in the field loras.",
        "AND, [cat:dog:0.5], [a|b] are read as words; prompt editing, alternation, AND and hypernetworks do nothing "
        "here.",
    ]
    plain = engine.submit(request(prompt="a ([red]:1.2) ball BREAK a cat", num_inference_steps=1)).result(WAIT_S)
    assert not any("as words" in note for note in plain.images[0].receipt.notes)


def test_less_than_a_step_says_how_many_ran(engine: Engine) -> None:
    image = Image.effect_noise((64, 64), 40).convert("RGB")
    for scheduler, words in (("ddim", "one step ran"), ("pndm", "2 steps ran")):
        asked = request("image_to_image", image=image, strength=0.01, scheduler=scheduler, num_inference_steps=49)
        receipt = engine.submit(asked).result(WAIT_S).images[0].receipt
        assert receipt.notes == [f"Strength 0.01 of 49 steps is less than one; {words}."]
        assert receipt.done.strength == 0.0205


def test_closing_ends_the_running_job_and_refuses_new_ones(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    job = engine.submit(request())
    wait_for_step(job, 1)
    engine.close(timeout_s=WAIT_S)
    assert job.result(1).images
    with pytest.raises(QueueFull, match="shutting down"):
        engine.submit(request())


def test_what_was_downloaded_meanwhile_is_no_longer_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # whatever lies on this machine
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    engine = Engine(Settings(device="cpu", dtype="float32", data_dir=tmp_path / "data", output_dir=tmp_path / "out"))
    engine.start()
    engine.submit(request()).result(WAIT_S)
    assert "Stable Diffusion 1.5 is not here" in engine.status().message
    best = engine.registry.get("sd-1.5")
    folder = engine.registry.models_dir / repo_folder(best.source) / str(best.revision)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    assert "Stable Diffusion 1.5 is here; without a GPU" in engine.status().message
    engine.close()


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    engine = Engine(Settings(device="cpu", dtype="float32", output_dir=tmp_path / "out", model=str(broken)))
    engine.start()
    with pytest.raises(ModelUnavailable, match="broken is not complete: it lacks unet"):
        engine.submit(request()).result(WAIT_S)
    assert engine.status().state == "failed"
    job = engine.submit(request(model="picture-book"))
    assert job.result(WAIT_S).images
    assert engine.status().state == "ready"
    engine.close()


def test_a_default_that_nobody_named_gives_way_to_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.engine.default_model", lambda **_: "sd-1.5")
    engine = Engine(Settings(device="cpu", dtype="float32", data_dir=tmp_path / "data", output_dir=tmp_path / "out"))
    best = engine.registry.get("sd-1.5")
    folder = engine.registry.models_dir / repo_folder(best.source) / str(best.revision)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")  # it seems to be here, and cannot be loaded
    is_turn, get, turns = [], engine._manager.get, engine.device_turns

    def noted(*given: Any, **more: Any) -> Any:
        is_turn.append(turns._given > turns._serving)
        return get(*given, **more)

    monkeypatch.setattr(engine._manager, "get", noted)
    engine.start()
    while not engine.health().is_ready or engine.status().state == "loading":
        threading.Event().wait(0.01)
    status = engine.status()
    assert (status.state, status.model) == ("ready", "picture-book")
    assert is_turn == [True, True], "a lesson may load its model at the same time"
    assert "model_index.json is missing" in status.message
    assert engine.health().is_ready
    assert engine.defaults(None).name == "picture-book"
    assert engine.submit(request()).result(WAIT_S).images[0].receipt.done.model == "picture-book"
    assert "model_index.json" not in engine.status().message
    engine.close()


def test_a_named_model_that_is_not_here_gives_way_where_a_page_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    here = {"data_dir": tmp_path / "data", "output_dir": tmp_path / "out"}
    engine = Engine(Settings(device="cpu", dtype="float32", model="sd-1.4", **here))
    engine.start(falls_back=True)
    while not engine.health().is_ready or engine.status().state == "loading":
        threading.Event().wait(0.01)
    status = engine.status()
    assert (status.state, status.model) == ("ready", "picture-book")
    assert "python -m sd_demo download sd-1.4 fetches them" in status.message
    assert engine.health().is_ready
    assert engine.submit(request()).result(WAIT_S).images[0].receipt.done.model == "picture-book"
    with pytest.raises(ModelUnavailable, match=r"download sd-1\.4"):
        engine.submit(request(model="sd-1.4")).result(WAIT_S)
    engine.close()


def test_no_receipt_for_strangers_tells_where_the_hosts_model_lies(tmp_path: Path) -> None:
    from sd_demo.random_model import save

    place = save("sd-1.5", tmp_path / "secret" / "dream", "tiny")
    settings = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "takes_paths": False, "model": str(place)}
    engine = Engine(Settings(**settings, output_dir=tmp_path / "out", model_memory_mib=10_000))
    engine.start()
    try:
        jobs = [engine.submit(request(model=name)) for name in (None, "dream", str(place))]
        receipts = [job.result(WAIT_S).images[0].receipt for job in jobs]
        assert len(engine._manager.loaded) == 1, "all three names are of one model"
    finally:
        engine.close()
    assert {receipt.done.model for receipt in receipts} == {engine.status().model} == {"dream"}
    assert str(tmp_path) not in receipts[0].model_dump_json() + receipts[0].parameters()


def test_visitors_take_turns_and_each_is_told_its_true_place() -> None:
    queue = FairQueue()
    jobs = {name: Job(request(), visitor=name[0], has_previews=False) for name in ("a1", "a2", "a3", "b1", "c1", "b2")}
    for job in jobs.values():
        queue.add(job)
    names = {job.id: name for name, job in jobs.items()}
    told = [names[job.id] for job in queue.in_order()]
    assert told == [names[queue.take().id] for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_decoder_that_answers_nan_is_said_and_nothing_is_saved(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(request()).result(WAIT_S)
    model, before = engine._manager.current, set(engine.outputs.folder.glob("**/*.png"))
    assert model is not None
    real = model.vae.decode
    with monkeypatch.context() as patch:
        patch.setattr(model.vae, "decode", lambda *given, **how: (real(*given, **how)[0] * torch.nan,))
        with pytest.raises(NonFiniteImage, match="also not in float32"):
            engine.submit(request()).result(WAIT_S)
    assert set(engine.outputs.folder.glob("**/*.png")) == before


def test_what_could_not_begin_counts_no_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise ModelUnavailable("It is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(engine._manager, "get", gone)
        with pytest.raises(ModelUnavailable):
            engine.submit(request()).result(WAIT_S)
        assert engine._jobs() == []
    assert engine.submit(request()).result(WAIT_S).images


def test_what_begins_counts_among_a_visitors_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path, max_visitor_jobs=1))
    strict.start()
    strict.submit(request()).result(WAIT_S)
    began, go_on, get = threading.Event(), threading.Event(), strict._manager.get

    def slow(*given: Any, **more: Any) -> Any:
        began.set()
        assert go_on.wait(WAIT_S)
        return get(*given, **more)

    monkeypatch.setattr(strict._manager, "get", slow)
    job = strict.submit(request())
    assert began.wait(WAIT_S)
    with pytest.raises(QueueFull, match="1 at once is the most"):
        strict.submit(request())
    strict.close(0.0)
    assert job.is_cancelled
    go_on.set()
    assert isinstance(list(job.events())[-1], Cancelled)


def test_what_runs_counts_among_a_visitors_jobs(engine: Engine, held: threading.Semaphore, tmp_path: Path) -> None:
    held.release(4)
    engine.submit(request()).result(WAIT_S)  # two models that are read at the same time would disturb each other
    strict = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path, max_visitor_jobs=1))
    strict.start()
    try:
        job = strict.submit(request())
        held.release()
        wait_for_step(job, 1)
        with pytest.raises(QueueFull, match="1 at once is the most"):
            strict.submit(request())
        assert strict.status().running == 1
        held.release(100_000)
        job.result(WAIT_S)
        assert strict.submit(request()).result(WAIT_S).images
    finally:
        strict.close()
