"""Rows of a shared UNet call that are answered alike, bit for bit, whoever shares it.

Nobody's picture should depend on who else is drawing. In float32 the number of rows changes last bits that nobody sees;
in bfloat16 a last bit is a 256th part, and after twenty steps a picture is another one. Nearly every kernel of a CPU
adds up a row in the same order however many there are. On an Intel Xeon with AMX two did not: the matrix product that
ends a feed-forward layer, where the call has few rows and the sum is long, and whatever comes to the last of an odd
number of rows (found by comparing every layer's answer, PyTorch 2.13). The first is made in whole blocks here, the
second filled up; whether that is enough on this processor is tried with the network itself.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers.models.attention import FeedForward

BLOCK: Final = 512  # tokens; the product is chosen anew for fewer
TRIED: Final = (2, 3, 4, 6, 10, 16)  # rows
_found: dict[tuple[str, str, int], bool] = {}


class WholeBlocks(torch.nn.Linear):
    """The same numbers, from products of whole blocks of tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] to […, out]."""
        tokens = x.flatten(0, -2)
        missing = -tokens.shape[0] % BLOCK  # by the shape and not by len(), which a trace would take for fixed
        filled = torch.nn.functional.pad(tokens, (0, 0, 0, missing)) if missing else tokens
        return super().forward(filled)[: tokens.shape[0]].unflatten(0, x.shape[:-1])


def use_whole_blocks(unet: Any) -> None:
    """Let the feed-forward layers of diffusers' `UNet2DConditionModel` end in whole blocks from now on."""
    for layer in unet.modules():
        if isinstance(layer, FeedForward):
            for part in layer.net:
                if type(part) is torch.nn.Linear:
                    part.__class__ = WholeBlocks


def in_pairs(
    rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """A UNet's inputs, of B rows each, with the last row once more where B is odd."""
    if len(rows) % 2 == 0:
        return rows, times, conditions
    twice = {name: torch.cat([value, value[-1:]]) for name, value in conditions.items()}
    return torch.cat([rows, rows[-1:]]), torch.cat([times, times[-1:]]), twice


@torch.inference_mode()
def are_rows_independent(unet: Any, model_hash: str, attention: str) -> bool:
    """Whether `unet` answers rows of its own size in calls of several lengths as in pairs, bit for bit.

    Tried once for each model, attention and number of threads; about half a second.
    """
    key = model_hash, attention, torch.get_num_threads()
    if key not in _found:
        _found[key] = _are_independent(unet)
    return _found[key]


def _are_independent(unet: Any) -> bool:
    side, width, most = unet.config.sample_size, unet.config.cross_attention_dim, max(TRIED)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(most, unet.config.in_channels, side, side, generator=generator).to(unet.dtype)
    words = torch.randn(most, 77, width, generator=generator).to(unet.dtype)
    times = torch.linspace(1, 999, most)

    def answer(start: int, end: int) -> torch.Tensor:
        part = slice(start, end)
        inputs = in_pairs(rows[part], times[part], {"encoder_hidden_states": words[part]})
        return unet(*inputs[:2], **inputs[2], return_dict=False)[0][: end - start]

    pairs = torch.cat([answer(start, start + 2) for start in range(0, most, 2)])
    return all(torch.equal(answer(0, count), pairs[:count]) for count in TRIED)
