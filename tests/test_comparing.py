"""A comparison's cells share the loop, leave room for others, and end in one sheet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_demo.cli import generate, main
from sd_demo.compare import plan_comparison
from sd_demo.comparing import Compared, run_comparison
from sd_demo.errors import JobCancelled, PlaygroundError, QueueFull
from sd_demo.outputs import SHEET_KEY, Outputs
from sd_demo.settings import Settings
from sd_demo.together import Jobs, Progress
from tests.fake_engine import FakeEngine


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(Outputs(tmp_path / "outputs"), step_s=0.001)
    engine.start()
    yield engine
    engine.close()


def table(cells: int = 4, **values: Any) -> Any:
    return plan_comparison("text_to_image", {"width": 64, "height": 64, **values}, f"seed: 1..{cells}")


def test_twelve_cells_run_together_on_the_engine(tmp_path: Path) -> None:
    from sd_demo.engine import Engine

    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa"), outputs=Outputs(tmp_path))
    engine.start()
    values = {"prompt": "a red ball", "width": 64, "height": 64, "num_inference_steps": 3}
    comparison = plan_comparison("text_to_image", values, "guidance_scale: 1, 3, 5, 7", "scheduler: ddim, euler, lms")
    try:
        *progress, end = run_comparison(engine, comparison)
    finally:
        engine.close()
    assert isinstance(end, Compared)
    assert all(isinstance(news, Progress) for news in progress)
    cells = [(one.receipt.done.scheduler, one.receipt.done.guidance_scale) for one in end.images]
    assert cells == [(name, scale) for name in ("ddim", "euler", "lms") for scale in (1, 3, 5, 7)]
    assert max(one.receipt.done.shared_with for one in end.images) == 11
    assert all(one.path.is_file() for one in end.images)
    with Image.open(end.path) as sheet:
        assert sheet.size == end.sheet.size
        receipts = json.loads(sheet.info[SHEET_KEY])
    assert receipts == [one.receipt.model_dump(mode="json") for one in end.images]


def test_no_more_wait_than_can_run_at_once(fake: FakeEngine) -> None:
    most = 0
    for _ in run_comparison(fake, table(36, num_inference_steps=1)):  # type: ignore[arg-type]
        most = max(most, sum(not job.is_ended for job in fake.jobs))
    assert len(fake.jobs) == 36
    assert most <= fake.settings.max_rows // 2


def test_a_queue_that_is_nearly_full_is_waited_for(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = fake.submit

    def with_two_places(*args: Any, **named: Any) -> Any:
        if sum(not job.is_ended for job in fake.jobs) >= 2:
            raise QueueFull("The queue is full.", 1.0)
        return submit(*args, **named)

    monkeypatch.setattr(fake, "submit", with_two_places)
    (*_, end) = run_comparison(fake, table(5))  # type: ignore[arg-type]
    assert isinstance(end, Compared)
    assert len(end.images) == 5


def test_a_full_queue_is_said(fake: FakeEngine) -> None:
    with pytest.raises(QueueFull):
        list(run_comparison(fake, table(prompt="full")))  # type: ignore[arg-type]


def test_a_failing_cell_and_a_closed_page_cancel_the_others(fake: FakeEngine) -> None:
    comparison = plan_comparison("text_to_image", {"prompt": "fail"}, "words: fail, ball, tree")
    with pytest.raises(PlaygroundError, match="patience"):
        list(run_comparison(fake, comparison))  # type: ignore[arg-type]
    running = run_comparison(fake, table(3))  # type: ignore[arg-type]
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert all(job.is_cancelled.is_set() for job in fake.jobs)


def test_another_thread_cancels_all(fake: FakeEngine) -> None:
    cells = Jobs()
    fake.step_s = 0.05
    running = run_comparison(fake, table(36), jobs=cells)  # type: ignore[arg-type]
    next(running)
    count = len(cells.jobs)
    cells.cancel()
    with pytest.raises(JobCancelled):
        list(running)
    assert all(job.is_cancelled.is_set() for job in cells.jobs)
    assert len(cells.jobs) == count


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def make_engine(settings: Settings) -> FakeEngine:
        engine = FakeEngine(Outputs(settings.output_dir, by_visitor=False), step_s=0.001, settings=settings)
        engine.start()
        return engine

    monkeypatch.setattr(generate, "make_engine", make_engine)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("lent")
def test_the_command_prints_the_sheet_and_its_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "a ball", "--x", "seed: 1..3", "--y", "guidance_scale: 2, 4", "--output", "here"]
    assert main(words) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(paths) == 7
    assert all(path.is_file() for path in paths)
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [image["receipt"]["done"]["seed"] for image in answer["images"]] == [1, 2, 3, 1, 2, 3]
    assert Path(answer["sheet"]).is_file()


@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("axis", ["colour: 1", "seed", "seed: x", "strength: 1"])
def test_a_bad_axis_is_bad_input(axis: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a ball", "--x", axis]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_every_cell_is_of_the_visitor_and_the_address_that_asked(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, who = fake.submit, set()

    def noted(asked: Any, *, visitor: str = "", origin: str = "", **rest: Any) -> Any:
        who.add((visitor, origin))
        return submit(asked, visitor=visitor, origin=origin, **rest)

    monkeypatch.setattr(fake, "submit", noted)
    list(run_comparison(fake, table(3), visitor="anna", origin="8.8.4.4"))  # type: ignore[arg-type]
    assert who == {("anna", "8.8.4.4")}
