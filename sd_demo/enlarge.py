"""Enlarging by itself, before any model sees the picture: Lanczos, then edges as sharp as the source allows.

Two rules keep the sharpening honest. No pixel leaves the range of the source's pixels around it, so that nothing rings;
and the result, made small again, must be the source ("iterative back-projection", Irani and Peleg, 1991,
https://doi.org/10.1016/1049-9652(91)90045-L).
What it comes to: `python -m tests.upscale_bar`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

AMOUNT: Final = 0.37
ROUNDS: Final = 4


def enlarge(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The RGB picture at `size` (width, height), neither of them smaller than it was."""
    if size == image.size:
        return image.copy()
    return Image.merge("RGB", [_enlarge(band, size) for band in image.convert("RGB").split()])


def _enlarge(band: Image.Image, size: tuple[int, int]) -> Image.Image:
    """One channel at a time, so that four megapixels cost some 100 MB and not 300."""
    scale = max(size[0] / band.width, size[1] / band.height)
    source = np.asarray(band, dtype=np.float32)
    least, most = (
        np.asarray(band.filter(kind).resize(size, Image.Resampling.NEAREST), dtype=np.float32)
        for kind in (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3))
    )
    large = _resized(source, size, Image.Resampling.LANCZOS)
    for _ in range(ROUNDS):
        large += AMOUNT * (large - blurred(large, scale / 2))
        np.clip(large, least, most, out=large)
        missing = source - _resized(large, band.size, Image.Resampling.BOX)
        large += _resized(missing, size, Image.Resampling.BILINEAR)
    return Image.fromarray(np.clip(large + 0.5, 0, 255).astype(np.uint8))


def _resized(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """Numbers [h, w] at another size (width, height), not rounded to pixels."""
    return np.array(Image.fromarray(values).resize(size, how))


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Numbers [h, w] under a Gaussian of `sigma` pixels, edges repeated."""
    reach = int(3 * sigma + 1)
    kernel = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        length = values.shape[axis]
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        values = np.zeros_like(values)
        for k, weight in enumerate(kernel):
            values += weight * (padded[k : k + length] if axis == 0 else padded[:, k : k + length])
    return values
