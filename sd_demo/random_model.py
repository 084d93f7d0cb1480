"""Models of any published architecture with random weights: their memory, speed and code path without a download.

Every tensor is drawn from its own generator, seeded by the model's seed and the tensor's name, so that the same
call gives the same model everywhere, and no tensor is ever held twice.
"""

from __future__ import annotations

import json
import math
import threading
import zlib
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final

import diffusers
import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sd_demo.architectures import ARCHITECTURES, MAX_TOKENS, Architecture
from sd_demo.errors import InvalidRequest, OutputFailed
from sd_demo.known_models import Scale

_ONE_AT_A_TIME: Final = threading.Lock()
IMAGE_PROCESSOR: Final = {  # CLIP's own preprocessing; its mean and deviation of RGB over its training pictures
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def architecture(like: str, scale: Scale = "full") -> Architecture:
    """The architecture called `like`, or its tiny twin. Raises InvalidRequest for a name that is none."""
    if like not in ARCHITECTURES:
        raise InvalidRequest(
            f"There is no architecture {like[:40]!r}; choose one of {', '.join(ARCHITECTURES)}.", "like"
        )
    found = ARCHITECTURES[like]
    return found.tiny() if scale == "tiny" else found


def build(like: str, scale: Scale = "full", seed: int = 0, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The components of a pipeline of `like`, on the CPU.

    dtype: of the weights; default float16 at full size (as the files that people download) and float32 when tiny. The
        values are drawn in that default and cast, so that they are the same model in every precision.
    """
    made = architecture(like, scale)
    drawn = torch.float16 if scale == "full" else torch.float32
    parts: dict[str, Any] = dict(outline(made))
    for name, part in parts.items():
        _fill(part, drawn, dtype or drawn, f"{seed}/{name}")
    if made.text_encoder:
        parts["tokenizer"] = tokenizer(made.text_encoder["vocab_size"], made.pad_token)
    for name, (kind, config) in made.schedulers:
        parts[name] = getattr(diffusers, kind).from_config(config)
    return parts


def outline(made: Architecture) -> dict[str, torch.nn.Module]:
    """The networks of an architecture without weights: their parameters are on the device "meta"."""
    # What makes modules empty is a patch of PyTorch's own class, which two threads would leave behind.
    with _ONE_AT_A_TIME, init_empty_weights():
        parts: dict[str, Any] = {}
        if made.unet:
            parts["unet"] = diffusers.UNet2DConditionModel.from_config(made.unet)
        if made.vae:
            parts["vae"] = diffusers.AutoencoderKL.from_config(made.vae)
        if made.text_encoder and not made.vision:
            parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**made.text_encoder))
        if made.vision:
            width = made.vision["projection_dim"]
            both = CLIPConfig(text_config=made.text_encoder or {}, vision_config=made.vision, projection_dim=width)
            parts["model"] = CLIPModel(both) if made.text_encoder else StableDiffusionSafetyChecker(both)
        return parts


def save(like: str, folder: Path, scale: Scale = "full", seed: int = 0, *, told_by: str = "--output") -> Path:
    """Write the model as a folder that diffusers loads (or transformers, for a network that stands alone).

    told_by: the flag or variable that the folder comes from, for sentences.
    Raises OutputFailed where the folder cannot be written, or holds something already.
    """
    made = architecture(like, scale)
    transformers_logging.disable_progress_bar()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputFailed(f"{told_by} {folder} is not empty; choose another folder.")
        parts = build(like, scale, seed)
        if made.pipeline:
            _save_pipeline(made, parts, folder)
        else:
            parts["model"].save_pretrained(folder)
            _write_json(folder / "preprocessor_config.json", IMAGE_PROCESSOR)
            if "tokenizer" in parts:
                _save_tokenizer(parts["tokenizer"], folder)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes them private
    except (OSError, SafetensorError) as error:  # a full disk is the second one
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise OutputFailed(f"{told_by} {folder} cannot be written ({why}); choose another folder.") from error
    return folder


def tokenizer(size: int, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:  # noqa: S107 - a token of text, no secret
    """A CLIP tokenizer of `size` tokens: all bytes, then letters joined two, three and four at a time.

    Its words are not CLIP's, which suits random weights; its form, size and special tokens are.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # "!" comes first, as in CLIP
    ends = [byte + "</w>" for byte in alphabet]
    merges = list(islice(_merges(), size - 2 * len(alphabet) - 2))
    tokens = [*alphabet, *ends, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocabulary, merges, model_max_length=MAX_TOKENS, pad_token=pad_token)


def _merges() -> Iterator[tuple[str, str]]:
    for length in (2, 3, 4):
        for letters in product(ascii_lowercase, repeat=length):
            start, last = "".join(letters[:-1]), letters[-1]
            yield start, last
            yield start, f"{last}</w>"


def _fill(module: torch.nn.Module, drawn: torch.dtype, dtype: torch.dtype, seed: str) -> None:
    """Values of the size that PyTorch's own initialisation gives: activations stay finite, also in float16."""
    for name, empty in list(module.named_parameters()):
        shape = empty.shape
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        if len(shape) < 2:
            value = torch.ones(shape) if "weight" in name else torch.zeros(shape)
        else:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            value = torch.empty(shape, dtype=drawn).uniform_(-bound, bound, generator=generator)
        set_module_tensor_to_device(module, name, "cpu", value=value.to(dtype), dtype=dtype)
    module.eval().requires_grad_(False)


def _save_pipeline(made: Architecture, parts: dict[str, Any], folder: Path) -> None:
    kind = getattr(diffusers, made.pipeline)
    extras = {} if made.max_noise_level is None else {"max_noise_level": made.max_noise_level}
    if "requires_safety_checker" in kind.__init__.__annotations__:
        extras["requires_safety_checker"] = False
        parts = {"safety_checker": None, "feature_extractor": None, **parts}
    kind(**parts, **extras).save_pretrained(folder, max_shard_size="20GB")
    # transformers loads a text encoder in the dtype that its config names, diffusers the others in float32: a plain
    # from_pretrained(folder) must not mix the two.
    config = folder / "text_encoder" / "config.json"
    _write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"})
    _save_tokenizer(parts["tokenizer"], folder / "tokenizer")


def _save_tokenizer(made: CLIPTokenizer, folder: Path) -> None:
    made.save_pretrained(folder)
    made.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt, for programs older than tokenizer.json


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
