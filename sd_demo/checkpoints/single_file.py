"""A model in one .safetensors file, as most of the community shares them: weights without configs and tokenizer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPTokenizer

from sd_demo.architectures import ARCHITECTURES
from sd_demo.checkpoints.parts import CLASSES, check_keys
from sd_demo.errors import ModelUnavailable
from sd_demo.model_files import INDEX, NETWORKS, PARTS

_UNET_PREFIX: Final = "model.diffusion_model."
_FIRST: Final = f"{_UNET_PREFIX}input_blocks.0.0.weight"
_KEYS_OF_PROMPT: Final = f"{_UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
_TOKENS: Final = (
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",  # version 1
    "cond_stage_model.model.token_embedding.weight",  # version 2
)


def read_file(path: Path, dtype: torch.dtype, tokenizers: Sequence[Path]) -> dict[str, Any]:
    """The parts of the checkpoint at `path`.

    Configs: those of a diffusers folder beside it (of its own name without .safetensors, or the folder that it lies
    in), else the published ones of its family. Tokenizer: beside it, else the first of `tokenizers` that fits.
    Raises ModelUnavailable for a file that is incomplete or no checkpoint of Stable Diffusion 1 or 2.
    """
    with safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata() or {}
    _check_checkpoint(path.name, shapes)
    tokens = next(shapes[key][0] for key in _TOKENS if key in shapes)
    beside = path.with_suffix("") if (path.with_suffix("") / INDEX).is_file() else path.parent
    with tempfile.TemporaryDirectory() as made:
        has_config = (beside / INDEX).is_file()
        folder = beside if has_config else _write_config(Path(made), shapes, metadata)
        near = (path.with_suffix("") / "tokenizer", path.parent / "tokenizer", *tokenizers)
        tokenizer = _lent_tokenizer(path.name, tokens, near, shapes)
        try:
            pipe = StableDiffusionPipeline.from_single_file(
                str(path), config=str(folder), local_files_only=True, dtype=dtype, tokenizer=tokenizer,
                safety_checker=None, feature_extractor=None, image_encoder=None,
            )  # fmt: skip
        except NotImplementedError as error:  # "Cannot copy out of meta tensor": nothing was read into it
            raise ModelUnavailable(f"{path.name} lacks some of its weights; fetch it again.") from error
    parts = {name: getattr(pipe, name) for name in PARTS}
    for name in NETWORKS:
        missing = [key for key, value in parts[name].state_dict().items() if value.is_meta]
        check_keys(f"{path.name}, {name}", missing, ())
    surplus = sum(key.startswith(_UNET_PREFIX) for key in shapes) - len(parts["unet"].state_dict())
    if surplus > 0:
        raise ModelUnavailable(f"{path.name} has {surplus} weights that the UNet of its family has no place for.")
    return parts


def _check_checkpoint(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    if _FIRST not in shapes:
        is_lora = any("lora" in key for key in shapes)
        what = "a LoRA, which goes on a model" if is_lora else "no checkpoint of Stable Diffusion 1 or 2"
        raise ModelUnavailable(f"{name} is {what}; name a full checkpoint.")
    if any(key.startswith("conditioner.") for key in shapes):
        raise ModelUnavailable(f"{name} is of Stable Diffusion XL; only models of Stable Diffusion 1 and 2 run here.")
    if not any(key in shapes for key in _TOKENS):
        raise ModelUnavailable(f"{name} holds no text encoder; name a full checkpoint.")


def _write_config(folder: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> Path:
    """The config files of the checkpoint's family, told by its shapes."""
    is_first = _TOKENS[0] in shapes
    is_inpainting = shapes[_FIRST][1] == 9
    made = ARCHITECTURES["sd-1.5" if is_first else "sd-2.1"]
    if is_inpainting:
        made = ARCHITECTURES["sd-1.5-inpainting" if is_first else "sd-2-inpainting"]
    kind, scheduler = made.schedulers[0][1]
    # Weights do not tell what they predict; a v2 file that does not say is taken for 2.1, as diffusers does.
    if (said := metadata.get("modelspec.prediction_type")) is not None:
        scheduler = scheduler | {"prediction_type": "v_prediction" if said.startswith("v") else "epsilon"}
    configs = {
        "unet": made.unet,
        "vae": made.vae,
        "text_encoder": {**(made.text_encoder or {}), "model_type": "clip_text_model"},
    }
    for name, config in configs.items():
        _write(folder / name / "config.json", {**(config or {}), "_class_name": CLASSES[name].__name__})
    _write(folder / "scheduler" / "scheduler_config.json", {**scheduler, "_class_name": kind})
    named = {name: ["transformers", CLASSES[name].__name__] for name in ("text_encoder", "tokenizer")}
    named |= {name: ["diffusers", CLASSES[name].__name__] for name in ("unet", "vae")}
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", kind], **named}
    _write(folder / INDEX, index | {name: [None, None] for name in ("safety_checker", "feature_extractor")})
    return folder


def _lent_tokenizer(name: str, tokens: int, folders: Iterable[Path], shapes: dict[str, Any]) -> CLIPTokenizer:
    pad = {} if _TOKENS[0] in shapes else {"pad_token": "!"}  # OpenCLIP pads with token 0
    for folder in folders:
        if (folder / "tokenizer_config.json").is_file():
            found = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **pad)
            if len(found) == tokens:
                return found
    raise ModelUnavailable(
        f"{name} holds no tokenizer (single files never do) and none for it is here yet: python -m sd_demo download "
        "tokenizer fetches it once (2 MB), or put a folder tokenizer beside the file."
    )


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
