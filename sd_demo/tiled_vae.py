"""An autoencoder's call for one picture, whole, or where the memory is too small for that in overlapping tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sd_demo.memory_errors import Answer, tried
from sd_demo.memory_need import TILE
from sd_demo.residence import Residence, empty_cache


def whole_or_tiled(vae: Any, residence: Residence, call: Callable[[], Answer]) -> tuple[Answer, bool]:
    """The answer of `call`, which decodes or encodes one picture with `vae`, and whether that was done in tiles.

    The autoencoder is where `residence` has brought it. What can be done whole is, as tiles give other numbers.
    Raises the error where there is no memory for a tile either.
    """
    answer = tried(call)
    if isinstance(answer, RuntimeError) and residence.spared():  # a tile's seams would be worse than a slower step
        answer = tried(call)
    if not isinstance(answer, RuntimeError):
        return answer, False
    empty_cache()
    with _tiling(vae):
        return call(), True


@contextmanager
def _tiling(vae: Any) -> Iterator[None]:
    """Overlapping parts that are blended, in a fraction of the memory; seams are faint but there."""
    before = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.tile_latent_min_size, vae.tile_sample_min_size = TILE, TILE * 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = before
