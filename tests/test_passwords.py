"""The file of users: the right password opens, nothing else does, and what cannot be used is named by its line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sd_demo.cli import main
from sd_demo.errors import InvalidRequest
from sd_demo.passwords import Users, hash_password


def test_only_the_right_password_of_the_right_user_fits(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# who may\n\nann:{hash_password('pass:wörd')}\nbob:{hash_password('other')}\n", encoding="utf-8")
    users = Users.read(file)
    assert users.check("ann", "pass:wörd")
    assert users.check("bob", "other")
    for user, password in [("ann", "other"), ("ann", ""), ("eve", "other"), ("", ""), ("ann", "x" * 10**6)]:
        assert not users.check(user, password)


def test_the_same_password_has_another_hash_each_time_and_never_stands_in_it() -> None:
    first, second = hash_password("secret"), hash_password("secret")
    assert first != second
    assert "secret" not in first


@pytest.mark.parametrize(
    "line",
    [
        "ann", "ann:", ":x", "ann:plain", "ann:scrypt$16384$8$1$AAAA$AAAA", "ann:scrypt$x$8$1$AAAA$AAAA",
        "ann:scrypt$1099511627776$8$1$AAAA$" + "A" * 43 + "=", "ann:scrypt$16384$8$1$*$" + "A" * 43 + "=",
    ],
)  # fmt: skip
def test_a_line_that_is_no_user_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# users\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"Line 2 of .* must be user:hash"):
        Users.read(file)


def test_no_file_and_no_user_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Users.read(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(InvalidRequest, match="names no user"):
        Users.read(tmp_path / "empty")


def test_the_command_makes_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert main(["hash-password", "ann"]) == 0
    (tmp_path / "users").write_text(capsys.readouterr().out)
    assert Users.read(tmp_path / "users").check("ann", "secret")
    assert main(["hash-password", "a:b"]) == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["hash-password", "ann"]) == 2
    assert "1 to 1,000 characters" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    assert main(["hash-password", "ann"]) == 2
    assert "no UTF-8 text" in capsys.readouterr().err


def test_a_password_is_asked_for_twice_and_may_be_left_untyped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[str] = []

    def ask(_: str) -> str:
        if not typed:
            raise EOFError  # Ctrl+D
        return typed.pop(0)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", ask)
    for given, sentence in (
        ([], "No password was typed; try again."),
        (["a"], "No password was typed; try again."),
        (["a", "b"], "The two passwords differ; try again."),
    ):
        typed[:] = given
        assert main(["hash-password", "ann"]) == 2
        assert capsys.readouterr().err.strip() == sentence
    typed[:] = ["a", "a"]
    assert main(["hash-password", "ann"]) == 0
