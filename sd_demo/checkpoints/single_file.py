"""A model in one .safetensors file, as most of the community shares them: weights without configs and tokenizer."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTokenizer

from sd_demo.architectures import ARCHITECTURES, VOCABULARY
from sd_demo.checkpoints.parts import CLASSES, check_keys
from sd_demo.errors import ModelUnavailable
from sd_demo.file_header import (
    FIRST,
    NATIVE,
    TEXT_PREFIX,
    TOKENS,
    UNET_PREFIX,
    VAE_PREFIXES,
    FileHeader,
    folder_beside,
)
from sd_demo.model_files import INDEX, NETWORKS, PARTS

log = logging.getLogger(__name__)

_KEYS_OF_PROMPT: Final = f"{UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
_EARLY: Final = f"{TEXT_PREFIX}transformer.embeddings.token_embedding.weight"  # of merges from before text_model
_OTHER_KINDS: Final = {  # by the channels that the UNet takes
    5: " (depth to image)",
    7: " (the x4 upscaler: python -m sd_demo download x4-upscaler fetches it as a folder, which runs)",
    8: " (InstructPix2Pix)",
}


def read_file(path: Path, dtype: torch.dtype, tokenizers: Sequence[Path]) -> dict[str, Any]:
    """The parts of the checkpoint at `path`.

    Configs: those of a diffusers folder beside it (of its own name without .safetensors, or the folder that it lies
    in), else the published ones of its family. What version 2 predicts is told by the file's metadata, else by a trial.
    Tokenizer: beside it, else the first of `tokenizers` that fits.
    Raises ModelUnavailable for a file that is incomplete or no checkpoint of Stable Diffusion 1 or 2.
    """
    header, tokenizer = check_file(path, tokenizers)
    shapes, beside = header.shapes, folder_beside(path)
    with tempfile.TemporaryDirectory() as made:
        folder = beside or _write_config(Path(made), header)
        try:
            own = {"unet": _guided_unet(path, folder, dtype, header.guidance)} if header.guidance else {}
            pipe = StableDiffusionPipeline.from_single_file(
                str(path), config=str(folder), local_files_only=True, dtype=dtype, tokenizer=tokenizer,
                safety_checker=None, feature_extractor=None, image_encoder=None, **own,
            )  # fmt: skip
        except NotImplementedError as error:  # "Cannot copy out of meta tensor": nothing was read into it
            raise ModelUnavailable(f"{path.name} lacks some of its weights; fetch it again.") from error
    parts = {name: getattr(pipe, name) for name in PARTS}
    for name in NETWORKS:
        missing = [key for key, value in parts[name].state_dict().items() if value.is_meta]
        check_keys(f"{path.name}, {name}", missing, ())
    surplus = sum(key.startswith(UNET_PREFIX) for key in shapes) - len(parts["unet"].state_dict())
    if surplus > 0:
        raise ModelUnavailable(f"{path.name} has {surplus} weights that the UNet of its family has no place for.")
    if beside is None and header.is_version_2 and shapes[FIRST][1] == 4 and header.prediction is None:
        found = "epsilon" if predicts_noise(parts["unet"]) else "v_prediction"
        parts["scheduler"].register_to_config(prediction_type=found)
        parts["unet"].register_to_config(sample_size=NATIVE[found])
        log.info(
            "%s does not say what it predicts; a trial says %s (modelspec.prediction_type in its metadata decides)",
            path.name, found,
        )  # fmt: skip
    return parts


def check_file(path: Path, tokenizers: Sequence[Path]) -> tuple[FileHeader, CLIPTokenizer]:
    """What `read_file` needs before it reads gigabytes. Raises ModelUnavailable for what the header rules out."""
    header = FileHeader.read(path)
    _check_checkpoint(path.name, header.shapes)
    tokens = next(header.shapes[key][0] for key in TOKENS if key in header.shapes)
    near = (path.with_suffix("") / "tokenizer", path.parent / "tokenizer", *tokenizers)
    return header, _lent_tokenizer(path.name, tokens, near, header)


def has_guidance(path: Path) -> bool:
    """Whether `path` is a checkpoint of latent consistency, which diffusers alone reads of no single file."""
    try:
        return FileHeader.read(path).guidance is not None
    except (OSError, ValueError):  # no file, or none of that kind
        return False


def _guided_unet(path: Path, folder: Path, dtype: torch.dtype, key: str) -> UNet2DConditionModel:
    """The UNet with the embedding of the guidance that lies under `key`; diffusers' conversion knows no such weight."""
    unet = UNet2DConditionModel.from_single_file(
        str(path), config=str(folder), subfolder="unet", local_files_only=True, dtype=dtype, time_cond_proj_dim=None
    )
    with safe_open(path, framework="pt") as file:
        weight = file.get_tensor(key)
    unet.time_embedding.cond_proj = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    unet.time_embedding.cond_proj.load_state_dict({"weight": weight})
    unet.register_to_config(time_cond_proj_dim=weight.shape[1])
    return unet


def _check_checkpoint(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if FIRST not in shapes:
        is_lora = any("lora" in key for key in shapes)
        what = "a LoRA, which goes on a model" if is_lora else "no checkpoint of Stable Diffusion 1 or 2"
        raise ModelUnavailable(f"{name} is {what}; name a full checkpoint.")
    if any(key.startswith("conditioner.") for key in shapes):
        raise ModelUnavailable(f"{name} is of Stable Diffusion XL; only models of Stable Diffusion 1 and 2 run here.")
    channels = shapes[FIRST][1]
    if channels not in (4, 9):
        raise ModelUnavailable(
            f"{name} takes {channels} channels{_OTHER_KINDS.get(channels, '')}; of single files only those run here "
            "that take 4 (text-to-image) or 9 (inpainting)."
        )
    if _EARLY in shapes and not any(key in shapes for key in TOKENS):
        raise ModelUnavailable(
            f"{name} has its text encoder under names from before text_model, which are not read here; save it anew "
            "with a current program, or name another checkpoint."
        )
    if not any(key in shapes for key in TOKENS):
        raise ModelUnavailable(f"{name} holds no text encoder; name a full checkpoint.")
    if not any(key.startswith(VAE_PREFIXES) for key in shapes):
        raise ModelUnavailable(f"{name} holds no VAE; name a full checkpoint.")
    width = next(shapes[key][1] for key in TOKENS if key in shapes)
    if (read := shapes.get(_KEYS_OF_PROMPT, (0, width))[1]) != width:
        raise ModelUnavailable(f"{name} has a text encoder of width {width} and a UNet that reads {read}.")


@torch.no_grad()
def predicts_noise(unet: Any) -> bool:
    """Whether a UNet of 4 channels predicts the noise (epsilon), found by one call; False of one that does not work.

    At the last timestep its input is all but pure noise. A model of epsilon answers with that noise, so that the answer
    grows one to one with the input; v is little more than the picture to be, turned round, and hardly knows the noise.
    """
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    words = torch.zeros(1, 77, unet.config.cross_attention_dim)
    with _in_float32(unet):
        answer = unet(noise, 999, words, return_dict=False)[0]
    return float((answer * noise).sum() / noise.square().sum()) > 0.5


@contextmanager
def _in_float32(network: torch.nn.Module) -> Iterator[None]:
    """Each layer of `network` in float32 for its own call: on a CPU float16 is slow, and a whole copy is gigabytes."""
    layers = {layer: list(layer.parameters(recurse=False)) for layer in network.modules()}
    dtypes = {layer: own[0].dtype for layer, own in layers.items() if own}

    def widen(layer: torch.nn.Module, _: Any) -> None:
        layer.float()

    def restore(layer: torch.nn.Module, *_: Any) -> None:
        layer.to(dtypes[layer])

    hooks = [layer.register_forward_pre_hook(widen) for layer in dtypes]
    hooks += [layer.register_forward_hook(restore, always_call=True) for layer in dtypes]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _write_config(folder: Path, header: FileHeader) -> Path:
    """The config files of the checkpoint's family, told by its header."""
    is_first, is_inpainting = not header.is_version_2, header.shapes[FIRST][1] == 9
    made = ARCHITECTURES["sd-1.5" if is_first else "sd-2.1"]
    if is_inpainting:
        made = ARCHITECTURES["sd-1.5-inpainting" if is_first else "sd-2-inpainting"]
    elif is_first and header.guidance:
        made = ARCHITECTURES["lcm"]
    kind, scheduler = made.schedulers[0][1]
    unet = made.unet or {}
    if header.prediction is not None:
        scheduler = scheduler | {"prediction_type": header.prediction}
        unet = unet if is_first or is_inpainting else unet | {"sample_size": NATIVE[header.prediction]}
    configs = {
        "unet": unet,
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


def _lent_tokenizer(name: str, tokens: int, folders: Iterable[Path], header: FileHeader) -> CLIPTokenizer:
    pad = "!" if header.is_version_2 else "<|endoftext|>"  # OpenCLIP pads with token 0
    for folder in folders:
        if (folder / "tokenizer_config.json").is_file():
            found = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            if len(found) == tokens:
                return found if found.pad_token == pad else _padded_with(pad, found)
    if tokens != VOCABULARY:
        raise ModelUnavailable(
            f"{name} knows {tokens:,} tokens, and CLIP's own tokenizer has {VOCABULARY:,}; put the folder tokenizer "
            "that belongs to it beside the file."
        )
    raise ModelUnavailable(
        f"{name} holds no tokenizer (single files never do) and none for it is here yet: python -m sd_demo download "
        "tokenizer fetches it once (2 MB), or put a folder tokenizer beside the file."
    )


def _padded_with(pad: str, lent: CLIPTokenizer) -> CLIPTokenizer:
    """The words of `lent` with another padding, made anew: its files may list the old one as no part of words."""
    made = json.loads(lent.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in made["merges"]]
    return CLIPTokenizer(made["vocab"], merges, model_max_length=lent.model_max_length, pad_token=pad)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
