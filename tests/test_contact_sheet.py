"""A sheet shows every picture at its place, whole, with its words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_demo.contact_sheet import GROUND, MAX_SHEET_PIXELS, contact_sheet, layout, sheet_of
from sd_demo.engine import Engine
from sd_demo.errors import InvalidRequest
from sd_demo.events import ResultImage
from sd_demo.outputs import SHEET_KEY
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from tests.receipts import make_receipt

COLOURS = ["red", "lime", "blue", "yellow", "cyan", "magenta"]


def pictures(count: int, size: tuple[int, int] = (128, 96)) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[k % 6]) for k in range(count)]


def areas(sheet: Image.Image) -> dict[str, int]:
    colours = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}
    return {colours[c]: n for n, c in sheet.getcolors(sheet.width * sheet.height) or [] if c in colours}


@pytest.mark.parametrize(
    ("count", "rows", "columns", "answer"),
    [(1, None, None, (1, 1)), (16, None, None, (4, 4)), (5, None, None, (2, 3)), (5, 1, None, (1, 5)),
     (5, None, 2, (3, 2)), (5, 2, 3, (2, 3))],
)  # fmt: skip
def test_rows_and_columns(count: int, rows: int | None, columns: int | None, answer: tuple[int, int]) -> None:
    assert layout(count, rows, columns) == answer


@pytest.mark.parametrize(("count", "rows", "columns"), [(0, None, None), (5, 2, 2), (5, 0, None), (5, None, -1)])
def test_a_layout_without_room_is_one_sentence(count: int, rows: int | None, columns: int | None) -> None:
    with pytest.raises(InvalidRequest, match=r"^[^\n]+\.$"):
        layout(count, rows, columns)


def test_every_picture_is_there_whole_and_in_order() -> None:
    sheet = contact_sheet(pictures(6), columns=3, column_labels=["1", "2", "3"], row_labels=["a", "b"], title="t")
    assert areas(sheet) == dict.fromkeys(COLOURS, 128 * 96)
    array = np.asarray(sheet)
    centres = [np.argwhere((array == Image.new("RGB", (1, 1), c).getpixel((0, 0))).all(-1)).mean(0) for c in COLOURS]
    assert centres[0][0] == centres[2][0] < centres[3][0]
    assert centres[0][1] == centres[3][1] < centres[1][1] < centres[2][1]


def test_labels_are_drawn_and_cut_to_their_room() -> None:
    plain = contact_sheet(pictures(2))
    long = "a very long caption\nof many words " * 20
    said = contact_sheet(pictures(2), captions=[long, "Ж"], column_labels=["", long], row_labels=[long], title=long)
    assert areas(said) == areas(plain)  # no word lies on a picture
    assert (np.asarray(said) != GROUND).any(-1).sum() > (np.asarray(plain) != GROUND).any(-1).sum()
    assert said.width < 3 * plain.width


def test_pictures_of_several_sizes_and_a_sheet_that_would_be_huge() -> None:
    sheet = contact_sheet([*pictures(1, (64, 256)), *pictures(1, (256, 64))], columns=2)
    assert sheet.width > 512
    large = contact_sheet(pictures(2, (4000, 4000)) * 3)
    assert large.width * large.height < 1.1 * MAX_SHEET_PIXELS


def test_the_emptiest_grid_of_a_request_stays_within_the_limit() -> None:
    parse_request("text_to_image", {"grid": "16x16"})
    sheet = contact_sheet(pictures(1, (1024, 1024)), rows=16, columns=16, captions=["seed 1"])
    assert sheet.width * sheet.height < 1.2 * MAX_SHEET_PIXELS


def test_a_request_may_ask_for_a_sheet_of_its_pictures(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    small = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 7, "width": 64, "height": 64}
    try:
        many = {**small, "num_images_per_prompt": 5, "keep_best": 3}
        wide, tall = (
            engine.submit(parse_request("text_to_image", {**many, "grid": grid})).result(120) for grid in ("1x3", "3x1")
        )
        assert engine.submit(parse_request("text_to_image", small)).result(120).sheet is None
        quiet = engine.submit(parse_request("text_to_image", {**small, "grid": "auto"}), is_kept=False).result(120)
        assert quiet.sheet is None
    finally:
        engine.close()
    assert wide.sheet is not None
    assert tall.sheet is not None
    with Image.open(wide.sheet) as across, Image.open(tall.sheet) as down:
        assert across.width > 3 * 96 > 96 < down.height
        assert down.height > across.height
        receipts = json.loads(across.info[SHEET_KEY])
    assert [one["done"]["seed"] for one in receipts] == [one.receipt.done.seed for one in wide.images]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"grid": "2x2", "num_images_per_prompt": 5}, "grid: 2 x 2 has no room for 5 pictures"),
        ({"grid": "2"}, "grid must be auto, or ROWSxCOLUMNS such as 2x3, each at most 16."),
        ({"grid": "99x99"}, "grid must be auto, or ROWSxCOLUMNS such as 2x3, each at most 16."),
        ({"grid": "1x17"}, "grid must be auto, or ROWSxCOLUMNS such as 2x3, each at most 16."),
        ({"grid": "0x3"}, "grid must be auto"),
        ({"grid": 4}, "grid must be auto"),
    ],
)
def test_a_grid_that_cannot_be_is_one_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request("text_to_image", {"prompt": "a", **values})
    assert str(caught.value).startswith(words)
    assert caught.value.field == "grid"
    assert parse_request("text_to_image", {"prompt": "a", "grid": " "}).grid is None


def test_what_the_model_made_up_stands_under_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("sd_demo.contact_sheet.contact_sheet", lambda *_, captions, **__: said.extend(captions))
    for prompt in ("", "...", "a house"):
        receipts = (
            make_receipt(prompt=prompt, seed=3, read_prompt="a red house"),
            make_receipt(seed=4, clip_score=0.25),
        )
        shown = [ResultImage(Path(), one, receipt) for one, receipt in zip(pictures(2), receipts, strict=True)]
        sheet_of(shown, None, None)
    made_up = ["seed 3 · a red house", "seed 4 · 0.250"]
    assert said == [*made_up, *made_up, "seed 3", "seed 4 · 0.250"]
