"""A model in a diffusers folder: model_index.json and one folder for each part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTokenizer

from sd_demo.checkpoints.parts import CLASSES, check_keys
from sd_demo.errors import ModelUnavailable
from sd_demo.model_files import INDEX, NETWORKS, missing_in, weights_in, why_foreign


def check_folder(folder: Path, title: str) -> dict[str, Any]:
    """The model_index.json of the model in `folder`, which sentences call `title`.

    Raises ModelUnavailable for one that is incomplete or of another family.
    """
    missing = missing_in(folder)
    if INDEX in missing:
        raise ModelUnavailable(f"{title} is no diffusers folder: its {INDEX} is missing or damaged.")
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if why := why_foreign(title, index):
        raise ModelUnavailable(why)
    if missing:
        raise ModelUnavailable(f"{title} is not complete: it lacks {', '.join(missing)}.")
    return index


def read_folder(folder: Path, dtype: torch.dtype, title: str) -> dict[str, Any]:
    """The parts of the model in `folder`, which sentences call `title`; errors of `check_folder`."""
    index = check_folder(folder, title)
    parts = {}
    for name in NETWORKS:  # the UNet first: while a file is being read its pages count as memory too
        options: dict[str, Any] = {"variant": "fp16"} if weights_in(folder / name) else {}
        parts[name], report = CLASSES[name].from_pretrained(
            folder / name, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
        check_keys(f"{title}/{name}", report["missing_keys"], report["unexpected_keys"])
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    for name in ("scheduler", "low_res_scheduler"):
        if name in index:
            kind = getattr(diffusers, index[name][1])
            parts[name] = kind.from_pretrained(folder / name, local_files_only=True)
    return parts
