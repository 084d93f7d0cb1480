"""The pictures of a training with their captions: typed, from text files, from metadata.jsonl, or one word for all."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from PIL import Image

from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.images import read_picture
from sd_demo.requests import MAX_SIDE
from sd_demo.training_request import PICTURE_SUFFIXES, LoraTrainingRequest

LEAST_CROP: Final = 0.88  # of the largest square that is trained on, so that what the caption names stays in it
METADATA: Final = "metadata.jsonl"  # as the datasets library has it: {"file_name": …, "text": …} in each line
_TEXT_KEYS: Final = ("text", "caption", "prompt")


@dataclass(frozen=True, eq=False)
class TrainingPicture:
    """A picture (RGB, upright) and what it shows."""

    name: str
    image: Image.Image
    caption: str


def read_pictures(request: LoraTrainingRequest) -> list[TrainingPicture]:
    """All pictures of the request with their captions, in its order.

    A typed caption goes before a .txt file, that before metadata.jsonl; what has none is called by the trigger word
    alone. Raises InvalidImage for a picture that cannot be read, InvalidRequest for one without any caption.
    """
    listed: dict[Path, dict[str, str]] = {}
    pictures = []
    for path in request.images:
        if path.parent not in listed:
            listed[path.parent] = _listed_captions(path.parent / METADATA)
        text = request.captions.get(path.name) or _beside(path) or listed[path.parent].get(path.name, "")
        try:
            image = read_picture(path, field=path.name)
        except InvalidImage as error:
            raise InvalidImage(str(error), "images") from None
        image = _no_larger_than_used(image, request.resolution)
        pictures.append(TrainingPicture(path.name, image, _with_trigger(text.strip(), request.trigger.strip(), path)))
    unused = set(request.captions) - {path.name for path in request.images}
    if unused:
        raise InvalidRequest(f"captions: there is no picture named {sorted(unused)[0]}.", "captions")
    return pictures


def _no_larger_than_used(image: Image.Image, resolution: int | None) -> Image.Image:
    """Fifty photographs of a phone would be gigabytes; in this size, too, the smallest crop has `resolution` pixels."""
    largest = math.ceil((resolution or MAX_SIDE) / LEAST_CROP)
    if min(image.size) <= largest:
        return image
    scale = largest / min(image.size)
    size = (max(largest, round(image.width * scale)), max(largest, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def keep_pictures(files: Sequence[tuple[Path, str]], captions: str, folder: Path) -> list[Path]:
    """Copy pictures into `folder`, each under a name of its own and with its caption in metadata.jsonl.

    files: pictures, .txt files and metadata.jsonl, each with the name that it was given by. captions: one line for
    each picture, in their order, or nothing; a line goes before a .txt file. Returns the copies in the same order.
    Raises InvalidRequest where captions cannot be told apart or do not fit, OSError where there is no room.
    """
    pictures = [(path, name) for path, name in files if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    texts: dict[str, Path] = {}
    for path, given in files:
        name = str(Path(given).with_suffix(Path(given).suffix.lower()))
        if name in texts:
            raise InvalidRequest(f"captions: two files are called {given}; give each a name of its own.", "captions")
        if (path, given) not in pictures:
            texts[name] = path
    listed = _listed_captions(texts[METADATA]) if METADATA in texts else {}
    lines = _typed_captions(captions, len(pictures))
    folder.mkdir(parents=True)
    kept, entries = [], []
    for (path, name), line in zip(pictures, lines, strict=True):
        beside = texts.get(Path(name).with_suffix(".txt").name)
        text = line or (_read_text(beside) if beside else "") or listed.get(name, "")
        kept.append(_free_name(folder, name))
        shutil.copyfile(path, kept[-1])
        entries.append({"file_name": kept[-1].name, "text": text})
    (folder / METADATA).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return kept


def kept_files(folder: Path) -> list[tuple[Path, str]]:
    """What `keep_pictures` left in `folder`, as it takes it: the pictures in their order, then the captions."""
    order = {name: k for k, name in enumerate(_listed_captions(folder / METADATA))}
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [(path, path.name) for path in sorted(files, key=lambda path: order.get(path.name, len(order)))]


def _typed_captions(text: str, pictures: int) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if lines and len(lines) != pictures:
        raise InvalidRequest(
            f"captions: there are {len(lines)} lines for {pictures} pictures; write one line for each.", "captions"
        )
    return lines or [""] * pictures


def _free_name(folder: Path, name: str) -> Path:
    wanted = folder / name
    numbered = (wanted.with_stem(f"{wanted.stem}-{k}") for k in count(2))
    return wanted if not wanted.exists() else next(path for path in numbered if not path.exists())


def _with_trigger(text: str, trigger: str, path: Path) -> str:
    if not text and not trigger:
        raise InvalidRequest(
            f"captions: {path.name} has none; write one into {path.stem}.txt, or give a trigger word for all.",
            "captions",
        )
    if not text or not trigger or _as_word(trigger).search(text):
        return text or trigger
    return f"{trigger}, {text}"


def without_trigger(caption: str, trigger: str) -> str:
    """The caption without the trigger word, in capitals or not, and without what it leaves bare."""
    return " ".join(_as_word(trigger).sub(" ", caption).split()).strip(" ,") if trigger.strip() else caption


def _as_word(trigger: str) -> re.Pattern[str]:
    """It, but not as a part of another word."""
    return re.compile(rf"(?<!\w){re.escape(trigger.strip())}(?!\w)", re.IGNORECASE)


def _beside(path: Path) -> str:
    named = (file for file in path.parent.glob("*.[tT][xX][tT]") if file.stem == path.stem and file.is_file())
    return next(map(_read_text, sorted(named, reverse=True)), "")  # 1.txt before 1.TXT


def _listed_captions(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    found = {}
    for number, line in enumerate(_read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
            name = entry["file_name"]
            found[Path(name).name] = next(entry[key] for key in _TEXT_KEYS if isinstance(entry.get(key), str))
        except (ValueError, TypeError, KeyError, StopIteration, RecursionError):
            raise InvalidRequest(
                f'captions: line {number} of {file.name} is not as {{"file_name": "1.png", "text": "…"}}.', "captions"
            ) from None
    return found


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(f"captions: {file.name} cannot be read as UTF-8 text.", "captions") from None
