"""What people do on the page, in a few verbs."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Page, expect

TITLES = {"text_to_image": "Text to image", "image_to_image": "Image to image", "inpaint": "Inpaint"}


def go_to(page: Page, task: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=TITLES[task], exact=True).click()
    expect(page.locator(f"#{task}-generate")).to_be_visible()


def write_prompt(page: Page, task: str, text: str) -> None:
    """Fill the prompt in."""
    page.locator(f"#{task}-prompt textarea").fill(text)


def set_number(page: Page, task: str, field: str, value: str) -> None:
    """Type into the number field of a control."""
    box = page.locator(f"#{task}-{field} input[type=number], #{task}-{field} input:not([type=range])").first
    box.fill(value)
    box.blur()


def generate(page: Page, task: str) -> None:
    """Press Generate and wait until the run has ended in pictures."""
    page.locator(f"#{task}-generate").click()
    expect(page.locator(f"#{task}-status")).to_contain_text("Done")
    expect(page.locator(f"#{task}-generate")).to_have_text("Generate")


def shown_picture(page: Page, task: str) -> Image.Image:
    """The picture that stands large, as the browser got it."""
    image = page.locator(f"#{task}-picture img").first
    expect(image).to_be_visible()
    return fetch(page, image.get_attribute("src") or "")


def fetch(page: Page, address: str) -> Image.Image:
    """The picture at an address, fetched as this visitor."""
    answer = page.request.get(address)
    assert answer.ok, f"{address}: {answer.status}"
    return Image.open(io.BytesIO(answer.body()))
