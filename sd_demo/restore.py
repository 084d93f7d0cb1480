"""Settings back from a picture: what its receipt or its `parameters` text gives, and what it cannot."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from sd_demo.errors import InvalidImage
from sd_demo.images import FORMATS, MAX_BYTES
from sd_demo.parameters_text import find_parameters, from_parameters
from sd_demo.prompt_grammar import has_words
from sd_demo.receipt import JSON_KEY, Receipt, read_receipt
from sd_demo.registry import Registry
from sd_demo.requests import PICTURE_FIELDS, SCHEDULER_NAMES, TextToImage
from sd_demo.restored import Reading, Restored, listed, short
from sd_demo.upscale import KINDS, Upscale


def restore(
    source: Path | bytes, *, registry: Registry, lora_dir: Path, schedulers: Collection[str] = SCHEDULER_NAMES
) -> Restored:
    """The settings in a picture file: our receipt, else a `parameters` text. Only its header is read.

    schedulers: the keys of those that can run here.
    Raises InvalidImage where it is no picture or carries neither.
    """
    damaged: InvalidImage | None = None
    receipt: Receipt | None = None
    text: str | None = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(_stream(source), formats=FORMATS) as image:
                text = find_parameters(image)
                if JSON_KEY in image.info:
                    receipt = read_receipt(image)
    except InvalidImage as error:
        damaged = error
    except Exception:  # on a damaged file a decoder raises whatever its author did not foresee
        raise InvalidImage("This file cannot be read as a picture; drop a complete PNG, JPEG or WebP file.") from None
    if receipt is not None:
        return from_receipt(receipt, registry=registry, lora_dir=lora_dir, schedulers=schedulers)
    if text is None:
        raise damaged or InvalidImage(
            "This picture carries no settings; many sites and editors remove them when a picture is saved again."
        )
    return from_parameters(text, registry=registry, lora_dir=lora_dir, schedulers=schedulers)


def from_receipt(
    receipt: Receipt, *, registry: Registry, lora_dir: Path, schedulers: Collection[str] = SCHEDULER_NAMES
) -> Restored:
    """This one image's settings, every choice made: alone, with its own seed, so that it comes out the same.

    schedulers: the keys of those that can run here.
    Raises InvalidImage where the receipt is of a task that no request repeats.
    """
    if receipt.task not in KINDS:
        raise InvalidImage(f"This picture was made by {short(receipt.task)}, which settings cannot be taken from.")
    kind, done = KINDS[receipt.task], receipt.done
    reading = Reading(receipt.task)
    chosen = {
        "num_inference_steps": done.num_inference_steps,
        "guidance_scale": done.guidance_scale,
        "scheduler": done.scheduler,
        # An upscaling adds a part of the changes by what was asked, also where that was less than one step.
        "strength": receipt.asked.get("strength", done.strength) if kind is Upscale else done.strength,
        "seed": done.seed,
        **_made_up(receipt),
        **(done.work_size or {}),
        "num_images_per_prompt": 1,
        "keep_best": None,
        "grid": None,
    }
    if receipt.task == TextToImage.task:
        chosen |= {"width": done.width, "height": done.height}
    if done.scheduler in SCHEDULER_NAMES and done.scheduler not in schedulers:
        chosen["scheduler"] = None
        reading.cannot.append(
            f"The scheduler {short(done.scheduler)} is not here; the model's own scheduler will be used."
        )
    for name in kind.model_fields:
        if name not in (*PICTURE_FIELDS, "model", "loras"):
            reading.take(name, chosen.get(name, receipt.asked.get(name)))
    reading.take_model(done.model, registry)
    worn = [{"name": lora.name, "weight": lora.weight} for lora in done.loras]
    reading.take_loras(worn, lora_dir, registry)
    strange = [name for name in receipt.asked if name not in kind.model_fields]
    if strange:
        reading.cannot.append(f"This version has no setting {listed(strange)}.")
    pictures: dict[str, dict[str, Any]] = {
        name: _known_of(receipt.asked.get(name)) for name in PICTURE_FIELDS if name in kind.model_fields
    }
    return reading.finished(pictures, receipt)


def _made_up(receipt: Receipt) -> dict[str, str]:
    """The prompts where the model made one up; what a model reads in those that were asked for it reads again."""
    done = receipt.done
    if not done.read_prompt or has_words(str(receipt.asked.get("prompt") or "")):
        return {}
    return {"prompt": done.read_prompt} | (
        {} if done.read_negative_prompt is None else {"negative_prompt": done.read_negative_prompt}
    )


def _stream(source: Path | bytes) -> io.BytesIO:
    if isinstance(source, Path) and source.stat().st_size > MAX_BYTES:
        raise InvalidImage(f"This file is larger than {MAX_BYTES >> 20} MiB; drop a smaller one.")
    return io.BytesIO(source.read_bytes() if isinstance(source, Path) else source)


def _known_of(value: Any) -> dict[str, Any]:
    """The fingerprint and size that a receipt tells of a picture, or nothing where it tells no such thing."""
    match value:
        case {"sha256": str(sha256), "width": int(width), "height": int(height)} if width > 0 and height > 0:
            return {"sha256": sha256, "width": width, "height": height}
    return {}
