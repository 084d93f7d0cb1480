"""The factors of sd_demo/memory_need.py, measured: `python -m tests.memory_factors`, a minute.

Counts the bytes of every tensor that lives at the same time during a call, on the CPU in float32 with the attention
that keeps no scores. Weights are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sd_demo import random_model
from sd_demo.checkpoints import read_model
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.placement import LeanAttention
from sd_demo.tuned_networks import WINOGRAD_ROWS, tune


class Living(TorchDispatchMode):
    """The bytes that live now, and the most that did."""

    def __init__(self, *networks: torch.nn.Module, inputs: tuple[torch.Tensor, ...] = ()) -> None:
        """What is there before, and is not counted."""
        super().__init__()
        self.now = self.most = 0
        weights = [each for network in networks for each in (*network.parameters(), *network.buffers())]
        before = [*weights, *inputs]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self._known.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._forget, storage.data_ptr(), storage.nbytes())
        return made

    def _forget(self, pointer: int, size: int) -> None:
        self._known.discard(pointer)
        self.now -= size


def factors(parts: dict[str, Any], side: int, rows: int = 2, *, is_embedded: bool = False) -> dict[str, float]:
    """Numbers that live at once: for each row, latent and first channel; for each row, token and first channel what is
    kept of a prompt; for each pixel and last channel, decoding ("vae") and encoding."""
    unet, vae = parts["unet"], parts["vae"]
    tune(unet, vae, torch.device("cpu"), torch.float32, is_embedded=is_embedded)
    unet.set_attn_processor(LeanAttention())
    words = unet.of_prompts(torch.zeros(rows, 77, unet.config.cross_attention_dim))
    times, _ = unet.of_times(torch.ones(rows), {})
    with torch.inference_mode(), Living(unet, vae, inputs=(times, words)) as living:
        unet(torch.zeros(rows, 4, side, side), times, encoder_hidden_states=words)
    drawing = living.most / 4 / (rows * side * side * unet.config.block_out_channels[0])
    with torch.inference_mode(), Living(unet, vae) as living:
        vae.decode(torch.zeros(1, 4, side, side))
    decoding, large = living.most, side * 2 ** (len(vae.config.block_out_channels) - 1)
    with torch.inference_mode(), Living(unet, vae) as living:
        vae.encode(torch.zeros(1, 3, large, large))
    numbers = 4 * large**2 * vae.config.block_out_channels[0]
    kept = words.shape[-1] / unet.config.block_out_channels[0]
    return {"unet": drawing, "kept": kept, "vae": decoding / numbers, "encoder": living.most / numbers}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = {
        EMBEDDED: factors(read_model(EMBEDDED_FOLDER, torch.float32), 32, is_embedded=True),
        f"{EMBEDDED}, 8 rows": factors(read_model(EMBEDDED_FOLDER, torch.float32), 32, WINOGRAD_ROWS, is_embedded=True),
        "sd-1.5": factors(random_model.build("sd-1.5", "full", dtype=torch.float32), 32),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
