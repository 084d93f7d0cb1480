"""The drawing styles other than the picture book's own."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageFilter

PAPER = (242, 240, 234)
PENCIL_SIDE = 256  # smallest side at which pencil lines are drawn; smaller pictures are reduced from it
PIXEL_CELLS = 64  # cells along a side of a picture as pixel art


def pencil_paper(background: Image.Image) -> Image.Image:
    """A background faded to a light wash on paper, so that night and day both leave room for the things."""
    return Image.blend(background, Image.new("RGB", background.size, PAPER), 0.42)


def pencil(image: Image.Image) -> Image.Image:
    """Dark lines where the colour changes, over a tint of the colour."""
    reach = 2 * max(1, round(image.width / 256)) + 1
    channels = [
        ImageChops.subtract(c.filter(ImageFilter.MaxFilter(reach)), c.filter(ImageFilter.MinFilter(reach)))
        for c in image.split()
    ]
    edges = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
    edges = edges.point([0 if v < 20 else min(225, (v - 20) * 4) for v in range(256)])
    tinted = Image.blend(image, Image.new("RGB", image.size, PAPER), 0.25)
    tinted.paste((62, 60, 68), mask=edges)
    return tinted


def few_colours(background: Image.Image) -> Image.Image:
    """A background in steps of colour, as old screens had them."""
    levels = np.asarray(background, dtype=np.int16)
    return Image.fromarray(np.clip((levels + 8) // 16 * 16, 0, 255).astype(np.uint8), "RGB")


def pixels(image: Image.Image, size: int) -> Image.Image:
    """Enlarge a picture of PIXEL_CELLS a side to hard cells."""
    return image.resize((size, size), Image.Resampling.NEAREST)
