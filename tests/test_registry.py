"""Which models there are, and what a name that is none of them gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from sd_demo.errors import ModelUnavailable
from sd_demo.registry import EMBEDDED, Registry, default_model


def test_the_embedded_model_is_there_and_needs_no_download() -> None:
    entry = Registry().get(EMBEDDED)
    assert entry.is_embedded
    assert entry.download_mib == 0
    assert (entry.native_size, entry.licence) == (256, "Apache-2.0")


def test_the_default_is_a_model_of_the_list() -> None:
    registry = Registry()
    assert default_model(choices=registry) in {entry.name for entry in registry}


def test_a_diffusers_folder_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    entry = Registry().get(str(tmp_path))
    assert entry.folder == tmp_path
    assert not entry.is_embedded


@pytest.mark.parametrize("name", ["", "/", "no/such", "x" * 300, "a\x00b", "~nobody-of-that-name/model", "\n", ".."])
def test_an_unknown_name_gets_one_sentence_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        Registry().get(name)
    text = str(caught.value)
    assert EMBEDDED in text
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 300


def test_every_model_says_what_it_is_and_under_which_licence() -> None:
    for entry in Registry():
        assert entry.summary.endswith("."), entry.name
        assert entry.licence, entry.name
        assert entry.licence_url.startswith("https://"), entry.name
