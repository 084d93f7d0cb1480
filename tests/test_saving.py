"""Pictures are saved beside the device's work: a slow disk holds up nobody's steps, and nothing made is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_demo import saving
from sd_demo.endings import Endings
from sd_demo.engine import Engine
from sd_demo.errors import JobCancelled, OutputFailed
from sd_demo.events import Cancelled, Decoding, Done, Failed, Step
from sd_demo.finishing import Made
from sd_demo.job import Job
from sd_demo.metrics import Metrics
from sd_demo.outputs import Outputs
from sd_demo.requests import AnyRequest, parse_request
from sd_demo.saving import MOST_WAITING, Saver, saved
from sd_demo.settings import Settings
from tests.receipts import make_receipt

WAIT_S = 60


class Disk:
    """Nothing is written before it `is_ready`; somebody `is_there` who wants to."""

    def __init__(self) -> None:
        self.is_ready, self.is_there = threading.Event(), threading.Event()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """All pictures go there."""
    made, real = Disk(), Outputs.save

    def slow(*given: Any, **more: Any) -> Path:
        made.is_there.set()
        assert made.is_ready.wait(WAIT_S)
        return real(*given, **more)

    monkeypatch.setattr(Outputs, "save", slow)
    yield made
    made.is_ready.set()


def request(**values: Any) -> AnyRequest:
    small = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
    return parse_request("text_to_image", {**small, **values})


def made(count: int = 1, *, is_kept: bool = True) -> Made:
    job = Job(request(num_images_per_prompt=count), visitor="me", has_previews=False, is_kept=is_kept)
    return Made(job, tuple((Image.new("RGB", (64, 64)), make_receipt(seed=k).done, []) for k in range(count)))


def saver(folder: Path) -> tuple[Saver, Metrics]:
    metrics = Metrics()
    return Saver(Outputs(folder), Endings(metrics)), metrics


def test_who_draws_does_not_wait_for_somebody_elses_disk(tmp_path: Path, disk: Disk) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    first = engine.submit(request())
    assert any(isinstance(event, Decoding) for event in first.events())
    second = engine.submit(request(num_inference_steps=5))
    steps = [event.index for event in until_decoding(second) if isinstance(event, Step)]
    assert steps == [1, 2, 3, 4, 5]
    assert not first.is_ended
    assert list(tmp_path.rglob("*.png")) == []
    disk.is_ready.set()
    assert [len(job.result(WAIT_S).images) for job in (first, second)] == [1, 1]
    assert len(list(tmp_path.rglob("*.png"))) == 2
    assert engine.metrics.value("jobs_total", outcome="done") == 2
    engine.close()


def test_nothing_more_is_drawn_while_too_much_is_to_be_saved(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "MOST_WAITING", 1)
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    first = engine.submit(request())
    assert disk.is_there.wait(WAIT_S)
    second = engine.submit(request())
    time.sleep(0.5)
    assert not any(isinstance(event, Step) for event in second._events)
    disk.is_ready.set()
    assert [len(job.result(WAIT_S).images) for job in (first, second)] == [1, 1]
    engine.close()


def until_decoding(job: Job) -> Iterator[Any]:
    for event in job.events():
        if isinstance(event, Decoding):
            return
        yield event


def test_a_program_that_stops_saves_what_is_made(tmp_path: Path, disk: Disk) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    job = engine.submit(request())
    list(until_decoding(job))
    threading.Timer(0.3, disk.is_ready.set).start()
    engine.close(WAIT_S)
    assert isinstance(job._events[-1], Done), "close has waited"
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_what_a_disk_does_not_take_in_time_is_cancelled(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, metrics = saver(tmp_path)
    written, real = [], Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *given, **more: (written.append(1), real(*given, **more))[1])
    late = made(2)
    ours.add(late)
    assert disk.is_there.wait(WAIT_S)
    monkeypatch.setattr(saving, "LAST_S", 0.1)
    ours.close(0.1)
    assert late.job.is_cancelled
    disk.is_ready.set()
    with pytest.raises(JobCancelled):
        late.job.result(WAIT_S)
    assert list(tmp_path.rglob("*.png")) == [], "nor is the first of two left behind"
    assert written == [1], "and the second was not written to be thrown away"
    assert metrics.value("jobs_total", outcome="cancelled") == 1


def test_so_many_wait_in_memory_and_no_more(tmp_path: Path, disk: Disk) -> None:
    ours, _ = saver(tmp_path)
    jobs = [made() for _ in range(MOST_WAITING + 1)]
    for one in jobs[:-1]:
        ours.wait_for_room()
        ours.add(one)
    last = threading.Thread(target=ours.wait_for_room)
    last.start()
    last.join(0.2)
    assert last.is_alive(), "the worker would go on making what nobody can save"
    ours.add(jobs[-1])  # of the same turn
    disk.is_ready.set()
    last.join(WAIT_S)
    assert not last.is_alive()
    assert all(one.job.result(WAIT_S).images[0].path.is_file() for one in jobs)
    ours.close(WAIT_S)


def test_a_job_that_cannot_be_saved_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, metrics = saver(tmp_path)
    one, other = made(), made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outputs, "save", lambda *_, **__: (_ for _ in ()).throw(OutputFailed("The disk is full.")))
        ours.add(one)
        assert isinstance(list(one.job.events())[-1], Failed)
    ours.add(other)
    assert len(other.job.result(WAIT_S).images) == 1
    assert [metrics.value("jobs_total", outcome=outcome) for outcome in ("failed", "done")] == [1, 1]
    ours.close(WAIT_S)


def test_pictures_of_a_job_that_is_not_kept_have_receipts_and_no_file(tmp_path: Path) -> None:
    done = saved(made(2, is_kept=False), Outputs(tmp_path))
    assert [one.receipt.done.seed for one in done.images] == [0, 1]
    assert list(tmp_path.rglob("*.png")) == []


def test_a_job_that_was_cancelled_before_is_not_saved(tmp_path: Path) -> None:
    ours, _ = saver(tmp_path)
    gone = made()
    gone.job.cancel()
    ours.add(gone)
    assert isinstance(list(gone.job.events())[-1], Cancelled)
    assert list(tmp_path.rglob("*.png")) == []
    ours.close(WAIT_S)


def test_a_cancelled_job_has_a_moment_to_go_at_the_end(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = saver(tmp_path)
    late = made(2)
    ours.add(late)
    assert disk.is_there.wait(WAIT_S)
    monkeypatch.setattr(saving, "LAST_S", WAIT_S)
    threading.Timer(0.3, disk.is_ready.set).start()
    ours.close(0.0)
    assert isinstance(late.job._events[-1], Cancelled), "its file is gone before the program is"
    assert list(tmp_path.rglob("*.png")) == []


def test_no_thread_stays_when_all_is_saved(tmp_path: Path) -> None:
    ours, _ = saver(tmp_path)
    for _ in range(3):
        one = made()
        ours.add(one)
        one.job.result(WAIT_S)
        ours.close(WAIT_S)
        ends = time.monotonic() + WAIT_S
        while any(thread.name == "saver" for thread in threading.enumerate()) and time.monotonic() < ends:
            time.sleep(0.01)
        assert all(thread.name != "saver" for thread in threading.enumerate())


def test_where_there_are_no_more_threads_pictures_are_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    ours, _ = saver(tmp_path)
    one = made()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ours.add(one)
    assert one.job.result(0).images[0].path.is_file()
