"""The panel of a model that is not here, in a real browser: what it costs, its licence, its download, its faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from playwright.sync_api import BrowserContext, Page, expect

from sd_demo.hub.downloads import Downloads
from sd_demo.known_models import not_here
from sd_demo.limits import PROFILES
from sd_demo.model_files import MANIFEST, repo_folder
from sd_demo.outputs import Outputs
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from tests.fake_engine import FakeEngine, Status
from tests.hub_server import TOKEN, LocalHub, serve
from tests.test_hub import REPO, write_model
from tests.ui.actions import choose_model
from tests.ui.conftest import make_examples, open_page

pytestmark = pytest.mark.browser

BEST = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nobody"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    write_model(tmp_path / "published")
    with serve() as hub:
        hub.add(BEST, tmp_path / "published")
        hub.add(REPO, tmp_path / "published")
        hub.add("somebody/a-second-model", tmp_path / "published")
        hub.revisions = tuple(entry.revision for entry in Registry() if entry.revision)
        yield hub


@pytest.fixture
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeEngine]:
    """A parameter names the model that it was started with."""
    named = getattr(request, "param", None)
    settings = Settings(data_dir=tmp_path / "data", lora_dir=tmp_path / "loras", model=named)
    engine = FakeEngine(Outputs(tmp_path / "outputs"), step_s=0.01, settings=settings)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def page(context: BrowserContext, engine: FakeEngine, hub: LocalHub, tmp_path: Path) -> Iterator[Page]:
    from sd_demo.ui import blocks

    downloads = Downloads(engine.settings.data_dir, endpoint=hub.url)
    built = blocks.build(engine, examples_folder=make_examples(tmp_path), downloads=downloads)  # type: ignore[arg-type]
    _, url, _ = built.launch(server_port=None, prevent_thread_lock=True)
    yield open_page(context, url)
    built.close(verbose=False)


def test_a_model_is_offered_accepted_fetched_and_then_chosen_like_any_other(page: Page, engine: FakeEngine) -> None:
    expect(page.locator("#get-model")).to_be_hidden()
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    offer = page.locator("#get-model-offer")
    expect(offer).to_contain_text("2.9 MiB in 9 files")
    expect(offer).to_contain_text("are free")
    expect(offer.locator("a")).to_have_text("CreativeML OpenRAIL-M")
    page.locator("#get-model-start").click()
    status = page.locator("#get-model-status")
    expect(status).to_contain_text("has to be read and accepted first")
    page.locator("#get-model-accepts input").check()
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model")).to_be_hidden()
    assert engine.registry.weights(engine.registry.get("sd-1.5")) is not None
    expect(page.locator("#text_to_image-intro, .intro").first).not_to_contain_text("not on this machine")
    choose_model(page, "Picture-book (embedded)")
    page.locator("#model input").click()
    expect(page.get_by_role("option", name="Stable Diffusion 1.5", exact=True)).to_be_visible()


@pytest.mark.parametrize("engine", ["sd-1.5"], indirect=True)
def test_a_model_that_was_named_at_the_start_is_offered_as_the_page_opens(page: Page, engine: FakeEngine) -> None:
    expect(page.locator("#get-model-offer")).to_contain_text("2.9 MiB in 9 files")
    choose_model(page, "Picture-book (embedded)")
    expect(page.locator("#get-model")).to_be_hidden()
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    page.locator("#get-model-accepts input").check()
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model")).to_be_hidden()
    assert engine.registry.weights(engine.registry.get("sd-1.5")) is not None


def test_a_hub_id_can_be_typed_and_a_gated_one_asks_for_a_token(page: Page, engine: FakeEngine, hub: LocalHub) -> None:
    hub.fault = "gated"
    choose_model(page, REPO)
    status = page.locator("#get-model-status")
    expect(status).to_contain_text("token")
    token = page.locator("#get-model-token input")
    expect(token).to_be_visible()
    assert token.get_attribute("type") == "password"
    hub.fault = None
    token.fill(TOKEN)
    page.locator("#get-model-start").click()
    page.locator("#get-model-accepts input").check()
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model")).to_be_hidden()
    assert engine.registry.get(REPO).source == REPO
    kept = [path for path in engine.settings.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_a_token_that_cannot_be_one_is_asked_for_again(page: Page, hub: LocalHub) -> None:
    hub.fault = "gated"
    choose_model(page, REPO)
    token = page.locator("#get-model-token input")
    token.fill("hf_abc…")
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model-status")).to_contain_text("a character that no token has")
    expect(token).to_be_visible()


def test_the_tick_of_one_model_accepts_no_other(page: Page, hub: LocalHub) -> None:
    accepts = page.locator("#get-model-accepts input")
    choose_model(page, REPO)
    accepts.check()
    hub.licence = "openrail"
    choose_model(page, "somebody/a-second-model")
    expect(page.locator("#get-model-offer a")).to_have_text("openrail")
    expect(accepts).not_to_be_checked()
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model-status")).to_contain_text("has to be read and accepted first")


def stop_after_choosing(page: Page, hub: LocalHub, other: str) -> None:
    """Begin a download, choose another model while it is on its way, and cancel it."""
    choose_model(page, REPO)
    page.locator("#get-model-accepts input").check()
    hub.fault, hub.fault_path, hub.pause_s = "slow", "fp16.safetensors", 3.0
    page.locator("#get-model-start").click()
    status = page.locator("#get-model-status")
    expect(status).to_contain_text(" of 2.9 MiB")
    choose_model(page, other)
    expect(page.locator("#get-model-cancel")).to_be_enabled()
    page.locator("#get-model-cancel").click()
    expect(status).to_contain_text("What has come is kept")
    expect(page.locator("#get-model-start")).to_have_text("Go on")
    hub.fault = None


def test_a_download_is_stopped_and_goes_on(page: Page, engine: FakeEngine, hub: LocalHub) -> None:
    stop_after_choosing(page, hub, "Picture-book")  # which goes on working; the download does too
    choose_model(page, REPO)
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model")).to_be_hidden()
    assert engine.registry.get(REPO).source == REPO


def test_a_page_opened_anew_in_mid_download_sees_its_end(page: Page, hub: LocalHub) -> None:
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    page.locator("#get-model-accepts input").check()
    hub.fault, hub.fault_path, hub.pause_s = "slow", "fp16.safetensors", 2.0
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model-status")).to_contain_text(" of 2.9 MiB")
    page.reload()
    expect(page.locator(".intro").first).to_contain_text("not on this machine")
    expect(page.locator("#get-model-status")).to_contain_text(" of 2.9 MiB")
    expect(page.locator("#get-model")).to_be_hidden()
    expect(page.locator(".intro").first).not_to_contain_text("not on this machine")


def test_going_on_fetches_what_the_panel_shows_and_then_offers_what_was_chosen(
    page: Page, engine: FakeEngine, hub: LocalHub
) -> None:
    stop_after_choosing(page, hub, "somebody/a-second-model")
    page.locator("#get-model-start").click()
    expect(page.locator("#get-model-offer")).to_contain_text("somebody/a-second-model")
    expect(page.locator("#get-model-start")).to_have_text("Download")
    assert engine.registry.get(REPO).source == REPO


def test_a_hub_that_cannot_be_reached_is_said(page: Page, hub: LocalHub) -> None:
    hub.fault = "broken"
    choose_model(page, REPO)
    expect(page.locator("#get-model-status")).to_contain_text("The hub is in trouble (500); try again in some minutes.")
    expect(page.locator("#get-model-start")).to_be_enabled()


def test_a_model_that_came_since_the_start_is_no_longer_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sd_demo.ui.header import state_line

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # whatever lies on this machine
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    registry = Registry(models_dir=tmp_path)
    entry = registry.get("sd-1.5")
    status = Status(entry.name, entry.title, "failed", not_here(entry))
    usual = {None: entry, "sd-1.5": entry}
    settings = SimpleNamespace(model="sd-1.5")
    engine: Any = SimpleNamespace(
        status=lambda: status, defaults=usual.__getitem__, registry=registry, settings=settings
    )
    assert "<b>not usable</b> · The weights of Stable Diffusion 1.5 are not here" in state_line(engine)
    folder = tmp_path / repo_folder(entry.source) / str(entry.revision)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    assert "<b>not loaded yet</b> · the next picture loads it" in state_line(engine)
    usual[None] = registry.get("picture-book")  # which took its place
    status = dataclasses.replace(status, state="ready", in_memory=("sd-1.5",))
    assert "<b>ready</b>" in state_line(engine)
    assert "not here" not in state_line(engine)
    assert "the next picture" not in state_line(engine)
    usual |= {"picture-book": usual[None], "sd-1.4": registry.get("sd-1.4")}
    assert "<b>not loaded yet</b> · the next picture loads it" in state_line(engine, "picture-book"), (
        "the other is ready"
    )
    assert "<b>ready</b>" in state_line(engine, "sd-1.5")
    status = dataclasses.replace(status, in_memory=("picture-book", "sd-1.5"))
    assert "<b>ready</b>" in state_line(engine, "picture-book"), "both are there"
    assert "<b>ready</b>" in state_line(engine, "sd-1.4"), "no next picture loads what is not here"


def test_strangers_download_train_and_add_nothing(tmp_path: Path) -> None:
    from sd_demo.ui import blocks

    def ids(profile: Any) -> set[str]:
        settings = Settings(profile=profile, data_dir=tmp_path, lora_dir=tmp_path)
        built = blocks.build(FakeEngine(Outputs(tmp_path), settings=settings), examples_folder=tmp_path)  # type: ignore[arg-type]
        return {str(block.elem_id) for block in built.blocks.values()}

    kept = {"get-model", "train-start", *(f"{place}-add-lora" for place in ("text_to_image", "upscale", "compare"))}
    assert kept <= ids("local")
    for profile in ("shared", "space"):
        assert not PROFILES[profile].takes_paths  # type: ignore[index]
        assert not {one for one in ids(profile) if one in kept or one.startswith(("get-model", "train-"))}
