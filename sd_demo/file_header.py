"""What a checkpoint in a single .safetensors file tells of itself before its weights are read.

Such a file has the names of the original code (https://github.com/CompVis/stable-diffusion), no configs, and a header
in JSON (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sd_demo.model_files import INDEX, header_of

UNET_PREFIX: Final = "model.diffusion_model."
VAE_PREFIXES: Final = ("first_stage_model.", "vae.")
TEXT_PREFIX: Final = "cond_stage_model."
FIRST: Final = f"{UNET_PREFIX}input_blocks.0.0.weight"
TOKENS: Final = (
    f"{TEXT_PREFIX}transformer.text_model.embeddings.token_embedding.weight",  # version 1
    f"{TEXT_PREFIX}model.token_embedding.weight",  # version 2
)
# What makes a model of latent consistency one: as the original code would name it, and as diffusers' script leaves it.
GUIDANCE: Final = tuple(f"{UNET_PREFIX}{name}.cond_proj.weight" for name in ("time_embed", "time_embedding"))
NATIVE: Final = {"epsilon": 64, "v_prediction": 96}  # latents of a side of 2.0 and 2.1, by what they predict
_SIDE: Final = re.compile(r"(?<!\d)(512|768)(?!\d)")


@dataclass(frozen=True)
class FileHeader:
    """Shapes of all weights by their names, and the file's metadata."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> FileHeader:
        """The header of the file at `path`. Raises OSError where it cannot be read, ValueError where it has none."""
        _, told = header_of(path)
        try:
            metadata = told.pop("__metadata__", None) or {}
            return cls({name: tuple(about["shape"]) for name, about in told.items()}, dict(metadata))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} has a header of another kind") from error

    @property
    def is_version_2(self) -> bool:
        """Its text encoder is not version 1's."""
        return TOKENS[0] not in self.shapes

    @property
    def guidance(self) -> str | None:
        """The name of the weight that takes the guidance scale in; None where the model was not distilled so."""
        return next((name for name in GUIDANCE if name in self.shapes), None)

    @property
    def prediction(self) -> str | None:
        """What its metadata says that it predicts; None where they are silent.

        The keys of https://github.com/Stability-AI/ModelSpec, and the one that ComfyUI writes.
        """
        architecture = self.metadata.get("modelspec.architecture", "")
        by_architecture = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768": "v"}
        said = self.metadata.get("modelspec.prediction_type") or self.metadata.get("modelspec.predict_key")
        said = said or next((what for name, what in by_architecture.items() if architecture.startswith(name)), None)
        return None if said is None else "v_prediction" if said.startswith("v") else "epsilon"

    @property
    def unet(self) -> dict[str, Any]:
        """What it tells of its UNet, by the names of a config: in_channels, time_cond_proj_dim, sample_size.

        {} of one that does not run here from a single file.
        """
        channels = self.shapes.get(FIRST, ())[1:2]
        if channels not in ((4,), (9,)):
            return {}
        told: dict[str, Any] = {"in_channels": channels[0]}
        if self.guidance is not None:
            told["time_cond_proj_dim"] = self.shapes[self.guidance][1]
        if not self.is_version_2 or told["in_channels"] == 9:
            told["sample_size"] = NATIVE["epsilon"]
        elif self.prediction is not None:
            told["sample_size"] = NATIVE[self.prediction]
        return told


def folder_beside(path: Path) -> Path | None:
    """The diffusers folder whose configs are the file's: that of its own name, else the one that it lies in."""
    return next((folder for folder in (path.with_suffix(""), path.parent) if (folder / INDEX).is_file()), None)


def unet_of(path: Path) -> dict[str, Any]:
    """What is known of the UNet in the file at `path`, by the names of a config; {} of one that tells nothing."""
    try:
        about = path.stat()
        told = dict(_unet_in(path, about.st_mtime_ns, about.st_size))
        folder = folder_beside(path)
        if folder is not None:
            config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
            told |= {name: value for name, value in config.items() if name not in ("in_channels", "time_cond_proj_dim")}
        return told
    except (OSError, ValueError, AttributeError, LookupError, RecursionError):  # loading says what is wrong with it
        return {}


@lru_cache(maxsize=64)
def _unet_in(path: Path, modified_ns: int, size: int) -> Mapping[str, Any]:
    """The last two tell one edition of the file from the next."""
    told = FileHeader.read(path).unet
    named = _SIDE.search(path.stem)
    if told and "sample_size" not in told and named:  # the published ones say it nowhere else; a trial is made later
        told["sample_size"] = int(named[1]) // 8
    return told
