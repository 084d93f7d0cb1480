"""The commands that tell the vocabulary and write sample pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_demo.embedded.commands import sample_world, vocabulary_command
from sd_demo.embedded.objects import HELD_OUT
from sd_demo.embedded.world import vocabulary
from sd_demo.errors import InvalidRequest, OutputFailed


def test_vocabulary_as_json_and_for_people() -> None:
    assert json.loads(vocabulary_command(json=True)) == vocabulary()
    told = vocabulary_command(json=False)
    assert "lighthouse" in told
    assert "red: crimson, scarlet" in told
    assert "pink cactus" in told  # a held-out pair, as people say it


def test_samples_are_written_with_all_that_they_show(tmp_path: Path) -> None:
    captions = sample_world(6, seed=3, size=64, output=tmp_path / "new" / "folder")
    lines = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 6
    for line in lines:
        assert {"file", "caption", "scene", "objects", "time", "weather", "style"} <= set(line)
        for thing in line["objects"]:
            assert set(thing) == {"object", "colour", "size", "position", "depth"}
        with Image.open(captions.parent / line["file"]) as image:
            assert image.size == (64, 64)
            assert image.mode == "RGB"


def test_a_sample_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    first = sample_world(4, seed=1, size=32, output=tmp_path / "a")
    again = sample_world(2, seed=1, size=32, output=tmp_path / "b")
    other = sample_world(2, seed=2, size=32, output=tmp_path / "c")
    assert first.read_text().splitlines()[:2] == again.read_text().splitlines()
    assert other.read_text() != again.read_text()
    with Image.open(first.parent / "000001.png") as a, Image.open(again.parent / "000001.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_held_out_samples(tmp_path: Path) -> None:
    captions = sample_world(8, seed=0, size=16, output=tmp_path, held_out=True)
    for line in captions.read_text().splitlines():
        first = json.loads(line)["objects"][0]
        assert (first["object"], first["colour"]) in HELD_OUT


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"count": 0}, "count"), ({"count": 10**9}, "count"), ({"seed": -1}, "seed"), ({"seed": 2**64}, "seed")]
    + [({"size": size}, "size") for size in (0, 7, 100_000)],
)
def test_numbers_out_of_range_are_one_sentence(tmp_path: Path, wrong: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: -?\d+ is out of range; give a whole number") as caught:
        sample_world(**{"count": 1, "seed": 0, "size": 32, **wrong}, output=tmp_path)
    assert caught.value.field == field
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputFailed, match="cannot be written"):
        sample_world(1, seed=0, size=32, output=tmp_path / "file")
