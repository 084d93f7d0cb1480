"""The LoRA tab in a real browser: a real training of the embedded model, watched, paused, come back to, cancelled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sd_demo.lora import read_lora
from tests.new_object import write_training_pictures
from tests.ui.conftest import Served

pytestmark = pytest.mark.browser


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    write_training_pictures(tmp_path / "robots", 4, 64)
    return sorted((tmp_path / "robots").glob("*.png"))


def go_to_training(page: Page) -> None:
    page.get_by_role("tab", name="LoRA", exact=True).click()
    expect(page.locator("#train-start")).to_be_visible()


def fill_in(page: Page, pictures: list[Path], name: str, **options: str) -> None:
    go_to_training(page)
    page.locator("#train-images input[type=file]").set_input_files(pictures)
    expect(page.locator("#train-images")).to_contain_text(pictures[-1].stem)
    page.locator("#train-trigger input, #train-trigger textarea").fill("robot")
    page.locator("#train-name input, #train-name textarea").fill(name)
    page.locator(".train .more > button").first.click()
    for option, value in {"resolution": "64", "batch_size": "1", **options}.items():
        page.locator(f"#train-{option} input, #train-{option} textarea").first.fill(value)
    page.locator("#train-start").click()


def test_a_word_is_taught_and_the_file_is_there(fresh_page: Page, served: Served, pictures: list[Path]) -> None:
    page = fresh_page
    fill_in(page, pictures, "my robot", steps="4", sample_every="2")
    status = page.locator("#train-status")
    expect(status).to_contain_text("Done: my robot, 4 steps")
    expect(page.locator("#train-chart svg path.line")).to_have_count(1)
    expect(page.locator("#train-samples img").first).to_be_visible()
    left = page.locator("#train-chart svg text").first.evaluate("t => (t.textContent = '0.00413', t.getBBox().x)")
    assert left >= 0, "a small loss is not cut off"
    column = ("#train-status", "#train-chart svg", "#train-chart .chart p", "#train-samples")
    boxes = [box for box in (page.locator(place).bounding_box() for place in column) if box is not None]
    assert len(boxes) == len(column)
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"], "one below the other: status, chart, legend, samples"
    expect(page.locator("#train-start")).to_be_enabled()
    read_lora(served.engine.settings.lora_dir / "my robot.safetensors", "my robot")
    assert not (served.engine.settings.data_dir / "training" / "my robot").exists(), "its pictures are not kept"

    page.locator("#train-start").click()
    expect(status).to_contain_text("There is a LoRA called my robot already")


def test_a_training_is_paused_come_back_to_and_cancelled(
    fresh_page: Page, served: Served, pictures: list[Path]
) -> None:
    page = fresh_page
    fill_in(page, pictures, "long", steps="2000", sample_every="0")
    status = page.locator("#train-status")
    expect(status).to_contain_text(" of 2000, loss")
    page.locator("#train-pause").click()
    expect(status).to_contain_text("Paused after step")
    page.reload()
    go_to_training(page)
    expect(status).to_contain_text("Paused after step")
    expect(page.locator("#train-chart svg path.line")).to_have_count(1)
    expect(page.locator("#train-pause")).to_have_text("Go on")
    page.locator("#train-pause").click()
    expect(status).to_contain_text("Step")
    page.locator("#train-cancel").click()
    expect(status).to_contain_text("Cancelled after step")
    expect(page.locator("#train-start")).to_be_enabled()
    assert (served.engine.settings.data_dir / "training" / "long" / pictures[0].name).is_file(), "to go on with"


def test_what_is_missing_is_said(fresh_page: Page, pictures: list[Path]) -> None:
    page = fresh_page
    go_to_training(page)
    page.locator("#train-start").click()
    expect(page.locator("#train-status")).to_contain_text("Give the LoRA a name")
    fill_in(page, pictures[:2], "few")
    expect(page.locator("#train-status")).to_contain_text("there are 2 pictures; training takes 4 to 50")
    page.reload()
    fill_in(page, pictures, "strange", rank="many")
    expect(page.locator("#train-status")).to_contain_text("rank must be a whole number from 1 to 256")
