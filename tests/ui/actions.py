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


def choose_model(page: Page, words: str) -> None:
    """Type into the chooser of models, as it calls them."""
    box = page.locator("#model input")
    box.fill(words)
    box.press("Enter")
    box.blur()


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
    press_generate(page, task)
    is_done(page, task)


def press_generate(page: Page, task: str) -> None:
    """Press Generate, once the run before has given it back."""
    button = page.locator(f"#{task}-generate")
    # Said apart from the click, whose own time limit does not tell a button that is off from a page that is busy.
    expect(button).to_be_enabled()
    mark_status(page, task)
    button.click()


def mark_status(page: Page, task: str) -> None:
    """Mark what the status line says of the run before, so that `is_done` does not take it for the next one's."""
    page.evaluate(f"document.querySelector('#{task}-status .status')?.classList.add('is-of-before')")


def is_done(page: Page, task: str) -> None:
    """Wait until the run that began after `mark_status` has ended in pictures."""
    expect(page.locator(f"#{task}-status .status:not(.is-of-before)")).to_contain_text("Done")
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


def choose_picture(page: Page, task: str, picture: Image.Image) -> None:
    """Give a picture to a tab's picture input, as a file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    chosen = {"name": "picture.png", "mimeType": "image/png", "buffer": file.getvalue()}
    # The editor's canvas is there before the picture is; what is painted then is lost.
    placeholder = page.locator(f"#{task}-image").get_by_text("Drop a picture") if task == "inpaint" else None
    for attempt in range(4):
        page.locator(f"#{task}-image input[type=file]").first.set_input_files(chosen)
        try:
            if placeholder is not None:
                expect(placeholder).to_be_hidden(timeout=20_000)
            else:
                expect(page.locator(f"#{task}-image img").first).to_be_visible(timeout=20_000)
            return
        except AssertionError:  # on a busy machine a tab shows its input before it listens to it
            if attempt == 3:
                raise


def generate_when_taken_in(page: Page) -> None:
    """Generate in the inpainting tab, again where the editor had not sent picture and mask yet: nothing tells when."""
    # An error may be that of the try before: the same sentence twice changes nothing on the page.
    ended = page.locator("#inpaint-status :is(.is-ended:not(.is-of-before), .is-error)")
    for _ in range(20):
        press_generate(page, "inpaint")
        expect(ended).to_be_visible()
        if "Done" in ended.inner_text():
            return
        page.wait_for_timeout(500)
    raise AssertionError(ended.inner_text())


def paint(page: Page) -> None:
    """Paint one stroke across the middle of the picture in the mask editor, with the mouse."""
    expect(page.locator("#inpaint-image").get_by_role("button", name="Brush", exact=True)).to_be_visible()
    canvas = page.locator("#inpaint-image canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x, y + 4, steps=5)
    page.mouse.move(x + 40, y, steps=5)
    page.mouse.up()
