"""The pictures of a training with their captions: typed, from text files, from metadata.jsonl, or one word for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.images import read_picture
from sd_demo.training_request import LoraTrainingRequest

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
        pictures.append(TrainingPicture(path.name, image, _with_trigger(text.strip(), request.trigger.strip(), path)))
    unused = set(request.captions) - {path.name for path in request.images}
    if unused:
        raise InvalidRequest(f"captions: there is no picture named {sorted(unused)[0]}.", "captions")
    return pictures


def _with_trigger(text: str, trigger: str, path: Path) -> str:
    if not text and not trigger:
        raise InvalidRequest(
            f"captions: {path.name} has none; write one into {path.stem}.txt, or give a trigger word for all.",
            "captions",
        )
    if not text or trigger.casefold() in text.casefold():
        return text or trigger
    return f"{trigger}, {text}"


def _beside(path: Path) -> str:
    file = path.with_suffix(".txt")
    return _read_text(file) if file.is_file() else ""


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
            found[Path(name).name] = next(str(entry[key]) for key in _TEXT_KEYS if key in entry)
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
