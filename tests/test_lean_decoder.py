"""The lean decoder gives the ordinary one's numbers; what it saves can be measured on a GPU alone."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL

from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.lean_decoder import LeanGroupNorm, make_lean


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_by_parts_has_the_numbers_of_the_whole_and_its_inputs_layout(affine: bool) -> None:
    norm = torch.nn.GroupNorm(8, 32, affine=affine)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    lean = copy.deepcopy(norm)
    lean.__class__ = LeanGroupNorm
    with torch.inference_mode():
        x = torch.randn(2, 32, 6, 10).to(memory_format=torch.channels_last)
        found = lean(x)
        assert torch.allclose(found, norm(x), atol=1e-6)
        assert found.is_contiguous(memory_format=torch.channels_last)
        for other in (x.contiguous(), x.flatten(2)):
            assert torch.equal(lean(other), norm(other))


def test_the_lean_decoder_draws_the_same_and_leaves_its_input_alone() -> None:
    vae = AutoencoderKL.from_pretrained(EMBEDDED_FOLDER, subfolder="vae").to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    before = latents.clone()
    with torch.inference_mode():
        expected = vae.decode(latents).sample
        make_lean(vae.decoder)
        found = vae.decode(latents).sample
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(latents, before)
    assert any(isinstance(module, LeanGroupNorm) for module in vae.decoder.modules())
    assert not any(isinstance(module, LeanGroupNorm) for module in vae.encoder.modules()), "it may be trained with"
