"""LoRA files: read, checked against a model, put on it with weights, and taken off without a trace.

A LoRA adds a product of two thin matrices to some layers (https://arxiv.org/abs/2106.09685). Files name these layers
in several ways: diffusers and PEFT ("unet.….to_k.lora_A.weight"), kohya and A1111 ("lora_unet_…_to_k.lora_down.weight")
and diffusers' older ones. Here the names are looked up in the model itself, so that each tensor either has its layer or
is counted as having none: a LoRA of another family would else load and do nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from sd_demo.errors import InvalidRequest
from sd_demo.lora_folder import TRIGGER_KEY

_CONFIG_KEY: Final = "lora_adapter_metadata"  # diffusers writes PEFT's r and lora_alpha there
_LEAST_SHARE: Final = 0.5  # a file of which fewer tensors fit was made for another model
_FAMILIES: Final = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # by width of the text
_MARKS: Final = {  # parts of tensor names that only one kind of file has
    "double_blocks": "a LoRA for Flux",
    "single_transformer_blocks": "a LoRA for Flux",
    "joint_blocks": "a LoRA for Stable Diffusion 3",
    "lora_te2_": "a LoRA for SDXL",
    "text_encoder_2.": "a LoRA for SDXL",
    **dict.fromkeys(("lora_transformer_", "transformer."), "a LoRA for a transformer model"),
    "lokr_": "a LoKr file",
    "hada_": "a LoHa file",
    "oft_": "an OFT file",
    "dora_scale": "a DoRA file",
    "lora_magnitude": "a DoRA file",
    "lora_mid": "a LoCon file of the Tucker kind",
    "emb_params": "a textual inversion",
    "model.diffusion_model.": "a whole model",
    "control_model.": "a ControlNet",
}
_TENSOR: Final = re.compile(r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?P<part>down|up|A|B)(?:\.default)?\.weight")
_ALPHA: Final = re.compile(r"(?P<layer>.+)\.alpha")


@dataclass(frozen=True, eq=False)
class LoraFile:
    """What a file holds. `metadata` is text for text, as its author left it."""

    name: str
    sha256: str
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @property
    def trigger_words(self) -> str:
        """The words that it answers to, where the file says so, else empty."""
        return self.metadata.get(TRIGGER_KEY, "")


@dataclass(frozen=True, eq=False)
class FittedLora:
    """A LoRA for one model: `weights` in PEFT's names, scaled so that a weight of 1 is what its author meant."""

    file: LoraFile
    weights: dict[str, torch.Tensor]
    matched: int  # tensors of the file that have a layer in the model
    total: int  # tensors of the file


def read_lora(path: Path, name: str) -> LoraFile:
    """Read the safetensors file at `path`, called `name` in every message.

    Raises InvalidRequest where it is damaged, no LoRA, or of a kind that is not LoRA.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 # else it lies in the file
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except (SafetensorError, OSError, ValueError) as error:
        raise _refusal(name, "cannot be read as a safetensors file; download or copy it again") from error
    kind = _kind(tensors)
    if kind is not None and not kind.startswith("a LoRA"):
        raise _refusal(name, f"is {kind}, which is not used here; choose a LoRA")
    if not any(_TENSOR.fullmatch(key) for key in tensors):
        raise _refusal(name, "holds no LoRA; choose another file")
    if not all(torch.isfinite(tensor.float()).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise _refusal(name, "holds values that are not finite; download or train it again")
    return LoraFile(name, sha256, tensors, metadata)


def fit_lora(file: LoraFile, unet: Any, text_encoder: Any) -> FittedLora:
    """Match the file's tensors with the layers of a model that wears no LoRA now.

    Raises InvalidRequest where the layers have other sizes, or fewer than half of the tensors have a layer.
    """
    layers = dict(_layers(unet, text_encoder))
    found: dict[str, dict[str, torch.Tensor]] = {}
    matched = 0
    for key, tensor in file.tensors.items():
        match = _TENSOR.fullmatch(key) or _ALPHA.fullmatch(key)
        written = match["layer"].replace(".processor.", ".").removeprefix("base_model.model.") if match else ""
        if match is None or written not in layers:
            continue
        part = match.groupdict().get("part", "alpha")
        found.setdefault(layers[written][0], {})[{"down": "A", "up": "B"}.get(part, part)] = tensor
        matched += 1
    modules = dict(layers.values())
    pairs = {layer: parts for layer, parts in found.items() if {"A", "B"} <= set(parts)}
    for layer, parts in pairs.items():
        if not _has_sizes_of(modules[layer], parts["A"], parts["B"]):
            raise _refusal(file.name, f"does not fit this model: {_whose(file, unet)}; choose a LoRA made for it")
    if not pairs or matched < _LEAST_SHARE * len(file.tensors):
        counted = f"{matched} of its {len(file.tensors)} tensors have a layer here"
        raise _refusal(
            file.name, f"does not fit this model: {counted}, and {_whose(file, unet)}; choose a LoRA made for it"
        )
    config = _adapter_config(file.metadata)
    weights = {}
    for layer, parts in pairs.items():
        down, up = parts["A"].float(), parts["B"].float()
        scale = _scale(layer, down.shape[0], parts.get("alpha"), config)
        weights[f"{layer}.lora_A.weight"] = down.reshape(*down.shape[:2], *_kernel(modules[layer], down))
        weights[f"{layer}.lora_B.weight"] = (up * scale).reshape(*up.shape[:2], *_kernel(modules[layer], up))
    return FittedLora(file, weights, matched, len(file.tensors))


def put_on(pipe: Any, loras: Sequence[tuple[FittedLora, float]]) -> None:
    """Let `pipe`, which wears none now, wear these LoRAs with their weights; its own weights stay as they are."""
    names = [f"lora_{index}" for index in range(len(loras))]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
            for adapter, (fitted, _) in zip(names, loras, strict=True):
                _put_on_one(pipe, adapter, fitted)
        pipe.set_adapters(names, [weight for _, weight in loras])
    except Exception:
        take_off(pipe)
        raise


def _put_on_one(pipe: Any, adapter: str, fitted: FittedLora) -> None:
    """As load_lora_weights, which complains of a part that a file does not have."""
    weights = {key: tensor.to(pipe.unet.device, pipe.unet.dtype) for key, tensor in fitted.weights.items()}
    try:
        if any(key.startswith("unet.") for key in weights):
            pipe.load_lora_into_unet(weights, None, pipe.unet, adapter_name=adapter, low_cpu_mem_usage=True)
        if any(key.startswith("text_encoder.") for key in weights):
            encoder = pipe.text_encoder
            pipe.load_lora_into_text_encoder(weights, None, encoder, adapter_name=adapter, low_cpu_mem_usage=True)
    except ValueError as error:  # as for a text encoder of which only other layers than its attention are trained
        raise _refusal(fitted.file.name, f"has layers that diffusers cannot load ({str(error).rstrip('.')})") from error


def take_off(pipe: Any) -> None:
    """Take all LoRAs off `pipe`; every weight and layer is what it was before."""
    pipe.unload_lora_weights()


def _kind(names: Mapping[str, Any]) -> str | None:
    return next((kind for mark, kind in _MARKS.items() if any(mark in name for name in names)), None)


def _layers(unet: Any, text_encoder: Any) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Every name that files give a layer, with diffusers' own name of it and the layer."""
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            for alias in {name, name.removesuffix(".0") if name.endswith("to_out.0") else name}:
                for written in (f"unet.{alias}", f"lora_unet_{alias.replace('.', '_')}", alias):
                    yield written, (f"unet.{name}", module)
    for name, module in text_encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            short = name.removeprefix("text_model.")  # newer versions of transformers have no such level
            older = re.sub(r"\b([qkv]|out)_proj$", r"to_\1", short)
            for alias in (short, f"text_model.{short}", f"text_model.{older}"):
                flat = alias.replace(".", "_")
                for written in (f"text_encoder.{alias}", f"lora_te_{flat}", f"lora_te1_{flat}"):
                    yield written, (f"text_encoder.{name}", module)


def _has_sizes_of(module: Any, down: torch.Tensor, up: torch.Tensor) -> bool:
    """Whether up x down has the shape of the module's weight."""
    inner, outer = _kernel(module, down), _kernel(module, up)
    size = module.weight.shape
    return (
        down.shape[0] == up.shape[1]
        and (up.shape[0], down.shape[1]) == tuple(size[:2])
        and down.numel() == down.shape[0] * down.shape[1] * math.prod(inner)
        and up.numel() == up.shape[0] * up.shape[1]
        and inner == tuple(size[2:])
        and outer in ((), (1, 1))
    )


def _kernel(module: Any, tensor: torch.Tensor) -> tuple[int, ...]:
    """The kernel that a LoRA tensor has on `module`: a matrix may stand for a 1x1 convolution, and the reverse."""
    if isinstance(module, torch.nn.Linear):
        return ()
    return tuple(tensor.shape[2:]) or (1, 1)


def _whose(file: LoraFile, unet: Any) -> str:
    """Whom the file was made for, as far as its tensors tell."""
    kind = _kind(file.tensors)
    if kind is not None:
        return f"it is {kind}"
    widths = [
        tensor.shape[1]
        for key, tensor in file.tensors.items()
        if re.search(r"attn2[._](processor\.)?to_k", key) and re.search(r"lora[._](down|A)", key) and tensor.ndim > 1
    ]
    own = unet.config.cross_attention_dim
    if not widths or widths[0] == own:
        return "its layers have other sizes"
    return f"it is a LoRA for {_FAMILIES.get(widths[0], f'models whose texts are {widths[0]} wide')}"


def _adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata.get(_CONFIG_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _scale(layer: str, rank: int, alpha: torch.Tensor | None, config: Mapping[str, Any]) -> float:
    """alpha / rank, where alpha is the file's for this layer; without one it is the rank.

    Of an author's PEFT settings nothing else is read: a file is anybody's.
    """
    if alpha is not None:
        return float(alpha) / rank
    part, _, name = layer.partition(".")
    patterns = config.get(f"{part}.alpha_pattern")
    wanted = patterns.get(name) if isinstance(patterns, dict) else None
    wanted = wanted if wanted is not None else config.get(f"{part}.lora_alpha")
    if not isinstance(wanted, int | float):
        return 1.0
    return wanted / (math.sqrt(rank) if config.get(f"{part}.use_rslora") is True else rank)


def _refusal(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"loras: {name} {why}.", "loras")
