"""Hashes of weight files, and whether a picture's model and LoRAs have other weights here than when it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.lora_folder import find_lora
from sd_demo.model_files import INDEX, NETWORKS, SAFETY_CHECKER, chosen_in, manifest_in, parts_of
from sd_demo.receipt import Receipt
from sd_demo.registry import Registry
from sd_demo.restored import short

Stamp = tuple[tuple[Path, int, int], ...]  # each weight file with the time of its last change and its bytes
LARGEST: Final = 256 * 2**20  # bytes of a file that is read for a sentence; nobody waits for gigabytes at a click


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model's folder that loading reads, in the order in which its hash counts them."""
    return [file for part in sorted(NETWORKS) for file in chosen_in(folder / part)]


def checker_files(folder: Path) -> list[Path]:
    """The weight files of the safety checker that a model's folder lists, which its hash does not count."""
    try:
        listed = parts_of(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return []
    return chosen_in(folder / SAFETY_CHECKER) if SAFETY_CHECKER in listed else []


def stamp_of(path: Path | None) -> Stamp:
    """What tells the weights at `path` from the next ones there at a glance; () where there are none."""
    files = [] if path is None else [path] if path.is_file() else [*weight_files(path), *checker_files(path)]
    about = []
    for file in files:
        with suppress(FileNotFoundError):  # gone since it was listed
            about.append((file, file.stat()))
    return tuple((file, one.st_mtime_ns, one.st_size) for file, one in about)


def sha256_of(file: Path) -> str:
    """SHA-256 of the whole file, in hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_over(digests: Iterable[str]) -> str:
    """A folder's hash: SHA-256 over those of its weight files, in their order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def other_weights(receipt: Receipt, *, registry: Registry, lora_dir: Path) -> list[str]:
    """One sentence for the model and each LoRA of `receipt` whose weights are not here as they were.

    Nothing of those that are not here, and of those that only gigabytes would tell.
    """
    done, found = receipt.done, []
    try:
        path = registry.weights(registry.get(done.model))
        if path is not None and _quick_hash(path) not in (None, done.model_hash):
            found.append(f"The model {short(done.model)} has other weights here; expect another picture.")
    except (ModelUnavailable, OSError, ValueError):
        pass
    for lora in done.loras:
        try:
            file = find_lora(lora.name, lora_dir, takes_paths=registry.takes_paths)
            if lora.sha256 and _quick_sha256(file) not in (None, lora.sha256):
                found.append(f"The LoRA {short(lora.name)} is another file here; expect another picture.")
        except (InvalidRequest, OSError):
            continue
    return found


def _quick_hash(path: Path) -> str | None:
    """The hash of a model's file or folder, of a download as its manifest has it; None where that takes long."""
    if path.is_file():
        return _quick_sha256(path)
    known = manifest_in(path).get("files", {})
    files = weight_files(path)
    told = [known.get(file.relative_to(path).as_posix(), {}).get("sha256") for file in files]
    digests = [sha256 or _quick_sha256(file) for sha256, file in zip(told, files, strict=True)]
    return None if None in digests else hash_over(digest for digest in digests if digest)


def _quick_sha256(file: Path) -> str | None:
    about = file.stat()
    return _cached(file, about.st_mtime_ns, about.st_size) if about.st_size <= LARGEST else None


@lru_cache(maxsize=256)
def _cached(file: Path, modified_ns: int, size: int) -> str:  # the last two only tell one file from its next edition
    return sha256_of(file)
