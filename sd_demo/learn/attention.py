"""Cross-attention seen from the picture: which of its places listened to which word of the prompt.

As in Hertz et al., https://arxiv.org/abs/2208.01626, and Tang et al., "What the DAAM", https://arxiv.org/abs/2210.04885:
the attention of every layer, head and step, added up at the resolution of the finest of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from sd_demo.loaded_model import LoadedModel

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass
class Watch:
    """What has been seen so far: the sum of the maps of all tokens, [tokens, h, w] at each resolution."""

    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, probabilities: torch.Tensor) -> None:
        """Attention [heads, h x w, tokens] of one layer at one step, of a square picture."""
        side = round(probabilities.shape[1] ** 0.5)
        seen = probabilities.float().mean(dim=0).T.reshape(-1, side, side).cpu()
        self.sums[side] = self.sums[side] + seen if side in self.sums else seen
        self.counts[side] = self.counts.get(side, 0) + 1

    def maps(self) -> torch.Tensor:
        """The mean attention to each token, [tokens, h, w] at the finest resolution seen."""
        finest = max(self.sums)
        scaled = [
            torch.nn.functional.interpolate(
                (seen / self.counts[side])[None], size=(finest, finest), mode="bilinear", align_corners=False
            )[0]
            * (side / finest) ** 2  # each place's attention sums to 1: a coarse place stands for several fine ones
            for side, seen in self.sums.items()
        ]
        return torch.stack(scaled).sum(dim=0)


@contextmanager
def watching(unet: Any, watch: Watch | None) -> Iterator[None]:
    """Collect cross-attention in `watch` for the length of a with block; None changes nothing."""
    if watch is None:
        yield
        return
    before = unet.attn_processors
    unet.set_attn_processor(
        {name: _Watching(watch) if ".attn2." in name else processor for name, processor in before.items()}
    )
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def word_maps(model: LoadedModel, prompt: str, watch: Watch) -> list[tuple[str, torch.Tensor]]:
    """Each word of a plain prompt, in order, and its map [h, w]; a word of several tokens has their sum."""
    maps = watch.maps()
    tokenised = model.components["tokenizer"](prompt, return_offsets_mapping=True, truncation=True)
    words = []
    for word in _WORD.finditer(prompt):
        own = [
            place
            for place, (start, end) in enumerate(tokenised.offset_mapping)
            if start < word.end() and end > word.start()
        ]
        if own:  # what is past the limit of tokens has none
            words.append((word.group(), maps[own].sum(dim=0)))
    return words


def heat_picture(values: torch.Tensor, picture: Image.Image) -> Image.Image:
    """A map [h, w] laid over the picture it belongs to: dark where nothing listened, as it is where all did."""
    low, high = float(values.min()), float(values.max())
    level = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    mask = Image.fromarray((level.numpy() * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    dark = picture.convert("L").convert("RGB").point([v // 5 for v in range(256)] * 3)
    return Image.composite(picture, dark, mask)


class _Watching:
    """Attention as ever, and a copy of its probabilities for the row that has the prompt (the second of two)."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._usual = watch, AttnProcessor()

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *rest: Any, **named: Any
    ) -> torch.Tensor:
        half = len(hidden_states) // 2
        query = attn.head_to_batch_dim(attn.to_q(hidden_states[half:]))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states[half:]))
        self._watch.add(attn.get_attention_scores(query, key))
        answer: torch.Tensor = self._usual(attn, hidden_states, encoder_hidden_states, *rest, **named)
        return answer
