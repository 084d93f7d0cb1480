"""Styles: words around the prompt, put on, changed and taken off again; a list of one's own, with its faults named."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from sd_demo.embedded.known_words import unknown_words
from sd_demo.errors import InvalidRequest
from sd_demo.styles import GENERAL, OF_THE_PICTURE_BOOK, Style, put_on, read_styles

BY_NAME = {style.name: style for style in GENERAL}


def test_a_style_stands_in_the_prompt() -> None:
    prompts = put_on(BY_NAME["Oil painting"], "a red house", "people")
    assert prompts == ("an oil painting of a red house, visible brush strokes", "people, photograph")


@pytest.mark.parametrize("negative", ["", "people", "people, cars"])
@pytest.mark.parametrize(("first", "second"), list(product(GENERAL, (*GENERAL[:3], None))))
def test_another_style_replaces_it_and_none_takes_it_off(first: Style, second: Style | None, negative: str) -> None:
    worn = put_on(first, "a red house", negative, GENERAL)
    assert put_on(second, *worn, GENERAL) == put_on(second, "a red house", negative)


def test_what_was_changed_by_hand_stays() -> None:
    edited = "an oil painting of a red house, thick paint"
    assert put_on(None, edited, "", GENERAL) == (edited, "")


def test_the_picture_book_knows_the_words_of_its_styles(tmp_path: Path) -> None:
    styles = read_styles(tmp_path / "none.json", is_picture_book=True)
    assert styles == OF_THE_PICTURE_BOOK
    assert all(unknown_words(put_on(style, "a red house", "")[0]) == [] for style in styles)
    assert read_styles(tmp_path / "none.json", is_picture_book=False) == GENERAL


def test_a_list_of_ones_own_is_read(tmp_path: Path) -> None:
    file = tmp_path / "styles.json"
    file.write_text(json.dumps([{"name": "Mine", "prompt": "my {prompt}"}]))
    assert read_styles(file, is_picture_book=True) == (Style(name="Mine", prompt="my {prompt}"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "styles.json cannot be read; write them as a JSON list"),
        ("{}", "must be a JSON list of at most 200"),
        (json.dumps([{"name": "a", "prompt": "b"}] * 201), "must be a JSON list of at most 200"),
        ('[{"name": "a", "prompt": "no slot"}]', "Style 1 in styles.json: prompt"),
        ('[{"name": "a", "prompt": "{prompt} {prompt}"}]', "Style 1 in styles.json: prompt"),
        ('[{"name": "a", "prompt": "x {prompt}"}, {"name": ""}]', "Style 2 in styles.json"),
        ("[7]", "Style 1 in styles.json"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "styles.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=r"\.$") as caught:
        read_styles(file, is_picture_book=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
