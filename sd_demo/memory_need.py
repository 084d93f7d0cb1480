"""How much memory a request takes on its device, told before it runs, and the rung of the ladder that follows.

Activations grow in proportion to rows and area. The factors were measured by counting every live tensor of a call
(`python -m tests.memory_factors`): Stable Diffusion 1.5's UNet holds at most 23 numbers at once for each row, latent
and channel of its first level, the picture-book's 18; both decoders 6 for each pixel and channel of their last level,
more than the encoders, which are therefore not counted: where a decoder fits, so does its encoder. What is kept of
a prompt (kept_conditions.py) is 78 numbers for each row, token and channel of the first level, the picture-book's 52;
each row has it twice, its own and that of the shared call.
Plain attention holds every score twice besides, before and after the softmax, and these grow with the area's square.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from sd_demo.architectures import MAX_TOKENS
from sd_demo.placement import largest_attention
from sd_demo.registry import ModelEntry
from sd_demo.residence import RUNGS
from sd_demo.settings import Rung, Settings

UNET_FACTOR: Final = 23.0
KEPT_FACTOR: Final = 78.0
VAE_FACTOR: Final = 6.0
SCORES_FACTOR: Final = 2.0
TILE: Final = 32  # latents of a side of what the autoencoder works on at once, where the whole is too large
ROOM: Final = 0.9  # part of the free memory that a plan may count on
LARGEST_LAYER: Final = 0.05  # of all weights, what one layer has at most
CONTROL_GROUPS: Final = (  # of version 2 and 1: folder, files of the limit and of what is used, what of it is cache
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Shape:
    """What a request holds at once: rows of one UNet call, and the padded size in pixels."""

    rows: int
    height: int
    width: int


@dataclass(frozen=True)
class MemoryNeed:
    """What one model takes, in MiB: its networks' weights by name, and activations by row and area."""

    weights: dict[str, float]
    unet_per_row: float  # for each latent
    decode: float  # for each pixel
    latent_pixels: int
    kept_per_row: float = 0.0  # of the prompt
    scores_per_row: float = 0.0  # for each latent with each; 0 where the attention keeps no scores

    @classmethod
    def of(cls, networks: dict[str, Any], dtype: torch.dtype) -> MemoryNeed:
        """Of a model's networks, "unet" and "vae" among them, in the precision `dtype`."""
        weights = {name: _weights_mib(network) for name, network in networks.items()}
        unet, vae = (networks[name].config.block_out_channels for name in ("unet", "vae"))
        return cls.told(weights, unet, vae, dtype)

    @classmethod
    def told(cls, weights: dict[str, float], unet: Sequence[int], vae: Sequence[int], dtype: torch.dtype) -> MemoryNeed:
        """Of networks with these weights in MiB; unet, vae: the channels of their levels."""
        size = dtype.itemsize / 2**20
        kept = 2 * KEPT_FACTOR * MAX_TOKENS * unet[0] * size
        return cls(weights, UNET_FACTOR * unet[0] * size, VAE_FACTOR * vae[0] * size, 2 ** (len(vae) - 1), kept)

    def attending(self, attention: str, unet: Any, dtype: torch.dtype) -> MemoryNeed:
        """The same with `attention`; the plain one holds all scores of a layer at once."""
        if attention != "plain":
            return self
        layer, tokens = largest_attention(unet)
        side = unet.config.sample_size if isinstance(unet.config.sample_size, int) else unet.config.sample_size[0]
        size = (torch.float32 if layer.upcast_attention or layer.upcast_softmax else dtype).itemsize / 2**20
        return replace(self, scores_per_row=SCORES_FACTOR * layer.heads * (tokens / side**2) ** 2 * size)

    def peak_mib(self, shape: Shape, rung: Rung = "resident") -> float:
        """The most that is held at once, weights included."""
        is_whole = rung == RUNGS[0]
        side = self.latent_pixels
        rows = shape.rows if is_whole else 1
        latents = (shape.height / side) * (shape.width / side)
        drawing = rows * (self.unet_per_row * latents + self.scores_per_row * latents**2 + self.kept_per_row)
        tile = (TILE * side) ** 2
        decoding = self.decode * (shape.height * shape.width if is_whole else min(tile, shape.height * shape.width))
        everything = sum(self.weights.values())
        if rung == "layer_by_layer":
            return LARGEST_LAYER * everything + max(drawing, decoding)
        if rung == "one_at_a_time":
            others = [mib for name, mib in self.weights.items() if name not in ("unet", "vae")]
            return max(self.weights["unet"] + drawing, self.weights["vae"] + decoding, *others, 0.0)
        away = 0.0 if is_whole else self.weights.get("text_encoder", 0.0)
        # The text encoder is there, beside all others, while it reads the prompt.
        return max(everything, everything - away + max(drawing, decoding))

    def rung_for(self, shape: Shape, free_mib: float, highest: Rung = RUNGS[0]) -> Rung:
        """The first rung from `highest` down on which `shape` fits into the free memory; else the last.

        free_mib: that of the weights included.
        """
        rungs = RUNGS[RUNGS.index(highest) :]
        fitting = (rung for rung in rungs if self.peak_mib(shape, rung) <= ROOM * free_mib)
        return next(fitting, RUNGS[-1])

    def rung_at_load(self, entry: ModelEntry, settings: Settings, device: torch.device) -> Rung:
        """Which networks of `entry` stay: as the settings say, else as what is free can hold for one picture of its own
        size.

        The embedded model is smaller than what other rungs save, and a CPU's memory is where networks rest anyway.
        """
        if settings.memory != "auto" and not entry.is_embedded:
            return settings.memory
        free = None if device.type == "cpu" else free_mib(device, settings.memory_limit_mib)
        usual = Shape(2, entry.native_size, entry.native_size)
        return "resident" if free is None or entry.is_embedded else self.rung_for(usual, free)


def free_mib(device: torch.device, limit_mib: int = 0) -> float | None:
    """MiB that are free on the device for this process, at most `limit_mib` (0: any); None where nobody knows."""
    free: float | None = None
    if device.type == "cuda":
        ours = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        left, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(device.index)
        free = min(left, total * share - torch.cuda.memory_reserved(device)) / 2**20 + ours / 2**20
    elif device.type == "cpu":
        free = _available_host_mib()
    return min(free, limit_mib) if free is not None and limit_mib else free


def room_mib(device: torch.device, weights_mib: float) -> float | None:
    """MiB that this process may hold on the device in all: what is free, and what it holds of a model already there."""
    free = free_mib(device)
    if free is None:
        return None
    held = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else weights_mib
    return free + held


def _available_host_mib() -> float | None:
    """What is free on the machine, or what a container's limit leaves of it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
        known = [int(line.split()[1]) / 1024]
    except (OSError, StopIteration, ValueError):
        known = []
    return min([*known, *_left_in_container()], default=None)


def _left_in_container(groups: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """MiB that the limit of a control group leaves, of either version; the kernel gives its file cache back."""
    left = []
    for place, limit, used, cache in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # no such version here, or no limit ("max")
            most, taken = (int((groups / place / name).read_text(encoding="ascii")) for name in (limit, used))
            lines = (groups / place / "memory.stat").read_text(encoding="ascii").splitlines()
            kept = next((int(line.split()[1]) for line in lines if line.startswith(f"{cache} ")), 0)
            left.append((most - taken + kept) / 2**20)
    return left


def _weights_mib(network: Any) -> float:
    return sum(each.nbytes for each in (*network.parameters(), *network.buffers())) / 2**20
