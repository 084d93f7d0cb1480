"""What "Apply these settings" and an example put into a tab, asked of the page's own handlers without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.requests import Request

from sd_demo import random_model
from sd_demo.errors import InvalidImage, ModelUnavailable
from sd_demo.outputs import Outputs
from sd_demo.receipt import TEXT_KEY, Lora, Receipt
from sd_demo.registry import ModelEntry, Registry
from sd_demo.requests import SCHEDULER_NAMES, TextToImage, parse_request
from sd_demo.restore import from_receipt
from sd_demo.restored import Restored
from sd_demo.schedulers import available
from sd_demo.settings import Settings
from sd_demo.ui import api, blocks, controls, header
from sd_demo.ui.results import Shown
from sd_demo.ui.uploads import uploaded_file
from tests.fake_engine import FakeEngine
from tests.receipts import make_receipt

TASK = "text_to_image"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[blocks.Page]:
    settings = Settings(lora_dir=tmp_path / "loras", data_dir=tmp_path / "data")
    engine = FakeEngine(Outputs(tmp_path / "outputs"), settings=settings)
    engine.start()
    yield blocks.build(engine)  # type: ignore[arg-type]
    engine.close()


def handlers(page: blocks.Page, name: str) -> list[Any]:
    return [one for one in page.fns.values() if getattr(one.fn, "__name__", "") == name]


def back(page: blocks.Page, receipt: Receipt) -> Restored:
    return from_receipt(receipt, registry=page.engine.registry, lora_dir=page.engine.settings.lora_dir)


def applied(page: blocks.Page, restored: Restored, model: str = "picture-book") -> dict[Any, Any]:
    (apply,) = handlers(page, "apply")
    updates: dict[Any, Any] = apply.fn(restored, model)
    assert set(updates) <= set(apply.outputs)
    return updates


def held(updates: dict[Any, Any], task: str = TASK) -> dict[str, Any]:
    """By field, what the controls of `task` were set to."""
    names = {f"{task}-{name}": name for name in controls.names_of(task)}
    return {names[one.elem_id]: value for one, value in updates.items() if one.elem_id in names}


def test_every_control_is_set_and_what_the_picture_does_not_tell_is_cleared(page: blocks.Page) -> None:
    worn = [Lora(name="gone", weight=0.5, sha256="", matched=1, total=1)]
    for receipt in (make_receipt(), make_receipt(loras=worn)):
        values = held(applied(page, back(page, receipt)))
        assert set(values) == set(controls.names_of(TASK))
        assert (values["loras"], values["keep_best"], values["grid"]) == ([], "", "")
        asked = {name: controls.request_value(TASK, name, value) for name, value in values.items()}
        assert parse_request(TASK, asked).num_images_per_prompt == 1
    known = {"sha256": "ab", "width": 96, "height": 64}
    receipt = make_receipt(strength=0.4, width=96, height=64)
    asked = {"prompt": "x", "image": known}
    values = held(
        applied(page, back(page, receipt.model_copy(update={"task": "image_to_image", "asked": asked}))),
        "image_to_image",
    )
    assert (values["width"], values["height"], values["strength"]) == ("", "", 0.4)


@pytest.mark.parametrize(("shown", "of_picture"), [("picture-book", "sd-1.5"), ("sd-1.5", "picture-book")])
def test_settings_that_are_another_models_defaults_stay_as_they_were_restored(
    page: blocks.Page, shown: str, of_picture: str
) -> None:
    old = page.engine.defaults(shown)
    receipt = make_receipt(
        model=of_picture, width=old.native_size, height=old.native_size, scheduler=old.scheduler,
        num_inference_steps=old.num_inference_steps, guidance_scale=old.guidance_scale,
    )  # fmt: skip
    updates = applied(page, back(page, receipt), shown)
    values = held(updates)
    chooser = next(update for one, update in updates.items() if one.elem_id == "model")
    assert chooser["value"] == of_picture
    assert of_picture in [name for _, name in chooser["choices"]]
    by_component = {one._id: value for one, value in updates.items()}
    followers = [
        one for one in handlers(page, "follow")
        if any(o.elem_id == f"{TASK}-num_inference_steps" for o in one.outputs) and one.inputs[1]._id in by_component
    ]  # fmt: skip
    assert followers, "the choice of a model follows this tab's own state"
    for follow in followers:
        names = [one.elem_id.removeprefix(f"{TASK}-") for one in follow.inputs[2:]]
        after = follow.fn(of_picture, by_component[follow.inputs[1]._id], *(values[name] for name in names))
        for name, update in zip(names, after[1:-1], strict=True):
            assert update == gr.skip() or update == values[name], name


def test_a_model_that_came_after_the_page_was_built_is_chosen(page: blocks.Page, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    updates = applied(page, back(page, make_receipt(model=str(folder))))
    assert next(update for one, update in updates.items() if one.elem_id == "model")["value"] == str(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(gr.Error, match="no longer here"):
        applied(page, Restored(TASK, {"model": str(folder)}, {}, ()))


def test_the_browser_keeps_a_model_that_was_chosen_or_came_with_settings(page: blocks.Page) -> None:
    """One that the program fell back to did neither."""
    (apply,) = handlers(page, "apply")
    (kept,) = (one for one in apply.outputs if getattr(one, "storage_key", "") == "sd-demo-model")
    (typed,) = (one for one in page.fns.values() if kept in one.outputs and one is not apply)
    (chooser,) = typed.inputs
    assert (chooser.elem_id, typed.targets) == ("model", [(chooser._id, "input")])
    assert applied(page, back(page, make_receipt(model="sd-1.5")))[kept] == {"name": "sd-1.5", "usual": "picture-book"}
    assert kept not in applied(page, Restored(TASK, {"prompt": "a text without a model"}, {}, ()))


def test_other_weights_stand_in_the_report_and_above_the_code(page: blocks.Page) -> None:
    (settings,) = [one for one in handlers(page, "settings") if len(one.outputs) == 3]
    shown = [Shown(Path("a.png"), make_receipt(prompt="<b>a ball"))]
    report = next(v for k, v in settings.fn(shown).items() if k.elem_id == "settings-back-report")
    assert "picture-book&#x27; has other weights here" in report
    request = gr.Request(base_url="http://127.0.0.1:7860/")
    expand = handlers(page, "expand")[0]
    assert [text.splitlines()[0][:20] for text in expand.fn(request, shown, 0)[1:]] == ["# The model 'picture"] * 3


def test_a_lora_in_the_picker_is_read_as_it_was_written() -> None:
    wanted = [{"name": "a", "weight": 0.123456789}, {"name": "style:2", "weight": 1.0}, {"name": "b", "weight": 1.0}]
    texts = controls.held_value(TASK, "loras", wanted)
    assert texts[2] == "b"
    read = parse_request(TASK, {"prompt": "", "loras": texts}).loras
    assert [{"name": one.name, "weight": one.weight} for one in read] == wanted


def test_an_example_is_filled_in_as_it_suits_the_chosen_model(page: blocks.Page) -> None:
    fill = handlers(page, "fill")[0]
    assert fill.inputs[0].elem_id == "model"
    for model in ("sd-1.5", "picture-book"):
        entry = page.engine.defaults(model)
        values = held(fill.fn(model, None, gr.SelectData(None, {"index": 0, "value": ""})))
        assert (values["num_inference_steps"], values["width"]) == (entry.num_inference_steps, entry.native_size)
    assert held(fill.fn("gone", None, gr.SelectData(None, {"index": 0, "value": ""}))), (
        "the run then says that it is gone"
    )


def test_an_examples_picture_is_where_the_page_may_read_it_wherever_it_was_started(page: blocks.Page) -> None:
    fills = handlers(page, "fill")
    fill = next(one for one in fills if any(place.elem_id == "image_to_image-prompt" for place in one.outputs))
    updates = fill.fn("picture-book", None, gr.SelectData(None, {"index": 0, "value": ""}))
    (picture,) = [value for value in updates.values() if isinstance(value, str) and value.endswith(".png")]
    assert Path(picture).is_relative_to(get_upload_folder())


def test_the_list_of_styles_names_none_that_the_prompt_has_lost(page: blocks.Page) -> None:
    updates = applied(page, back(page, make_receipt()))
    assert [value for one, value in updates.items() if one.elem_id == f"{TASK}-style"] == ["None"]


def test_a_slider_begins_where_its_field_does(page: blocks.Page) -> None:
    entry = page.engine.registry.get("x4-upscaler")
    assert controls.make("upscale", "noise_level", entry).minimum == 0  # type: ignore[attr-defined]
    assert controls.make("image_to_image", "strength", entry).minimum > 0  # type: ignore[attr-defined]


def test_only_schedulers_that_can_run_are_offered(page: blocks.Page) -> None:
    choosers = [one for one in page.blocks.values() if str(one.elem_id).endswith("-scheduler")]
    choosers += [one for one in page.blocks.values() if one.elem_id == "learn-schedulers-names"]
    assert len(choosers) >= 5
    for chooser in choosers:
        assert [name for _, name in chooser.choices] == list(available())
    missing = set(SCHEDULER_NAMES) - set(available())
    for name in SCHEDULER_NAMES:
        assert controls.acceptable(TASK, {"scheduler": name}) == ({} if name in missing else {"scheduler": name})
    told = api.parameter(TextToImage, "scheduler").api_info()["description"]
    assert told.endswith(f" It is one of {', '.join(available())}.")


def test_a_sampler_of_a_scheduler_that_cannot_run_is_said(page: blocks.Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sd_demo.ui.settings_back.available", lambda: ("euler",))
    info = PngInfo()
    info.add_itxt(TEXT_KEY, "x\nSteps: 5, Sampler: DPM++ SDE, Seed: 1")
    file = Path(get_upload_folder()) / "sampler.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file, pnginfo=info)
    (read,) = [one for one in handlers(page, "read") if one.outputs[0].elem_id == "settings-back-report"]
    report = read.fn({"path": str(file)})[read.outputs[0]]
    file.unlink()
    assert "DPM++ SDE" in report
    assert "is not here; the model&#x27;s own scheduler will be used." in report


def test_a_remembered_sheet_fits_the_pictures_that_it_was_chosen_for() -> None:
    kept = {"num_images_per_prompt": 6, "keep_best": "", "grid": "2x3"}
    assert controls.acceptable(TASK, kept) == kept
    assert controls.acceptable(TASK, {**kept, "num_images_per_prompt": 16, "keep_best": "5"})["grid"] == "2x3"
    assert "grid" not in controls.acceptable(TASK, {**kept, "grid": "2x2"})
    assert "grid" not in controls.acceptable(TASK, {**kept, "grid": "2 by 3"})


def test_a_name_that_is_no_model_leaves_controls_with_the_model_that_they_follow(page: blocks.Page) -> None:
    follow = next(one for one in handlers(page, "follow") if one.outputs[1].elem_id == f"{TASK}-num_inference_steps")
    fields = [one.elem_id.removeprefix(f"{TASK}-") for one in follow.inputs[2:]]
    book, best = page.engine.defaults("picture-book"), page.engine.defaults("sd-1.5")
    shown = [controls.default_value(TASK, name, book) for name in fields]
    assert all(update == gr.skip() for update in follow.fn("nope", "picture-book", *shown))
    chosen, *after, _ = follow.fn("sd-1.5", "picture-book", *shown)
    assert chosen == "sd-1.5"
    assert after == [controls.default_value(TASK, name, best) for name in fields]


@pytest.mark.parametrize(
    ("headers", "root_path", "expected"),
    [
        ({"host": "localhost:7860"}, "", "http://localhost:7860/"),
        ({"host": "localhost:7860"}, "/demo", "http://localhost:7860/demo/"),
        ({"host": "me.example", "x-forwarded-proto": "https"}, "", "https://me.example/"),
        (
            {"host": "10.0.0.7", "x-forwarded-host": "me-demo.hf.space", "x-forwarded-proto": "https"},
            "",
            "https://me-demo.hf.space/",
        ),
        ({"host": "localhost"}, "https://me.example/demo", "https://me.example/demo/"),
    ],
)
def test_the_copied_code_names_the_page_as_its_visitor_reached_it(
    page: blocks.Page, headers: dict[str, str], root_path: str, expected: str
) -> None:
    expand = next(one for one in handlers(page, "expand") if one.inputs[0] is not None)
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "server": ("10.0.0.7", 80), "query_string": b"",
        "path": "/gradio_api/run/predict", "app": SimpleNamespace(root_path=root_path),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    request = gr.Request(Request(scope))
    _, _, client, _ = expand.fn(request, [Shown(Path("picture.png"), make_receipt())], 0)
    assert f"Client('{expected}')" in client


@pytest.mark.parametrize("name", ["history", "code"])
def test_a_scheduler_that_is_not_here_is_named_before_it_is_asked_for(
    page: blocks.Page, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"history": "history", "code": "copy_as_code"}[name]
    monkeypatch.setattr(f"sd_demo.ui.{module}.available", lambda: ("ddim",))
    shown = [Shown(Path("picture.png"), make_receipt(scheduler="euler"))]
    if name == "code":
        said = handlers(page, "expand")[0].fn(gr.Request(), shown, 0)
    else:
        said = list(handlers(page, "settings")[0].fn(shown).values())
    assert "is not here" in str(said)
    assert "euler" in str(said)


def test_a_path_that_no_system_knows_is_no_upload() -> None:
    with pytest.raises(InvalidImage, match=r"^image must be an uploaded file; a path or an address is not read\.$"):
        uploaded_file({"path": "a\x00b.png"}, field="image")


def test_the_list_of_models_holds_where_the_one_of_the_start_is_gone_from_its_place() -> None:
    def gone(_: str | None) -> ModelEntry:
        raise ModelUnavailable("It is gone.")

    engine = SimpleNamespace(registry=Registry(), defaults=gone, settings=SimpleNamespace(model=None))
    assert [name for _, name in header.choices(engine)] == [entry.name for entry in Registry()]  # type: ignore[arg-type]


def test_the_list_of_models_keeps_the_one_that_another_took_the_place_of(tmp_path: Path) -> None:
    random_model.save("sd-1.5", tmp_path / "mended", "tiny")
    registry, folder = Registry(), str(tmp_path / "mended")
    engine: Any = SimpleNamespace(
        registry=registry, defaults=lambda name: registry.get(name or "picture-book"), settings=Settings(model=folder)
    )
    assert ("mended", folder) in header.choices(engine)
    assert len(header.choices(engine)) == 1 + len(list(registry))
