"""Where finished pictures go: written beside their final name, then renamed, so that none is ever half there."""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from sd_demo.errors import OutputFailed
from sd_demo.receipt import Receipt

TEMPORARY_PREFIX: Final = ".writing-"
_ABANDONED_S: Final = 3600  # another process may be writing into the same folder right now


class Outputs:
    """One folder of pictures, a subfolder for each visitor, so that no listing ever crosses visitors.

    A command that one person runs has no visitors: with `by_visitor=False` its pictures lie in `folder` itself.
    """

    def __init__(self, folder: Path, *, by_visitor: bool = True) -> None:
        self.folder = folder
        self._by_visitor = by_visitor
        # A crash in mid-write leaves such a file; its name never became a picture's.
        for leftover in folder.glob(f"{'*/' if by_visitor else ''}{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                if leftover.stat().st_mtime < time.time() - _ABANDONED_S:
                    leftover.unlink()

    def save(self, image: Image.Image, receipt: Receipt, *, visitor: str) -> Path:
        """Write `image` (RGB) as PNG with its receipt and return the file's absolute path.

        Raises OutputFailed where the disk is full or the folder cannot be written; no partial file stays.
        """
        folder = self.visitor_folder(visitor)
        # Not .png: whoever lists the pictures meets finished ones only, even after a kill in mid-write.
        temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                image.save(file, format="PNG", pnginfo=receipt.png_info(), compress_level=4)
                file.flush()
                os.fsync(file.fileno())
            final = self._free_name(folder, receipt)
            os.replace(temporary, final)
            return final
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OutputFailed(
                f"The picture could not be saved ({error.strerror or 'disk error'}); "
                "free some space or choose another folder for pictures."
            ) from error

    def visitor_folder(self, visitor: str) -> Path:
        """The folder of one visitor; any text is a visitor, none leaves `self.folder`."""
        if not self._by_visitor:
            return self.folder.resolve()
        return self.folder.resolve() / (re.sub(r"[^A-Za-z0-9_-]", "_", visitor)[:64] or "_")

    @staticmethod
    def _free_name(folder: Path, receipt: Receipt) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        words = re.sub(r"[^a-z0-9]+", "-", str(receipt.asked.get("prompt", "")).lower()).strip("-")[:40]
        return folder / f"{stamp}-{receipt.done.seed}{'-' if words else ''}{words}.png"
