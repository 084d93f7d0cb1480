"""Weights in memory once, shared by all tasks; switched on request, and freed whole.

Task pipelines are built from one component set (`Pipeline(**components)`), which costs nothing and
shares every weight; only the scheduler is new each time.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sd_demo.errors import ModelUnavailable, PlaygroundError
from sd_demo.placement import Placement, choose_device, choose_dtype, place
from sd_demo.prompts import PromptEncoder
from sd_demo.registry import ModelEntry, Registry
from sd_demo.settings import Settings

log = logging.getLogger(__name__)

_PIPELINES: Final = {
    "text_to_image": StableDiffusionPipeline,
    "image_to_image": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One model's components on their device, and the decisions made for it."""

    entry: ModelEntry
    components: dict[str, Any]
    placement: Placement
    prompts: PromptEncoder
    model_hash: str

    @property
    def unet(self) -> Any:
        return self.components["unet"]

    @property
    def vae(self) -> Any:
        return self.components["vae"]

    @property
    def scheduler_config(self) -> Any:
        """The noise schedule that the model was trained with, as its folder states it."""
        return self.components["scheduler"].config

    @property
    def latent_pixels(self) -> int:
        """Pixels of a side that one latent stands for (8 for Stable Diffusion)."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def weights_mib(self) -> float:
        """Memory of all weights, in MiB."""
        modules = [c for c in self.components.values() if isinstance(c, torch.nn.Module)]
        return sum(p.numel() * p.element_size() for m in modules for p in m.parameters()) / 2**20

    def pipeline(self, task: str, scheduler: Any) -> Any:
        """The diffusers pipeline of `task` over these very weights, with its own `scheduler`."""
        return _PIPELINES[task](**{**self.components, "scheduler": scheduler}, requires_safety_checker=False)


class PipelineManager:
    """Loads the model that is asked for and frees the one before. Only the engine's worker calls it."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._loaded: LoadedModel | None = None

    @property
    def current(self) -> LoadedModel | None:
        """The model in memory, if one is."""
        return self._loaded

    def get(self, name: str, on_load: Callable[[], None] = lambda: None) -> LoadedModel:
        """The model called `name`, in memory; `on_load` is called before a slow load begins.

        Raises ModelUnavailable where it cannot be loaded; the model before stays out of memory then.
        """
        if self._loaded is not None and self._loaded.entry.name == name:
            return self._loaded
        entry = self._registry.get(name)
        on_load()
        self.free()
        self._loaded = self._load(entry)
        log.info("%s: %s", entry.name, self._loaded.placement.reason)
        return self._loaded

    def free(self) -> None:
        """Let go of the model in memory, and give its memory back to the device."""
        if self._loaded is None:
            return
        self._loaded.prompts.clear()
        self._loaded.components.clear()
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, entry: ModelEntry) -> LoadedModel:
        device = choose_device(self._settings.device)
        dtype = choose_dtype(self._settings.dtype, device)
        if entry.folder is None:
            raise ModelUnavailable(f"The weights of {entry.title} are not at {entry.source}; choose another model.")
        try:
            pipe = _read(entry.folder, dtype)
        except PlaygroundError:
            raise
        except Exception as error:
            raise ModelUnavailable(
                f"{entry.title} could not be loaded: {str(error).strip().splitlines()[0][:200]}"
            ) from error
        pipe.to(device)
        components = dict(pipe.components)
        placement = place(components["unet"], self._settings, device, dtype)
        prompts = PromptEncoder(components["tokenizer"], components["text_encoder"])
        return LoadedModel(entry, components, placement, prompts, _hash_of(entry.folder))


def _read(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline in `folder`: safetensors only, nothing fetched, no progress bars of libraries."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StableDiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, safety_checker=None,
            requires_safety_checker=False,
        )  # fmt: skip


def _hash_of(folder: Path) -> str:
    """SHA-256 over the weight files' own hashes, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("**/*.safetensors")):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
