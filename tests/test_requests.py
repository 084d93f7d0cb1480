"""The one gate: whatever is sent either is a request or gets one sentence that names what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.requests import (
    MAX_PROMPT_CHARACTERS,
    PICTURE_FIELDS,
    REQUESTS,
    SCHEDULER_NAMES,
    SEED_LIMIT,
    AnyRequest,
    bounds,
    describe_bounds,
    parse_request,
)

PICTURES = {"image": Image.new("RGB", (64, 48)), "mask_image": Image.new("L", (64, 48), 255)}
NAN, INF = math.nan, math.inf


def needed(task: str) -> dict[str, Any]:
    return {name: PICTURES[name] for name in PICTURE_FIELDS if name in REQUESTS[task].model_fields}


def refusal(task: str, **values: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(task, {**needed(task), **values})
    return caught.value


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and ". " not in text and len(text) < 400


@pytest.mark.parametrize("task", REQUESTS)
def test_a_prompt_and_the_pictures_are_enough(task: str) -> None:
    request = parse_request(task, {"prompt": "a red house", **needed(task)})
    assert isinstance(request, REQUESTS[task])
    assert request.num_images_per_prompt == 1
    assert request.seed is request.model is request.scheduler is None


@pytest.mark.parametrize("task", REQUESTS)
def test_an_empty_prompt_is_a_request(task: str) -> None:
    assert parse_request(task, needed(task)).prompt == ""


BAD_NUMBERS = [NAN, INF, -INF, "20", "many", "", True, False, [], [20], {}, {"a": 1}, 10**400, -(10**400), 1e308]
WHOLE = ["height", "width", "num_inference_steps", "seed", "num_images_per_prompt"]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("name", [*WHOLE, "guidance_scale", "strength"])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    error = refusal("image_to_image", **{name: value})
    assert error.field == name
    assert str(error).startswith(f"{name} must be a ")
    assert is_one_sentence(str(error))


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [7.5, 7.0])
def test_a_fraction_is_no_whole_number(name: str, value: float) -> None:
    assert "whole number" in str(refusal("text_to_image", **{name: value}))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("num_inference_steps", [1, 150], [0, -1, 151, 10_000]),
        ("height", [64, 1024, 257], [0, 7, 63, 1025, 100_000, -64]),
        ("width", [64, 1024, 257], [0, 7, 63, 1025, 100_000, -64]),
        ("guidance_scale", [1, 1.0, 7.5, 30], [0, 0.99, 30.1, -1, 1e9]),
        ("seed", [0, SEED_LIMIT - 1], [-1, SEED_LIMIT, 2**64]),
        ("num_images_per_prompt", [1, 16], [0, 17, -1, None]),
        ("strength", [0.01, 1, 1.0], [0, 0.0, -0.1, 1.01, None]),
        ("scheduler", [None, *SCHEDULER_NAMES], ["Euler", "", "k_lms", 3, [], True]),
        ("prompt", ["", "x" * MAX_PROMPT_CHARACTERS, "ünïcödé 🏠\n"], ["x" * 50_000, None, 5, ["a"], "\ud800", "\x00"]),
        ("negative_prompt", ["", "sun"], ["x" * 50_000, None, 5, "a\x00b"]),
        ("model", [None, "picture-book", "x" * 300], ["x" * 301, 5, [], True]),
    ],
)  # fmt: skip
def test_each_field_takes_its_range_and_no_more(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(parse_request("image_to_image", {**needed("image_to_image"), name: value}), name) == value
    for value in bad:
        error = refusal("image_to_image", **{name: value})
        assert error.field == name
        assert name in str(error)
        assert is_one_sentence(str(error))


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    error = refusal("text_to_image", num_inference_step=5)
    assert error.field == "num_inference_step"
    assert "'num_inference_step'" in str(error)
    assert "num_inference_steps" in str(error)
    assert "strength" in str(refusal("text_to_image", strength=0.5))
    assert len(str(refusal("text_to_image", **{"x\n" * 999: 1}))) < 400


@pytest.mark.parametrize("task", ["upscale", "", "TextToImage", "x" * 9999, None, 5, [], {}])
def test_an_unknown_task_is_refused(task: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(task, {})
    assert is_one_sentence(str(caught.value))


@pytest.mark.parametrize("name", PICTURE_FIELDS)
def test_a_missing_picture_is_said_before_anything_else(name: str) -> None:
    for missing in (None, ""):
        error = refusal("inpaint", **{name: missing}, num_inference_steps=0)
        assert error.field == name
        assert "missing" in str(error)


@pytest.mark.parametrize("name", PICTURE_FIELDS)
@pytest.mark.parametrize("value", [5, True, [], {}, {"path": "x.png"}, 1.5, "gone.png", b"", b"junk"])
def test_what_is_no_picture_is_refused(name: str, value: Any) -> None:
    error = refusal("inpaint", **{name: value})
    assert isinstance(error, InvalidImage)
    assert error.field == name
    assert name in str(error)


def test_a_mask_must_fit_and_must_not_be_empty() -> None:
    error = refusal("inpaint", mask_image=Image.new("L", (48, 64), 255))
    assert (error.field, "48x64" in str(error), "64x48" in str(error)) == ("mask_image", True, True)
    empty = refusal("inpaint", mask_image=Image.new("L", (64, 48), 0))
    assert (empty.field, "empty" in str(empty)) == ("mask_image", True)


def test_pictures_are_plain_after_the_gate() -> None:
    request = parse_request(
        "inpaint",
        {"image": Image.new("RGBA", (64, 48), (0, 0, 0, 0)), "mask_image": Image.new("RGB", (64, 48), (200, 200, 200))},
    )
    assert (request.image.mode, request.image.getpixel((1, 1))) == ("RGB", (255, 255, 255))
    assert (request.mask_image.mode, request.mask_image.getextrema()) == ("L", (255, 255))


def test_a_request_cannot_be_changed() -> None:
    request = parse_request("text_to_image", {})
    with pytest.raises(ValidationError):
        request.seed = 5  # type: ignore[misc]


def test_each_picture_has_a_seed_of_its_own() -> None:
    request = parse_request("text_to_image", {"num_images_per_prompt": 3})
    assert request.seeds(7) == [7, 8, 9]
    assert request.seeds(SEED_LIMIT - 1) == [SEED_LIMIT - 1, 0, 1]


@pytest.mark.parametrize(
    ("given", "name", "weight"),
    [
        ("snowman", "snowman", 1.0), ("snowman:0.5", "snowman", 0.5), ("a:b:-2", "a:b", -2.0),
        ("C:\\s.safetensors", "C:\\s.safetensors", 1.0),
        ({"name": "snowman"}, "snowman", 1.0), ({"name": "a:b", "weight": 2}, "a:b", 2.0),
    ],
)  # fmt: skip
def test_a_lora_is_a_name_and_a_weight(given: Any, name: str, weight: float) -> None:
    (choice,) = parse_request("text_to_image", {"loras": [given]}).loras
    assert (choice.name, choice.weight) == (name, weight)


@pytest.mark.parametrize(
    "value",
    [
        "snowman", None, 5, {"name": "snowman"}, [""], [":1"], ["a:2.01"], ["a:nan"], ["a:inf"], [["a", 1]], ["a"] * 9,
        [{"weight": 1}], [{"name": "a", "weight": True}], [{"name": "a", "weight": "1"}], [{"name": "a", "colour": 1}],
        ["x" * 301], ["a\x00b"], [{"name": 5}],
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_is_no_list_of_loras_is_told_what_one_is(value: Any) -> None:
    assert "loras must be a list of at most 8 LoRAs" in str(refusal("text_to_image", loras=value))


def test_bounds_say_what_the_gate_does() -> None:
    for kind in REQUESTS.values():
        for name in set(kind.model_fields) - {*PICTURE_FIELDS, "scheduler", "grid", "loras"}:
            low, high = bounds(kind, name)
            assert high is not None, name
            values = [high, high + 1] if low is not None else ["x" * int(high), "x" * int(high + 1)]
            for value, is_good in zip(values, (True, False), strict=True):
                whole = int(value) if low is not None else value
                many = {"prompt": "a", "num_images_per_prompt": 16}  # which keep_best needs
                answer = answer_of(kind.task, {**needed(kind.task), **many, name: whole})
                assert isinstance(answer, str) != is_good, (name, answer)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("num_inference_steps", "a whole number from 1 to 150"),
        ("guidance_scale", "a number from 1 to 30"),
        ("strength", "a number above 0 and at most 1"),
        ("seed", "a whole number from 0 to 4294967295"),
        ("loras", "a list of at most 8 LoRAs, each a name or NAME:WEIGHT, the weight a number from -2 to 2"),
        ("grid", "auto, or ROWSxCOLUMNS such as 2x3, each at most 16"),
        ("prompt", "text of at most 4,000 characters without NUL characters"),
    ],
)
def test_bounds_in_words(name: str, words: str) -> None:
    assert describe_bounds(REQUESTS["inpaint"], name) == words


def test_every_field_has_a_help_of_one_sentence() -> None:
    for kind in REQUESTS.values():
        for name, field in kind.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def answer_of(task: str, values: dict[str, Any]) -> AnyRequest | str:
    try:
        return parse_request(task, values)
    except InvalidRequest as error:
        return str(error) if error.field in str(error) else f"does not name {error.field}: {error}"


@given(st.sampled_from(sorted(REQUESTS)), st.data())
def test_any_value_in_any_field_is_a_request_or_one_sentence_that_names_it(task: str, draw: st.DataObject) -> None:
    names = [name for name in REQUESTS[task].model_fields if name not in PICTURE_FIELDS]
    name = draw.draw(st.sampled_from(names))
    answer = answer_of(task, {**needed(task), name: draw.draw(ANYTHING)})
    if isinstance(answer, str):
        assert answer.startswith(f"{name} must be ")
        assert is_one_sentence(answer)


@given(st.sampled_from(sorted(REQUESTS)), st.dictionaries(st.text(max_size=20), ANYTHING, max_size=4))
def test_any_object_is_answered(task: str, values: dict[str, Any]) -> None:
    answer = answer_of(task, values)
    assert not isinstance(answer, str) or answer.endswith(".")
