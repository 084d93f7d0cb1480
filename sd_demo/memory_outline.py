"""What a model takes that is not in memory yet, told by its files alone: the headers of its weights and its configs."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from sd_demo.checkpoints import weights_in_parts
from sd_demo.errors import ModelUnavailable
from sd_demo.file_header import folder_beside, unet_of
from sd_demo.memory_need import MemoryNeed
from sd_demo.weight_hashes import Stamp, stamp_of

# Of files without configs: those of Stable Diffusion 1 and 2, which are all that run here.
WIDTHS: Final = {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512)}


def outlined(path: Path, dtype: torch.dtype, *, has_checker: bool) -> MemoryNeed | None:
    """What the model at `path` (a folder or a .safetensors file) will take in `dtype`; None where its files do not say.

    With an attention that keeps no scores, as nobody knows yet which one it will have.
    has_checker: whether the safety checker that comes with it is loaded, too.
    """
    try:
        folder = path if path.is_dir() else folder_beside(path)
        return _outlined(path, dtype, has_checker, stamp_of(path), _widths(folder, "unet"), _widths(folder, "vae"))
    except (ModelUnavailable, OSError, ValueError):  # loading says what is wrong with it
        return None


def is_distilled(path: Path) -> bool:
    """Whether the UNet at `path` takes the guidance scale as an input (https://arxiv.org/abs/2210.03142)."""
    unet = unet_of(path) if path.is_file() else _config(path, "unet")
    return unet.get("time_cond_proj_dim") is not None


@lru_cache(maxsize=32)
def _outlined(
    path: Path, dtype: torch.dtype, has_checker: bool, stamp: Stamp, unet: tuple[int, ...], vae: tuple[int, ...]
) -> MemoryNeed | None:
    counts = weights_in_parts(path, has_checker=has_checker)
    if not counts.keys() >= WIDTHS.keys():
        return None
    weights = {part: count * dtype.itemsize / 2**20 for part, count in counts.items()}
    return MemoryNeed.told(weights, unet, vae, dtype)


def _widths(folder: Path | None, part: str) -> tuple[int, ...]:
    told = _config(folder, part).get("block_out_channels") if folder else None
    if isinstance(told, list) and told and all(isinstance(width, int) for width in told):
        return tuple(told)
    return WIDTHS[part]


def _config(folder: Path, part: str) -> dict[str, Any]:
    try:
        told = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
