"""The soak's own judgement: it tells a typed answer from an untyped one, and misses a bar where one is missed."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from sd_demo.errors import InvalidRequest
from sd_demo.soak import abuse, endings, loads
from sd_demo.soak.server import Server, _read, positional
from tests.fake_page import FakePage


class Alive:
    """Stands for the process, which here is the test itself."""

    def poll(self) -> None:
        return None


@pytest.fixture
def server(fake_page: FakePage) -> Iterator[Server]:
    process = cast("subprocess.Popen[bytes]", Alive())
    server = Server(fake_page.url, process, Path(fake_page.engine.outputs.folder))
    yield server
    server.http.close()


def test_an_answer_is_read_by_its_kind() -> None:
    assert _read('event: complete\ndata: [[{"image": {"path": "a.png"}}], [{"done": 1}]]', 1.0).kind == "picture"
    assert _read('event: error\ndata: {"error": "The queue is full; try again in about 7 s."}', 1.0).kind == "refused"
    assert _read('event: error\ndata: {"error": "seed must be a number."}', 1.0).kind == "error"
    assert _read("", 1.0).kind == "untyped"
    assert _read("<html>", 1.0).kind == "untyped"


def test_values_stand_where_the_api_takes_them() -> None:
    assert positional("text_to_image", {"prompt": "a", "height": 5})[:3] == ["a", None, 5]
    assert positional("inpaint", {"image": 1, "mask_image": 2})[1:3] == [1, 2]


def test_clients_at_once_each_get_their_own_picture(server: Server) -> None:
    figures = loads.load(server, 0.04)
    assert figures["holds"], str(figures)  # pytest shortens anything but text
    assert figures["picture"] == figures["jobs"] == 8


def test_a_picture_of_another_seed_is_noticed(server: Server) -> None:
    alone = loads._alone(server)
    assert loads.differs(server, server.call(**loads.SMALL, seed=1), alone[2])
    assert not loads.differs(server, server.call(**loads.SMALL, seed=1), alone[1])


def test_no_visitor_reads_anothers_files(server: Server) -> None:
    figures = loads.visitors(server, 0.2)
    assert figures["holds"], str(figures)  # pytest shortens anything but text
    assert figures["tries"] > 3


def test_nasty_files_are_answered(server: Server) -> None:
    figures = abuse.pictures(server, 0.0)
    assert figures.get("untyped", 0) == 0, figures
    assert figures["picture"] >= 3, "the harmless ones of them are taken"
    assert figures["error"] >= 6, "the others are not"


def test_nonsense_is_answered(server: Server) -> None:
    figures = abuse.fuzz(server, 0.03)
    assert figures["holds"], str(figures)  # pytest shortens anything but text


@pytest.mark.parametrize("kind", abuse.KINDS)
def test_each_kind_of_file_is_made_again_from_its_seed(kind: str) -> None:
    make: Any = abuse.KINDS[kind]
    assert make(random.Random(3)) == make(random.Random(3))


def test_a_mode_that_is_not_there_is_said() -> None:
    from sd_demo.cli import soak

    with pytest.raises(InvalidRequest, match="mode"):
        soak.run(["--mode", "peace"])


@pytest.mark.parametrize("mode", ["kills", "signals", "switches"])
def test_endings_hold_on_a_real_server(mode: str) -> None:
    figures = getattr(endings, mode)(0.04)
    assert figures["holds"], str(figures)  # pytest shortens anything but text


def test_a_file_that_does_not_open_is_noticed(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.new("RGB", (64, 64)).save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:60])
    assert endings._opens(whole)
    assert not endings._opens(half)
