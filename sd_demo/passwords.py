"""Passwords as hashes: a file of `user:hash` lines, so that no password stands in a setting or a process list.

Hashes are scrypt's (RFC 7914), with a salt for each, written as scrypt$N$r$p$salt$hash in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from sd_demo.errors import InvalidRequest

COST: Final = (2**14, 8, 1)  # N, r, p: 16 MiB and some 50 ms a try
MAX_COST: Final = (2**17, 16, 4)
MAX_CHARACTERS: Final = 1000


def hash_password(password: str) -> str:
    """The line's part after the user's name. Raises InvalidRequest for an empty password."""
    if not password or len(password) > MAX_CHARACTERS:
        raise InvalidRequest(f"A password has 1 to {MAX_CHARACTERS:,} characters.")
    salt = secrets.token_bytes(16)
    parts = (base64.b64encode(salt).decode(), base64.b64encode(_scrypt(password, salt, *COST)).decode())
    return "$".join(("scrypt", *map(str, COST), *parts))


class Users:
    """The users of a file; `check` is what a login asks."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes
        self._nobody = hash_password(secrets.token_hex(16))  # an unknown name takes as long as a wrong password

    @classmethod
    def read(cls, file: Path) -> Users:
        """From lines `user:hash`; empty lines and those that begin with # are left out.

        Raises InvalidRequest, naming the line, where it cannot be used.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise InvalidRequest(f"The file of users {file} cannot be read.", "auth_file") from None
        hashes = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            user, colon, text = line.strip().partition(":")
            if not (user and colon and _parts(text)):
                raise InvalidRequest(
                    f"Line {number} of {file} must be user:hash; python -m sd_demo hash-password makes a hash.",
                    "auth_file",
                )
            hashes[user] = text
        if not hashes:
            raise InvalidRequest(f"{file} names no user; add a line user:hash.", "auth_file")
        return cls(hashes)

    def check(self, user: str, password: str) -> bool:
        """Whether `password` is that user's."""
        is_known = user in self._hashes
        return _fits(password, self._hashes.get(user, self._nobody)) and is_known


def _fits(password: str, text: str) -> bool:
    parts = _parts(text)
    if parts is None or len(password) > MAX_CHARACTERS:
        return False
    cost, salt, expected = parts
    return hmac.compare_digest(_scrypt(password, salt, *cost), expected)


def _parts(text: str) -> tuple[tuple[int, int, int], bytes, bytes] | None:
    try:
        kind, n, r, p, salt, expected = text.split("$")
        cost = (int(n), int(r), int(p))
        raw = base64.b64decode(salt, validate=True), base64.b64decode(expected, validate=True)
    except ValueError:
        return None
    is_cost = all(1 <= value <= most for value, most in zip(cost, MAX_COST, strict=True)) and cost[0] & cost[0] - 1 == 0
    return (cost, *raw) if kind == "scrypt" and is_cost and cost[0] > 1 and len(raw[1]) == 32 and raw[0] else None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    memory = 128 * n * r * p + 2**20
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * memory, dklen=32)
