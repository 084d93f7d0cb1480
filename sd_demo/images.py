"""Pictures as they come in: checked before they are decoded, then brought to one plain form.

A file is looked at by its header first (format, pixel count, bytes); only then is it decoded. What
leaves this module is RGB (pictures) or L with 0 and 255 only (masks), upright, without metadata.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sd_demo.errors import InvalidImage

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES: Final = 30 * 2**20
MAX_PIXELS: Final = 40_000_000
MIN_SIDE: Final = 16
MAX_ASPECT: Final = 8

Source = Image.Image | str | Path | bytes


def read_picture(source: Source, *, field: str = "image") -> Image.Image:
    """Open a picture and return it upright as RGB; transparency lies on white.

    Raises InvalidImage where it is no picture, damaged, animated, or beyond the limits above.
    """
    return _flatten(_decode(source, field), backdrop=(255, 255, 255))


def read_mask(source: Source, *, field: str = "mask_image") -> Image.Image:
    """Open a mask and return it as L with values 0 (kept) and 255 (repainted); threshold at 128.

    Transparent parts count as kept.
    """
    grey = _flatten(_decode(source, field), backdrop=(0, 0, 0)).convert("L")
    return grey.point(lambda v: 255 if v >= 128 else 0)


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels: the same picture has the same fingerprint in any file format."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def _decode(source: Source, field: str) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_size(source, field)
        return ImageOps.exif_transpose(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 Mpixel and about odd EXIF; the checks below say it in our words.
            warnings.simplefilter("ignore")
            with Image.open(_stream(source, field), formats=FORMATS) as image:
                _check_size(image, field)
                if getattr(image, "n_frames", 1) > 1:
                    raise InvalidImage(f"{field} is an animation; send a single picture.", field)
                image.load()
                return ImageOps.exif_transpose(image)
    except InvalidImage:
        raise
    except Image.DecompressionBombError:
        raise InvalidImage(_too_many_pixels(field), field) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError):
        known = ", ".join(FORMATS)
        raise InvalidImage(
            f"{field} cannot be read as a picture; send a complete file in one of {known}.", field
        ) from None


def _stream(source: str | Path | bytes, field: str) -> io.BytesIO:
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        if not path.is_file():
            raise InvalidImage(f"{field}: there is no file named {path.name}.", field)
        if path.stat().st_size > MAX_BYTES:
            raise InvalidImage(f"{field} is larger than {MAX_BYTES >> 20} MiB; send a smaller file.", field)
        data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise InvalidImage(f"{field} is larger than {MAX_BYTES >> 20} MiB; send a smaller file.", field)
    return io.BytesIO(data)


def _too_many_pixels(field: str) -> str:
    return f"{field} has more than {MAX_PIXELS // 1_000_000} million pixels; send a smaller picture."


def _check_size(image: Image.Image, field: str) -> None:
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


def _flatten(image: Image.Image, backdrop: tuple[int, int, int]) -> Image.Image:
    """Any Pillow mode to RGB. 16-bit and float pictures are scaled, not clipped as convert() does."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        values = np.nan_to_num(values, nan=0.0, posinf=65535.0, neginf=0.0)
        peak = float(values.max())
        full = 255.0 if peak <= 255.0 else 65535.0 if peak <= 65535.0 else peak
        image = Image.fromarray((values.clip(0) * (255.0 / full)).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (*backdrop, 255))
        ground.alpha_composite(layered)
        image = ground
    plain = image.convert("RGB")
    return Image.frombytes("RGB", plain.size, plain.tobytes())  # a new image: no info, no EXIF
