"""What both kinds of checkpoint share: the classes of the parts, and that no weight may be missing or left over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.errors import ModelUnavailable

CLASSES: Final[dict[str, Any]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
}
# Written by older versions of transformers, and no weights: the numbers from 0 to 76.
_IGNORED: Final = ("position_ids",)


def check_keys(name: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    missing = sorted(missing)
    unexpected = sorted(key for key in unexpected if not key.endswith(_IGNORED))
    if missing:
        raise ModelUnavailable(f"{name} lacks {len(missing)} of its weights, such as {missing[0]}; fetch it again.")
    if unexpected:
        raise ModelUnavailable(
            f"{name} has {len(unexpected)} weights that the network has no place for, such as {unexpected[0]}; it is "
            "of another kind of model."
        )
