"""Whether there can be written what a flag says: asked before minutes of work, not found after them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd_demo.errors import InvalidRequest


def make_a_file_in(folder: Path) -> None:
    """Raises OSError where none can be made; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_writable(file: Path, name: str) -> None:
    """Raises InvalidRequest where `file`, given by the flag `name`, cannot be written; one that is there stays."""
    with disk_errors_told(file, name):
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(0, "it is write-protected")
        make_a_file_in(file.parent)


def check_folder(folder: Path, name: str) -> None:
    """Raises InvalidRequest where no file can be made in `folder`, given by the flag `name`; it is made if need be."""
    with disk_errors_told(folder, name):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(0, "it is a file")
        make_a_file_in(folder)


@contextmanager
def disk_errors_told(path: Path, name: str) -> Iterator[None]:
    """An error of the disk inside as InvalidRequest: `path`, given by the flag `name`, cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "disk error"
        raise InvalidRequest(f"{name}: {path} cannot be written ({reason}); choose another place.", name) from error
