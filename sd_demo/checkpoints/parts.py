"""What both kinds of checkpoint share: the classes of the parts, and that no weight may be missing or left over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import diffusers
import transformers

from sd_demo.errors import ModelUnavailable
from sd_demo.model_files import KINDS

CLASSES: Final[dict[str, Any]] = {
    part: getattr(diffusers if hasattr(diffusers, kinds[0]) else transformers, kinds[0])
    for part, kinds in KINDS.items()
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
