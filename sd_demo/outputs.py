"""Where finished pictures go: written beside their final name, then renamed, so that none is ever half there."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_demo.errors import OutputFailed
from sd_demo.receipt import Receipt

SHEET_KEY: Final = "sd_demo_sheet"
TEMPORARY_PREFIX: Final = ".writing-"
# Rows of a PNG are differences, in which little but runs repeats: looking for nothing else takes 18 and not 27 ms for
# 512x512 with grain (497 and 541 KiB), 5.3 and not 6.8 for a plain one (50 and 72 KiB), 1.8 and not 2.0 for a picture
# of the gallery (26 and 34 KiB); Intel Xeon, 2026-12-01, a script of the moment.
ZLIB_STRATEGY: Final = zlib.Z_RLE
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
        name = f"{receipt.done.seed} {receipt.prompt}"
        return self._write(image, receipt.png_info(), name, visitor)

    def save_sheet(self, sheet: Image.Image, receipts: Sequence[Receipt], *, visitor: str) -> Path:
        """Write a contact sheet (RGB) as PNG with the receipts of its pictures; else as `save`."""
        info = PngInfo()
        info.add_itxt(SHEET_KEY, json.dumps([receipt.model_dump(mode="json") for receipt in receipts]))
        return self._write(sheet, info, f"sheet {receipts[0].asked.get('prompt', '') if receipts else ''}", visitor)

    def _write(self, image: Image.Image, info: PngInfo, name: str, visitor: str) -> Path:
        folder = self.visitor_folder(visitor)
        # Not .png: whoever lists the pictures meets finished ones only, even after a kill in mid-write.
        temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                image.save(file, format="PNG", pnginfo=info, compress_level=1, compress_type=ZLIB_STRATEGY)
                file.flush()
                os.fsync(file.fileno())
            final = self._free_name(folder, name)
            os.replace(temporary, final)
            return final
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
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
    def _free_name(folder: Path, name: str) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        number, _, prompt = name.partition(" ")
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
        return folder / f"{stamp}-{number}{'-' if words else ''}{words}.png"
