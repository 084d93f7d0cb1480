"""The page in a real browser, over a fake engine."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from sd_demo.model_files import MANIFEST, repo_folder
from sd_demo.receipt import read_receipt
from tests.ui.actions import (
    choose_model,
    choose_picture,
    fetch,
    generate,
    go_to,
    is_done,
    mark_status,
    set_number,
    shown_picture,
    write_prompt,
)
from tests.ui.conftest import DESKTOP, Served, open_page, picture_of_a_house

pytestmark = pytest.mark.browser
TASK = "text_to_image"


def slow_down(served: Served, page: Page) -> None:
    """A run that no test waits to the end of."""
    served.engine.step_s = 1.0
    set_number(page, TASK, "num_inference_steps", "150")


def test_a_prompt_becomes_a_png_with_its_receipt(page: Page) -> None:
    write_prompt(page, TASK, "a red house")
    generate(page, TASK)
    picture = shown_picture(page, TASK)
    assert picture.format == "PNG"
    receipt = read_receipt(picture)
    assert receipt.asked["prompt"] == "a red house"
    expect(page.locator(f"#{TASK}-receipt")).to_contain_text(f"What really ran: seed {receipt.done.seed}")
    expect(page.locator(f"#{TASK}-notes")).to_contain_text("small model of a picture-book world")
    expect(page.locator(f"#{TASK}-picture img")).to_have_attribute("alt", "a red house")


@pytest.mark.parametrize("keys", ["Enter", "Control+Enter", "Meta+Enter"])
def test_keys_that_generate(page: Page, keys: str) -> None:
    write_prompt(page, TASK, "a red house")
    mark_status(page, TASK)
    page.locator(f"#{TASK}-prompt textarea").press(keys)
    is_done(page, TASK)
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("a red house")


def test_control_enter_takes_the_number_that_is_still_being_typed(page: Page) -> None:
    write_prompt(page, TASK, "a red house")
    box = page.locator(f"#{TASK}-num_inference_steps input[type=number]")
    box.fill("7")
    box.press("Control+Enter")
    expect(page.locator(f"#{TASK}-receipt")).to_contain_text("7 steps")


def test_every_field_reaches_the_request(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    write_prompt(page, TASK, "a red house")
    page.locator(f"#{TASK}-negative_prompt textarea").fill("no sun")
    for field, value in {
        "num_inference_steps": "3",
        "guidance_scale": "2.5",
        "width": "128",
        "height": "192",
        "seed": "4294967295",
        "num_images_per_prompt": "3",
    }.items():
        if field == "seed":
            page.locator(f"#{TASK}-seed textarea, #{TASK}-seed input").fill(value)
        else:
            set_number(page, TASK, field, value)
    page.get_by_role("button", name="More").first.click()
    page.locator(f"#{TASK}-grid textarea, #{TASK}-grid input").fill("3 × 1".replace(" ", ""))
    generate(page, TASK)
    asked = served.engine.jobs[-1].request.model_dump()
    expected = {
        "grid": "3x1",
        "prompt": "a red house",
        "negative_prompt": "no sun",
        "num_inference_steps": 3,
        "guidance_scale": 2.5,
        "width": 128,
        "height": 192,
        "seed": 4294967295,
        "num_images_per_prompt": 3,
        "scheduler": "dpmpp_2m",
        "model": "picture-book",
    }
    assert {name: asked[name] for name in expected} == expected
    # A sheet of all three was asked for as well.
    expect(page.locator(f"#{TASK}-sheet img")).to_be_visible()
    # Three pictures: a click on the third thumbnail shows it with its own receipt, and its seed can be used again.
    expect(page.locator(f"#{TASK}-gallery img")).to_have_count(3)
    page.locator(f"#{TASK}-gallery button").filter(has=page.locator("img")).nth(2).click()
    expect(page.locator(f"#{TASK}-receipt")).to_contain_text("What really ran: seed 1 ")
    page.locator(f"#{TASK}-reuse-seed").click()
    expect(page.locator(f"#{TASK}-seed textarea, #{TASK}-seed input")).to_have_value("1")
    page.locator(f"#{TASK}-random-seed").click()
    expect(page.locator(f"#{TASK}-seed textarea, #{TASK}-seed input")).to_have_value("")


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_cancel_ends_the_run_and_the_next_one_works(page: Page, served: Served, how: str) -> None:
    write_prompt(page, TASK, "a green tree")
    set_number(page, TASK, "num_inference_steps", "2")
    generate(page, TASK)
    before = read_receipt(shown_picture(page, TASK)).done.seed
    write_prompt(page, TASK, "a red house")
    slow_down(served, page)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Step")
    expect(page.locator(f"#{TASK}-picture img")).to_have_attribute("alt", "in progress: a red house")
    expect(page.locator(f"#{TASK}-receipt")).to_be_hidden()
    expect(page.locator(f"#{TASK}-use-as-input")).to_be_hidden()
    if how == "button":
        page.locator(f"#{TASK}-cancel").click()
    else:
        page.locator(f"#{TASK}-picture").get_by_role("button", name="Fullscreen", exact=True).click()
        expect(page.locator(".block.fullscreen")).to_have_count(1)
        page.keyboard.press("Escape")  # which leaves what is above the page, and only that
        expect(page.locator(".block.fullscreen")).to_have_count(0)
        page.locator("#model input").click()
        expect(page.get_by_role("option").first).to_be_visible()
        page.keyboard.press("Escape")  # which closes the list, and only that
        expect(page.get_by_role("option").first).to_be_hidden()
        assert not served.engine.jobs[-1].is_cancelled.is_set()
        page.keyboard.press("Escape")
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Cancelled")
    assert served.engine.jobs[-1].is_cancelled.is_set()
    expect(page.locator(f"#{TASK}-cancel")).to_be_disabled()
    expect(page.locator(f"#{TASK}-picture img")).to_have_attribute("alt", "a green tree")
    assert read_receipt(shown_picture(page, TASK)).done.seed == before, "the run before stands there again"
    expect(page.locator(f"#{TASK}-receipt")).to_contain_text(f"seed {before}")
    served.engine.step_s = 0.01
    set_number(page, TASK, "num_inference_steps", "2")
    generate(page, TASK)


def test_a_run_without_a_picture_leaves_none_where_there_was_none(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    slow_down(served, page)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-picture img")).to_be_visible()
    page.locator(f"#{TASK}-cancel").click()
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Cancelled")
    expect(page.locator(f"#{TASK}-picture img")).to_have_count(0)
    served.engine.step_s = 0.01


def test_an_example_waits_for_the_run_in_progress(page: Page, served: Served) -> None:
    write_prompt(page, TASK, "a green tree")
    slow_down(served, page)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Step")
    job, count = served.engine.jobs[-1], len(served.engine.jobs)
    page.locator(f"#{TASK}-examples button").filter(has=page.locator("img")).first.click()
    expect(page.get_by_text("A picture is in progress here; wait for it, or cancel it first.")).to_be_visible()
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("a green tree")
    page.locator(f"#{TASK}-cancel").click()
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Cancelled")
    assert job.is_cancelled.is_set()
    assert len(served.engine.jobs) == count
    served.engine.step_s = 0.01
    set_number(page, TASK, "num_inference_steps", "2")


def test_a_deleted_picture_takes_none_of_its_run_along(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    set_number(page, TASK, "num_images_per_prompt", "3")
    generate(page, TASK)
    made = sorted(served.folder.rglob("*.png"), key=lambda path: path.stat().st_mtime_ns)[-3:]
    first = read_receipt(shown_picture(page, TASK)).done.seed
    for path in made:
        with Image.open(path) as image:
            is_first = read_receipt(image).done.seed == first
        if is_first:
            path.unlink()
    page.locator(f"#{TASK}-gallery button").nth(1).click()
    expect(page.locator(f"#{TASK}-receipt")).to_contain_text(f"seed {first + 1}")
    page.locator(f"#{TASK}-gallery button").nth(0).click()
    expect(page.locator(f"#{TASK}-notes")).to_contain_text("no longer here")


def test_the_header_tells_the_state_after_a_run(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    status = replace(served.engine.status(), memory_mib=4321.0)
    monkeypatch.setattr(served.engine, "status", lambda: status)
    generate(page, TASK)
    expect(page.locator("#state")).to_contain_text("4,321 MiB")


def test_a_closed_page_cancels_its_job(context: BrowserContext, served: Served) -> None:
    page = open_page(context, served.url)
    slow_down(served, page)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status")).to_contain_text("Step")
    job = served.engine.jobs[-1]
    page.close()
    assert job.is_cancelled.wait(30)
    served.engine.step_s = 0.01


def test_text_of_a_person_is_never_html_nor_a_template(page: Page) -> None:
    wild = "<img src=x onerror=alert(1)> ${1+1} {{value}} zzyzx<b>bold</b>"
    page.on("dialog", lambda dialog: pytest.fail("the prompt ran as a script"))
    write_prompt(page, TASK, wild)
    expect(page.locator(f"#{TASK}-tokens")).to_contain_text("zzyzx")
    generate(page, TASK)
    expect(page.locator(f"#{TASK}-notes")).to_contain_text("zzyzx")
    assert page.locator("img[src=x]").count() == 0


def test_unknown_words_follow_the_chosen_model(page: Page) -> None:
    write_prompt(page, TASK, "a zzyzx")
    tokens = page.locator(f"#{TASK}-tokens")
    expect(tokens).to_contain_text("not known to this model: zzyzx")
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    expect(tokens).not_to_contain_text("not known")
    choose_model(page, "Picture-book (embedded)")
    expect(tokens).to_contain_text("not known to this model: zzyzx")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [("seed", "7.5", "seed must be a whole number from 0 to 4294967295."), ("prompt", "x" * 4001, "at most 4,000")],
)
def test_an_error_stands_above_the_picture_and_marks_its_field(
    page: Page, field: str, value: str, sentence: str
) -> None:
    control = page.locator(f"#{TASK}-{field} textarea, #{TASK}-{field} input").first
    before = control.input_value()
    control.fill(value)
    page.locator(f"#{TASK}-generate").click()
    alert = page.locator(f"#{TASK}-status [role=alert]")
    expect(alert).to_contain_text(sentence)
    expect(alert).to_have_attribute("data-field", field)
    expect(page.locator(f"#{TASK}-generate")).to_be_enabled()
    control.fill(before)


def test_the_introduction_gives_way_to_an_error(fresh_page: Page) -> None:
    page = fresh_page
    introduction = page.locator(f".{TASK} .area-show .intro").first
    expect(introduction).to_be_visible()
    write_prompt(page, TASK, "fail")
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status [role=alert]")).to_contain_text("The device ran out of patience")
    expect(introduction).to_be_hidden()  # it would stand above the sentence


@pytest.mark.parametrize(
    ("prompt", "sentence"), [("fail", "The device ran out of patience"), ("full", "The queue is full")]
)
def test_an_expected_failure_is_told_and_the_next_run_works(page: Page, prompt: str, sentence: str) -> None:
    write_prompt(page, TASK, prompt)
    page.locator(f"#{TASK}-generate").click()
    expect(page.locator(f"#{TASK}-status [role=alert]")).to_contain_text(sentence)
    write_prompt(page, TASK, "a red house")
    generate(page, TASK)


def test_a_missing_picture_is_asked_for(page: Page) -> None:
    go_to(page, "image_to_image")
    page.locator("#image_to_image-generate").click()
    alert = page.locator("#image_to_image-status [role=alert]")
    expect(alert).to_contain_text("image is missing; choose a picture first.")
    go_to(page, TASK)


def test_settings_and_pictures_survive_a_reload(fresh_page: Page) -> None:
    page = fresh_page
    write_prompt(page, TASK, "a blue boat")
    set_number(page, TASK, "num_inference_steps", "4")
    generate(page, TASK)
    seed = read_receipt(shown_picture(page, TASK)).done.seed
    page.reload()
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("a blue boat")
    expect(page.locator(f"#{TASK}-num_inference_steps input[type=number]")).to_have_value("4")
    assert read_receipt(shown_picture(page, TASK)).done.seed == seed


def test_the_model_survives_a_reload_with_the_settings_that_suit_it(fresh_page: Page) -> None:
    page = fresh_page
    kept = "localStorage.getItem('sd-demo-model')"
    settings = f"localStorage.getItem('sd-demo-settings-{TASK}')"
    settled = f"() => {{ const last = window.last; window.last = {settings}; return last && last === window.last; }}"
    before = page.evaluate(kept)
    choose_model(page, "Stable Diffusion 1.5 (not here yet)")
    page.wait_for_function(f"before => {kept} !== before", arg=before)
    for _ in range(2):
        expect(page.locator(f"#{TASK}-width input").first).to_have_value("512")
        expect(page.locator(f"#{TASK}-num_inference_steps input[type=number]")).to_have_value("25")
        page.wait_for_function(settled, polling=500)  # what is shown is kept a moment later
        page.reload()
        expect(page.locator("#model input")).to_have_value("Stable Diffusion 1.5 (not here yet)")
    write_prompt(page, TASK, "a red house")
    generate(page, TASK)
    assert read_receipt(shown_picture(page, TASK)).asked["model"] == "sd-1.5"
    choose_model(page, "Picture-book (embedded)")
    expect(page.locator(f"#{TASK}-num_inference_steps input[type=number]")).to_have_value("20")


def test_a_model_that_the_program_fell_back_to_is_nobodys_choice(
    fresh_page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the model that was named at the start cannot be loaded: another has its place until it is mended."""
    page, registry = fresh_page, served.engine.registry
    kept, settings = (f"localStorage.getItem('sd-demo-{name}')" for name in ("model", f"settings-{TASK}"))
    before = page.evaluate(kept)
    with monkeypatch.context() as patch:
        patch.setattr(served.engine, "defaults", lambda model=None: registry.get(model or "sd-1.4"))
        page.reload()
        expect(page.locator("#model input")).to_have_value("Stable Diffusion 1.4 (not here yet)")
        expect(page.locator(f"#{TASK}-width input").first).to_have_value("512")
    page.wait_for_function(f"() => {settings}")  # the size that followed the model is kept, and after it the prompt
    old = page.evaluate(settings)
    write_prompt(page, TASK, "a red house")
    page.wait_for_function(f"old => {settings} !== old", arg=old)
    assert page.evaluate(kept) == before, "what was kept later is there, and this is as it was"


def test_a_model_that_was_fetched_is_here_after_a_reload(fresh_page: Page, served: Served) -> None:
    page = fresh_page

    def offered(name: str) -> None:
        page.locator("#model input").click()
        expect(page.get_by_role("option", name=name, exact=True)).to_be_visible()
        page.keyboard.press("Escape")

    offered("Stable Diffusion 1.4 (not here yet)")
    entry = served.engine.registry.get("sd-1.4")
    folder = served.engine.registry.models_dir / repo_folder(entry.source) / str(entry.revision)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    try:
        page.reload()
        expect(page.locator("#state")).to_contain_text("ready")
        offered("Stable Diffusion 1.4")
        expect(page.locator("#model input")).to_have_value("Picture-book (embedded)")
    finally:
        (folder / MANIFEST).unlink()


def test_two_visitors_never_see_each_other(browser: Browser, served: Served) -> None:
    first, second = (browser.new_context(viewport=DESKTOP) for _ in range(2))  # type: ignore[arg-type]
    one, two = open_page(first, served.url), open_page(second, served.url)
    write_prompt(one, TASK, "a red house of the first")
    generate(one, TASK)
    two.reload()
    expect(two.locator("#state")).to_contain_text("ready")
    expect(two.locator(f"#{TASK}-picture img")).to_have_count(0)
    assert "of the first" not in two.content()
    write_prompt(two, TASK, "a blue boat")
    generate(two, TASK)
    owners = {job.visitor for job in served.engine.jobs[-2:]}
    assert len(owners) == 2
    assert {path.parent.name for path in served.folder.rglob("*.png")} >= owners
    first.close()
    second.close()


def test_a_result_goes_on_to_the_other_tabs(page: Page, served: Served) -> None:
    write_prompt(page, TASK, "a red house")
    generate(page, TASK)
    made = shown_picture(page, TASK).convert("RGB")
    page.locator(f"#{TASK}-use-as-input").click()
    expect(page.locator("#image_to_image-image img")).to_be_visible()
    expect(page.locator("#image_to_image-prompt textarea")).to_have_value("a red house")
    generate(page, "image_to_image")
    assert served.engine.jobs[-1].request.image.tobytes() == made.tobytes()  # type: ignore[union-attr]
    go_to(page, TASK)


def test_an_example_fills_everything_and_runs(fresh_page: Page, served: Served) -> None:
    page = fresh_page
    page.locator(".text_to_image .more > button").first.click()
    page.locator(f"#{TASK}-style input").click()
    page.get_by_role("option", name="Pencil drawing", exact=True).click()
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value(re.compile("as a pencil drawing"))
    mark_status(page, TASK)
    page.locator(f"#{TASK}-examples button").filter(has=page.locator("img")).first.click()
    is_done(page, TASK)
    expect(page.locator(f"#{TASK}-prompt textarea")).to_have_value("a red house")
    expect(page.locator(f"#{TASK}-style input")).to_have_value("None")
    assert served.engine.jobs[-1].request.seed == 7


def test_what_does_not_fit_is_red_with_one_click_to_what_does(fresh_page: Page) -> None:
    page = fresh_page
    images, cost = page.locator(f"#{TASK}-num_images_per_prompt input"), page.locator(f"#{TASK}-estimate")
    expect(cost).to_contain_text("about 0.1 GiB and")  # before anything was touched
    images.fill("12")
    images.press("Tab")
    expect(cost.locator(".over")).to_have_text("needs about 1.2 GiB, and there is room for 0.8 GiB")
    page.get_by_role("button", name="Use 8 images").click()
    expect(images).to_have_value("8")
    expect(cost).to_contain_text("about 0.8 GiB and")
    expect(page.locator(f"#{TASK}-smaller")).to_be_hidden()


def test_the_line_of_the_cost_knows_the_size_of_the_picture(
    fresh_page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, asked, estimate = fresh_page, [], served.engine.estimate
    monkeypatch.setattr(served.engine, "estimate", lambda values: (asked.append(values), estimate(values))[1])
    go_to(page, "image_to_image")
    choose_picture(page, "image_to_image", picture_of_a_house((301, 203)))
    steps = page.locator("#image_to_image-num_inference_steps input").first
    steps.fill("7")
    steps.press("Tab")
    expect(page.locator("#image_to_image-estimate")).to_contain_text("about 0.1 GiB and")
    while not any(values.get("num_inference_steps") == 7 for values in asked):
        page.wait_for_timeout(50)
    assert asked[-1]["image"] == (301, 203)


def test_the_page_names_the_model_that_the_program_fell_back_to(
    context: BrowserContext, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = served.engine.defaults
    with monkeypatch.context() as patch:
        patch.setattr(served.engine, "defaults", lambda model=None: real(model or "sd-1.4"))
        page = open_page(context, served.url)
        expect(page.locator("#model input")).to_have_value(re.compile(r"Stable Diffusion 1\.4"))


def test_the_first_screen_needs_no_scrolling(fresh_page: Page) -> None:
    page = fresh_page
    heights = page.evaluate(
        "[document.documentElement.scrollHeight, innerHeight, document.documentElement.scrollWidth]"
    )
    assert heights[0] <= heights[1]
    assert heights[2] <= DESKTOP["width"]


def test_on_a_phone_the_order_is_prompt_generate_picture_settings(browser: Browser, served: Served) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(context, served.url)
    parts = [f"#{TASK}-prompt", f"#{TASK}-generate", f".{TASK} > .area-show", f"#{TASK}-num_inference_steps"]
    tops = [(page.locator(part).bounding_box() or {})["y"] for part in parts]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_no_help_runs_off_the_screen_of_a_phone(browser: Browser, served: Served) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(context, served.url)
    seen = {}
    for title in ("Text to image", "Image to image", "Inpaint", "Upscale", "Compare"):
        page.get_by_role("tab", name=title, exact=True).click()
        panel = page.get_by_role("tabpanel").filter(has=page.locator("button.generate")).and_(page.locator(":visible"))
        for fold in panel.locator(".area-settings button.label-wrap:not(.open)").all():
            fold.click()
        last = {"Upscale": "scheduler", "Compare": "strength"}.get(title, "grid")
        place = title.lower().replace(" ", "_")
        expect(page.locator(f"#{place}-{last}")).to_be_visible()
        # Hidden until it is wanted, and in its place all the same.
        seen |= page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('.control .info-text')].map(e =>
            [e.closest('.control').id, e.getBoundingClientRect()]).filter(([, box]) => box.width).map(([id, box]) =>
            [id, [Math.round(box.left), Math.round(box.right)]]))"""
        )
    assert len(seen) > 40
    assert {name: ends for name, ends in seen.items() if ends[0] < 0 or ends[1] > 390} == {}
    context.close()


def test_the_theme_switch_is_remembered(fresh_page: Page) -> None:
    page = fresh_page
    before = page.evaluate("document.body.classList.contains('dark')")
    page.locator("#theme").click()
    page.reload()
    expect(page.locator("#state")).to_contain_text("ready")
    assert page.evaluate("document.body.classList.contains('dark')") is not before


def test_a_sheet_is_called_by_its_prompt(page: Page) -> None:
    write_prompt(page, TASK, "two boats")
    page.locator(".text_to_image .more > button").first.click()
    set_number(page, TASK, "num_images_per_prompt", "2")
    grid = page.locator(f"#{TASK}-grid textarea, #{TASK}-grid input").first
    grid.fill("1x2")
    grid.blur()
    generate(page, TASK)
    expect(page.locator(f"#{TASK}-sheet img")).to_have_attribute("alt", "two boats")
    grid.fill("")
    set_number(page, TASK, "num_images_per_prompt", "1")


def test_every_control_has_a_label(fresh_page: Page) -> None:
    page = fresh_page
    expect(page.locator("#theme")).to_have_accessible_name("Light or dark")  # a symbol is no name; page.js gives one
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button')].filter(e => e.offsetParent !== null)
        .filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.title || /\\p{L}/u.test(e.innerText)
                       || e.querySelector('img[alt]')))
        .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []


def test_a_finished_picture_is_fetched_as_it_was_saved(page: Page, served: Served) -> None:
    generate(page, TASK)
    address = page.locator(f"#{TASK}-picture img").first.get_attribute("src") or ""
    newest = max(served.folder.rglob("*.png"), key=lambda path: path.stat().st_mtime)
    assert page.request.get(address).body() == newest.read_bytes()
    assert fetch(page, address).format == "PNG"
