"""The index tells what the folder holds, whatever happened to either; nobody sees or deletes what is not theirs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_demo import history as history_module
from sd_demo.history import INDEX, History
from sd_demo.outputs import SHEET_KEY, Outputs
from sd_demo.receipt import JSON_KEY, read_receipt_file
from tests.receipts import make_receipt

PICTURE = Image.new("RGB", (32, 32))


@pytest.fixture
def history(outputs: Outputs) -> History:
    for prompt in ("a red ball", "a RED Häuschen by the sea", "50% off_sale"):
        outputs.save(PICTURE, make_receipt(prompt=prompt), visitor="anna")
    outputs.save(PICTURE, make_receipt(prompt="a secret"), visitor="berta")
    return History(outputs)


def in_file(outputs: Outputs) -> int:
    """Rows of the index on disk: a history that cannot use it answers all the same."""
    with closing(sqlite3.connect(outputs.visitor_folder("anna") / INDEX)) as index:
        return int(index.execute("SELECT count(*) FROM pictures").fetchone()[0])


def prompts(history: History, search: str = "", visitor: str = "anna") -> list[str]:
    return [picture.prompt for picture in history.find(visitor, search)]


def test_the_newest_stand_first_and_each_tells_what_it_is(history: History) -> None:
    assert prompts(history) == ["50% off_sale", "a RED Häuschen by the sea", "a red ball"]
    first = history.find("anna", limit=1, offset=2)[0]
    assert (first.task, first.model, first.seed, first.width) == ("text_to_image", "picture-book", 7, 256)
    assert first.path.is_file()
    assert history.count("anna") == 3


@pytest.mark.parametrize(
    ("search", "count"),
    [
        ("red", 2),
        ("Red BALL", 1),
        ("ball red", 1),
        ("häuschen", 1),
        ("%", 1),
        ("_", 1),
        ("' OR 1", 0),
        ("x", 0),
        (" ", 3),
    ],
)
def test_search_finds_all_words_in_any_case_and_order(history: History, search: str, count: int) -> None:
    assert len(prompts(history, search)) == count
    assert history.count("anna", search) == count


def test_a_visitor_sees_and_deletes_only_their_own(history: History, outputs: Outputs) -> None:
    assert prompts(history, visitor="berta") == ["a secret"]
    assert prompts(history, visitor="nobody") == []
    theirs = history.find("berta")[0].path
    names = [theirs.name, f"../{theirs.parent.name}/{theirs.name}", str(theirs), INDEX, "..", ""]
    assert history.delete("anna", names) == 0
    assert history.delete("berta", [theirs.name]) == 1
    assert prompts(history, visitor="berta") == []
    assert len(prompts(history)) == 3


def test_the_sheets_that_a_picture_stands_on_are_found(history: History, outputs: Outputs) -> None:
    first, second, third = (make_receipt(prompt="a sheet", seed=seed) for seed in (1, 2, 3))
    path = outputs.save(PICTURE, first, visitor="anna")
    both = outputs.save_sheet(PICTURE, [second, first], visitor="anna")
    outputs.save_sheet(PICTURE, [second, third], visitor="anna")
    foreign = outputs.save_sheet(PICTURE, [first], visitor="berta")
    (both.parent / "20260101-000000-000000-sheet.png").write_bytes(b"damaged")
    assert history.sheets_with("anna", [path.name]) == [both]
    assert history.sheets_with("berta", [f"../{path.parent.name}/{path.name}", "gone.png"]) == []
    assert history.delete("anna", [path.name, both.name]) == 2
    assert foreign.is_file()


def test_pictures_and_sheets_of_earlier_versions_are_read_by_todays_names(history: History, outputs: Outputs) -> None:
    receipt = make_receipt(prompt="", read_prompt="a red house", read_negative_prompt="no sun")
    path = outputs.save(PICTURE, receipt, visitor="anna")
    sheet = outputs.save_sheet(PICTURE, [receipt], visitor="anna")
    for file, key in ((path, JSON_KEY), (sheet, SHEET_KEY)):
        with Image.open(file) as image:
            image.load()
            told = image.text[key]
        for name, earlier in (("read_prompt", "own_prompt"), ("read_negative_prompt", "denial")):
            assert f'"{name}"' in told
            told = told.replace(f'"{name}"', f'"{earlier}"')
        info = PngInfo()
        info.add_itxt(key, told)
        PICTURE.save(file, pnginfo=info)
    assert read_receipt_file(path) == receipt
    assert history.sheets_with("anna", [path.name]) == [sheet]


def test_files_that_come_and_go_without_a_word(history: History, outputs: Outputs) -> None:
    first = history.find("anna")[0].path
    first.unlink()
    outputs.save(PICTURE, make_receipt(prompt="new"), visitor="anna")
    (first.parent / "holiday.png").write_bytes(b"no picture")
    PICTURE.save(first.parent / "foreign.png")
    assert prompts(history) == ["new", "a RED Häuschen by the sea", "a red ball"]


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000, None])
def test_a_damaged_or_missing_index_is_made_anew(history: History, outputs: Outputs, damage: bytes | None) -> None:
    assert len(prompts(history)) == 3
    index = outputs.visitor_folder("anna") / INDEX
    index.unlink() if damage is None else index.write_bytes(damage)
    assert len(prompts(history)) == 3
    content = bytearray(index.read_bytes())
    content[100:400] = b"\xff" * 300
    index.write_bytes(content)
    assert len(prompts(history)) == 3


def test_a_folder_that_cannot_hold_an_index_is_listed_all_the_same(history: History, outputs: Outputs) -> None:
    (outputs.visitor_folder("anna") / INDEX).mkdir()
    assert len(prompts(history)) == 3


def test_a_kill_in_mid_rebuild_leaves_an_index_that_works(history: History, outputs: Outputs, tmp_path: Path) -> None:
    code = (
        "import sys, sd_demo.history as h\n"
        "from pathlib import Path\n"
        "from sd_demo.outputs import Outputs\n"
        "told = h._told\n"
        "def slowly(path):\n"
        "    print('reading', flush=True); sys.stdin.read(); return told(path)\n"
        "h._told = slowly\n"
        "h.History(Outputs(Path(sys.argv[1]))).find('anna')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(outputs.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"reading\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(prompts(history)) == 3
    assert in_file(outputs) == 3


def test_many_ask_at_once_while_pictures_are_made(history: History, outputs: Outputs) -> None:
    counts: list[int] = []

    def look() -> None:
        counts.extend(len(prompts(history)) for _ in range(8))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for k in range(8):
        outputs.save(PICTURE, make_receipt(prompt=str(k)), visitor="anna")
    for thread in threads:
        thread.join()
    assert len(counts) == 32
    assert all(3 <= count <= 11 for count in counts)
    assert len(prompts(history)) == 11
    assert in_file(outputs) == 11


def test_what_is_old_goes_and_nothing_else(history: History, outputs: Outputs) -> None:
    old, young = history.find("anna")[:2]
    for path in (old.path, history.find("berta")[0].path):
        os.utime(path, (time.time() - 7200,) * 2)
    own = outputs.visitor_folder("anna") / "holiday.png"
    PICTURE.save(own)
    os.utime(own, (0, 0))
    assert history.expire(3600) == 2
    assert not old.path.exists()
    assert young.path.exists()
    assert own.exists()
    empty = outputs.visitor_folder("berta")
    assert empty.exists()  # its visitor may be saving the next one right now
    os.utime(empty, (0, 0))
    assert history.expire(3600) == 0
    assert not empty.exists()
    assert len(prompts(history)) == 2


@pytest.mark.parametrize("done", [{"seed": 2**70}, {"width": -(2**64)}])
def test_a_receipt_that_the_index_cannot_hold_hides_no_other_picture(
    history: History, outputs: Outputs, done: dict[str, object]
) -> None:
    outputs.save(PICTURE, make_receipt(prompt="a strange one", **done), visitor="anna")
    assert "a red ball" in prompts(history)
    assert prompts(history, "strange") == []


def test_a_thread_keeps_expiring_until_it_is_stopped(history: History) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=history.keep_expiring, args=(-60.0, stop), kwargs={"every_s": 0.01})
    thread.start()
    while prompts(history):
        time.sleep(0.01)
    stop.set()
    thread.join()


def test_pictures_from_before_are_left_alone_where_only_new_ones_expire(history: History) -> None:
    old, young = history.find("anna")[:2]
    os.utime(old.path, (1000, 1000))
    os.utime(young.path, (3000, 3000))
    assert history.expire(3600, since=2000) == 1
    assert old.path.exists()
    assert not young.path.exists()


def test_a_file_is_read_once_and_again_only_after_it_changed(
    history: History, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURE.save(outputs.visitor_folder("anna") / "foreign.png")
    changed = history.find("anna", limit=1)[0].path
    read, told = [], history_module._told
    monkeypatch.setattr(history_module, "_told", lambda path: (read.append(path.name), told(path))[1])
    assert len(prompts(history)) == 3
    assert read == []
    os.utime(changed, (1, 1))
    assert len(prompts(history)) == 3
    assert read == [changed.name]
