"""A picture made again from its receipt and held against the file: identical, the same, or different and likely why.

A picture that a request worked from is not stored; it is given, or found among earlier pictures by its fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.image_difference import psnr
from sd_demo.images import fingerprint, read_mask, read_picture
from sd_demo.known_models import not_here
from sd_demo.receipt import Receipt
from sd_demo.registry import Registry
from sd_demo.restore import from_receipt
from sd_demo.restored import Restored, short

if TYPE_CHECKING:
    from sd_demo.events import ResultImage

SAME_DB: Final = 50.0  # from here on nobody sees a difference: it is below one level in 255 on average
ROUNDING_DB: Final = 30.0  # bfloat16 against float32 gave 46 to 51 dB (BENCHMARKS.md); an edit gives less
PLACE: Final = ("device", "dtype", "attention")


@dataclass(frozen=True)
class Verification:
    """`verdict`: identical, same picture (PSNR at least SAME_DB) or different. `psnr_db`: None where sizes differ."""

    verdict: str
    psnr_db: float | None
    causes: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Identical, or so near that nobody can tell."""
        return self.verdict != "different"


def what_made(receipt: Receipt, *, registry: Registry, lora_dir: Path, model: str | None = None) -> Restored:
    """The settings to make the picture again with, by `model` where the receipt's goes by another name here.

    Raises InvalidRequest where model, LoRA or a value is missing here, so that any result would be another picture's.
    """
    done = receipt.done.model_copy(update={"model": model or receipt.done.model})
    restored = from_receipt(receipt.model_copy(update={"done": done}), registry=registry, lora_dir=lora_dir)
    if "model" not in restored.values:
        raise InvalidRequest(
            f"It cannot be made again here: there is no model {short(done.model)}; --model says which one to use for "
            "it, by its name, folder or file.",
            "model",
        )
    if restored.lost:
        raise InvalidRequest(f"It cannot be made again here: {restored.lost[0]}")
    entry = registry.get(restored.values["model"])
    if not registry.is_here(entry):
        raise InvalidRequest(f"It cannot be made again here. {not_here(entry)}", "model")
    return restored


def places(receipt: Receipt) -> Iterator[dict[str, str]]:
    """Device, dtype and attention to try in turn: all of the receipt's, then fewer, then this machine's choice."""
    for count in range(len(PLACE), -1, -1):
        yield {name: getattr(receipt.done, name) for name in PLACE[:count]}


def find_pictures(restored: Restored, given: Mapping[str, Path], folders: Iterable[Path]) -> dict[str, Image.Image]:
    """The pictures that the request worked from: those `given`, else by their fingerprint in `folders`.

    Raises InvalidRequest for one that is not there, InvalidImage for one that is another picture.
    """
    found = {}
    for name, known in restored.pictures.items():
        read = read_mask if name == "mask_image" else read_picture
        picture: Image.Image | None
        if name in given:
            picture = read(given[name], field=name)
            if known and fingerprint(picture) != known["sha256"]:
                raise InvalidImage(f"{given[name].name} is not the {name} that this picture was made from.", name)
        else:
            picture = _search(known, folders, read)
        if picture is None:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequest(
                f"{name} is needed: the picture it was made from is not stored; add {flag} FILE.", name
            )
        found[name] = picture
    return found


def compare(file: Image.Image, receipt: Receipt, made: ResultImage) -> Verification:
    """Hold the file's pixels and receipt against those of the picture that was just made again."""
    then, now = receipt.done, made.receipt.done
    causes = list(_differences(receipt, made.receipt))
    if file.size != made.image.size:
        there, here = f"{file.width}x{file.height}", f"{made.image.width}x{made.image.height}"
        sentence = f"The file is {there} and was made as {here}: it was resized or cropped since."
        return Verification("different", None, (sentence, *causes))
    level = psnr(file, made.image)
    if math.isinf(level):
        return Verification("identical", level, ())
    if then.shared_with != now.shared_with:
        causes.append(
            f"It shared its UNet calls with {then.shared_with} other requests and now with {now.shared_with}, "
            f"which changes last bits in {now.dtype}."
        )
    if then.compiled_steps != now.compiled_steps:
        causes.append(
            f"{then.compiled_steps} of its steps ran compiled and now {now.compiled_steps}, which changes last bits in "
            f"{now.dtype}."
        )
    if level >= SAME_DB:
        return Verification("same picture", level, tuple(causes))
    if not causes and level >= ROUNDING_DB and now.dtype != "float32":
        causes.append(
            f"Nothing differs that the receipt names; in {now.dtype} another processor, GPU or version of this program "
            "rounds otherwise."
        )
    return Verification(
        "different", level, tuple(causes) or ("Nothing that ran differs, so the file was edited after it was made.",)
    )


def _differences(then: Receipt, now: Receipt) -> Iterator[str]:
    """What is known to change pixels and is not as it was, the weightiest first."""
    if then.done.model_hash != now.done.model_hash:
        hashes = f"{then.done.model_hash[:10]} then, {now.done.model_hash[:10]} here"
        yield f"The model {then.done.model} has other weights here ({hashes})."
    for old, new in zip(then.done.loras, now.done.loras, strict=False):
        if old.sha256 != new.sha256:
            yield f"The LoRA {old.name} is another file here."
    for name, was in then.done.words_read(then.asked).items():
        is_now = now.done.words_read(now.asked)[name]
        if was != is_now:
            yield f'The {name} was read as "{was}", and is read as "{is_now}" here.'
    if then.version != now.version:
        yield f"It was made by version {then.version} of this program, and this is {now.version}."
    for name in (*PLACE, "torch", "diffusers", "prompt_chunks"):
        old, new = getattr(then.done, name), getattr(now.done, name)
        if old != new:
            yield f"{name} was {old}, and is {new} here."
    if then.done.retries != now.done.retries:
        was, is_now = (", ".join(done.retries) or "nothing" for done in (then.done, now.done))
        yield f"Tried again then: {was}; here: {is_now}."


def _search(known: Mapping[str, Any], folders: Iterable[Path], read: Any) -> Image.Image | None:
    """The picture of the `known` fingerprint in `folders`; sizes are compared first, which reads headers only."""
    if not known:
        return None
    for path in dict.fromkeys(path for folder in folders for path in sorted(folder.rglob("*.png"))):
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if image.size != (known["width"], known["height"]):
                    continue
            picture = read(path)
        except (OSError, ValueError, SyntaxError, InvalidImage):  # a file that is no picture is not the one
            continue
        if fingerprint(picture) == known["sha256"]:
            return picture
    return None
