"""Pictures of the page as it is: `python -m tests.ui.screenshot` writes examples/page.png, which the README shows.

With `--folder F`, every tab at desktop and phone width, light and dark, for those who look before they commit.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, sync_playwright

from sd_demo.engine import Engine
from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from sd_demo.ui import blocks
from tests.ui.actions import generate, set_number, write_prompt
from tests.ui.conftest import DESKTOP, FLAGS, open_page

ROOT = Path(__file__).parents[2]
PROMPT, SEED = "a red house by the sea at sunset", "5"
PHONE = {"width": 390, "height": 844}
LOOKS = {"desktop-light": (DESKTOP, "light"), "phone-dark": (PHONE, "dark"), "desktop-dark": (DESKTOP, "dark")}


def main() -> None:
    """Serve the page over the real engine, draw a picture on it, and take its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="write every tab in every look there instead")
    folder = parser.parse_args().folder
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if folder is None:
            page = visit(browser, url, "desktop-light")
            draw(page)
            page.screenshot(path=ROOT / "examples" / "page.png")
            return
        folder.mkdir(parents=True, exist_ok=True)
        for look in LOOKS:
            every_tab(visit(browser, url, look), folder, look)


@contextmanager
def serving() -> Iterator[str]:
    """The page over the real engine, for the length of a with block: its address."""
    with TemporaryDirectory() as outputs:
        engine = Engine(Settings(model="picture-book"), outputs=Outputs(Path(outputs)))
        engine.start()
        page = blocks.build(engine)
        _, url, _ = page.launch(server_port=None, prevent_thread_lock=True)
        yield url
        page.close(verbose=False)
        engine.close()


def visit(browser: Browser, url: str, look: str) -> Page:
    """The page as a new visitor sees it."""
    size, scheme = LOOKS[look]
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(120_000)
    return open_page(context, url)


def draw(page: Page) -> None:
    """One picture, and time for it to arrive."""
    write_prompt(page, "text_to_image", PROMPT)
    set_number(page, "text_to_image", "seed", SEED)
    generate(page, "text_to_image")
    page.wait_for_function("document.querySelector('#text_to_image-picture img')?.complete")


def every_tab(page: Page, folder: Path, look: str) -> None:
    """A screenshot of the first screen, of the same with a picture, and of each tab."""
    page.screenshot(path=folder / f"{look}-0-first.png")
    draw(page)
    page.screenshot(path=folder / f"{look}-1-drawn.png")
    page.screenshot(path=folder / f"{look}-1-whole.png", full_page=True)
    titles = ("Image to image", "Inpaint", "Upscale", "Compare", "LoRA", "Learn", "History")
    for number, title in enumerate(titles, start=2):
        page.get_by_role("tab", name=title, exact=True).click()
        page.wait_for_timeout(700)  # for what the tab fetches; nothing tells its end
        page.screenshot(path=folder / f"{look}-{number}-{title.replace(' ', '-').lower()}.png", full_page=True)
        if title == "Learn":
            every_lesson(page, folder, look)


def every_lesson(page: Page, folder: Path, look: str) -> None:
    """A screenshot of each lesson, after it has run."""
    for name, run, last in (
        ("2 Taking it away", "steps-run", "words"),
        ("3 Latents", "latents-show", "latents-difference"),
        ("4 Schedulers", "schedulers-run", "schedulers-pictures"),
    ):
        page.get_by_role("tab", name=name, exact=True).click()
        page.locator(f"#learn-{run}").click()
        page.locator(f"#learn-{last} img").first.wait_for()
        page.wait_for_timeout(4000)  # for the pictures that follow
        page.screenshot(path=folder / f"{look}-5-learn-{name[0]}.png", full_page=True)


if __name__ == "__main__":
    main()
