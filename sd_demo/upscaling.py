"""An upscaling on the engine: its tiles run together, and are blended into one picture with one receipt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from sd_demo.errors import PictureWithheld
from sd_demo.events import ResultImage
from sd_demo.images import fingerprint
from sd_demo.receipt import Receipt
from sd_demo.together import Jobs, Progress, run_together
from sd_demo.upscale import FINE, Upscale, Upscaling, joined

if TYPE_CHECKING:
    from sd_demo.engine import Engine


@dataclass(frozen=True)
class Upscaled:
    """The end: the picture with its file and receipt, and what it was before the model (RGB, the same size)."""

    result: ResultImage
    enlarged: Image.Image


def run_upscaling(
    engine: Engine, upscaling: Upscaling, *, visitor: str = "local", origin: str = "", jobs: Jobs | None = None
) -> Generator[Progress | Upscaled]:
    """Run all tiles and yield their progress, then the end; see run_together for cancelling and errors."""
    made = yield from run_together(
        engine, (*upscaling.requests, *upscaling.unchanged), visitor=visitor, origin=origin, jobs=jobs, is_kept=False
    )
    refined, unchanged, withheld = _both(upscaling, made)
    image = joined(upscaling, refined, unchanged)
    receipt = receipt_of(upscaling, [None if one is None else one.receipt for one in made], withheld)
    path = engine.outputs.save(image, receipt, visitor=visitor)
    yield Upscaled(ResultImage(path, image, receipt), upscaling.enlarged)


def _both(upscaling: Upscaling, made: Sequence[ResultImage | None]) -> tuple[list[Image.Image], list[Image.Image], int]:
    """What the model made of each tile, and of each unchanged one; how many tiles stay as they were, as its safety
    checker withheld one of both. Raises PictureWithheld where no tile is left, or a model that enlarges by itself."""
    count = len(upscaling.tiles)
    pairs = list(zip(made[:count], made[count:] or made[:count], strict=True))
    withheld = sum(None in pair for pair in pairs)
    if withheld and (upscaling.factor > 1 or withheld == count):
        raise PictureWithheld(
            "The model's safety checker withheld a part of the picture, which it sometimes does without cause; try "
            "another seed or other words."
        )
    refined, unchanged = ([one.image for one in upscaling.requests] for _ in range(2))
    for k, (one, other) in enumerate(pairs):
        if one is not None and other is not None:
            refined[k], unchanged[k] = one.image, other.image
    return refined, unchanged, withheld


def receipt_of(upscaling: Upscaling, parts: Sequence[Receipt | None], withheld: int = 0) -> Receipt:
    """One receipt from those of all tiles, refined ones first: their seconds together, the first tile's seed.

    withheld: how many tiles the model's safety checker left as they were.
    """
    count = len(upscaling.tiles)
    refined, tiles = ([one for one in some if one is not None] for some in (parts[:count], parts))
    source, (width, height) = upscaling.source, upscaling.enlarged.size
    first, tile = tiles[0], upscaling.tiles[0]
    done = first.done.model_copy(
        update={
            "seed": upscaling.seed,  # the first tile may have been withheld
            "width": width,
            "height": height,
            "shared_with": max(one.done.shared_with for one in tiles),
            "retries": list(dict.fromkeys(text for one in tiles for text in one.done.retries)),
            "encode_s": round(sum(one.done.encode_s for one in tiles), 4),
            # Tiles that shared the loop spent the same seconds: each is counted by its part of them.
            "denoise_s": round(sum(one.done.denoise_s / (1 + one.done.shared_with) for one in tiles), 4),
            "decode_s": round(sum(one.done.decode_s for one in tiles), 4),
        }
    )
    asked = first.asked | {
        "image": {"sha256": fingerprint(source), "width": source.width, "height": source.height},
        "seed": upscaling.seed,
        "scale": upscaling.scale,
    }
    is_refined = upscaling.factor == 1
    how = f"{source.width}x{source.height} was enlarged to {width}x{height} with sharp edges, then refined"
    part = "What the model changed" if upscaling.added == 1 else f"{upscaling.added:.0%} of what the model changed"
    finest = f"{part} was added, as far as it is finer than about {6 * FINE * tile.width:.0f} pixels."
    if not is_refined:
        how = f"{done.model} made {upscaling.made[0]}x{upscaling.made[1]} of {source.width}x{source.height}"
        finest = f"That was then made smaller, to {width}x{height}." if upscaling.made != (width, height) else ""
    if count > 1:
        how += f" in {count} tiles of {tile.width}x{tile.height} that overlap; each has the next seed"
    lacking = f"The model's safety checker withheld {withheld} of them, which stay as they were enlarged."
    notes = dict.fromkeys(
        [how + ".", finest, lacking if withheld else "", *(note for one in refined for note in one.notes)]
    )
    notes.pop("", None)
    return Receipt(task=Upscale.task, asked={k: v for k, v in asked.items() if k not in ("width", "height")}, done=done,
                   notes=list(notes))  # fmt: skip
