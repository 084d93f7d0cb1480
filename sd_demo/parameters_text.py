"""The `parameters` text that A1111 began and most programs write: found in a picture, taken apart, made settings.

    a red ball, <lora:pencil:0.8>
    Negative prompt: sun
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Hires prompt: "a ball, red"

The prompts may have any number of lines and hold anything, "Steps: 3" included: only the last line is read as settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image

from sd_demo.lora_folder import lora_names
from sd_demo.prompt_grammar import LORA_TAG, NOT_READ
from sd_demo.receipt import SAMPLER_NAMES, TEXT_KEY
from sd_demo.registry import Registry
from sd_demo.requests import SCHEDULER_NAMES, ImageToImage, TextToImage
from sd_demo.restored import Reading, Restored, listed, short

NEGATIVE: Final = "Negative prompt:"
_USER_COMMENT: Final = 0x9286
_SETTING: Final = re.compile(r'(\w[\w /-]{0,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LEAST_SETTINGS: Final = 3  # a last line with fewer is the prompt's own
# Settings that are restored, and those that change nothing here or are told in another way.
_READ: Final = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Denoising strength", "Model"}
_SILENT: Final = {"Model hash", "Version", "Lora hashes", "Batch size", "Batch pos", "RNG", "VAE hash", "User"}
_NUMBERS: Final = {"num_inference_steps": "Steps", "guidance_scale": "CFG scale", "seed": "Seed"}

# What A1111 and its kin call the schedulers, beside SAMPLER_NAMES; lower case, without the schedule.
_OTHER_NAMES: Final = {
    "plms": "pndm",
    "k_lms": "lms",
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "k_euler_ancestral": "euler_a",
    "euler ancestral": "euler_a",
    "k_heun": "heun",
    "dpm++ 2m": "dpmpp_2m",
    "k_dpmpp_2m": "dpmpp_2m",
    "dpm++ sde": "dpmpp_sde",
    "unipc": "unipc",
    "uni_pc": "unipc",
}
# What A1111 runs with Karras' schedule when its schedule type is automatic (modules/sd_samplers_kdiffusion.py).
_KARRAS: Final = ("dpmpp_2m", "dpmpp_sde")
_SCHEDULES: Final = ("karras", "exponential", "polyexponential", "sgm uniform", "simple", "normal", "beta")


@dataclass(frozen=True)
class Parameters:
    """The text taken apart. `loras` are (name, weight as written or "") of the prompt's <lora:…> tags, cut from it."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]
    loras: tuple[tuple[str, str], ...] = field(default=())


def find_parameters(image: Image.Image) -> str | None:
    """The `parameters` text in an opened picture: PNG text, or the EXIF UserComment of JPEG and WebP; None without.

    No pixel is decoded.
    """
    text = image.info.get(TEXT_KEY)
    if isinstance(text, str):
        return text
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all of it to look behind the pixels
        return None
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
    if isinstance(comment, str):
        comment = comment.encode("latin-1", "replace")
    return _user_comment(comment) if isinstance(comment, bytes) else None


def parse_parameters(text: str) -> Parameters:
    """Take a `parameters` text apart. Never raises: what is no setting is prompt."""
    lines = text.replace("\r\n", "\n").strip("\n").split("\n")
    found = _SETTING.findall(lines[-1])
    settings: dict[str, str] = {}
    if len(found) >= _LEAST_SETTINGS or re.match(r"\s*Steps: *\d", lines[-1]):
        settings = {key.strip(): _unquoted(value.strip()) for key, value in found}
        lines.pop()
    start = next((k for k, line in enumerate(lines) if line.lstrip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).lstrip().removeprefix(NEGATIVE).strip()
    prompt = "\n".join(lines[:start])
    loras = tuple((name.strip(), weight.strip()) for name, weight in LORA_TAG.findall(prompt))
    return Parameters(LORA_TAG.sub("", prompt).strip(), negative, settings, loras)


def scheduler_of(sampler: str, schedule: str = "") -> tuple[str | None, bool]:
    """The scheduler key for another program's sampler (and "Schedule type"), and whether it is exactly that one.

    None where nothing here resembles it.
    """
    name, wanted = sampler.strip().lower(), schedule.strip().lower()
    for known in _SCHEDULES:
        if name.endswith(" " + known):
            name, wanted = name.removesuffix(" " + known), known
    known_names = {title.lower(): key for key, title in SAMPLER_NAMES.items()}
    key = _OTHER_NAMES.get(name) or known_names.get(name) or (name if name in SCHEDULER_NAMES else None)
    if wanted == "automatic" and key in _KARRAS:
        wanted = "karras"
    if key == "dpmpp_2m" and wanted == "karras":
        return "dpmpp_2m_karras", True
    return key, key is not None and wanted in ("", "automatic", "normal")


def _user_comment(data: bytes) -> str | None:
    """EXIF 2.3: eight bytes name the character code. UNICODE is UTF-16 of either byte order, which nothing tells."""
    code, body = data[:8], data[8:]
    if code == b"UNICODE\0":
        is_little = body[:2] == b"\xff\xfe" or (body[:2] != b"\xfe\xff" and body[1::2].count(0) > body[::2].count(0))
        body = body[2:] if body[:2] in (b"\xff\xfe", b"\xfe\xff") else body
        text = body.decode("utf-16-le" if is_little else "utf-16-be", "replace")
    elif code in (b"ASCII\0\0\0", b"\0" * 8):
        text = body.decode("utf-8", "replace")
    else:
        text = data.decode("utf-8", "replace")
    return text.strip("\0") or None


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def from_parameters(
    text: str, *, registry: Registry, lora_dir: Path, schedulers: Collection[str] = SCHEDULER_NAMES
) -> Restored:
    """What a `parameters` text gives. Another program's noise is another's: expect a likeness, not the same pixels.

    schedulers: the keys of those that can run here.
    """
    found = parse_parameters(text)
    settings = found.settings
    hires = {key: value for key, value in settings.items() if key.startswith("Hires")}
    is_from_picture = "Denoising strength" in settings and not hires
    reading = Reading(ImageToImage.task if is_from_picture else TextToImage.task)
    if "sd_demo" not in settings.get("Version", ""):
        reading.cannot.append(
            "Another program made it, whose noise is not made here: expect a likeness, not the same pixels."
        )
        if NOT_READ.search(found.prompt) or NOT_READ.search(found.negative_prompt):
            reading.cannot.append(
                "Prompt editing, alternation, AND and hypernetworks are not read here; those words are taken as text."
            )
    reading.take("prompt", found.prompt)
    reading.take("negative_prompt", found.negative_prompt)
    for name, key in _NUMBERS.items():
        reading.take(name, _number(settings.get(key)))
    if is_from_picture:
        reading.take("strength", _number(settings["Denoising strength"]))
    size = re.fullmatch(r"(\d{1,6})x(\d{1,6})", settings.get("Size", ""))
    if size:
        reading.take("width", int(size[1]))
        reading.take("height", int(size[2]))
    if "Sampler" in settings:
        _take_sampler(reading, settings["Sampler"], settings.get("Schedule type", ""), schedulers)
    if "Model" in settings:
        reading.take_model(settings["Model"], registry)
    reading.take_loras([_lora(reading, name, weight, lora_dir) for name, weight in found.loras], lora_dir, registry)
    if hires:
        reading.cannot.append(
            f"The hires fix is not restored, only the first pass ({listed(f'{k} {v}' for k, v in hires.items())})."
        )
    if not settings:
        reading.cannot.append("It holds a prompt and no settings.")
    others = {k: v for k, v in settings.items() if k not in _READ | _SILENT and k not in hires}
    if others and others != {"Clip skip": "1"}:  # the ordinary case, which some programs write down
        reading.cannot.append(f"No counterpart here: {listed(f'{k} {v}' for k, v in others.items())}.")
    return reading.finished({"image": {}} if is_from_picture else {}, None)


def _lora(reading: Reading, name: str, weight: str, lora_dir: Path) -> dict[str, Any]:
    """A tag's LoRA by the name that it has here: tags leave subfolders out."""
    number = _number(weight) if weight else 1.0
    if not isinstance(number, int | float):
        reading.cannot.append(f"The weight {short(weight)} of the LoRA {short(name)} is no number; 1 is taken.")
        number = 1.0
    inside = next((found for found in lora_names(lora_dir) if found.rpartition("/")[2] == name), name)
    return {"name": inside, "weight": float(number)}


def _take_sampler(reading: Reading, sampler: str, schedule: str, schedulers: Collection[str]) -> None:
    key, is_exact = scheduler_of(sampler, schedule)
    there = f"{sampler} {schedule}".strip()
    if key not in schedulers:
        reading.cannot.append(f"The sampler {short(there)} is not here; the model's own scheduler will be used.")
        return
    reading.take("scheduler", key)
    if not is_exact:
        reading.cannot.append(f"The sampler {short(there)} is here only as {key}, with the model's own schedule.")


def _number(text: str | None) -> int | float | str | None:
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    return text
