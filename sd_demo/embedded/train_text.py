"""Training of the text encoder alone, before any picture: what a prompt says must be readable from its tokens.

Stable Diffusion starts from a text encoder that CLIP has trained. Ours has no such parent, and a UNet that has to
teach it grammar through the noise takes most of a short training to hear of anything smaller than a meadow. Captions
cost nothing to make, so the encoder first learns to say what they mean: one query for each kind of object and one for
the scenery attend to its tokens, the way that the UNet will, and answer with the attributes of the picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, scaled_dot_product_attention
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.architecture import TEXT_WIDTH
from sd_demo.embedded.dataset import tokenise
from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import DEPTHS, POSITIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS, Picture
from sd_demo.embedded.training_state import Stage

SCENERY = (*SCENES, *TIMES, *WEATHERS, *STYLES)
DETAILS = (*COLOURS, *SIZES, *POSITIONS, *DEPTHS)
BATCH_SIZE = 64


class Reader(nn.Module):
    """The text encoder, and queries that read attributes from its tokens."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.queries = nn.Parameter(torch.randn(len(KINDS) + 1, TEXT_WIDTH) * 0.5)
        self.keys = nn.Linear(TEXT_WIDTH, TEXT_WIDTH, bias=False)
        self.values = nn.Linear(TEXT_WIDTH, TEXT_WIDTH, bias=False)
        self.scenery = nn.Linear(TEXT_WIDTH, len(SCENERY))
        self.details = nn.Linear(TEXT_WIDTH, 1 + len(DETAILS))

    def forward(self, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the scenery [B, len(SCENERY)] and of each kind [B, kinds, 1 + len(DETAILS)], first "is there"."""
        features = self.text_encoder(token_ids).last_hidden_state
        queries = self.queries.expand(len(features), -1, -1)
        read = scaled_dot_product_attention(queries, self.keys(features), self.values(features))
        return self.scenery(read[:, 0]), self.details(read[:, 1:])


def train_text(stage: Stage, reader: Reader, tokenizer: CLIPTokenizer, *, seed: int, device: torch.device) -> None:
    """Train `reader` on fresh captions within the stage's budget and leave its averaged weights in it."""
    for step in stage.steps():
        pictures, captions = _captions(seed, step)
        token_ids = torch.from_numpy(tokenise(tokenizer, captions, seed + step)[:, 0].astype(np.int64)).to(device)
        scenery, details = (torch.from_numpy(part).to(device) for part in meanings(pictures))
        said_scenery, said_details = reader(token_ids)
        is_there = details[..., :1]
        loss = binary_cross_entropy_with_logits(said_scenery, scenery)
        loss = loss + 4.0 * binary_cross_entropy_with_logits(said_details[..., :1], is_there)
        of_those = binary_cross_entropy_with_logits(said_details[..., 1:], details[..., 1:], reduction="none")
        loss = loss + (of_those * is_there).sum() / (is_there.sum().clamp(min=1.0) * len(DETAILS))
        with torch.no_grad():
            heard = ((said_details[..., :1] > 0) == (is_there > 0)).all(dim=1).float().mean()
            colours = said_details[..., 1 : 1 + len(COLOURS)].argmax(dim=-1, keepdim=True)
            right = details[..., 1 : 1 + len(COLOURS)].gather(-1, colours)
            bound = (right * is_there).sum() / is_there.sum().clamp(min=1.0)
        stage.update(loss, objects=heard, colours=bound)
    stage.swap_ema()


def meanings(pictures: list[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """What is true of each picture, 0 or 1: scenery [N, len(SCENERY)], kinds [N, kinds, 1 + len(DETAILS)]."""
    scenery = np.zeros((len(pictures), len(SCENERY)), dtype=np.float32)
    details = np.zeros((len(pictures), len(KINDS), 1 + len(DETAILS)), dtype=np.float32)
    kinds = list(KINDS)
    for row, picture in enumerate(pictures):
        for name in (picture.scene, picture.time, picture.weather, picture.style):
            scenery[row, SCENERY.index(name)] = 1.0
        for thing in picture.things:
            details[row, kinds.index(thing.object), 0] = 1.0
            for name in (thing.colour, thing.size, thing.position, thing.depth):
                details[row, kinds.index(thing.object), 1 + DETAILS.index(name)] = 1.0
    return scenery, details


def _captions(seed: int, step: int) -> tuple[list[Picture], list[list[str]]]:
    pictures, captions = [], []
    for row in range(BATCH_SIZE):
        rng = np.random.default_rng((seed, 2, step, row))
        picture = world.sample(rng)
        pictures.append(picture)
        captions.append([world.caption(picture, rng)])
    return pictures, captions
