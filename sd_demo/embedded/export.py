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


def export(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> Path:
    """Save the parts in float16 safetensors at `folder`, replacing what was there in one rename.

    A reader sees the old folder or the new one, never half of one. Raises ValueError where a weight is not
    finite in float16: such a file would load without complaint and draw black pictures.
    """
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
