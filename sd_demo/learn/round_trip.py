"""The autoencoder's round trip: a picture to its latents and back, and what is lost on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sd_demo.learn.classroom import Classroom, decode, encode, latents_picture

AMPLIFIED = 4  # times that the difference is shown larger than it is


@dataclass(frozen=True)
class RoundTrip:
    """before: pixel values (3 a pixel); after: latent values. psnr: in dB, of 8-bit pictures."""

    latents: Image.Image
    decoded: Image.Image
    difference: Image.Image
    before: int
    after: int
    psnr: float

    @property
    def factor(self) -> float:
        """How many times fewer values the latents have."""
        return self.before / self.after


def round_trip(classroom: Classroom, picture: Image.Image) -> RoundTrip:
    """Encode and decode an RGB picture whose sides are multiples of 8."""
    with classroom.turn() as model:
        latents = encode(model, picture)
        decoded = decode(model, latents)
        shown = latents_picture(latents)
    there, back = (np.asarray(image, dtype=np.float64) for image in (picture, decoded))
    error = float(np.mean((there - back) ** 2))
    psnr = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    amplified = np.clip(np.abs(there - back) * AMPLIFIED, 0, 255).astype(np.uint8)
    return RoundTrip(shown, decoded, Image.fromarray(amplified), there.size, latents.numel(), psnr)
