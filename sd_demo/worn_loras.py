"""The LoRAs that a model wears: from names and weights to layers, and what the receipt says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_demo.lora import fit_lora, put_on, read_lora
from sd_demo.lora_folder import find_lora
from sd_demo.requests import LoraChoice


@dataclass(frozen=True)
class WornLora:
    """A LoRA on a model. `matched` of the `total` tensors in its file have a layer there."""

    choice: LoraChoice
    path: Path
    modified_ns: int
    sha256: str
    matched: int
    total: int
    trigger_words: str


def put_loras_on(pipe: Any, choices: Sequence[LoraChoice], folder: Path) -> tuple[WornLora, ...]:
    """Let `pipe`, which wears none now, wear `choices`, looked for in `folder`.

    Raises InvalidRequest where one is not there or does not fit; then it wears none.
    """
    fitted, worn = [], []
    for choice in choices:
        path = find_lora(choice.name, folder)
        modified_ns = path.stat().st_mtime_ns
        file = read_lora(path, choice.name)
        fit = fit_lora(file, pipe.unet, pipe.text_encoder)
        fitted.append((fit, choice.weight))
        worn.append(WornLora(choice, path, modified_ns, file.sha256, fit.matched, fit.total, file.trigger_words))
    if fitted:
        put_on(pipe, fitted)
    return tuple(worn)


def are_worn(worn: Sequence[WornLora], choices: Sequence[LoraChoice]) -> bool:
    """Whether `worn` are exactly `choices`, from files that have not changed since."""
    if tuple(one.choice for one in worn) != tuple(choices):
        return False
    return all(_modified_ns(one.path) == one.modified_ns for one in worn)


def _modified_ns(path: Path) -> int | None:
    """When the file was changed last; None where it is gone or cannot be asked."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
