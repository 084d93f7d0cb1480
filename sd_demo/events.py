"""What a job tells while it runs, in this order: Queued*, Loading?, Encoding, Step*, Decoding, then one end.

The end is exactly one of Done, Failed, Cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sd_demo.errors import PlaygroundError
from sd_demo.receipt import Receipt


@dataclass(frozen=True)
class Queued:
    """Waiting: `position` 1 is next; `wait_s` is an estimate, None while nothing is known."""

    position: int
    wait_s: float | None = None


@dataclass(frozen=True)
class Loading:
    """The model is being loaded."""

    model: str


@dataclass(frozen=True)
class Encoding:
    """Prompt and pictures become tensors."""


@dataclass(frozen=True)
class Step:
    """Step `index` of `total` (from 1) is done; `previews` are small RGB pictures, or empty when off."""

    index: int
    total: int
    remaining_s: float
    previews: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """Latents become pixels."""


@dataclass(frozen=True)
class ResultImage:
    """One finished picture: the file (an empty path where none was to be kept), the same pixels (RGB), the receipt."""

    path: Path
    image: Image.Image
    receipt: Receipt


@dataclass(frozen=True)
class Done:
    """The end: all pictures of the request, in order; `sheet` is the file that shows all, where one was asked for."""

    images: tuple[ResultImage, ...]
    sheet: Path | None = None


@dataclass(frozen=True)
class Failed:
    """The end: an expected error, or an unexpected one wrapped with the `request_id` to quote."""

    error: PlaygroundError
    request_id: str


@dataclass(frozen=True)
class Cancelled:
    """The end: somebody asked for it."""


Event = Queued | Loading | Encoding | Step | Decoding | Done | Failed | Cancelled
Final = Done | Failed | Cancelled
