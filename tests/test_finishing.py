"""The choices that a request left open."""

from __future__ import annotations

import torch

from sd_demo.finishing import make_plan
from sd_demo.known_models import ENTRIES
from sd_demo.requests import SEED_LIMIT, parse_request


def test_a_random_seed_does_not_come_again_with_torchs_own_numbers() -> None:
    request, seeds = parse_request("text_to_image", {"prompt": "a house"}), []
    for _ in range(4):
        torch.manual_seed(0)  # as after each compilation, which puts PyTorch's state back
        seeds += make_plan(request, ENTRIES[0]).seeds
    assert len(set(seeds)) == 4
    assert all(0 <= seed < SEED_LIMIT for seed in seeds)
