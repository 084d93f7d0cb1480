"""Compare, History, settings back and copy as code, as people use them in a browser."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import save_file

from sd_demo.outputs import SHEET_KEY
from sd_demo.receipt import JSON_KEY
from tests.http_api import HttpApi
from tests.receipts import make_receipt
from tests.ui.actions import choose_model, fetch, generate, set_number, write_prompt
from tests.ui.conftest import DESKTOP, PATIENCE_MS, Served, open_page

pytestmark = pytest.mark.browser
TASK = "text_to_image"


def open_tab(page: Page, title: str) -> None:
    page.get_by_role("tab", name=title, exact=True).click()


def make(page: Page, prompt: str, seed: str) -> None:
    write_prompt(page, TASK, prompt)
    set_number(page, TASK, "seed", seed)
    generate(page, TASK)


def test_a_picture_is_told_as_code(page: Page) -> None:
    make(page, 'a "red" ball', "7")
    page.locator("#text_to_image-code > button").click()
    expect(page.locator("#text_to_image-code-diffusers")).to_contain_text("""prompt='a "red" ball'""")
    expect(page.locator("#text_to_image-code-diffusers")).to_contain_text("manual_seed(7)")
    make(page, "a house", "8")  # what stands there follows the picture
    expect(page.locator("#text_to_image-code-diffusers")).to_contain_text("manual_seed(8)")
    page.locator("#text_to_image-code").get_by_role("tab", name="command line").click()
    expect(page.locator("#text_to_image-code-command")).to_contain_text("python -m sd_demo generate")


def test_history_is_searched_opened_and_deleted(fresh_page: Page, served: Served, browser: Browser) -> None:
    page = fresh_page
    make(page, "a red ball", "7")
    make(page, "a blue house", "8")
    open_tab(page, "History")
    expect(page.locator("#history-count")).to_contain_text("2 pictures")
    expect(page.locator("#history-gallery img")).to_have_count(2)
    page.locator("#history-search input, #history-search textarea").fill("RED")
    expect(page.locator("#history-count")).to_contain_text("1 of your 2")
    expect(page.locator("#history-gallery img")).to_have_count(1)
    page.locator("#history-gallery button").first.click()
    expect(page.locator("#history-receipt")).to_contain_text("seed 7")

    page.locator("#history-settings").click()
    expect(page.locator("#settings-back-report")).to_contain_text("a red ball")
    page.locator("#settings-back-apply").click()
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("a red ball")
    expect(page.locator(f"#{TASK}-seed input, #{TASK}-seed textarea").first).to_have_value("7")

    open_tab(page, "History")
    page.locator("#history-use-as-input").click()
    expect(page.locator("#image_to_image-image img")).to_be_visible()
    expect(page.locator("#image_to_image-prompt textarea")).to_have_value("a red ball")

    open_tab(page, "History")
    files = set(served.folder.glob("*/*.png"))
    page.locator("#history-delete").click()
    page.locator("#history-keep").click()
    page.locator("#history-delete").click()
    page.locator("#history-delete-now").click()
    expect(page.locator("#history-status")).to_contain_text("Deleted")
    expect(page.locator("#history-count")).to_contain_text("None of your 1")
    assert len(files - set(served.folder.glob("*/*.png"))) == 1

    page.close()  # two pages at once are slow to open on a busy machine
    other = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    other.set_default_timeout(PATIENCE_MS)
    stranger = open_page(other, served.url)
    open_tab(stranger, "History")
    expect(stranger.locator("#history-count")).to_contain_text("Your pictures will be here")
    other.close()


def test_settings_come_back_from_a_dropped_file(page: Page, tmp_path: Path) -> None:
    receipt = make_receipt(prompt="<b>a ball</b>", seed=5, scheduler="euler", width=128, height=64)
    Image.new("RGB", (32, 32)).save(tmp_path / "ours.png", pnginfo=receipt.png_info())
    Image.new("RGB", (32, 32)).save(tmp_path / "plain.png")
    open_tab(page, "History")
    page.locator("#settings-back-file input[type=file]").set_input_files(tmp_path / "ours.png")
    expect(page.locator("#settings-back-report")).to_contain_text("<b>a ball</b>")
    page.locator("#settings-back-apply").click()
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("<b>a ball</b>")
    expect(page.locator(f"#{TASK}-width input[type=number]")).to_have_value("128")
    open_tab(page, "History")
    page.get_by_role("button", name=re.compile("clear|remove", re.I)).first.click()
    page.locator("#settings-back-file input[type=file]").set_input_files(tmp_path / "plain.png")
    expect(page.locator("#settings-back-report")).to_contain_text("carries no settings")
    expect(page.locator("#settings-back-apply")).to_be_hidden()


def compare(page: Page, prompt: str, values: str, told: str) -> None:
    """Vary the guidance, and wait until the status line tells of it."""
    open_tab(page, "Compare")
    page.locator("#compare-prompt textarea").fill(prompt)
    page.locator("#compare-x-values input, #compare-x-values textarea").fill(values)
    page.locator("#compare-start").click()
    expect(page.locator("#compare-status")).to_contain_text(told)


def test_compare_shows_a_sheet_and_every_picture(page: Page) -> None:
    compare(page, "a red ball", "2, 4, 6", "Done: 3 pictures")
    image = page.locator("#compare-sheet img")
    expect(image).to_be_visible()
    expect(image).to_have_attribute("alt", "guidance_scale across · a red ball")
    sheet = fetch(page, image.get_attribute("src") or "")
    assert len(json.loads(sheet.info[SHEET_KEY])) == 3
    page.locator("#compare-gallery button").nth(2).click()
    expect(page.locator("#compare-receipt")).to_contain_text("guidance 6")
    compare(page, "a red ball", "2, x", "'x' is no number")
    expect(page.locator("#compare-start")).to_be_enabled()


def test_a_withheld_cell_is_told_beside_the_sheet(page: Page) -> None:
    compare(page, "withheld", "1, 2, 3", "Done: 2 pictures. The model's safety checker withheld 1 more")
    expect(page.locator("#compare-gallery button img")).to_have_count(2)


def test_a_comparison_follows_the_model_and_the_keys(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    open_tab(page, "Compare")
    page.locator("#compare-common > button").click()
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    expect(page.locator("#compare-width input").first).to_have_value("512")
    expect(page.locator("#compare-num_inference_steps input[type=number]")).to_have_value("25")
    page.locator("#compare-x-values input, #compare-x-values textarea").fill("2, 4")
    page.locator("#compare-prompt textarea").fill("a red ball")
    page.locator("#compare-prompt textarea").press("Enter")
    expect(page.locator("#compare-status")).to_contain_text("Done: 2 pictures")
    assert {(job.request.width, job.request.num_inference_steps) for job in served.engine.jobs[-2:]} == {(512, 25)}
    served.engine.step_s = 5.0
    page.locator("#compare-prompt textarea").press("Enter")
    expect(page.locator("#compare-status")).to_contain_text("of 2 pictures")
    page.keyboard.press("Escape")
    expect(page.locator("#compare-status")).to_contain_text("Cancelled")
    served.engine.step_s = 0.02


def test_a_comparison_from_a_picture_has_its_size_and_shows_no_other(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "red").save(tmp_path / "picture.png")
    open_tab(page, "Compare")
    if not page.locator("#compare-image").is_visible():
        page.locator("#compare-common > button").click()
    expect(page.locator("#compare-width")).to_be_visible()
    page.locator("#compare-image input[type=file]").set_input_files(tmp_path / "picture.png")
    for name in ("width", "height"):
        expect(page.locator(f"#compare-{name}")).to_be_hidden()
    page.locator("#compare-x-values input, #compare-x-values textarea").fill("2, 4")
    page.locator("#compare-start").click()
    expect(page.locator("#compare-receipt")).to_contain_text("96x64")
    page.locator("#compare-image").get_by_role("button", name=re.compile("clear|remove", re.I)).first.click()
    for name in ("width", "height"):
        expect(page.locator(f"#compare-{name}")).to_be_visible()


def test_cancel_stops_a_comparison(page: Page, served: Served) -> None:
    open_tab(page, "Compare")
    page.locator("#compare-x-values input, #compare-x-values textarea").fill("2, 4, 6")
    served.engine.step_s = 5.0
    try:
        page.locator("#compare-start").click()
        expect(page.locator("#compare-status")).to_contain_text("of 3 pictures")
        page.locator("#compare-cancel").click()
        expect(page.locator("#compare-status")).to_contain_text("Cancelled")
        assert all(job.is_cancelled.is_set() for job in served.engine.jobs[-3:])
    finally:
        served.engine.step_s = 0.02


def test_the_api_compares(served: Served) -> None:
    from sd_demo.ui.compare_api import parameters

    api = HttpApi(served.url.rstrip("/"))
    photo = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(photo, "PNG")

    def call(**values: object) -> object:
        return api.call_raw("compare", [values.get(name) for name in parameters()])

    answer = call(prompt="a ball", x="seed: 1..2", y="guidance_scale: 1, 3", num_inference_steps=2)
    assert [receipt["done"]["seed"] for receipt in answer.data[2]] == [1, 2, 1, 2]
    assert len(answer.data[1]) == 4
    answer = call(prompt="a ball", x="strength: 0.2, 0.9", image=api.upload(photo.getvalue()), num_inference_steps=2)
    assert [receipt["task"] for receipt in answer.data[2]] == ["image_to_image"] * 2
    for bad in ({"prompt": "x", "x": "colour: 1"}, {"prompt": "x"}, {"prompt": "x", "x": 5}, {"x": "seed: 1", "y": []}):
        assert call(**bad).error
        assert "went wrong" not in call(**bad).error
    api.close()


def write_lora(path: Path) -> None:
    """A file with the names of a LoRA; whether it fits a model is not asked before it is used."""
    layer = "unet.mid_block.attentions.0.proj_in"
    save_file({f"{layer}.lora_A.weight": torch.zeros(2, 8), f"{layer}.lora_B.weight": torch.zeros(8, 2)}, path)


def test_loras_are_chosen_by_name_and_weight_and_a_file_is_added(
    fresh_page: Page, served: Served, tmp_path: Path
) -> None:
    page = fresh_page
    write_lora(served.engine.settings.lora_dir / "pencil.safetensors")
    page.locator(f"#{TASK}-more > button, .text_to_image .more > button").first.click()
    picker = page.locator(f"#{TASK}-loras input")
    picker.click()
    page.get_by_role("option", name="pencil").click()
    picker.fill("ink:0.5")
    picker.press("Enter")

    write_lora(tmp_path / "my own.safetensors")
    upload = page.locator(".text_to_image input[type=file][accept*=safetensors]")
    upload.set_input_files(tmp_path / "my own.safetensors")
    expect(page.locator(f"#{TASK}-lora-status")).to_contain_text("my own is in the folder")
    assert (served.engine.settings.lora_dir / "my own.safetensors").is_file()
    make(page, "a ball", "3")
    worn = [(lora.name, lora.weight) for lora in served.engine.jobs[-1].request.loras]
    assert worn == [("pencil", 1.0), ("ink", 0.5), ("my own", 1.0)]

    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    upload.set_input_files(tmp_path / "broken.safetensors")
    expect(page.locator(f"#{TASK}-lora-status")).to_contain_text("broken.safetensors")
    assert not (served.engine.settings.lora_dir / "broken.safetensors").exists()


def test_a_picture_is_made_larger_and_shown_beside_what_it_was(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    make(page, "a ball", "3")
    page.locator(f"#{TASK}-upscale-this").click()
    expect(page.locator("#upscale-image img")).to_be_visible()
    expect(page.locator("#upscale-prompt textarea")).to_have_value("a ball")
    page.locator("#upscale-start").click()
    expect(page.locator("#upscale-status")).to_contain_text("Done")
    expect(page.locator("#upscale-receipt")).to_contain_text("512x512")
    expect(page.locator("#upscale-notes")).to_contain_text(
        "256x256 was enlarged to 512x512 with sharp edges, then refined in 9"
    )
    expect(page.locator("#upscale-compare img").first).to_be_visible()
    before, after = page.locator("#upscale-compare img").all()
    expect(before).to_have_attribute("alt", "before")
    expect(after).to_have_attribute("alt", "a ball")
    carries = [JSON_KEY in fetch(page, one.get_attribute("src") or "").info for one in (before, after)]
    assert carries == [False, True], "the receipt stands in the result alone"
    expect(page.locator("#upscale-code")).to_contain_text("Copy as code")
    page.locator("#upscale-use-as-input").click()
    expect(page.locator("#image_to_image-image img")).to_be_visible()

    open_tab(page, "Upscale")
    served.engine.step_s = 5.0
    try:
        page.locator("#upscale-start").click()
        expect(page.locator("#upscale-status")).to_contain_text("of 9 tiles")
        page.locator("#upscale-cancel").click()
        expect(page.locator("#upscale-status")).to_contain_text("Cancelled")
        expect(page.locator("#upscale-start")).to_be_enabled()
    finally:
        served.engine.step_s = 0.02


def test_a_model_that_makes_pictures_larger_brings_its_own_controls(fresh_page: Page) -> None:
    page = fresh_page
    open_tab(page, "Upscale")
    expect(page.locator("#upscale-strength")).to_be_visible()
    page.locator("#model input").click()
    page.get_by_role("option", name="Stable Diffusion x4 upscaler").click()
    expect(page.locator("#upscale-strength")).to_be_hidden()
    page.get_by_role("tabpanel").filter(has=page.locator("#upscale-start")).get_by_role("button", name="More").click()
    expect(page.locator("#upscale-noise_level")).to_be_visible()
    expect(page.locator("#upscale-guidance_scale input").first).to_have_value("9")


def test_the_api_makes_larger(served: Served) -> None:
    from sd_demo.ui.upscale_api import parameters

    api = HttpApi(served.url.rstrip("/"))
    photo = io.BytesIO()
    Image.new("RGB", (100, 64), "red").save(photo, "PNG")

    def call(**values: object) -> object:
        return api.call_raw("upscale", [values.get(name) for name in parameters()])

    answer = call(image=api.upload(photo.getvalue()), scale=3, num_inference_steps=2)
    assert [(r["task"], r["done"]["width"], r["done"]["height"]) for r in answer.data[1]] == [("upscale", 300, 192)]
    assert len(answer.data[0]) == 1
    for bad in ({}, {"image": "photo.png"}, {"image": api.upload(photo.getvalue()), "scale": 40}, {"image": 5}):
        assert call(**bad).error
        assert "went wrong" not in call(**bad).error
    api.close()


def test_a_style_comes_into_the_prompt_and_is_replaced(fresh_page: Page) -> None:
    page = fresh_page
    write_prompt(page, TASK, "a red house")
    page.locator(".text_to_image .more > button").first.click()
    prompt = page.locator(f"#{TASK}-prompt textarea")
    for name, expected in (
        ("Pixel art", "a red house, as pixel art"),
        ("Pencil drawing", "a red house, as a pencil drawing"),
        ("None", "a red house"),
    ):
        page.locator(f"#{TASK}-style input").click()
        page.get_by_role("option", name=name, exact=True).click()
        expect(prompt).to_have_value(expected)


def test_a_style_of_the_model_before_is_replaced_and_taken_off(fresh_page: Page) -> None:
    page = fresh_page
    prompt = page.locator(f"#{TASK}-prompt textarea")
    page.locator(".text_to_image .more > button").first.click()

    def choose(name: str) -> None:
        page.locator(f"#{TASK}-style input").click()
        page.get_by_role("option", name=name, exact=True).click()

    for then, expected in (("Watercolour", "a watercolour of a red house, soft edges, paper texture"), ("None", None)):
        choose_model(page, "Picture-book (embedded)")
        expect(page.locator(f"#{TASK}-num_inference_steps input[type=number]")).to_have_value("20")
        write_prompt(page, TASK, "a red house")
        choose("Pixel art")
        expect(prompt).to_have_value("a red house, as pixel art")
        choose_model(page, "Stable Diffusion 1.5 (not here yet)")
        expect(page.locator(f"#{TASK}-num_inference_steps input[type=number]")).to_have_value("25")
        expect(page.locator(f"#{TASK}-style input")).to_have_value("None")
        choose(then)
        expect(prompt).to_have_value(expected or "a red house")
