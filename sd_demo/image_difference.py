"""How far two pictures are from each other."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, in dB; infinite where they are identical."""
    difference = np.asarray(first, dtype=np.float32) - np.asarray(second, dtype=np.float32)
    mean = float(np.square(difference).mean())
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
