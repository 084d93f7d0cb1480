"""How a request's pictures meet the sizes that a model can work at, and how they come back.

A VAE works in blocks of eight pixels, so a picture is padded to the next multiple, run, and cropped to
exactly what was asked for. An inpainted picture comes back at its input's own size, and outside the mask
it *is* the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from sd_demo.requests import MAX_SIDE, MIN_SIDE, AnyRequest, ImageToImage, Inpaint, SuperResolution

FEATHER = 3  # pixels inside the mask over which the original fades out, so that no seam shows
MARGIN = 4 * FEATHER  # pixels around a mask; the three passes of the blur reach two pixels each
OPAQUE = 240  # alpha of the paste from which the original no longer shows
COMFORT = 1.5  # a picture up to this many times the model's own size is worked on as it is


@dataclass(frozen=True)
class Canvas:
    """The working size of one request (pixels), and its pictures brought to the padded size."""

    width: int
    height: int
    padded_width: int
    padded_height: int
    image: Image.Image | None = None  # RGB at the padded size; where that is made from a smaller picture, at its size
    mask: Image.Image | None = None  # L at the padded size, in whole blocks of a latent that it touches
    original: Image.Image | None = None  # RGB, an inpainting's input as it came
    original_mask: Image.Image | None = None
    notes: tuple[str, ...] = ()

    def restore(self, result: Image.Image) -> Image.Image:
        """The decoded picture (RGB, padded size) as the person gets it.

        Inpainting: pasted into the original through the mask; every pixel outside the mask is the input's.
        """
        result = result.crop((0, 0, self.width, self.height))
        if self.original is None or self.original_mask is None:
            return result
        if result.size != self.original.size:
            result = result.resize(self.original.size, Image.Resampling.LANCZOS)
        box, alpha = self._paste
        whole = self.original.copy()
        whole.paste(result.crop(box), box, alpha)
        return whole

    @cached_property
    def _paste(self) -> tuple[tuple[int, int, int, int], Image.Image]:
        """The part of the original that the mask reaches, and its alpha: seconds for a large photo, once for a job."""
        mask = self.original_mask or Image.new("L", (1, 1))
        left, top, right, below = mask.getbbox() or (0, 0, 1, 1)
        # Beyond the mask all is 0, so a margin wider than the blur reaches gives the alpha of the whole.
        box = (
            max(0, left - MARGIN),
            max(0, top - MARGIN),
            min(mask.width, right + MARGIN),
            min(mask.height, below + MARGIN),
        )
        return box, _fade_inwards(mask.crop(box))


def plan(request: AnyRequest, *, native_size: int, multiple: int) -> Canvas:
    """Decide the working size and bring the request's pictures to it.

    `native_size`: side in pixels that the model was trained at; `multiple`: pixels a latent stands for.
    """
    if not isinstance(request, ImageToImage | Inpaint):
        width, height = request.width or native_size, request.height or native_size
        padded = (_up(width, multiple), _up(height, multiple))
        return Canvas(width, height, *padded, notes=_padding_note(width, height, padded))
    source = request.image
    width, height, notes = working_size(request.task, source.size, (request.width, request.height), native_size)
    if isinstance(request, Inpaint):
        fitted = source.resize((width, height), Image.Resampling.LANCZOS) if source.size != (width, height) else source
    else:
        fitted = ImageOps.fit(source, (width, height), Image.Resampling.LANCZOS)
    padded = (_up(width, multiple), _up(height, multiple))
    notes = (*notes, *_padding_note(width, height, padded))
    image = _pad(fitted, padded)
    if not isinstance(request, Inpaint):
        return Canvas(width, height, *padded, image=image, notes=notes)
    ground = Image.new("L", padded, 0)
    ground.paste(scaled(request.mask_image, (width, height)), (0, 0))
    whole = _in_blocks(ground, multiple)
    return Canvas(
        width, height, *padded, image=image, mask=whole, original=source, original_mask=request.mask_image, notes=notes
    )


def plan_larger(request: SuperResolution, *, factor: int, multiple: int) -> Canvas:
    """The canvas of a picture that becomes `factor` times as long; it works in blocks of `multiple` of its pixels."""
    width, height = request.image.size
    padded = _up(width, multiple), _up(height, multiple)
    large = width * factor, height * factor
    return Canvas(*large, padded[0] * factor, padded[1] * factor, image=_pad(request.image, padded))


def working_size(
    task: str, picture: tuple[int, int], wanted: tuple[int | None, int | None], native_size: int
) -> tuple[int, int, tuple[str, ...]]:
    """(width, height, notes) of the work on a picture of size `picture`; `wanted` is the (width, height) asked for."""
    (w, h), (width, height) = picture, wanted
    if width and height and task == ImageToImage.task and abs(width * h - height * w) > max(w, h):
        return width, height, (f"The picture was cropped from its middle to the shape {width}x{height}.",)
    if width or height:
        scale = width / w if width else (height or h) / h
    else:
        longest = min(MAX_SIDE, round(native_size * COMFORT))
        scale = min(1.0, longest / max(w, h))
    scale = max(scale, MIN_SIDE / min(w, h))
    scale = min(scale, MAX_SIDE / max(w, h))
    size = max(MIN_SIDE, round(w * scale)), max(MIN_SIDE, round(h * scale))
    if width and height:
        size = width, height
    is_as_asked = bool(width or height) and size == (width or size[0], height or size[1])
    if size == (w, h) or (is_as_asked and task != Inpaint.task):
        return *size, ()
    after = " and put back at its own size" if task == Inpaint.task else "; set width and height for another size"
    return *size, (f"The picture of {w}x{h} was worked on at {size[0]}x{size[1]}{after}.",)


def _padding_note(width: int, height: int, padded: tuple[int, int]) -> tuple[str, ...]:
    if padded == (width, height):
        return ()
    return (f"{width}x{height} was made as {padded[0]}x{padded[1]} and cropped.",)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Repeat the edge pixels to the right and below: a hard border would bleed into the picture."""
    right, below = size[0] - image.width, size[1] - image.height
    if not right and not below:
        return image
    return Image.fromarray(np.pad(np.asarray(image), ((0, below), (0, right), (0, 0)), mode="edge"))


def scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask at another size, where anything that touches it is repainted.

    Scaling down thins a stroke to grey, and what is small beside a pixel to nothing at all: the greatest value of what
    a pixel stands for is looked at, too.
    """
    if mask.size == size:
        return mask
    grey = mask.resize(size, Image.Resampling.BILINEAR).point(lambda v: 255 if v > 0 else 0)
    greatest = np.asarray(mask)
    for axis, count in ((0, size[1]), (1, size[0])):
        starts = np.arange(count) * greatest.shape[axis] // count
        greatest = np.maximum.reduceat(greatest, starts, axis=axis)
    return ImageChops.lighter(grey, Image.fromarray(greatest))


def _in_blocks(mask: Image.Image, multiple: int) -> Image.Image:
    """Every block with a part of the mask, whole: of a latent only one pixel's mask is read, which a line may miss."""
    height, width = mask.height // multiple, mask.width // multiple
    blocks = np.asarray(mask).reshape(height, multiple, width, multiple).max(axis=(1, 3))
    return Image.fromarray(blocks.repeat(multiple, axis=0).repeat(multiple, axis=1))


def _fade_inwards(mask: Image.Image) -> Image.Image:
    """Alpha of the paste: 0 outside the mask, rising to 255 within FEATHER pixels inside it.

    A line that is too thin to become opaque anywhere is opaque throughout.
    """
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(FEATHER / 2)), dtype=np.float32)
    alpha = ((soft - 127.5) * 2).clip(0, 255)
    alpha[np.asarray(mask) == 0] = 0
    core = Image.fromarray(np.where(alpha >= OPAQUE, 255, 0).astype(np.uint8))
    is_near = np.asarray(core.filter(ImageFilter.MaxFilter(2 * FEATHER + 1))) > 0
    alpha[(np.asarray(mask) > 0) & ~is_near] = 255
    return Image.fromarray(alpha.round().astype(np.uint8))
