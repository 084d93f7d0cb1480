"""The diffusers script that makes one picture again, with what this program does before and after the pipeline.

diffusers' own pipelines do the rest alike: in float32 their latents are those of the shared loop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sd_demo.canvas import FEATHER, OPAQUE, working_size
from sd_demo.errors import InvalidRequest
from sd_demo.known_models import RANDOM
from sd_demo.lora_folder import SUFFIX
from sd_demo.model_files import NETWORKS, SAFETY_CHECKER, weights_in
from sd_demo.prompt_grammar import parse_prompt
from sd_demo.receipt import Done, Receipt
from sd_demo.registry import ModelEntry, Registry
from sd_demo.requests import ImageToImage, Inpaint, TextToImage
from sd_demo.restored import Restored
from sd_demo.schedulers import diffusers_class, takes_seeds

OUTPUT: Final = "picture.png"
LORA_FOLDER: Final = "loras"
_BLOCK: Final = 8  # pixels that one latent of Stable Diffusion stands for
_PIPELINES: Final[dict[str, str]] = {
    TextToImage.task: "StableDiffusionPipeline",
    ImageToImage.task: "StableDiffusionImg2ImgPipeline",
    Inpaint.task: "StableDiffusionInpaintPipeline",
}


@dataclass(frozen=True)
class _Pictures:
    """What a task's pictures add to the script: lines before and after the call, and its own arguments."""

    arguments: dict[str, Any]
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def diffusers_script(restored: Restored, receipt: Receipt, registry: Registry, files: Mapping[str, str]) -> str:
    """Python with diffusers alone; weighted prompts and long ones need this project's encoder as well.

    Raises InvalidRequest for a model that lies in no files.
    """
    entry, done, values = registry.get(receipt.done.model), receipt.done, restored.values
    pipeline, scheduler = _PIPELINES[receipt.task], diffusers_class(values["scheduler"])[0]
    pictures = _pictures(restored, receipt, entry, files)
    words = done.words_read(values)  # diffusers leaves nothing out of a prompt
    texts = {name: repr(text) for name, text in words.items()}
    encoding: list[str] = []
    if needs_encoder(words, done):
        encoding = [
            "# Words in brackets weigh more or less, and a prompt may be longer than the text encoder.",
            "words = PromptEncoder(pipe.tokenizer, pipe.text_encoder).encode(",
            # A negative prompt that is not read must not make the other longer.
            f"    {texts['prompt']},\n    {repr('') if done.is_guided is False else texts['negative_prompt']},",
            "    device=pipe.device,\n    dtype=pipe.dtype,\n)",
        ]
        texts = {f"{name}_embeds": f"words.{name}_embeds" for name in texts}
    arguments = {
        **texts,
        **pictures.arguments,
        "num_inference_steps": values["num_inference_steps"],
        "guidance_scale": values["guidance_scale"],
        "generator": f'torch.Generator("cpu").manual_seed({values["seed"]})',
    }
    loaded = [
        f"pipe = {pipeline}.{loading(entry, done, registry)}",
        f'pipe = pipe.to("{done.device}")',
        scheduling(values["scheduler"], entry, done, repr(values["seed"])),
        *lora_lines(values.get("loras", [])),
    ]
    call = ["result = pipe(", *(f"    {name}={value}," for name, value in arguments.items()), ").images[0]"]
    body = [*loaded, *pictures.before, *encoding, *call, *pictures.after, f'result.save("{OUTPUT}")']
    return "\n".join([*imports("\n".join(body), {pipeline, scheduler}), "", *body, ""])


def imports(body: str, of_diffusers: set[str]) -> list[str]:
    """The lines that a script of this `body` begins with."""
    modules = [name for name in ("Image", "ImageFilter", "ImageOps") if f"{name}." in body]
    return [
        *(["import numpy as np"] if "np." in body else []),
        "import torch",
        f"from diffusers import {', '.join(sorted(of_diffusers))}",
        *([f"from PIL import {', '.join(modules)}"] if modules else []),
        *(["", "from sd_demo.known_models import EMBEDDED_FOLDER"] if "EMBEDDED_FOLDER" in body else []),
        *(["from sd_demo.plan import strength_of_a_step"] if "strength_of_a_step(" in body else []),
        *(["from sd_demo.prompts import PromptEncoder"] if "PromptEncoder(" in body else []),
        *(["from sd_demo.registry import Registry"] if "Registry(" in body else []),
        *(["from sd_demo.upscale import joined, plan_upscaling"] if "plan_upscaling(" in body else []),
    ]


def loading(entry: ModelEntry, done: Done, registry: Registry) -> str:
    """The call that loads the model, with the weights that the program takes and the checker that it had.

    Raises InvalidRequest for a model that lies in no files.
    """
    if entry.source.startswith(RANDOM):
        raise InvalidRequest("A model of random weights is made in memory; there are no files for diffusers to load.")
    if entry.source.endswith(SUFFIX):
        return f"from_single_file({place(entry, registry)!r}, dtype=torch.{done.dtype})"
    # A folder of this project is named by the project, so that the script tells no path of this machine.
    where = "EMBEDDED_FOLDER" if entry.is_embedded else repr(place(entry, registry))
    revision = "" if entry.revision is None else f", revision={entry.revision!r}"
    folder = registry.weights(entry)
    # diffusers decides by part, as the program does: those that have no such files are loaded plain.
    parts = (*NETWORKS, SAFETY_CHECKER) if done.is_safety_checked else NETWORKS
    is_half = folder is not None and any(weights_in(folder / part) for part in parts)
    variant = ", variant='fp16'" if is_half else ""
    has_none = entry.is_embedded or entry.upscale_factor > 1
    checker = "" if done.is_safety_checked or has_none else ", safety_checker=None"
    return f"from_pretrained({where}{revision}{variant}, dtype=torch.{done.dtype}{checker})"


def place(entry: ModelEntry, registry: Registry) -> str:
    """The hub id, file or folder of the model for a script; of those only the name where strangers read the script."""
    path = Path(entry.source)
    return entry.source if registry.takes_paths or not path.exists() else Path(os.path.abspath(path)).name


def name_elsewhere(entry: ModelEntry, registry: Registry) -> str:
    """What this program finds the model by on the machine of whoever reads the script."""
    return entry.name if entry.is_embedded or not Path(entry.source).exists() else place(entry, registry)


def scheduling(name: str, entry: ModelEntry, done: Done, seed: str) -> str:
    """The line that gives the pipeline the scheduler `name`. seed: an expression for the picture's seed."""
    kind, settings = diffusers_class(name)
    if entry.source.endswith(SUFFIX) and done.prediction_type is not None:
        settings["prediction_type"] = done.prediction_type  # diffusers goes by the shapes in the file alone
    seeds = f", noise_sampler_seed=[{seed}]" if takes_seeds(name) else ""
    return f"pipe.scheduler = {kind}.from_config({_listed('pipe.scheduler.config', settings)}{seeds})"


SCALED: Final = """\
grey = mask.resize(({width}, {height}), Image.Resampling.BILINEAR).point(lambda v: 255 if v > 0 else 0)
# What is small beside a pixel is scaled to nothing: the greatest value of what a pixel stands for counts, too.
greatest = np.maximum.reduceat(np.asarray(mask), np.arange({height}) * mask.height // {height}, axis=0)
greatest = np.maximum.reduceat(greatest, np.arange({width}) * mask.width // {width}, axis=1)
mask = Image.fromarray(np.maximum(np.asarray(grey), greatest))
"""
_OPENED: Final = (  # transparency as read_picture and read_mask lay it on a ground
    "",
    "",
    "def opened(file, ground):",
    "    picture = ImageOps.exif_transpose(Image.open(file))",
    '    if picture.mode.startswith("I;16"):  # which convert() would cut off at 255',
    "        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))",
    '    picture = picture.convert("RGBA")',
    '    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")',
    "",
    "",
)


def _pictures(restored: Restored, receipt: Receipt, entry: ModelEntry, files: Mapping[str, str]) -> _Pictures:
    if receipt.task == TextToImage.task:
        size = restored.values["width"], restored.values["height"]
        padded = _padded(size)
        return _Pictures({"height": padded[1], "width": padded[0]}, after=_crop(size, padded))
    known = restored.pictures["image"]
    whole = known["width"], known["height"]
    wanted = restored.values.get("width"), restored.values.get("height")
    native_size = receipt.done.native_size or entry.native_size  # of a single file only its weights tell
    width, height, _ = working_size(receipt.task, whole, wanted, native_size)
    padded = _padded((width, height))
    right, below = padded[0] - width, padded[1] - height
    pad = f'image = Image.fromarray(np.pad(np.asarray(image), ((0, {below}), (0, {right}), (0, 0)), mode="edge"))'
    pads = [pad] if right or below else []
    opened = f'opened({files["image"]!r}, "white")'
    arguments = {"image": "image", "strength": restored.values["strength"]}
    if receipt.task == ImageToImage.task:
        fit = f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.LANCZOS)"
        return _Pictures(arguments, [*_OPENED, f"image = {opened}", fit, *pads], _crop((width, height), padded))
    mask = f'opened({files["mask_image"]!r}, "black").convert("L")'
    is_resized = (width, height) != whole
    rows, columns = padded[1] // _BLOCK, padded[0] // _BLOCK
    before = [
        f"original = image = {opened}",
        f"painted = mask = {mask}.point(lambda v: 255 if v >= 128 else 0)",
        *([f"image = image.resize(({width}, {height}), Image.Resampling.LANCZOS)"] if is_resized else []),
        *(SCALED.format(width=width, height=height).splitlines() if is_resized else []),
        *pads,
        *([f"mask = ImageOps.expand(mask, (0, 0, {right}, {below}))"] if pads else []),
        "# Every latent that the mask touches is repainted; of each only one pixel's mask would be read.",
        f"blocks = np.asarray(mask).reshape({rows}, {_BLOCK}, {columns}, {_BLOCK}).max(axis=(1, 3))",
        f"mask = Image.fromarray(blocks.repeat({_BLOCK}, axis=0).repeat({_BLOCK}, axis=1))",
    ]
    after = [
        *_crop((width, height), padded),
        *(["result = result.resize(original.size, Image.Resampling.LANCZOS)"] if is_resized else []),
        "# Pixels outside the mask stay the input's; inside it the seam fades over a few pixels, not in thin lines.",
        f"soft = np.asarray(painted.filter(ImageFilter.GaussianBlur({FEATHER / 2})), dtype=np.float32)",
        "alpha = ((soft - 127.5) * 2).clip(0, 255)",
        "alpha[np.asarray(painted) == 0] = 0",
        f"core = Image.fromarray(np.where(alpha >= {OPAQUE}, 255, 0).astype(np.uint8))",
        f"is_near = np.asarray(core.filter(ImageFilter.MaxFilter({2 * FEATHER + 1}))) > 0",
        "alpha[(np.asarray(painted) > 0) & ~is_near] = 255",
        "result = Image.composite(result, original, Image.fromarray(alpha.round().astype(np.uint8)))",
    ]
    of_mask = {"mask_image": "mask", "height": padded[1], "width": padded[0]}
    return _Pictures(arguments | of_mask, [*_OPENED, *before], after)


def _padded(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // _BLOCK) * _BLOCK, -(-size[1] // _BLOCK) * _BLOCK


def _crop(size: tuple[int, int], padded: tuple[int, int]) -> list[str]:
    return [] if size == padded else [f"result = result.crop((0, 0, {size[0]}, {size[1]}))"]


def _listed(first: str, named: Mapping[str, Any]) -> str:
    return ", ".join([first, *(f"{name}={value!r}" for name, value in named.items())])


def needs_encoder(values: Mapping[str, Any], done: Done) -> bool:
    """Whether diffusers alone would read the prompts of `values` otherwise."""
    read = ("prompt",) if done.is_guided is False else ("prompt", "negative_prompt")
    return done.prompt_chunks > 1 or not all(is_plain(values.get(name, "")) for name in read)


def is_plain(prompt: str) -> bool:
    """Whether diffusers reads `prompt` as this program does: without weights and breaks."""
    sections = parse_prompt(prompt)
    parts = [part for section in sections for part in section]
    return len(sections) == 1 and all(p.weight == 1 for p in parts) and "".join(p.text for p in parts) == prompt


def lora_lines(loras: list[dict[str, Any]]) -> list[str]:
    """The lines that put `loras` on the pipeline."""
    lines = []
    for k, lora in enumerate(loras):
        path = Path(lora["name"]) if lora["name"].endswith(SUFFIX) else Path(LORA_FOLDER, lora["name"] + SUFFIX)
        where = {"weight_name": path.name, "adapter_name": f"lora_{k}"}
        lines.append(f"pipe.load_lora_weights({_listed(repr(path.parent.as_posix()), where)})")
    if loras:
        names, weights = [f"lora_{k}" for k in range(len(loras))], [lora["weight"] for lora in loras]
        lines.append(f"pipe.set_adapters({names!r}, {weights!r})")
    return lines
