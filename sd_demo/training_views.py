"""Several views of each training picture, so that few pictures teach more: crops and mirror images."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageOps

from sd_demo.training_pictures import LEAST_CROP, TrainingPicture

CROPS: Final = 4


def views_of(picture: TrainingPicture, side: int, *, has_flips: bool, seed: int) -> list[Image.Image]:
    """Squares of `side` pixels: the middle, random crops, and both mirrored where the caption names no side."""
    rng = np.random.default_rng(seed)
    image = picture.image
    largest = min(image.size)
    views = []
    for k in range(CROPS):
        extent = largest if k == 0 else largest * rng.uniform(LEAST_CROP, 1)
        free = np.array(image.size) - extent
        left, top = free / 2 if k == 0 else free * rng.random(2)
        box = (left, top, left + extent, top + extent)
        views.append(image.resize((side, side), Image.Resampling.LANCZOS, box=box))
    names_a_side = re.search(r"\b(left|right)\b", picture.caption, re.IGNORECASE)
    if has_flips and not names_a_side:
        views += [ImageOps.mirror(view) for view in views]
    return views


def pixels_of(image: Image.Image) -> torch.Tensor:
    """[1, 3, H, W] in -1..1 of an RGB picture."""
    values = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()
