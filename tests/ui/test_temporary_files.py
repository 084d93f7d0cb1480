"""Uploads, previews and shown copies: a folder of this process's own, swept by age and kept under its cap."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from sd_demo.ui import results
from sd_demo.ui.temporary_files import ABANDONED_S, GRADIO_VARIABLE, PREFIX, TemporaryFiles
from sd_demo.ui.uploads import uploaded_file
from tests import fake_page


def put(folder: Path, name: str, size: int, age_s: float) -> Path:
    path = folder / name / "picture.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_each_process_has_a_folder_of_its_own_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GRADIO_VARIABLE, str(tmp_path))
    left, running = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}running"
    put(left, "a", 10, 0)
    put(running, "b", 10, 0)
    foreign = put(tmp_path, "foreign", 10, 10 * ABANDONED_S)
    os.utime(left, (time.time() - 2 * ABANDONED_S,) * 2)
    files = TemporaryFiles.of_this_process(60)
    assert os.environ[GRADIO_VARIABLE] == str(files.folder)
    assert files.folder.parent == tmp_path
    assert not left.exists()
    assert running.is_dir()
    assert foreign.is_file(), "of another program"
    files.remove()
    assert not files.folder.exists()


def test_what_is_published_is_in_use_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GRADIO_VARIABLE, str(tmp_path))
    files = TemporaryFiles.of_this_process(3600)
    published = []
    for name, is_for_good in (("seen", False), ("example", True)):
        Image.new("RGB", (8, 8), (9, 9, int(is_for_good))).save(tmp_path / f"{name}.png")
        os.utime(tmp_path / f"{name}.png", (1, 1))  # as old as a checkout
        published.append(Path(results.published(tmp_path / f"{name}.png", is_for_good=is_for_good)))
    files.sweep()
    assert all(path.is_file() for path in published)
    results.published(tmp_path / "example.png")  # also once it was used as an input
    month_s = 30 * 86_400
    for path in published:  # a month later
        os.utime(path, (path.stat().st_mtime - month_s,) * 2)
    files.sweep()
    assert [path.is_file() for path in published] == [False, True]
    files.remove()


def test_an_upload_that_is_used_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GRADIO_VARIABLE, str(tmp_path))
    files = TemporaryFiles.of_this_process(3600)
    used, unused = (put(files.folder, name, 10, 4000) for name in ("used", "unused"))
    kept = put(files.folder, "kept for good", 10, -100_000)
    for path in (used, kept):
        assert uploaded_file({"path": str(path)}, field="image") == path
    files.sweep()
    assert [path.is_file() for path in (used, unused, kept)] == [True, False, True]
    assert kept.stat().st_mtime > time.time() + 50_000, "its age is as it was"
    files.remove()


def test_files_go_when_they_are_too_old(tmp_path: Path) -> None:
    old, new = put(tmp_path, "old", 10, 3601), put(tmp_path, "new", 10, 3500)
    TemporaryFiles(tmp_path, 3600).sweep()
    assert not old.parent.exists(), "nor does its empty folder stay"
    assert new.is_file()


def test_the_oldest_make_room(tmp_path: Path) -> None:
    paths = [put(tmp_path, str(k), 400, 1000 - k) for k in range(4)]
    files = TemporaryFiles(tmp_path, 3600, most_bytes=1000)
    files.sweep()
    assert [path.is_file() for path in paths] == [False, False, True, True]
    assert files.has_room(500)
    assert [path.is_file() for path in paths] == [False, False, False, True]


def test_files_in_use_stay_and_more_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "young", 900, 1)
    files = TemporaryFiles(tmp_path, 3600, most_bytes=1000)
    files.sweep()
    assert not files.has_room(200)
    assert path.is_file()
    assert files.has_room(100), "a refused one does not count"


def test_the_door_asks_before_an_upload(tmp_path: Path) -> None:
    files = TemporaryFiles(tmp_path / "files", 3600, most_bytes=1000)
    with (
        fake_page.serve(tmp_path / "outputs", temporary_files=files) as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
    ):
        fits = http.post("/gradio_api/upload", files={"files": ("a.png", bytes(300))})
        too_much = http.post("/gradio_api/upload", files={"files": ("a.png", bytes(3000))})
        progress = http.get("/gradio_api/upload_progress", params={"upload_id": "none"})
        page = http.get("/config")
    assert fits.status_code == 200
    assert too_much.status_code == 507
    assert "try again in a minute" in too_much.json()["detail"]
    assert progress.status_code == 404, "to ask how an upload goes on brings no files"
    assert page.status_code == 200
