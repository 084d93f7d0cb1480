"""What a PNG tells about itself, to us and to other programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_demo.errors import InvalidImage
from sd_demo.receipt import JSON_KEY, SAMPLER_NAMES, TEXT_KEY, Receipt, read_receipt, read_receipt_file
from sd_demo.requests import SCHEDULER_NAMES
from tests.receipts import make_receipt


def png(receipt: Receipt | None = None, info: PngInfo | None = None) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG", pnginfo=receipt.png_info() if receipt else info)
    return stream.getvalue()


def text(value: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(JSON_KEY, value)
    return info


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200))
def test_a_receipt_is_read_back_from_the_png(prompt: str) -> None:
    receipt = make_receipt(prompt=prompt, notes=[prompt], unknown_words=prompt.split())
    with Image.open(io.BytesIO(png(receipt))) as image:
        assert read_receipt(image) == receipt


def test_other_programs_find_their_text() -> None:
    receipt = make_receipt(prompt="a red ball", scheduler="euler_a", guidance_scale=7.5, strength=0.6)
    asked = {**receipt.asked, "negative_prompt": "sun"}
    with Image.open(io.BytesIO(png(receipt.model_copy(update={"asked": asked})))) as image:
        prompt, negative, settings = image.text[TEXT_KEY].split("\n")
    assert (prompt, negative) == ("a red ball", "Negative prompt: sun")
    pairs = dict(part.split(": ") for part in settings.split(", "))
    assert pairs["Sampler"] == "Euler a"
    assert (pairs["Steps"], pairs["CFG scale"], pairs["Seed"], pairs["Size"]) == ("20", "7.5", "7", "256x256")
    assert pairs["Denoising strength"] == "0.6"


def test_other_programs_find_the_loras() -> None:
    lora = {"name": "toys/snowman", "weight": 0.5, "sha256": "ab" * 32, "matched": 4, "total": 4}
    prompt, settings = make_receipt(loras=[lora]).parameters().split("\n")
    assert prompt == "a red ball <lora:snowman:0.5>"
    assert 'Lora hashes: "snowman: abababababab", Version' in settings
    assert "ora" not in make_receipt().parameters()


def test_a_tag_that_was_only_text_is_no_lora_to_other_programs() -> None:
    lora = {"name": "snowman", "weight": 0.5, "sha256": "ab" * 32, "matched": 4, "total": 4}
    typed = "a red ball <lora:pencil:0.8>, <lora:snowman:1> a tree"
    assert make_receipt(prompt=typed).parameters().split("\n")[0] == "a red ball, a tree"
    worn = make_receipt(prompt=typed, loras=[lora])
    assert worn.parameters().split("\n")[0] == "a red ball, a tree <lora:snowman:0.5>"
    assert make_receipt(prompt=typed).asked["prompt"] == typed, "the receipt itself says what was asked"


def test_a_dot_in_the_name_of_a_lora_stays() -> None:
    names = ["add_detail_v1.5", "folder/other.v2.safetensors"]
    loras = [{"name": name, "weight": 1.0, "sha256": "ab" * 32, "matched": 4, "total": 4} for name in names]
    prompt, settings = make_receipt(loras=loras).parameters().split("\n")
    assert prompt == "a red ball <lora:add_detail_v1.5:1> <lora:other.v2:1>"
    assert 'Lora hashes: "add_detail_v1.5: abababababab, other.v2: abababababab"' in settings


def test_what_the_model_made_up_is_the_prompt_to_other_programs() -> None:
    for prompt in ("", " ", "...", "?!"):
        assert make_receipt(prompt=prompt, read_prompt="a red house").parameters().split("\n")[0] == "a red house"
        assert make_receipt(prompt=prompt).parameters().split("\n")[0] == prompt
    assert make_receipt(prompt="2 cats", read_prompt="two cats").parameters().split("\n")[0] == "2 cats"


def test_what_was_not_asked_is_not_in_their_text() -> None:
    parameters = make_receipt().parameters()
    assert "Negative prompt" not in parameters
    assert "Denoising" not in parameters


def test_every_scheduler_has_a_name_that_other_programs_know() -> None:
    assert tuple(SAMPLER_NAMES) == SCHEDULER_NAMES


def test_the_summary_is_one_line_with_what_matters() -> None:
    summary = make_receipt(effective_steps=1).summary()
    for part in (
        "seed 7",
        "20 steps (1 UNet call) ",
        "dpmpp_2m",
        "guidance 5",
        "256x256",
        "picture-book",
        "cpu float32",
        "1.8 s",
    ):
        assert part in summary
    assert "\n" not in summary
    assert " · 20 steps · " in make_receipt().summary()
    assert " · 1 step (2 UNet calls) · " in make_receipt(num_inference_steps=1, effective_steps=2).summary()


def test_a_file_is_read_without_decoding_its_pixels(tmp_path: Path) -> None:
    receipt = make_receipt()
    path = tmp_path / "cut.png"
    path.write_bytes(png(receipt)[:-30])
    assert read_receipt_file(path) == receipt


DEEP = "[" * 100_000
BROKEN = ["", "{}", "null", "[]", "5", "{", '{"version": 1}', DEEP, json.dumps({"task": "x", "asked": {}, "done": {}})]


@pytest.mark.parametrize("value", BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_receipt_is_said(value: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(png(info=text(value)))
    with pytest.raises(InvalidImage, match=r"^This picture's receipt is damaged and cannot be read\.$"):
        read_receipt_file(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(), "carries no receipt"),
        (b"", "is no PNG"),
        (b"words", "is no PNG"),
        (png()[:20], "is no PNG"),
        (None, "no file named picture.png"),
    ],
)
def test_a_file_without_a_receipt_is_said(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidImage, match=rf"{words}.*\.$"):
        read_receipt_file(path)


def test_a_folder_is_no_png(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="is no PNG"):
        read_receipt_file(tmp_path)
