"""Where finished pictures go: written beside their final name, then renamed, so that none is ever half there."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from sd_demo.errors import OutputFailed
from sd_demo.receipt import Receipt

TEMPORARY_PREFIX: Final = ".writing-"


class Outputs:
    """One folder of pictures, a subfolder for each visitor, so that no listing ever crosses visitors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for leftover in folder.glob(f"**/{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)  # a crash in mid-write left it; its name never became a picture's

    def save(self, image: Image.Image, receipt: Receipt, *, visitor: str) -> Path:
        """Write `image` (RGB) as PNG with its receipt and return the file's absolute path.

        Raises OutputFailed where the disk is full or the folder cannot be written; no partial file stays.
        """
        temporary: Path | None = None
        try:
            folder = self.visitor_folder(visitor)
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=".png", dir=folder)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                image.save(file, format="PNG", pnginfo=receipt.png_info(), compress_level=4)
                file.flush()
                os.fsync(file.fileno())
            final = self._free_name(folder, receipt)
            os.replace(temporary, final)
            return final
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise OutputFailed(
                f"The picture could not be saved ({error.strerror or 'disk error'}); "
                "free some space or choose another --output-dir."
            ) from error

    def visitor_folder(self, visitor: str) -> Path:
        """The folder of one visitor; any text is a visitor, none leaves `self.folder`."""
        return self.folder.resolve() / (re.sub(r"[^A-Za-z0-9_-]", "_", visitor)[:64] or "_")

    @staticmethod
    def _free_name(folder: Path, receipt: Receipt) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        words = re.sub(r"[^a-z0-9]+", "-", str(receipt.asked.get("prompt", "")).lower()).strip("-")[:40]
        return folder / f"{stamp}-{receipt.done.seed}{'-' if words else ''}{words}.png"
