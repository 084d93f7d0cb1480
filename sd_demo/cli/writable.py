"""Whether a file can be written where a flag says: asked before minutes of work, not found after them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sd_demo.errors import InvalidRequest


def make_a_file_in(folder: Path) -> None:
    """Raises OSError where none can be made; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_writable(file: Path, name: str) -> None:
    """Raises InvalidRequest where `file`, given by the flag `name`, cannot be written; one that is there stays."""
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(0, "it is write-protected")
        make_a_file_in(file.parent)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "disk error"
        raise InvalidRequest(f"{name}: {file} cannot be written ({reason}); choose another place.", name) from error
