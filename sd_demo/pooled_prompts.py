"""How the x2 latent upscaler reads a prompt."""

from __future__ import annotations

from typing import Any

import torch

from sd_demo.prompts import Chunk, PromptEncoder
from sd_demo.residence import Residence


class PooledPromptEncoder(PromptEncoder):
    """For the x2 latent upscaler: one chunk, features before the last norm, and as the last row the pooled ones."""

    def __init__(self, tokenizer: Any, text_encoder: Any, *, residence: Residence | None = None) -> None:
        super().__init__(tokenizer, text_encoder, is_chunking=False, residence=residence)

    def _encode_chunk(self, chunk: Chunk, device: Any) -> torch.Tensor:
        # The pooled row has no words to weigh; weights are passed over, as diffusers' pipeline of this model does.
        return super()._encode_chunk(Chunk(chunk.ids, (1.0,) * len(chunk.ids)), device)

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        read = self._ask(ids, attention_mask=mask, output_hidden_states=True)
        return torch.cat([read.hidden_states[-1], read.pooler_output[:, None]], dim=1)  # [1, L + 1, D]
