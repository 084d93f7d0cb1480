"""Where a caller's jobs are counted: by address where one is known, and never all callers of a proxy as one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from sd_demo.ui import visitor
from tests.receipts import make_receipt

LAN = Settings(host="0.0.0.0")  # nothing is bound here
SPACE = Settings(profile="space")


def asked(host: str | None, forwarded: str = "") -> Any:
    client = None if host is None else SimpleNamespace(host=host)
    return SimpleNamespace(client=client, headers={"x-forwarded-for": forwarded} if forwarded else {})


@pytest.mark.parametrize(
    ("settings", "host", "forwarded", "expected"),
    [
        (LAN, "192.168.1.7", "", "192.168.1.7"),
        (LAN, "192.168.1.7", "9.9.9.9", "192.168.1.7"),  # a caller's own header
        (LAN, "8.8.4.4", "9.9.9.9", "8.8.4.4"),
        (LAN, "::ffff:8.8.4.4", "", "8.8.4.4"),
        (LAN, "2a00:1450:4001:80b::200e", "", "2a00:1450:4001:80b::/64"),
        (LAN, "127.0.0.1", "", ""),  # a tunnel that says nothing
        (LAN, "127.0.0.1", "8.8.8.8", "8.8.8.8"),
        (SPACE, "10.16.0.4", "", ""),
        (SPACE, "10.16.0.4", "1.1.1.1, 8.8.8.8", "8.8.8.8"),  # the first is what the caller wrote itself
        (SPACE, "10.16.0.4", "8.8.8.8, 10.16.0.9", "8.8.8.8"),
        (SPACE, "10.16.0.4", "nonsense, , 300.1.1.1", ""),
        (SPACE, "testclient", "8.8.8.8", ""),
        (SPACE, None, "8.8.8.8", ""),
    ],
)
def test_the_address_is_the_callers_and_no_header_can_change_it(
    settings: Settings, host: str | None, forwarded: str, expected: str
) -> None:
    assert visitor.origin(asked(host, forwarded), settings) == expected


def test_no_request_has_no_address() -> None:
    who = visitor.caller(None, None, LAN)
    assert who["origin"] == ""
    assert len(who["visitor"]) == 24


def test_file_names_from_a_browser_open_nobody_elses_pictures(tmp_path: Path) -> None:
    outputs, picture = Outputs(tmp_path), Image.new("RGB", (32, 32))
    mine, theirs = (outputs.save(picture, make_receipt(), visitor=name) for name in ("me", "them"))
    claimed = [mine.name, f"../them/{theirs.name}", str(theirs), theirs.name, 5, "a\x00.png", ".."]
    assert visitor.remembered_pictures(outputs, "me", claimed) == [mine]
    assert visitor.remembered_pictures(outputs, "me", mine.name) == []


def test_a_caller_has_its_address_and_without_an_id_nobody_elses_folder() -> None:
    assert visitor.caller(None, asked("8.8.4.4"), LAN)["origin"] == "8.8.4.4"
    assert len({visitor.caller(None, None, LAN)["visitor"] for _ in range(3)}) == 3
