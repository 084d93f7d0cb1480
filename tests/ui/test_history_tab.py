"""What the History tab deletes, asked of its own handler without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from sd_demo.outputs import Outputs
from sd_demo.ui import blocks, visitor
from sd_demo.ui.results import Shown, published
from tests.fake_engine import FakeEngine
from tests.receipts import make_receipt

ME = "my-own-browser-and-no-other"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[blocks.Page]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    engine = FakeEngine(Outputs(tmp_path / "outputs"))
    engine.start()
    yield blocks.build(engine)  # type: ignore[arg-type]
    engine.close()


def test_a_deleted_picture_takes_its_sheets_along_and_says_so(page: blocks.Page) -> None:
    outputs, owner = page.engine.outputs, visitor.folder_name(ME, None)
    (delete,) = [one for one in page.fns.values() if getattr(one.fn, "__name__", "") == "delete"]
    first, second = make_receipt(seed=1), make_receipt(seed=2)
    pictures = [outputs.save(Image.new("RGB", (32, 32), colour), receipt, visitor=owner)
                for receipt, colour in ((first, "red"), (second, "blue"))]  # fmt: skip
    sheet = outputs.save_sheet(Image.new("RGB", (64, 32)), [first, second], visitor=owner)
    served = [Path(published(path)) for path in (*pictures, sheet)]

    def deleted(shown: list[Shown]) -> str:
        updates: dict[Any, Any] = delete.fn(gr.Request(), ME, "", 48, shown)
        return str(next(value for one, value in updates.items() if one.elem_id == "history-status"))

    assert "Deleted. So is what it stood on: 1 sheet." in deleted([Shown(pictures[0], first)])
    assert [path.is_file() for path in (*pictures, sheet)] == [False, True, False]
    assert [path.is_file() for path in served] == [False, True, False]
    said = deleted([Shown(pictures[1], second)])
    assert "Deleted." in said
    assert "sheet" not in said


def test_a_search_tells_how_many_pictures_there_are_not_how_many_are_shown(
    page: blocks.Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, owner = page.engine.outputs, visitor.folder_name(ME, None)
    for prompt in ("a red ball", "a red house", "a red boat", "a blue boat"):
        outputs.save(Image.new("RGB", (32, 32)), make_receipt(prompt=prompt), visitor=owner)
    monkeypatch.setattr("sd_demo.ui.history.PAGE", 2)
    (search,) = [one for one in page.fns.values() if getattr(one.fn, "__name__", "") == "search"]
    count, gallery, more, *_ = search.fn(gr.Request(), ME, "red")
    assert (count, len(gallery), more["visible"]) == ("3 of your 4 pictures", 2, True)
    assert search.fn(gr.Request(), ME, "green")[0] == "None of your 4 pictures has these words."
