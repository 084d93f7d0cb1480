"""Pictures as they come in: checked before they are decoded, then brought to one plain form.

A file is looked at by its header first (format, pixel count, bytes); only then is it decoded. What
leaves this module is RGB (pictures) or L with 0 and 255 only (masks), upright, without metadata.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sd_demo.errors import InvalidImage

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES: Final = 30 * 2**20
MAX_PIXELS: Final = 25_000_000  # a phone's 24 megapixels; decoded that is 100 MB, and two copies are held at most
MIN_SIDE: Final = 16
MAX_ASPECT: Final = 8

_STRIP: Final = 256  # rows converted at a time
_ONE_AT_A_TIME: Final = threading.Lock()  # many large uploads at once must not add up in memory

Source = Image.Image | str | Path | bytes


def read_picture(source: Source, *, field: str = "image") -> Image.Image:
    """Open a picture and return it upright as RGB; transparency lies on white.

    Raises InvalidImage where it is no picture, damaged, animated, or beyond the limits above.
    """
    return _read(source, field, backdrop=(255, 255, 255))


def read_mask(source: Source, *, field: str = "mask_image") -> Image.Image:
    """Open a mask and return it as L with values 0 (kept) and 255 (repainted); threshold at 128.

    Transparent parts count as kept. Raises InvalidImage as read_picture does.
    """
    grey = _read(source, field, backdrop=(0, 0, 0)).convert("L")
    return grey.point(lambda v: 255 if v >= 128 else 0)


def size_in_file(path: Path) -> tuple[int, int] | None:
    """(width, height) of the upright picture in a file, by its header alone; None where it is none."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            width, height = image.size
            # Pillow turns a TIFF by itself, and decodes a whole PNG to look behind it.
            is_told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            is_on_its_side = is_told and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # on a damaged file a decoder raises whatever its author did not foresee
        return None
    return (height, width) if is_on_its_side else (width, height)


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels: the same picture has the same fingerprint in any file format."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def _read(source: Source, field: str, backdrop: tuple[int, int, int]) -> Image.Image:
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            # Pillow warns of odd EXIF and of many pixels; the checks here say in our words what matters.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            if isinstance(source, Image.Image):
                return _plain(source, field, backdrop)
            with Image.open(_stream(source, field), formats=FORMATS) as image:
                return _plain(image, field, backdrop)
    except InvalidImage:
        raise
    except Image.DecompressionBombError:
        raise InvalidImage(_too_many_pixels(field), field) from None
    except Exception:  # on a damaged file a decoder raises whatever its author did not foresee
        raise InvalidImage(
            f"{field} cannot be read as a picture; send a complete file in one of {', '.join(FORMATS)}.", field
        ) from None


def _stream(source: str | Path | bytes, field: str) -> io.BytesIO:
    too_large = InvalidImage(f"{field} is larger than {MAX_BYTES >> 20} MiB; send a smaller file.", field)
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        if not path.is_file():
            raise InvalidImage(f"{field}: there is no file named {path.name}.", field)
        if path.stat().st_size > MAX_BYTES:
            raise too_large
        data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise too_large
    return io.BytesIO(data)


def _too_many_pixels(field: str) -> str:
    return f"{field} has more than {MAX_PIXELS // 1_000_000} million pixels; send a smaller picture."


def _check_header(image: Image.Image, field: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidImage(_too_many_pixels(field), field)
    if min(image.size) < MIN_SIDE:
        raise InvalidImage(
            f"{field} is {image.width}x{image.height} pixels; each side must be at least {MIN_SIDE}.", field
        )
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise InvalidImage(
            f"{field} is {image.width}x{image.height}, too narrow; its long side may be at most "
            f"{MAX_ASPECT} times its short side.",
            field,
        )
    # A phone's JPEG may carry its thumbnail or a second eye's view behind the picture (format MPO).
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InvalidImage(f"{field} has several frames or pages; send a single picture.", field)


def _plain(image: Image.Image, field: str, backdrop: tuple[int, int, int]) -> Image.Image:
    _check_header(image, field)
    image.load()
    plain = Image.new("RGB", image.size)  # a new image: no palette, profile or EXIF can come along
    full = _full_scale(image) if _is_deep(image) else 0.0
    for top, strip in _strips(image):
        plain.paste(_levels(strip, full) if full else _opaque(strip, backdrop), (0, top))
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation is not None:
        plain.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(plain, in_place=True)
    return plain


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    for top in range(0, image.height, _STRIP):
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))


def _opaque(strip: Image.Image, backdrop: tuple[int, int, int]) -> Image.Image:
    if strip.mode == "La":
        strip = strip.convert("LA")
    if strip.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in strip.info:
        ground = Image.new("RGBA", strip.size, (*backdrop, 255))
        ground.alpha_composite(strip.convert("RGBA"))
        strip = ground
    return strip.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _full_scale(image: Image.Image) -> float:
    """What counts as white in a 16-bit, 32-bit or float picture, which Pillow's convert() would clip at 255."""
    if image.mode.startswith("I;16"):
        return 65535.0
    peak = 0.0
    for _, strip in _strips(image):
        values = np.asarray(strip, dtype=np.float32)
        peak = max(peak, float(values.max(initial=0.0, where=np.isfinite(values))))
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((full for full in usual if peak <= full), peak)


def _levels(strip: Image.Image, full: float) -> Image.Image:
    values = np.nan_to_num(np.asarray(strip, dtype=np.float32), nan=0.0, posinf=full, neginf=0.0)
    return Image.fromarray((values.clip(0, full) * (255.0 / full)).round().astype(np.uint8)).convert("RGB")
