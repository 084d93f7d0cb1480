"""Files are there whole or not at all, one visitor's apart from another's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sd_demo.errors import OutputFailed
from sd_demo.outputs import TEMPORARY_PREFIX, Outputs
from sd_demo.receipt import read_receipt
from tests.receipts import make_receipt

PICTURE = Image.effect_noise((64, 64), 80).convert("RGB")


def test_a_saved_picture_opens_and_carries_its_receipt(outputs: Outputs) -> None:
    receipt = make_receipt(prompt="a red house")
    path = outputs.save(PICTURE, receipt, visitor="anna")
    assert path.is_absolute()
    assert path.suffix == ".png"
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == PICTURE.tobytes()
        assert read_receipt(image) == receipt


def test_each_visitor_has_a_folder_of_their_own(outputs: Outputs) -> None:
    ours = outputs.save(PICTURE, make_receipt(), visitor="anna")
    theirs = outputs.save(PICTURE, make_receipt(), visitor="ben")
    assert ours.parent != theirs.parent
    assert list(outputs.visitor_folder("anna").iterdir()) == [ours]


def test_without_visitors_pictures_lie_in_the_folder_itself(tmp_path: Path) -> None:
    path = Outputs(tmp_path, by_visitor=False).save(PICTURE, make_receipt(), visitor="local")
    assert path.parent == tmp_path


@given(st.text())
def test_no_visitor_leaves_the_folder(visitor: str) -> None:
    outputs = Outputs(Path("pictures"))
    assert outputs.visitor_folder(visitor).parent == Path("pictures").resolve()


@given(st.text(max_size=300))
def test_any_prompt_gives_a_name_that_every_system_takes(prompt: str) -> None:
    name = Outputs._free_name(Path("x"), f"7 {prompt}").name
    assert len(name) < 120
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")


def test_the_same_request_twice_gives_two_files(outputs: Outputs) -> None:
    assert len({outputs.save(PICTURE, make_receipt(), visitor="anna") for _ in range(20)}) == 20


def test_files_have_the_permissions_that_the_system_gives(outputs: Outputs) -> None:
    path = outputs.save(PICTURE, make_receipt(), visitor="anna")
    plain = path.with_name("plain.txt")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failing_disk_is_said_and_leaves_nothing(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFailed, match=r"^The picture could not be saved \(No space left on device\); .*\.$"):
        outputs.save(PICTURE, make_receipt(), visitor="anna")
    assert list(outputs.visitor_folder("anna").iterdir()) == []
    monkeypatch.undo()
    assert outputs.save(PICTURE, make_receipt(), visitor="anna").is_file()


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputFailed):
        Outputs(tmp_path / "taken").save(PICTURE, make_receipt(), visitor="anna")


@pytest.mark.parametrize("by_visitor", [True, False])
def test_old_leftovers_go_and_new_ones_stay(by_visitor: bool, tmp_path: Path) -> None:
    folder = Outputs(tmp_path, by_visitor=by_visitor).visitor_folder("anna")
    folder.mkdir(exist_ok=True)
    old, new, picture = (folder / name for name in (f"{TEMPORARY_PREFIX}1", f"{TEMPORARY_PREFIX}2", "old.png"))
    for path in (old, new, picture):
        path.touch()
    for path in (old, picture):
        os.utime(path, (0, time.time() - 86_400))
    Outputs(tmp_path, by_visitor=by_visitor)
    assert (old.exists(), new.exists(), picture.exists()) == (False, True, True)


SAVE_FOR_EVER = """
import sys
from pathlib import Path
from PIL import Image
from sd_demo.outputs import Outputs
from tests.receipts import make_receipt
outputs, picture = Outputs(Path(sys.argv[1])), Image.effect_noise((256, 256), 80).convert("RGB")
while True:
    print(outputs.save(picture, make_receipt(), visitor="anna"), flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill -9")
def test_a_kill_in_mid_write_leaves_no_file_that_does_not_open(tmp_path: Path) -> None:
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(attempt + 1):
            process.stdout.readline()
        process.kill()
        process.communicate()
    pictures = list(tmp_path.glob("**/*.png"))  # unlike a shell's, this pattern also finds hidden files
    assert len(pictures) >= 15
    for path in pictures:
        with Image.open(path) as image:
            image.load()
            read_receipt(image)
