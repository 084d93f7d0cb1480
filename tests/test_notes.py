"""What a receipt says in sentences where the embedded model reads prompts otherwise than they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_demo.engine import Engine
from sd_demo.events import ResultImage
from sd_demo.requests import parse_request
from sd_demo.restore import from_receipt
from sd_demo.settings import Settings

WAIT_S = 120
NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8))
REWORDED = "The prompt was put in words that the model knows"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("notes")
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=folder))
    engine.start()
    yield engine
    engine.close()


def made(engine: Engine, prompt: str, task: str = "text_to_image", **values: Any) -> ResultImage:
    given = {"width": 64, "height": 64} if task == "text_to_image" else {"image": NOISE}
    asked = {"prompt": prompt, "num_inference_steps": 2, "seed": 1, **given, **values}
    return engine.submit(parse_request(task, asked)).result(WAIT_S).images[0]


def test_a_prompt_in_other_words_is_told_and_makes_the_same_picture(engine: Engine, tmp_path: Path) -> None:
    one = made(engine, "2 dark red balls.")
    assert f"{REWORDED}: two red balls." in one.receipt.notes
    assert (one.receipt.done.read_prompt, one.receipt.done.unknown_words) == ("two red balls.", [])
    assert one.receipt.prompt == one.receipt.asked["prompt"] == "2 dark red balls."
    told = made(engine, "two red balls.")
    assert told.receipt.done.read_prompt is None
    assert not any(REWORDED in note for note in told.receipt.notes)
    back = from_receipt(one.receipt, registry=engine.registry, lora_dir=tmp_path)
    for again in (told, engine.submit(back.request()).result(WAIT_S).images[0]):
        assert np.array_equal(np.asarray(again.image), np.asarray(one.image))


def test_all_that_was_read_otherwise_is_told_in_one_sentence(engine: Engine) -> None:
    both = made(engine, "2 cats and a sun", negative_prompt="there is no sun. A navy blue tree at night")
    assert f"{REWORDED}, and what the negative prompt denies was left out of it: two cats." in both.receipt.notes
    assert "The negative prompt was read as: A navy blue tree at night." in both.receipt.notes
    left = Image.new("L", (64, 64), 0)
    left.paste(255, (2, 32, 30, 60))
    placed = made(engine, "a dark red ball", "inpaint", mask_image=left)
    read = "a red ball on the left"
    assert f"{REWORDED}, and what that leaves open was read from the mask: {read}." in placed.receipt.notes
    every = made(engine, "a dark red ball and a sun", "inpaint", mask_image=left, negative_prompt="sun")
    said = f"{REWORDED}, what the negative prompt denies was left out of it, and what that leaves open was read from"
    assert f"{said} the mask: {read}." in every.receipt.notes


def test_a_denial_that_nothing_was_left_out_for_is_told(engine: Engine) -> None:
    said = "What the negative prompt denies was not found in the prompt, so it changed nothing"
    assert f"{said}." in made(engine, "a house", negative_prompt="no sun").receipt.notes
    given = made(engine, "a house", "image_to_image", negative_prompt="no sun").receipt
    assert f"{said}; in the given picture it is not looked for." in given.notes
    assert given.done.read_negative_prompt == ""


def test_a_prompt_without_words_is_as_good_as_none(engine: Engine, tmp_path: Path) -> None:
    one, empty = made(engine, "?!"), made(engine, "")
    own = empty.receipt.done.read_prompt
    assert own == one.receipt.done.read_prompt == one.receipt.prompt
    assert f"The prompt has no words, so the model chose what to show: {own}." in one.receipt.notes
    assert np.array_equal(np.asarray(one.image), np.asarray(empty.image))
    back = from_receipt(one.receipt, registry=engine.registry, lora_dir=tmp_path)
    assert back.values["prompt"] == own
    followed, empty = (made(engine, prompt, "image_to_image") for prompt in ("?!", ""))
    assert "The prompt has no words, so only the picture was followed." in followed.receipt.notes
    assert (followed.receipt.done.read_prompt, empty.receipt.done.read_prompt) == ("", None)
    assert np.array_equal(np.asarray(followed.image), np.asarray(empty.image))
    larger = made(engine, "?!", model="random:sd-1.5:tiny")
    assert larger.receipt.done.read_prompt is None
    assert not any("no words" in note for note in larger.receipt.notes), "it may know what that shows"
