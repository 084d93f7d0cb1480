"""One file from the hub to the disk: resumed where it broke off, and never under its own name before it is verified."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx2
from huggingface_hub.utils import get_session, hf_raise_for_status

from sd_demo.hub.repository import Hub, RemoteFile
from sd_demo.hub.sentences import Damaged, Interrupted, NotTheHub

PART: Final = ".part"
PIECE: Final = 2**20
WORTH_RESUMING: Final = 2**24  # bytes that must have come since the last break for another try by itself


class Stopped(Exception):
    """The person cancelled; what has come stays for the next time."""


def on_disk(target: Path, size: int) -> int:
    """Bytes of the file `target`, which will have `size`, that are here: all of it, or the part that came so far."""
    for candidate in (target, target.with_name(target.name + PART)):
        if candidate.is_file():
            return min(candidate.stat().st_size, size)
    return 0


def fetch(hub: Hub, url: str, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> str:
    """Bring `file` to `target` and return its SHA-256.

    on_bytes: called with the file's bytes on the disk, often, also while those of an earlier try are only read
    again; what it raises ends the transfer. A connection that breaks is taken up again by itself as long as it brings
    something. Raises Damaged where length or hash are not those that the hub announced (what came is thrown away),
    Interrupted or httpx2's errors where the connection ends.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    if target.is_file():  # from a try before; its disk may have spoilt it since
        target.replace(part)
    before = -WORTH_RESUMING
    while True:
        try:
            return _fetch_once(hub, url, file, part, target, on_bytes)
        except (httpx2.TransportError, Interrupted):
            here = on_disk(target, file.size)
            on_bytes(here)  # whoever cancelled while nothing came is not told that the hub stopped answering
            if here - max(before, 0) < WORTH_RESUMING:
                raise
            before = here


def _fetch_once(hub: Hub, url: str, file: RemoteFile, part: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    hashes = _Hashes(file)
    with part.open("ab+") as stream:
        here = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        while piece := stream.read(PIECE):
            hashes.update(piece)
            on_bytes(here)
        if stream.tell() < file.size:
            _receive(hub, url, file, stream, hashes, on_bytes)
        stream.flush()
        os.fsync(stream.fileno())
        size = stream.tell()
    if size < file.size:
        raise Interrupted
    if not hashes.fit():
        part.unlink()
        raise Damaged(file.path)
    part.replace(target)
    return hashes.sha256


def _receive(
    hub: Hub, url: str, file: RemoteFile, stream: BinaryIO, hashes: _Hashes, on_bytes: Callable[[int], None]
) -> None:
    """Append the rest of the file to `stream`, which stands at its end."""
    start = stream.tell()
    headers = hub.headers | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", url, headers=headers, timeout=hub.timeout, follow_redirects=True) as response:
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise NotTheHub
        if start and response.status_code != 206:  # this server knows no ranges: from the beginning
            start = 0
            _empty(stream)
            hashes.restart()
        announced = response.headers.get("Content-Length")
        if announced is not None and start + int(announced) != file.size:
            _empty(stream)
            raise Damaged(file.path)
        for piece in response.iter_bytes():
            if stream.tell() + len(piece) > file.size:
                _empty(stream)
                raise Damaged(file.path)
            stream.write(piece)
            hashes.update(piece)
            on_bytes(stream.tell())


def _empty(stream: BinaryIO) -> None:
    stream.seek(0)
    stream.truncate(0)


class _Hashes:
    """Both hashes of a file as it grows: SHA-256, and git's SHA-1, by which the hub names small files."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.restart()

    def restart(self) -> None:
        """Begin again with an empty file."""
        self._sha256: Any = hashlib.sha256()
        self._sha1: Any = hashlib.sha1(f"blob {self._file.size}\0".encode(), usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._file.git_sha1:
            self._sha1.update(piece)

    @property
    def sha256(self) -> str:
        return str(self._sha256.hexdigest())

    def fit(self) -> bool:
        """True where what the hub announced is what came."""
        return self._file.sha256 in (None, self.sha256) and self._file.git_sha1 in (None, self._sha1.hexdigest())
