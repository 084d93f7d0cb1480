"""What the LoRA tab does with uploaded pictures: none is lost, none is taken for another."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sd_demo.errors import InvalidRequest
from sd_demo.lora_training import LoraTraining
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from sd_demo.training_events import TrainingCancelled, TrainingEvent, TrainingFailed, TrainingStep
from sd_demo.training_pictures import kept_files
from sd_demo.turns import Turns
from sd_demo.ui.training_desk import TIDY, TrainingDesk

OPTIONS = {"trigger": "robot", "resolution": 64, "steps": 2000, "batch_size": 1, "rank": 2, "sample_every": 0}


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    given = []
    for k, name in enumerate(("d.png", "c.png", "b.png", "b.jpg", "c.png")):  # c.png comes from two folders
        path = tmp_path / "uploads" / str(k) / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (40 * k, 90, 20)).save(path)
        given.append({"path": str(path), "orig_name": name})
    return given


@pytest.fixture
def desk(tmp_path: Path) -> TrainingDesk:
    settings = Settings(device="cpu", data_dir=tmp_path / "data", lora_dir=tmp_path / "loras")
    engine: Any = SimpleNamespace(settings=settings, registry=Registry.of(settings), device_turns=Turns())
    return TrainingDesk(engine)


def ended(training: LoraTraining) -> TrainingEvent:
    """Its end, once the desk has tidied up after it."""
    *_, end = training.events()
    for thread in threading.enumerate():
        if thread.name == TIDY:
            thread.join()
    return end


def test_what_is_kept_for_another_day_stays_until_new_pictures_are_accepted(
    desk: TrainingDesk, uploads: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "training" / "robots"
    captions = "\n".join(f"robot {k}" for k in range(5))
    training = desk.begin(uploads, "robots", captions, OPTIONS)
    next(event for event in training.events() if isinstance(event, TrainingStep))
    training.cancel()
    ended(training)

    def kept() -> list[tuple[str, bytes]]:
        return [(name, path.read_bytes()) for path, name in kept_files(folder)]

    before = kept()
    assert [name for name, _ in before] == ["d.png", "c.png", "b.png", "b.jpg", "c-2.png", "metadata.jsonl"]
    for files, text, options in (
        (None, "", OPTIONS),
        (uploads[:2], "", OPTIONS),
        (uploads, "one line", OPTIONS),
        (uploads, "", {**OPTIONS, "rank": "many"}),
        ([{"path": "elsewhere"}], "", OPTIONS),
        (None, "one line", {**OPTIONS, "resume": True}),
    ):
        with pytest.raises(InvalidRequest):
            desk.begin(files, "robots", text, options)
        assert kept() == before
    again = desk.begin(None, "robots", "", {**OPTIONS, "resume": True})
    again.cancel()
    ended(again)
    assert kept() == before
    assert [path.name for path in again.request.images] == [name for name, _ in before[:-1]]
    assert not folder.with_name(".robots").exists()


def test_no_picture_is_kept_where_there_is_no_state_to_go_on_from(
    desk: TrainingDesk, uploads: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, captions = tmp_path / "data" / "training" / "robots", "\n".join("abcde")
    training = desk.begin(uploads, "robots", captions, OPTIONS)
    training.cancel()  # before its first step
    end = ended(training)
    assert isinstance(end, TrainingCancelled)
    assert not end.can_go_on
    assert not folder.exists(), "the page says that nothing was kept"
    monkeypatch.setattr("sd_demo.lora_training.LoraTrainer", None)
    assert isinstance(ended(desk.begin(uploads, "robots", captions, OPTIONS)), TrainingFailed)
    assert not folder.exists()
