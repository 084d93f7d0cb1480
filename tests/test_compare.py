"""Axes are read as written, or refused in one sentence; a comparison is one seed and one table."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sd_demo.compare import AXES, MAX_CELLS, parse_axis, plan_comparison
from sd_demo.errors import InvalidRequest

PHOTO = Image.new("RGB", (64, 64))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("guidance_scale: 1, 3, 5.5", (1, 3, 5.5)),
        ("seed:1..4", (1, 2, 3, 4)),
        ("num_inference_steps: 1..10:3", (1, 4, 7, 10)),
        ("strength: 0..1:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
        ("seed: 5..3, 9", (5, 4, 3, 9)),
        ("seed: 1..4:2", (1, 3)),
        ("scheduler: ddim, euler_a", ("ddim", "euler_a")),
        ('prompt: "a red ball, big", a house: small', ("a red ball, big", "a house: small")),
        ("size: 256x256, 384 x 256", ("256x256", "384 x 256")),
    ],
)
def test_axes_are_read_as_written(text: str, values: tuple[Any, ...]) -> None:
    assert parse_axis(text, "x").values == values


@pytest.mark.parametrize(
    "text",
    ["", "seed", "seed:", "seed: 1,,2", "seed: x", "seed: 1..", "seed: 1..9:0", "seed: 1..99", "seed: 1..2..3", ": 1",
     "colour: red", "seed x: 1", "seed: nan", "seed: inf", "seed: 1e999999, 1e-999999 x", "x" * 9999,
     f"seed: {'1,' * 50}1", "seed: snan"],
)  # fmt: skip
def test_a_bad_axis_is_one_sentence(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^x[^\n]+\.$") as caught:
        parse_axis(text, "x")
    assert caught.value.field == "x"


def test_a_table_of_requests_row_by_row() -> None:
    table = plan_comparison(
        "text_to_image",
        {"prompt": "a red ball", "num_inference_steps": 4},
        "guidance_scale: 1, 3",
        "scheduler: ddim, lms",
    )
    assert [(r.scheduler, r.guidance_scale) for r in table.requests] == [
        ("ddim", 1),
        ("ddim", 3),
        ("lms", 1),
        ("lms", 3),
    ]
    assert len({r.seed for r in table.requests}) == 1
    assert table.requests[0].seed is not None
    assert (table.columns, table.column_labels, table.row_labels) == (2, ("1", "3"), ("ddim", "lms"))


def test_words_size_and_strength() -> None:
    words = plan_comparison(
        "text_to_image", {"prompt": "a red ball, red"}, "words: red, dark blue", "words: ball, tree"
    )
    assert [r.prompt for r in words.requests] == [
        "a red ball, red", "a dark blue ball, dark blue", "a red tree, red", "a dark blue tree, dark blue",
    ]  # fmt: skip
    for axes in (
        ("prompt: a red ball, a red tree", "words: red, blue"),
        ("words: red, blue", "prompt: a red ball, a red tree"),
    ):
        both = plan_comparison("text_to_image", {"prompt": "nothing"}, *axes)
        assert {r.prompt for r in both.requests} == {"a red ball", "a red tree", "a blue ball", "a blue tree"}
        assert both.requests[0].prompt == "a red ball"
    sizes = plan_comparison("text_to_image", {}, "size: 64x128, 128×64")
    assert [(r.width, r.height) for r in sizes.requests] == [(64, 128), (128, 64)]
    strengths = plan_comparison("image_to_image", {"image": PHOTO, "seed": 7}, "strength: 0.5, 1")
    assert [(r.strength, r.seed) for r in strengths.requests] == [(0.5, 7), (1, 7)]  # type: ignore[union-attr]


def test_the_weight_of_a_lora() -> None:
    table = plan_comparison("text_to_image", {"loras": ["pencil:0.3"]}, "lora_weight: 0..1:0.5")
    assert [r.loras[0].weight for r in table.requests] == [0, 0.5, 1]
    two = {"loras": ["pencil", "night:0.3"]}
    table = plan_comparison("text_to_image", two, "lora_weight night: 0, 1", "lora_weight pencil: 0.5")
    assert [[lora.weight for lora in r.loras] for r in table.requests] == [[0.5, 0], [0.5, 1]]
    for values in (two, {}):
        with pytest.raises(InvalidRequest, match="lora_weight"):
            plan_comparison("text_to_image", values, "lora_weight: 0, 1")


@pytest.mark.parametrize(
    ("values", "x", "y"),
    [
        ({}, "seed: 1..7", "num_inference_steps: 1..6"),
        ({}, "seed: 1", "seed: 2"),
        ({}, "size: 64x64", "width: 64"),
        ({"loras": ["pencil"]}, "lora_weight: 0, 1", "lora_weight pencil: 0, 1"),
        ({}, "size: big", ""),
        ({}, "strength: 0.5", ""),
        ({}, "words: red, blue", ""),
        ({}, "num_inference_steps: 1.5", ""),
        ({}, "guidance_scale: 99", ""),
        ({}, "scheduler: ddim, magic", ""),
        ({"num_images_per_prompt": 2}, "seed: 1..2", ""),
        ({"colour": 1}, "seed: 1..2", ""),
        ({"prompt": 5}, "seed: 1..2", ""),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(values: dict[str, Any], x: str, y: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^[^\n]+\.$"):
        plan_comparison("text_to_image", values, x, y)


PIECES = [*AXES, ":", ",", "1", "..", "9" * 30, "1e9999", '"', "x", " ", "-", ".", "\r", "256x256", "nan"]


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.one_of(st.just(""), st.text(max_size=20)))
@settings(max_examples=200)
def test_any_axis_is_a_table_or_a_sentence(x: str, y: str) -> None:
    with suppress(InvalidRequest):
        table = plan_comparison("image_to_image", {"prompt": "a 1 x", "image": PHOTO}, x, y)
        assert 1 <= len(table.requests) <= MAX_CELLS
