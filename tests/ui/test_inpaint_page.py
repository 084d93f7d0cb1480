"""The mask editor in a real browser, over a fake engine that fills the mask with one colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from sd_demo.requests import Inpaint
from tests.ui.actions import choose_picture, generate, go_to, paint
from tests.ui.conftest import Served, picture_of_a_house

pytestmark = pytest.mark.browser
TASK = "inpaint"
SIZE = (301, 203)  # no multiple of 8


def last_request(served: Served) -> Inpaint:
    """What reached the engine last."""
    request = served.engine.jobs[-1].request
    assert isinstance(request, Inpaint)
    return request


def test_a_painted_mask_inverted_cleared_and_uploaded(fresh_page: Page, served: Served) -> None:
    page, picture = fresh_page, picture_of_a_house(SIZE)
    go_to(page, TASK)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status [role=alert]")).to_contain_text("image is missing; choose a picture first.")
    choose_picture(page, TASK, picture)

    # Nothing painted: one sentence, nothing runs.
    before = len(served.engine.jobs)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status [role=alert]")).to_contain_text("mask_image is empty; paint over")
    assert len(served.engine.jobs) == before

    # Painted: the engine gets the picture pixel by pixel, at its own size, and a mask of the stroke.
    paint(page)
    generate(page, TASK)
    first = last_request(served)
    assert first.image.size == first.mask_image.size == SIZE
    assert first.image.tobytes() == picture.tobytes()
    mask = np.asarray(first.mask_image) > 0
    assert mask[SIZE[1] // 2, SIZE[0] // 2]
    assert 0.01 < mask.mean() < 0.5

    # The result is compared with what it was; outside the mask nothing changed.
    expect(page.locator(f"#{TASK}-compare")).to_be_visible()
    result = np.asarray(Image.open(max(served.folder.rglob("*.png"), key=lambda p: p.stat().st_mtime)))
    assert (result[~mask] == np.asarray(picture)[~mask]).all()
    assert (result[mask] != np.asarray(picture)[mask]).any()

    # The mask survives a second Generate.
    generate(page, TASK)
    assert last_request(served).mask_image.tobytes() == first.mask_image.tobytes()

    # Inverted: what was painted is kept now, and the other way round.
    page.locator("#inpaint-invert").click()
    generate_until(page, served, lambda request: not (np.asarray(request.mask_image)[mask] > 0).any())
    inverted = np.asarray(last_request(served).mask_image) > 0
    assert (inverted == ~mask).all()
    assert last_request(served).image.tobytes() == picture.tobytes()

    # Uploaded: exactly the file's white.
    wanted = Image.new("L", SIZE)
    wanted.paste(255, (10, 20, 60, 90))
    upload_mask(page, wanted)
    generate_until(page, served, lambda request: request.mask_image.tobytes() == wanted.tobytes())

    # Cleared: empty again.
    page.locator("#inpaint-clear").click()
    ended = page.locator(f"#{TASK}-status .is-ended, #{TASK}-status .is-error")
    for _ in range(20):
        page.locator(f"#{TASK}-generate").click()
        expect(ended).to_be_visible()
        if "mask_image is empty" in ended.inner_text():
            return
        page.wait_for_timeout(250)
    pytest.fail("the cleared mask was still there")


def test_an_uploaded_mask_is_seen_and_painted_on(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    go_to(page, TASK)
    choose_picture(page, TASK, picture_of_a_house(SIZE))
    wanted = Image.new("L", SIZE)
    wanted.paste(255, (10, 20, 60, 90))
    upload_mask(page, wanted)
    canvas = page.locator(f"#{TASK}-image canvas").first

    def seen() -> float:
        """How much of the editor has the paint's colour."""
        shown = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)
        return float(((shown[..., 0] - shown[..., 1] > 60) & (shown[..., 2] - shown[..., 1] > 10)).mean())

    for _ in range(40):
        if seen() > 0.01:
            break
        page.wait_for_timeout(250)
    assert seen() > 0.01
    paint(page)
    generate_until(page, served, lambda request: request.mask_image.getpixel((SIZE[0] // 2, SIZE[1] // 2)))
    both = np.asarray(last_request(served).mask_image) > 0
    assert both[np.asarray(wanted) > 0].mean() > 0.98, "what was uploaded is still there"
    assert both.mean() < 0.5


def upload_mask(page: Page, mask: Image.Image) -> None:
    """Give the editor a mask as a file."""
    file = io.BytesIO()
    mask.save(file, "PNG")
    with page.expect_file_chooser() as chooser:
        page.locator("#inpaint-upload-mask").click()
    chooser.value.set_files({"name": "mask.png", "mimeType": "image/png", "buffer": file.getvalue()})  # type: ignore[list-item]


def generate_until(page: Page, served: Served, holds: object) -> None:
    """Generate until the editor has taken the new mask in, which it does some time after the button was pressed."""
    for _ in range(20):
        generate(page, TASK)
        if holds(last_request(served)):  # type: ignore[operator]
            return
        page.wait_for_timeout(250)
    pytest.fail("the mask never became what was asked for")
