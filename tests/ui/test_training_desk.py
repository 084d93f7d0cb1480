"""What the LoRA tab does with uploaded pictures: none is lost, none is taken for another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sd_demo.errors import InvalidRequest
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from sd_demo.training_pictures import kept_files
from sd_demo.turns import Turns
from sd_demo.ui.training_desk import TrainingDesk

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


def test_what_is_kept_for_another_day_stays_until_new_pictures_are_accepted(
    desk: TrainingDesk, uploads: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "training" / "robots"
    captions = "\n".join(f"robot {k}" for k in range(5))
    training = desk.begin(uploads, "robots", captions, OPTIONS)
    training.cancel()
    list(training.events())

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
    list(again.events())
    assert kept() == before
    assert [path.name for path in again.request.images] == [name for name, _ in before[:-1]]
    assert not folder.with_name(".robots").exists()
