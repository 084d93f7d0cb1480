"""Settings come back from pictures of this program and of others, and what does not come back is said."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_demo import weight_hashes
from sd_demo.checkpoints import hash_of
from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.parameters_text import from_parameters, parse_parameters, scheduler_of
from sd_demo.receipt import JSON_KEY, SAMPLER_NAMES, TEXT_KEY, Lora, Receipt
from sd_demo.recipes import recipes
from sd_demo.registry import Registry
from sd_demo.requests import ImageToImage, Inpaint, TextToImage
from sd_demo.restore import from_receipt, restore
from sd_demo.restored import Restored
from sd_demo.weight_hashes import hash_over, other_weights, sha256_of
from tests.receipts import make_receipt

NOWHERE = Path("no-such-folder")
A1111 = """masterpiece, a cat, Steps: 3 of them,
(second line:1.2)
Negative prompt: ugly, "quoted"
and a second line: with colon, 5
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned-emaonly, Clip skip: 2, ENSD: 31337, Version: v1.6.0"""


def back(text: str, lora_dir: Path = NOWHERE) -> Restored:
    return from_parameters(text, registry=Registry(), lora_dir=lora_dir)


def of_receipt(receipt: Receipt, lora_dir: Path = NOWHERE) -> Restored:
    return from_receipt(receipt, registry=Registry(), lora_dir=lora_dir)


def png(receipt: Receipt | None = None, **texts: str) -> bytes:
    info = receipt.png_info() if receipt else PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("task", ["text_to_image", "upscale"])
def test_a_scheduler_that_is_not_here_does_not_come_back(task: str) -> None:
    receipt = make_receipt(scheduler="dpmpp_sde").model_copy(update={"task": task})
    here = {"registry": Registry(), "lora_dir": NOWHERE}
    assert restore(png(receipt), **here).values["scheduler"] == "dpmpp_sde"  # type: ignore[arg-type]
    restored = restore(png(receipt), **here, schedulers=("ddim", "euler"))  # type: ignore[arg-type]
    assert "scheduler" not in restored.values
    assert "The scheduler 'dpmpp_sde' is not here; the model's own scheduler will be used." in restored.lost
    with pytest.raises(InvalidRequest, match="There is no code for it here: The scheduler 'dpmpp_sde' is not here"):
        recipes(restored, Registry())


def with_comment(kind: str, comment: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x8769] = {0x9286: comment}
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, kind, exif=exif)
    return stream.getvalue()


def test_our_own_picture_comes_back_as_it_was_made() -> None:
    receipt = make_receipt(prompt='a "red" ball,\nSteps: 3', seed=9, index=2, height=72, width=136)
    restored = restore(png(receipt), registry=Registry(), lora_dir=NOWHERE)
    request = restored.request()
    assert isinstance(request, TextToImage)
    assert (request.prompt, request.seed, request.num_images_per_prompt) == ('a "red" ball,\nSteps: 3', 9, 1)
    assert (request.width, request.height, request.num_inference_steps) == (136, 72, 20)
    assert (request.guidance_scale, request.scheduler, request.model) == (5.0, "dpmpp_2m", "picture-book")
    assert restored.cannot == ()


def test_what_was_made_up_comes_back_in_its_words_and_what_was_asked_as_it_was() -> None:
    for asked, words in (("...", "two cats"), ("", "two cats"), ("2 cats", "2 cats")):
        restored = of_receipt(make_receipt(prompt=asked, read_prompt="two cats", read_negative_prompt="fuzzy"))
        assert restored.values["prompt"] == words
        assert restored.values.get("negative_prompt", "") == ("" if words == asked else "fuzzy")


def test_a_picture_that_was_worked_from_must_be_given_again() -> None:
    known = {"sha256": "ab", "width": 96, "height": 64}
    receipt = make_receipt(strength=0.4, width=96, height=64)
    asked = {"prompt": "x", "image": known, "mask_image": known, "strength": 0.01, "width": None, "height": 640}
    restored = of_receipt(receipt.model_copy(update={"task": "inpaint", "asked": asked}))
    assert restored.pictures == {"image": known, "mask_image": known}
    assert [sentence.split(":")[0] for sentence in restored.cannot] == ["image", "mask_image"]
    picture = Image.new("RGB", (96, 64))
    request = restored.request(image=picture, mask_image=Image.new("L", (96, 64), 255))
    assert isinstance(request, Inpaint)
    assert (request.strength, request.width, request.height) == (0.4, None, 640)


def test_an_upscaling_comes_back_with_the_strength_that_was_asked() -> None:
    """What it adds goes by that, also where it was less than the one step that ran."""
    known = {"sha256": "ab", "width": 96, "height": 64}
    receipt = make_receipt(strength=0.05).model_copy(
        update={"task": "upscale", "asked": {"prompt": "x", "image": known, "strength": 0.02, "scale": 2.0}}
    )
    assert of_receipt(receipt).values["strength"] == 0.02


def test_loras_come_back_where_their_files_are(tmp_path: Path) -> None:
    (tmp_path / "styles").mkdir()
    (tmp_path / "styles/pencil.safetensors").touch()
    worn = [Lora(name=name, weight=0.5, sha256="", matched=1, total=1) for name in ("styles/pencil", "gone")]
    restored = of_receipt(make_receipt(loras=worn), tmp_path)
    assert [(lora.name, lora.weight) for lora in restored.request().loras] == [("styles/pencil", 0.5)]
    assert restored.cannot == ("The LoRA 'gone' is not here.",)
    tagged = back("a ball <lora:pencil:0.8> <lora:gone:x>, red\nSteps: 5, Sampler: DDIM, Seed: 1", tmp_path)
    assert tagged.values["prompt"] == "a ball, red"
    assert tagged.values["loras"] == [{"name": "styles/pencil", "weight": 0.8}]
    assert sum("gone" in sentence for sentence in tagged.cannot) == 2


def test_other_weights_under_the_same_name_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**done: Any) -> list[str]:
        receipt = make_receipt(**done)
        return other_weights(receipt, registry=Registry(models_dir=tmp_path / "models"), lora_dir=tmp_path)

    same = hash_of(EMBEDDED_FOLDER)
    assert said(model_hash=same) == []
    assert said() == ["The model 'picture-book' has other weights here; expect another picture."]
    assert said(model="gone") == said(model="sd-1.5") == []  # what is not here, is said elsewhere
    file = tmp_path / "pencil.safetensors"
    file.write_bytes(b"before")
    worn = [Lora(name=name, weight=0.5, sha256=sha256_of(file), matched=1, total=1) for name in ("pencil", "gone")]
    assert said(model_hash=same, loras=worn) == []
    file.write_bytes(b"trained anew")
    assert said(model_hash=same, loras=worn) == ["The LoRA 'pencil' is another file here; expect another picture."]
    monkeypatch.setattr(weight_hashes, "LARGEST", 4)
    assert said(loras=worn) == [], "what is too large to read at a click, nothing is claimed of"


def test_a_download_is_compared_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "unet" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"gigabytes")
    (tmp_path / "model_index.json").write_text("{}")
    told = {"files": {"unet/model.safetensors": {"size": 9, "sha256": sha256_of(file)}}}
    (tmp_path / "sd_demo.json").write_text(json.dumps(told))
    monkeypatch.setattr(weight_hashes, "LARGEST", 4)
    then = make_receipt(model=str(tmp_path), model_hash=hash_over([sha256_of(file)]))
    assert other_weights(then, registry=Registry(), lora_dir=NOWHERE) == []
    other = make_receipt(model=str(tmp_path))
    assert len(other_weights(other, registry=Registry(), lora_dir=NOWHERE)) == 1


def test_what_a_receipt_holds_beyond_the_bounds_is_said() -> None:
    receipt = make_receipt(num_inference_steps=999, model="another", scheduler="magic")
    restored = of_receipt(receipt.model_copy(update={"asked": {"prompt": ["x"], "new_thing": 1}}))
    assert {"prompt", "num_inference_steps", "model", "scheduler"}.isdisjoint(restored.values)
    assert len(restored.cannot) == 5
    with pytest.raises(InvalidImage, match="teleport"):
        of_receipt(receipt.model_copy(update={"task": "teleport"}))


def test_the_text_of_another_program() -> None:
    restored = back(A1111)
    request = restored.request()
    assert request.prompt == "masterpiece, a cat, Steps: 3 of them,\n(second line:1.2)"
    assert request.negative_prompt == 'ugly, "quoted"\nand a second line: with colon, 5'
    assert (request.num_inference_steps, request.guidance_scale, request.seed) == (28, 7.5, 1234567890)
    assert (request.width, request.height, request.scheduler) == (512, 768, "dpmpp_2m_karras")
    told = " ".join(restored.cannot)
    for thing in ("likeness", "v1-5-pruned-emaonly", "Clip skip 2", "ENSD 31337"):
        assert thing in told


def test_our_own_text_gives_what_the_receipt_gives() -> None:
    receipt = make_receipt(prompt="a red ball\n(Steps: 5, Seed: 3)", width=96)
    of_text, of_json = back(receipt.parameters()), of_receipt(receipt)
    names = set(of_text.values)
    assert of_text.values == {name: of_json.values[name] for name in names}
    assert set(of_json.values) - names == {"num_images_per_prompt"}
    assert of_text.cannot == ()


def test_denoising_strength_means_another_picture_unless_there_was_a_hires_fix() -> None:
    settings_line = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Denoising strength: 0.55"
    from_picture = back("x\n" + settings_line)
    assert (from_picture.task, from_picture.values["strength"]) == (ImageToImage.task, 0.55)
    assert from_picture.pictures == {"image": {}}
    hires = back("x\n" + settings_line + ', Hires upscale: 2, Hires prompt: "a, b: c"')
    assert hires.task == TextToImage.task
    assert "strength" not in hires.values
    assert any("hires fix" in sentence and "a, b: c" in sentence for sentence in hires.cannot)


@pytest.mark.parametrize(
    ("sampler", "schedule", "answer"),
    [
        ("Euler a", "", ("euler_a", True)),
        ("DPM++ 2M", "Automatic", ("dpmpp_2m_karras", True)),
        ("DPM++ 2M", "", ("dpmpp_2m", True)),
        ("DPM++ 2M Karras", "", ("dpmpp_2m_karras", True)),
        ("DPM++ SDE", "Karras", ("dpmpp_sde", False)),
        ("DPM++ SDE", "Automatic", ("dpmpp_sde", False)),
        ("DPM++ SDE", "", ("dpmpp_sde", True)),
        ("Euler", "Automatic", ("euler", True)),
        ("PLMS", "", ("pndm", True)),
        ("k_lms", "", ("lms", True)),
        ("Restart", "", (None, False)),
        ("", "", (None, False)),
    ],
)
def test_sampler_names(sampler: str, schedule: str, answer: Any) -> None:
    assert scheduler_of(sampler, schedule) == answer


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_the_names_that_we_write_are_names_that_we_read(name: str) -> None:
    assert scheduler_of(SAMPLER_NAMES[name]) == (name, True)


def test_an_unknown_sampler_is_said_and_left_to_the_model() -> None:
    restored = back("x\nSteps: 5, Sampler: Restart, Seed: 1")
    assert "scheduler" not in restored.values
    assert any("'Restart'" in sentence for sentence in restored.cannot)


def test_a_sampler_that_cannot_run_here_is_left_to_the_model() -> None:
    picture = png(**{TEXT_KEY: "x\nSteps: 5, Sampler: DPM++ SDE, Schedule type: Normal, Seed: 1"})

    def given(*schedulers: str) -> Restored:
        return restore(picture, registry=Registry(), lora_dir=NOWHERE, schedulers=schedulers)

    assert given("euler", "dpmpp_sde").values["scheduler"] == "dpmpp_sde"
    assert "scheduler" not in given("euler").values
    words = "The sampler 'DPM++ SDE Normal' is not here; the model's own scheduler will be used."
    assert words in given("euler").cannot
    assert words not in given("euler", "dpmpp_sde").cannot


@pytest.mark.parametrize(
    ("words", "is_said"),
    [
        ("a [cat:dog:0.5] there", True),
        ("a [cat:0.5]", True),
        ("a [(red:1.2) cat::10 ]", True),
        ("a [cat|dog|cow] there", True),
        ("a cat AND a dog", True),
        ("a cat <hypernet:style:0.4>", True),
        (r"a \[cat:dog:0.5\] and \[cat|dog\]", False),
        ("a [cat], (red:1.2), 10:30, one|two", False),
        ("a cat and a dog, SAND, ANDES", False),
        ("[a cat: grey], [other], [3: a dog]", False),
    ],
)
def test_what_another_program_would_do_with_a_prompt_is_said(words: str, is_said: bool) -> None:
    end = "\nSteps: 5, Sampler: DDIM, Seed: 1"
    for text in (words + end, f"x\nNegative prompt: {words}{end}"):
        assert any("Prompt editing" in sentence for sentence in back(text).cannot) == is_said
    ours = make_receipt(prompt=words)
    assert back(ours.parameters()).cannot == (), "what this program wrote it reads the same again"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + A1111.replace("a cat", "кот").encode("utf-16-be"),
        b"UNICODE\0" + A1111.replace("a cat", "кот").encode("utf-16-le"),
        b"UNICODE\0" + A1111.replace("a cat", "кот").encode("utf-16"),
        b"ASCII\0\0\0" + A1111.replace("a cat", "кот").encode(),
    ],
    ids=["big-endian", "little-endian", "marked", "ascii"],
)
def test_jpeg_and_webp_hold_it_in_their_exif(kind: str, comment: bytes) -> None:
    restored = restore(with_comment(kind, comment), registry=Registry(), lora_dir=NOWHERE)
    assert "кот" in restored.values["prompt"]
    assert restored.values["seed"] == 1234567890


def test_a_damaged_receipt_falls_back_to_the_text() -> None:
    file = png(**{JSON_KEY: "{", TEXT_KEY: A1111})
    assert restore(file, registry=Registry(), lora_dir=NOWHERE).values["num_inference_steps"] == 28
    with pytest.raises(InvalidImage, match="damaged"):
        restore(png(**{JSON_KEY: "{"}), registry=Registry(), lora_dir=NOWHERE)


@pytest.mark.parametrize("file", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, png()])
def test_a_file_without_settings_is_one_sentence(file: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"^[^\n]+\.$"):
        restore(file, registry=Registry(), lora_dir=NOWHERE)


def test_no_pixel_is_decoded_to_look_for_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    with pytest.raises(InvalidImage, match="carries no settings"):
        restore(png(), registry=Registry(), lora_dir=NOWHERE)


PIECES = st.sampled_from(
    ["Steps: 20", ", ", "\n", "Negative prompt:", "Size: 512x", "512", "Seed: -1", "<lora:", ":9e999>", '"', "\\", "x",
     "Hires upscale: 2", "CFG scale: nan", "Denoising strength: 7", "Sampler: ", "\x00", "é", "9" * 5000]
)  # fmt: skip


@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=30).map("".join)))
@settings(max_examples=150)
def test_any_text_gives_valid_values_or_sentences(text: str) -> None:
    restored = back(text)
    pictures = {name: Image.new("RGB", (64, 64)) for name in restored.pictures}
    restored.request(**pictures)
    assert all(sentence.endswith(".") and len(sentence) < 2000 for sentence in restored.cannot)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from([*ImageToImage.model_fields, "odd"]), json_values),
    st.sampled_from(["text_to_image", "image_to_image"]),
    st.integers(-5, 2**40),
    st.floats(),
)
@settings(max_examples=100)
def test_any_receipt_gives_valid_values_or_sentences(asked: Any, task: str, number: int, real: float) -> None:
    receipt = make_receipt(seed=number, guidance_scale=real, num_inference_steps=number, strength=real)
    restored = of_receipt(receipt.model_copy(update={"asked": asked, "task": task}))
    restored.request(**{name: Image.new("RGB", (64, 64)) for name in restored.pictures})


def test_no_prompt_takes_long() -> None:
    for text in ("[" * 400_000, "[:1" * 200_000, "[" + "|" * 400_000, "[" + ":" * 400_000, "[:" + " " * 400_000 + "1",
                 "[:" + "1" * 400_000 + " " * 400_000, "[" + ": 1 " * 100_000):  # fmt: skip
        assert not any("Prompt editing" in sentence for sentence in back(text).cannot)


def test_taking_apart_never_takes_long() -> None:
    for text in (
        "a" * 900_000,
        "Steps: 1, " * 50_000,
        '"' * 300_000,
        "<lora:" * 100_000,
        "k: \\" * 200_000,
        " " * 400_000 + "x",
    ):
        parse_parameters(text)


def test_json_that_is_no_receipt(tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(png(**{JSON_KEY: json.dumps({"task": "text_to_image"})}))
    with pytest.raises(InvalidImage, match="damaged"):
        restore(path, registry=Registry(), lora_dir=NOWHERE)
