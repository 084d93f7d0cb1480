"""The whole way in a real browser: the page, the real engine, the embedded weights, the saved files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from sd_demo.engine import Engine
from sd_demo.outputs import Outputs
from sd_demo.receipt import read_receipt
from sd_demo.requests import Inpaint
from sd_demo.settings import Settings
from tests.ui.actions import (
    choose_picture,
    generate,
    generate_when_taken_in,
    go_to,
    paint,
    set_number,
    shown_picture,
    write_prompt,
)
from tests.ui.conftest import DESKTOP, PATIENCE_MS, open_page, picture_of_a_house

pytestmark = pytest.mark.browser


@dataclass
class Real:
    """A running page over the real engine, and every request that it was given."""

    url: str
    folder: Path
    requests: list[Any] = field(default_factory=list)

    def newest(self) -> Image.Image:
        """The picture that was saved last."""
        with Image.open(max(self.folder.rglob("*.png"), key=lambda path: path.stat().st_mtime_ns)) as picture:
            return picture.convert("RGB")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    from sd_demo.ui import blocks

    folder = tmp_path_factory.mktemp("outputs")
    engine = Engine(Settings(device="cpu"), outputs=Outputs(folder))
    found = Real("", folder)
    submit = engine.submit

    def recording(request: Any, **rest: Any) -> Any:
        found.requests.append(request)
        return submit(request, **rest)

    engine.submit = recording  # type: ignore[method-assign]
    engine.start()
    page = blocks.build(engine)
    _, found.url, _ = page.launch(server_port=None, prevent_thread_lock=True)
    yield found
    page.close(verbose=False)
    engine.close()


@pytest.fixture(scope="module")
def visit(browser: Browser, real: Real) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    yield open_page(context, real.url)
    context.close()


def test_text_becomes_a_picture_then_input_of_the_next(visit: Page, real: Real) -> None:
    page, task = visit, "text_to_image"
    write_prompt(page, task, "a red house by the sea")
    set_number(page, task, "num_inference_steps", "4")
    page.locator(f"#{task}-prompt textarea").press("Control+Enter")
    expect(page.locator(f"#{task}-status")).to_contain_text("Done")
    picture = shown_picture(page, task)
    receipt = read_receipt(picture)
    assert (picture.format, receipt.done.model, receipt.done.effective_steps) == ("PNG", "picture-book", 4)
    assert receipt.asked["prompt"] == "a red house by the sea"
    expect(page.locator(f"#{task}-notes")).to_contain_text("small model of a picture-book world")

    page.locator(f"#{task}-use-as-input").click()
    expect(page.locator("#image_to_image-image img")).to_be_visible()
    set_number(page, "image_to_image", "num_inference_steps", "4")
    generate(page, "image_to_image")
    assert real.requests[-1].image.tobytes() == picture.convert("RGB").tobytes()
    assert real.newest().size == picture.size


def test_a_running_job_is_cancelled_and_the_next_one_works(visit: Page) -> None:
    page, task = visit, "text_to_image"
    go_to(page, task)
    set_number(page, task, "num_inference_steps", "150")
    page.locator(f"#{task}-generate").click()
    expect(page.locator(f"#{task}-status")).to_contain_text("Step")
    page.locator(f"#{task}-cancel").click()
    expect(page.locator(f"#{task}-status")).to_contain_text("Cancelled")
    set_number(page, task, "num_inference_steps", "2")
    generate(page, task)


def test_a_second_visitor_sees_nothing_of_the_first(visit: Page, browser: Browser, real: Real) -> None:
    expect(visit.locator("#text_to_image-picture img")).to_be_visible()
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    other = open_page(context, real.url)
    expect(other.locator("#text_to_image-picture img")).to_have_count(0)
    set_number(other, "text_to_image", "num_inference_steps", "2")
    generate(other, "text_to_image")
    context.close()
    assert len({path.parent for path in real.folder.rglob("*.png")}) == 2


def test_the_lessons_show_what_they_say_two_of_them_as_they_are_opened(visit: Page) -> None:
    page = visit
    page.get_by_role("tab", name="Learn", exact=True).click()
    expect(page.locator("#learn-noise-decoded img")).to_be_visible()
    expect(page.locator("#learn-noise-formula")).to_contain_text("= 0.741 · picture + 0.671 · noise")
    expect(page.locator("#learn-noise-formula svg")).to_be_visible()

    page.get_by_role("tab", name="2 Taking it away").click()
    page.locator("#learn-steps-prompt textarea, #learn-steps-prompt input").first.fill("a red ball")
    page.locator("#learn-steps-run").click()
    expect(page.locator("#learn-steps-final img")).to_be_visible()
    expect(page.locator("#learn-words img")).to_have_count(3)
    before = page.locator("#learn-guidance-3 img").get_attribute("src") or ""
    page.locator("#learn-scale input[type=range]").press("PageUp")  # a key, and no other field that is left
    expect(page.locator("#learn-guidance-3 img")).not_to_have_attribute("src", before)

    page.get_by_role("tab", name="3 Latents").click()
    expect(page.locator("#learn-latents-difference img")).to_be_visible()
    expect(page.locator("#learn-latents-figures")).to_contain_text("48 times fewer")

    page.get_by_role("tab", name="4 Schedulers").click()
    page.locator("#learn-schedulers-run").click()
    expect(page.locator("#learn-schedulers-pictures img")).to_have_count(3)
    expect(page.locator("#learn-schedulers-chart svg")).to_be_visible()


# The last one: its editor draws all the time from here on, which in a browser without a GPU slows the others down.
def test_a_painted_mask_changes_the_inside_and_nothing_else(visit: Page, real: Real) -> None:
    page, original = visit, picture_of_a_house((301, 203))
    go_to(page, "inpaint")
    choose_picture(page, "inpaint", original)
    paint(page)
    write_prompt(page, "inpaint", "a white cloud")
    set_number(page, "inpaint", "num_inference_steps", "4")
    generate_when_taken_in(page)
    request = real.requests[-1]
    assert isinstance(request, Inpaint)
    mask = np.asarray(request.mask_image) > 0
    before, after = np.asarray(original), np.asarray(real.newest())
    assert after.shape == before.shape
    assert (after[~mask] == before[~mask]).all()
    changed = (after != before).any(axis=-1)
    assert changed[mask].mean() > 0.5
