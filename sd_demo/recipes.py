"""One picture as code, three times: a diffusers script, a gradio_client call, a command line; each gives its pixels.

All text of a person goes through `repr` or `shlex`, so that no prompt can become code.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sd_demo.checkpoints.single_file import has_guidance
from sd_demo.diffusers_script import diffusers_script, name_elsewhere
from sd_demo.errors import InvalidRequest
from sd_demo.receipt import Receipt
from sd_demo.registry import Registry
from sd_demo.restored import Restored
from sd_demo.upscale import Upscale
from sd_demo.upscale_script import upscale_script

INPUTS: Final[Mapping[str, str]] = MappingProxyType({"image": "input.png", "mask_image": "mask.png"})
DEVICES: Final = ("cpu", "cuda", "mps")
DTYPES: Final = ("float32", "bfloat16", "float16")
_UNREADABLE: Final = (
    "# diffusers alone reads no model of latent consistency from a single file; the command and gradio_client do it.\n"
)
URL: Final = "http://127.0.0.1:7860/"


@dataclass(frozen=True)
class Recipes:
    """The three texts for one picture."""

    diffusers: str
    client: str
    command: str


def recipes(restored: Restored, registry: Registry, *, files: Mapping[str, str] = INPUTS, url: str = URL) -> Recipes:
    """The three texts for the picture that `restored` came from; `files` names the pictures that it was made from.

    Raises InvalidRequest where the picture was not made here, so that what made it is not known exactly, and where
    model, LoRA or a value is missing here, so that the code would make another one.
    """
    receipt = restored.receipt
    if receipt is None:
        raise InvalidRequest("Only a picture with a receipt of this program can be told as code.")
    if restored.lost:
        raise InvalidRequest(f"There is no code for it here: {restored.lost[0]}")
    # The receipt may be anybody's, and these two become code without quotes.
    if receipt.done.device not in DEVICES or receipt.done.dtype not in DTYPES or not _is_whole(restored):
        raise InvalidRequest("The receipt holds values that this program would not run, so there is no code for it.")
    entry = registry.get(receipt.done.model)
    script = upscale_script if restored.task == Upscale.task else diffusers_script
    note = "".join(f"# {files[name]}: the {name} that this was made from\n" for name in restored.pictures)
    return Recipes(
        note + (_UNREADABLE if has_guidance(Path(entry.source)) else script(restored, receipt, registry, files)),
        note + client_call(restored, files, url),
        note + command_line(restored, receipt, files, name_elsewhere(entry, registry)),
    )


def command_line(restored: Restored, receipt: Receipt, files: Mapping[str, str], model: str) -> str:
    """For a POSIX shell, where the model is called `model`.

    Device and precision are named, because another machine would choose others.
    """
    is_upscale = restored.task == Upscale.task
    words = ["python", "-m", "sd_demo", *(["upscale", files["image"]] if is_upscale else ["generate"])]
    pictures = {} if is_upscale else {name: files[name] for name in restored.pictures}
    given = {**_told(restored), "model": model, **pictures}
    prompt = "" if is_upscale else given.pop("prompt", "")
    loras = given.pop("loras", [])
    given |= {"device": receipt.done.device, "dtype": receipt.done.dtype}
    if receipt.done.dtype != "float32":  # in float32 all give the same picture
        given["attention"] = receipt.done.attention
    for name, value in given.items():
        words += _flag(f"--{name.replace('_', '-')}", str(value))
    for lora in loras:
        words += _flag("--lora", f"{lora['name']}:{lora['weight']!r}")
    last = [] if is_upscale else [*(["--"] if prompt.startswith("-") else []), prompt]
    return shlex.join([*words, *last])


def client_call(restored: Restored, files: Mapping[str, str], url: str) -> str:
    """Python with gradio_client, for the page that is served at `url`."""
    given = {name: repr(value) for name, value in _told(restored).items()}
    if "loras" in given:
        given["loras"] = repr([f"{lora['name']}:{lora['weight']!r}" for lora in restored.values["loras"]])
    given |= {name: f"handle_file({files[name]!r})" for name in restored.pictures}
    arguments = "".join(f"    {name}={value},\n" for name, value in given.items())
    return (
        "from gradio_client import Client, handle_file\n\n"
        f"client = Client({url!r})\n"
        "pictures, receipts = client.predict(\n"
        f"{arguments}"
        f'    api_name="/{restored.task}",\n'
        ")\n"
        'print(pictures[0]["image"])\n'
    )


def _is_whole(restored: Restored) -> bool:
    """Whether the receipt gave every value that the code names, each within its bounds."""
    names = {"prompt", "num_inference_steps", "guidance_scale", "scheduler", "seed", "model"}
    names |= (
        {"width", "height"} if not restored.pictures else {"scale"} if restored.task == Upscale.task else {"strength"}
    )
    return names <= set(restored.values) and all(restored.pictures.values())


def _told(restored: Restored) -> dict[str, Any]:
    """The values without those that say what is so anyway."""
    plain = {"negative_prompt": "", "num_images_per_prompt": 1, "keep_best": None, "grid": None, "loras": []}
    return {name: value for name, value in restored.values.items() if plain.get(name) != value}


def _flag(name: str, value: str) -> list[str]:
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
