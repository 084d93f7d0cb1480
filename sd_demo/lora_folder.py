"""The folder of LoRA files, each called by its file's name without `.safetensors`."""

from __future__ import annotations

import difflib
import re
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from sd_demo.errors import InvalidRequest

SUFFIX: Final = ".safetensors"
TRIGGER_KEY: Final = "modelspec.trigger_phrase"  # https://github.com/Stability-AI/ModelSpec


def lora_names(folder: Path) -> list[str]:
    """All LoRAs in `folder`, subfolders included ("styles/pencil"), sorted; empty where there is no folder."""
    return sorted(_files(folder), key=str.casefold)


def find_lora(name: str, folder: Path, *, takes_paths: bool = True) -> Path:
    """The file of the LoRA called `name` in `folder`, or, where `takes_paths`, the one at the path `name` itself.

    Raises InvalidRequest where there is neither, with the names that come nearest.
    """
    files = _files(folder)
    if name in files:
        return files[name]
    with suppress(OSError, ValueError, RuntimeError):  # a name that is no path anywhere
        path = Path(name).expanduser()
        if takes_paths and path.is_file():
            if path.suffix.lower() != SUFFIX:
                raise InvalidRequest(
                    f"loras: {path.name} is no {SUFFIX} file; other formats can hold programs and are not opened.",
                    "loras",
                )
            return path
    near = difflib.get_close_matches(name, files, n=3, cutoff=0.5) or sorted(files)[:3]
    hint = f"choose one such as {', '.join(near)}" if near else f"put {SUFFIX} files there first"
    raise InvalidRequest(f"loras: there is no LoRA {name[:80]!r} in {folder.name}; {hint}.", "loras")


def add_lora(source: Path, name: str, folder: Path) -> str:
    """Copy the checked file `source` into `folder` (made if need be) and return the name that it has there.

    name: as its owner called it; a file of that name that is there already is kept, and the new one numbered.
    Raises InvalidRequest where it cannot be written.
    """
    stem = re.sub(r"[^\w .-]", "_", Path(name).stem)[:80].strip(" .") or "lora"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            free = folder / f"{stem if number == 1 else f'{stem}-{number}'}{SUFFIX}"
            if not free.exists():
                break
        partial = folder / f".{free.name}.partial"
        shutil.copyfile(source, partial)
        partial.replace(free)
    except OSError as error:
        raise InvalidRequest(f"The LoRA cannot be saved in {folder.name}: {error.strerror}.", "loras") from None
    return free.stem


def trigger_words(path: Path) -> str:
    """The words that the file at `path` says it was trained with, read from its header; empty where it says none."""
    try:
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {}).get(TRIGGER_KEY, ""))
    except (SafetensorError, OSError, ValueError):  # whoever wears it is told
        return ""


def _files(folder: Path) -> dict[str, Path]:
    """A name with a dot in front is a file that is being written."""
    found = folder.rglob(f"*{SUFFIX}") if folder.is_dir() else ()
    seen = (path for path in found if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in seen}
