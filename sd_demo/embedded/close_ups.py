"""Close-ups: windows around the things of training pictures, at the scale that they have there.

Things fill a tenth of a picture, and what they look like is what takes longest to learn. A window of a quarter of the
area costs a third of the time and is mostly thing. It is cut from the latents, so no picture is rendered or encoded
again, at even rows and columns: the mark of pixel art (train_vae.py) is a checkerboard, and so its fields stay where a
UNet finds them in whole pictures. Its caption names what is inside, and says nothing of places, which only the whole
picture has. A window that shows part of a thing without its name would ask the model for what nobody asked for, so
there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from transformers import CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.architecture import NATIVE_SIZE, VAE_SCALE_FACTOR
from sd_demo.embedded.dataset import pictured, tokenise
from sd_demo.embedded.layout import Place, layout
from sd_demo.embedded.picture import Picture

WHOLE = NATIVE_SIZE // VAE_SCALE_FACTOR  # latents, both sides
SIDE = WHOLE // 2
JITTER = 3  # latents by which a window misses the middle of its thing at most
LEAST_INSIDE = 0.6  # part of a thing's box that must be inside for the caption to name it
MOST_UNNAMED = 0.02  # part of the box of a thing that the caption does not name, that may be inside
TRIES = 12
CAPTIONS_EACH = 3


@dataclass(frozen=True)
class CloseUps:
    """rows: the picture of each [N]; corners: its top and left in latents [N, 2]; token_ids: [N, captions, 77]."""

    rows: np.ndarray
    corners: np.ndarray
    token_ids: np.ndarray

    def cut(self, latents: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The windows [B, 4, 16, 16] numbered `chosen` [B] of all pictures' latents [pictures, 4, 32, 32]."""
        corners = self.corners[chosen]
        return np.stack(
            [
                latents[row, :, y : y + SIDE, x : x + SIDE]
                for row, (y, x) in zip(self.rows[chosen], corners, strict=True)
            ]
        )


def close_ups(count: int, seed: int, tokenizer: CLIPTokenizer) -> CloseUps | None:
    """One for each thing of the first `count` training pictures, which depend on `seed` as in `render_pictures`.

    None where there is no thing in any of them.
    """
    rows, corners, captions = [], [], []
    for row in range(count):
        picture = pictured(seed, row)
        rng = np.random.default_rng((seed, 2, row))
        for corner, inside in _windows(picture, rng):
            rows.append(row)
            corners.append(corner)
            captions.append([world.caption(inside, rng, is_placed=False) for _ in range(CAPTIONS_EACH)])
    if not rows:
        return None
    return CloseUps(np.asarray(rows), np.asarray(corners), tokenise(tokenizer, captions, seed))


def _windows(picture: Picture, rng: np.random.Generator) -> Iterator[tuple[tuple[int, int], Picture]]:
    """The corner of a window around each thing, and the picture with only those things that are in it.

    A thing that no window shows without a part of another has none.
    """
    places = layout(picture)
    for place in places:
        middle = np.array([place.top + place.bottom, place.left + place.right]) / 2 * WHOLE
        for _ in range(TRIES):
            moved = middle - SIDE / 2 + rng.integers(-JITTER, JITTER + 1, 2)
            top, left = (int(value) for value in np.clip(2 * (moved / 2).round(), 0, WHOLE - SIDE))
            window = Place(left / WHOLE, top / WHOLE, (left + SIDE) / WHOLE, (top + SIDE) / WHOLE, 0.5)
            shares = [_share_inside(p, window) for p in places]
            if all(share >= LEAST_INSIDE or share <= MOST_UNNAMED for share in shares):
                break
        else:
            continue
        is_in = [share >= LEAST_INSIDE for share in shares]
        things = tuple(thing for thing, is_named in zip(picture.things, is_in, strict=True) if is_named)
        relation = picture.relation if is_in[:2] == [True, True] else None
        yield (top, left), replace(picture, things=things, relation=relation)


def _share_inside(place: Place, window: Place) -> float:
    width = min(place.right, window.right) - max(place.left, window.left)
    height = min(place.bottom, window.bottom) - max(place.top, window.top)
    area = (place.right - place.left) * (place.bottom - place.top)
    return max(0.0, width) * max(0.0, height) / area
