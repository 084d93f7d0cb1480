"""The safety checker that Stable Diffusion 1 ships: whether a picture looks like one of its unsafe concepts.

Rombach et al. published it with the weights; how it decides, and how badly, is told by Rando et al.
(arXiv 2210.04610). It compares the picture's CLIP vector with 17 concepts, and is wrong both ways.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessorPil

from sd_demo.checkpoints.parts import check_keys
from sd_demo.errors import ModelUnavailable, NonFiniteImage
from sd_demo.model_files import INDEX, SAFETY_CHECKER, weights_in
from sd_demo.own_memory import own

PROCESSOR: Final = "feature_extractor"


class SafetyChecker:
    """One checker on its device."""

    def __init__(
        self, network: StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil, device: torch.device
    ) -> None:
        self.network, self._processor, self._device = network.eval(), processor, device
        self._is_finite = True
        network.visual_projection.register_forward_hook(self._note)
        # It announces that it paints flagged pictures black, which nothing here makes use of.
        logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)

    @torch.inference_mode()
    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture (RGB, any size) is taken for unsafe.

        Raises NonFiniteImage where the network answers NaN, which would count as safe.
        """
        pixels = self._processor(list(images), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(device=self._device, dtype=self.network.visual_projection.weight.dtype)
        _, flagged = self.network(clip_input=pixels, images=np.zeros((len(images), 1, 1, 3)))
        if not self._is_finite:
            raise NonFiniteImage("The safety checker could not judge the picture; start with --dtype float32.")
        return [bool(flag) for flag in flagged]

    def _note(self, _: Any, __: Any, output: torch.Tensor) -> None:
        self._is_finite = bool(output.isfinite().all())


def read_safety_checker(
    model: Path | None, dtype: torch.dtype, device: torch.device, title: str = ""
) -> SafetyChecker | None:
    """The checker that comes with the model at `model`, to be run on `device`; None where it ships none, and where
    there is no such folder.

    title: what sentences call the model; default its folder's name.
    Raises ModelUnavailable where its folder promises one that is not there or not whole.
    """
    if model is None or not model.is_dir():
        return None
    title = title or model.name
    listed = json.loads((model / INDEX).read_text(encoding="utf-8")).get(SAFETY_CHECKER) or [None]
    if listed[0] is None:
        return None
    variant = weights_in(model / SAFETY_CHECKER)
    if variant is None or not (model / PROCESSOR).is_dir():
        raise ModelUnavailable(
            f"{title} lacks the safety checker that it lists; fetch it again, or turn that off "
            "(SD_DEMO_SAFETY_CHECKER=0)."
        )
    network, report = StableDiffusionSafetyChecker.from_pretrained(
        model / SAFETY_CHECKER,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **({"variant": variant} if variant else {}),
    )
    own(network)
    check_keys(f"{title}/{SAFETY_CHECKER}", report["missing_keys"], report["unexpected_keys"])
    processor = CLIPImageProcessorPil.from_pretrained(model / PROCESSOR, local_files_only=True)
    return SafetyChecker(network, processor, device)
