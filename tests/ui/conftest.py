"""The page over a fake engine, and a browser that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio import http_server
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from tests.conftest import WORKER
from tests.fake_engine import FakeEngine

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 800}
STEP_S = 0.01  # of the fake engine
FAULTS: list[str] = []  # errors that scripts of a page threw
PATIENCE_MS = 60_000  # for a busy machine; nothing waits longer than it has to

expect.set_options(timeout=PATIENCE_MS)
if WORKER:
    # Each process looks through ports of its own, so that no two want the same.
    http_server.INITIAL_PORT_VALUE += http_server.TRY_NUM_PORTS * (1 + int(WORKER.removeprefix("gw")))


@dataclass
class Served:
    """A page that answers at `url`, its engine, and the folder its pictures go to."""

    url: str
    engine: FakeEngine
    folder: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page over a fake engine."""
    from sd_demo.ui import blocks  # gradio is slow to import: only for tests that need it

    folder = tmp_path_factory.mktemp("outputs")
    settings = Settings(lora_dir=tmp_path_factory.mktemp("loras"), data_dir=tmp_path_factory.mktemp("data"))
    engine = FakeEngine(Outputs(folder), step_s=STEP_S, settings=settings)
    engine.start()
    page = blocks.build(engine, examples_folder=make_examples(tmp_path_factory.mktemp("examples")))  # type: ignore[arg-type]
    _, url, _ = page.launch(server_port=None, prevent_thread_lock=True)
    yield Served(url, engine, folder)
    page.close(verbose=False)
    engine.close()


def make_examples(folder: Path) -> Path:
    """A folder with one example for each task."""
    picture_of_a_house().save(folder / "house.png")
    mask = Image.new("L", (256, 256))
    mask.paste(255, (64, 64, 128, 128))
    mask.save(folder / "mask.png")
    (folder / "index.json").write_text(
        """[
        {"file": "house.png", "task": "text_to_image", "prompt": "a red house", "seed": 7},
        {"file": "house.png", "task": "image_to_image", "prompt": "a blue house", "image": "house.png"},
        {"file": "house.png", "task": "inpaint", "prompt": "a tree", "image": "house.png", "mask_image": "mask.png"}
        ]"""
    )
    return folder


def picture_of_a_house(size: tuple[int, int] = (256, 256)) -> Image.Image:
    """An input picture in which no two neighbouring pixels are alike."""
    picture = Image.linear_gradient("L").resize(size)
    picture = Image.merge("RGB", (picture, picture.rotate(90).resize(size), picture.rotate(180)))
    ImageDraw.Draw(picture).rectangle((size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2), (200, 30, 30))
    return picture


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for all tests; each has its own contexts."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=FLAGS)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor: storage, cookies and cache of its own."""
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture(scope="module")
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """One visitor's page for all tests of a file that do not need a fresh one: opening one takes seconds."""
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    yield open_page(context, served.url)
    context.close()


@pytest.fixture
def fresh_page(context: BrowserContext, served: Served) -> Page:
    """The page as a visitor sees it first."""
    return open_page(context, served.url)


@pytest.fixture(autouse=True)
def usual_speed(request: pytest.FixtureRequest) -> Iterator[None]:
    """One test that fails while steps are slow does not make those after it fail."""
    yield
    if "served" in request.fixturenames:
        request.getfixturevalue("served").engine.step_s = STEP_S


@pytest.fixture(autouse=True)
def no_script_fails() -> Iterator[None]:
    """What a page's scripts did not catch fails the test in which it happened."""
    yield
    seen = FAULTS.copy()
    FAULTS.clear()
    assert seen == []


def _note(error: Error) -> None:
    """Gradio's own scripts, in its assets, throw where nothing is lost (6.31: a list whose choices change)."""
    place = (error.stack or "").partition("\n    at ")[2].partition("\n")[0]
    if "/assets/" not in place:
        FAULTS.append(f"{error} {place}")


def open_page(context: BrowserContext, url: str) -> Page:
    """Open `url` and wait until it can be used."""
    page = context.new_page()
    page.on("pageerror", _note)
    page.goto(url)
    expect(page.locator("#text_to_image-generate")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("ready")
    # The visitor's id is the last thing that the first visit brings.
    page.wait_for_function("localStorage.getItem('sd-demo-visitor') !== null")
    return page
