"""The picture that a mask is painted on: strokes in, a mask out, and back again for invert and upload.

The browser sends what was painted as files ("blobs") ahead of the click, each addressed by an id that it
chooses itself. `Blobs` takes them in with a limit on everything a caller may choose.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr
import numpy as np
from gradio.components.base import server
from PIL import Image

from sd_demo.errors import InvalidImage
from sd_demo.images import MAX_BYTES, MAX_PIXELS, read_mask, read_picture
from sd_demo.ui.uploads import uploaded_file

PAINT: Final = (255, 45, 120)  # seen on snow and night alike
OPACITY: Final = 0.6
# Before a picture is there. A mask that the server sends is laid in the middle of the editor's largest layer, which
# keeps this size until something was painted: beside a picture smaller than this it could not be seen.
CANVAS: Final = (64, 64)
PAINTED: Final = 64  # a layer's alpha from which a pixel counts as painted: under half of a stroke's own
MAX_LAYERS: Final = 4
MAX_EDITORS: Final = 128
MAX_HELD_BYTES: Final = 256 * 2**20  # of all editors together; who painted or ran longest ago is forgotten first
MAX_AGE_S: Final = 3600.0  # since it was painted on or run
MAX_FORGOTTEN: Final = 1000


@dataclass
class Blob:
    """What one editor has sent so far."""

    background: bytes | None = None
    layers: dict[int, bytes] = field(default_factory=dict)
    touched_at: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Bytes that this editor holds here."""
        return len(self.background or b"") + sum(map(len, self.layers.values()))


class Blobs:
    """Pictures on their way from editors. Bounded in number, size and age; safe from several threads."""

    def __init__(self) -> None:
        self._blobs: OrderedDict[str, Blob] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()  # ids alone, so that their editors can be told
        self._lock = threading.Lock()

    def accept(self, data: Any) -> None:
        """Take in one file from the browser. Raises gr.Error where it is none or beyond the limits."""
        try:
            kind, key, index = data.data["type"], data.data["id"], data.data.get("index")
            content = data.files[0][1]
            layer = int(index) if kind == "layer" else 0
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            raise gr.Error("The painted mask did not arrive whole; try again.", print_exception=False) from None
        is_sane = isinstance(key, str) and len(key) <= 64 and isinstance(content, bytes) and 0 <= layer < MAX_LAYERS
        if not is_sane or len(content) > MAX_BYTES:
            raise gr.Error("The painted picture is too large; use a smaller one.", print_exception=False)
        with self._lock:
            self._forgotten.pop(key, None)
            blob = self._blobs.setdefault(key, Blob())
            self._blobs.move_to_end(key)
            blob.touched_at = time.monotonic()
            if kind == "layer":
                blob.layers[layer] = content
            elif kind == "background":
                blob.background = content
            self._expire()

    def get(self, key: Any) -> Blob | None:
        """What has come under this id, None where nothing has; it stays, because one picture may be run twice.

        Raises InvalidImage where it came and was forgotten since.
        """
        with self._lock:
            self._expire()
            if isinstance(key, str) and key in self._forgotten:
                raise InvalidImage("The painted picture is no longer held here; paint once more.", "mask_image")
            blob = self._blobs.get(key) if isinstance(key, str) else None
            if blob is not None:
                blob.touched_at = time.monotonic()
                self._blobs.move_to_end(key)
            return blob

    def _expire(self) -> None:
        oldest = time.monotonic() - MAX_AGE_S
        held = sum(blob.size for blob in self._blobs.values())
        while self._blobs:
            key, blob = next(iter(self._blobs.items()))
            if len(self._blobs) <= MAX_EDITORS and blob.touched_at >= oldest and held <= MAX_HELD_BYTES:
                return
            held -= blob.size
            del self._blobs[key]
            self._forgotten[key] = None
            while len(self._forgotten) > MAX_FORGOTTEN:
                self._forgotten.popitem(last=False)


def build(elem_id: str, blobs: Blobs, height: int = 400) -> gr.ImageMask:
    """The editor; what it sends goes to `blobs`."""
    red, green, blue = PAINT
    editor = gr.ImageMask(
        type="pil",
        format="png",  # what goes to the browser keeps every pixel
        label="Picture",
        show_label=False,
        sources=["upload", "clipboard"],
        brush=gr.Brush(colors=[(f"rgb({red}, {green}, {blue})", OPACITY)], color_mode="fixed", default_size=24),
        eraser=gr.Eraser(default_size=24),
        transforms=(),
        layers=False,
        canvas_size=CANVAS,
        buttons=["fullscreen"],
        height=height,
        placeholder="Drop a picture, then paint over\nthe part to change",
        elem_id=elem_id,
        elem_classes=["field-mask_image", "field-image"],
    )

    def accept_blobs(data: Any) -> None:
        blobs.accept(data)

    editor.accept_blobs = server(accept_blobs)
    return editor


def read(value: Any, blobs: Blobs) -> dict[str, Any]:
    """`image` and `mask_image` from the editor's value as it came; an entry that is not there is left out.

    Raises InvalidImage where what came is no picture.
    """
    background, layers = _files(value, blobs)
    if background is None:
        return {}
    image = read_picture(background)
    mask = np.zeros((image.height, image.width), dtype=bool)
    for layer in layers:
        mask |= _painted(layer, image.size)
    return {"image": image, "mask_image": Image.fromarray(mask.astype(np.uint8) * 255)}


def _files(value: Any, blobs: Blobs) -> tuple[bytes | None, list[bytes]]:
    if not isinstance(value, dict):
        return None, []
    if value.get("id") is not None:
        blob = blobs.get(value["id"])
        return (blob.background, list(blob.layers.values())) if blob else (None, [])
    layers = value.get("layers") or []
    files = [uploaded_file(one, field="mask_image") for one in layers[:MAX_LAYERS]]
    background = uploaded_file(value.get("background"), field="image")
    return background.read_bytes() if background else None, [file.read_bytes() for file in files if file]


def _painted(layer: bytes, size: tuple[int, int]) -> np.ndarray:
    """Where a layer is painted, as [height, width] of bool."""
    try:
        with Image.open(io.BytesIO(layer), formats=("PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidImage("The painted mask has too many pixels; use a smaller picture.", "mask_image")
            alpha = image.convert("RGBA").getchannel("A")
    except (OSError, ValueError, SyntaxError):
        raise InvalidImage("The painted mask did not arrive whole; paint again.", "mask_image") from None
    if alpha.size != size:
        alpha = alpha.resize(size, Image.Resampling.NEAREST)
    return np.asarray(alpha) >= PAINTED


def painted(image: Image.Image, mask: Image.Image | None) -> dict[str, Any]:
    """The editor's value that shows `image` (RGB) with `mask` (L) painted on it.

    It names no composite: the editor would take that for the picture, with the paint burnt in.
    """
    layers = []
    if mask is not None:
        layer = Image.new("RGBA", image.size, (*PAINT, 0))
        layer.putalpha(mask.point(lambda v: round(255 * OPACITY) if v else 0))
        layers.append(layer)
    return {"background": image, "layers": layers, "composite": None}


def with_uploaded_mask(values: dict[str, Any], file: Any) -> dict[str, Any]:
    """The editor's value with the mask of an uploaded file in place of the strokes. Raises InvalidImage."""
    if "image" not in values:
        raise InvalidImage("Choose the picture first, then its mask.", "image")
    path = uploaded_file(file, field="mask_image")
    if path is None:
        raise InvalidImage("mask_image is missing; choose a mask file.", "mask_image")
    mask, image = read_mask(path), values["image"]
    if mask.size != image.size:
        raise InvalidImage(
            f"The mask is {mask.width}x{mask.height} and the picture {image.width}x{image.height}; "
            "send a mask of the picture's size.",
            "mask_image",
        )
    return painted(image, mask)
