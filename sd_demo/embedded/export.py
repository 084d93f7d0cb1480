"""Write trained networks as a folder that StableDiffusionPipeline.from_pretrained loads."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.embedded.architecture import build_scheduler
from sd_demo.errors import InvalidRequest
from sd_demo.writable import disk_errors_told


def build_pipeline(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without safety checker (the world has nothing that needs one)."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def check_replaceable(folder: Path, *in_use: Path) -> None:
    """Raises InvalidRequest unless `folder` may be replaced as a whole: it is not there, empty, or a model.

    in_use: folders that must neither be it nor lie in it, besides the one that the process runs in.
    """
    with disk_errors_told(folder, "output"):
        for used in (Path.cwd(), *in_use):
            if used.resolve().is_relative_to(folder.resolve()):
                raise InvalidRequest(
                    f"output: {folder} is or holds {used.resolve()}, which is in use; name another folder.",
                    "output",
                )
        if folder.exists() and not folder.is_dir():
            raise InvalidRequest(f"output: {folder} is a file; name a folder for the model.", "output")
        if folder.is_dir() and not (folder / "model_index.json").is_file() and any(folder.iterdir()):
            raise InvalidRequest(
                f"output: {folder} holds something else than a model, which would be lost; name a new or empty folder.",
                "output",
            )


def export(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> Path:
    """Save the parts in float16 safetensors at `folder`, replacing the model that was there in one rename.

    A reader sees the old folder or the new one, never half of one. Raises InvalidRequest as `check_replaceable` does,
    and ValueError where a weight is not finite in float16: such a file would load without complaint and draw black
    pictures.
    """
    check_replaceable(folder)
    folder = folder.resolve()  # what a link points to is replaced, not the link
    fresh = folder.with_name(f".{folder.name}.new")
    stale = folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    halves = _in_float16(vae), _in_float16(unet), _in_float16(text_encoder)
    build_pipeline(*halves, tokenizer).save_pretrained(fresh)
    _finish(fresh, tokenizer)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)
    return folder


def _in_float16(module: Any) -> Any:
    half = copy.deepcopy(module).to("cpu")
    for name, value in [*half.named_parameters(), *half.named_buffers()]:
        if value.is_floating_point():
            value.data = value.data.to(torch.float16)
            if not torch.isfinite(value).all():
                raise ValueError(f"{type(module).__name__}: {name} is not finite in float16; nothing was written.")
    return half


def _finish(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """What save_pretrained leaves open, so that older and newer readers load the folder alike."""
    # transformers 5 loads a text encoder in the dtype that its config names, diffusers the others in float32:
    # without this line a plain from_pretrained(folder) mixes the two and stops at the first matrix product.
    config = folder / "text_encoder" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**settings, "dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # vocab.json and merges.txt: transformers 5 writes tokenizer.json alone, which older programs do not read.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
