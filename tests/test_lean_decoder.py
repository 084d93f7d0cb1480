"""The lean decoder gives the ordinary one's numbers and holds less; what its norms save only a GPU can show."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.lean_decoder import LeanGroupNorm, LeanResnetBlock, make_lean
from tests.memory_factors import Living


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


def test_without_norms_of_its_own_it_draws_the_same_to_the_bit() -> None:
    """So it is on a CPU, for models of any size."""
    vae = AutoencoderKL.from_pretrained(EMBEDDED_FOLDER, subfolder="vae")
    latents = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = vae.decode(latents).sample
        make_lean(vae.decoder, has_own_norms=False)
        assert torch.equal(vae.decode(latents).sample, expected)
    assert any(isinstance(module, LeanResnetBlock) for module in vae.decoder.modules())
    assert not any(isinstance(module, LeanGroupNorm) for module in vae.decoder.modules())


def test_the_lean_decoder_draws_the_same_and_leaves_its_input_alone() -> None:
    vae = AutoencoderKL.from_pretrained(EMBEDDED_FOLDER, subfolder="vae").to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    before = latents.clone()
    with torch.inference_mode():
        expected = vae.decode(latents).sample
        make_lean(vae.decoder, has_own_norms=True)
        found = vae.decode(latents).sample
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(latents, before)
    for kind in (LeanGroupNorm, LeanResnetBlock):
        assert any(isinstance(module, kind) for module in vae.decoder.modules())
    assert not any(type(module) is ResnetBlock2D for module in vae.decoder.modules())
    assert not any(isinstance(module, LeanGroupNorm) for module in vae.encoder.modules()), "it may be trained with"


def test_a_block_adds_up_in_place_and_scales() -> None:
    for channels in (16, 32):
        block = ResnetBlock2D(
            in_channels=32, out_channels=channels, temb_channels=None, groups=8, output_scale_factor=2.0
        )
        x = torch.randn(1, 32, 6, 6)
        before = x.clone()
        with torch.inference_mode():
            expected = block(x, None)
            make_lean(block, has_own_norms=True)
            assert type(block) is LeanResnetBlock
            assert torch.allclose(block(x, None), expected, atol=1e-6)
        assert torch.equal(x, before)
    timed = ResnetBlock2D(in_channels=32, temb_channels=8, groups=8)
    make_lean(timed, has_own_norms=True)
    assert type(timed) is ResnetBlock2D, "it is told the time"


def test_the_widest_block_holds_less_than_diffusers_own() -> None:
    widths = (8, 16, 32, 32)  # Stable Diffusion's, by 16
    vae = AutoencoderKL(
        block_out_channels=widths, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    ).eval().to(memory_format=torch.channels_last)  # fmt: skip
    latents, a_map = torch.randn(1, 4, 24, 24), 4 * widths[0] * (8 * 24) ** 2
    held = []
    for _ in range(2):
        with torch.inference_mode(), Living(vae) as living:
            vae.decode(latents)
        held.append(living.most / a_map)
        make_lean(vae.decoder, has_own_norms=True)
    assert held[0] == pytest.approx(6.0, abs=0.2)
    assert held[1] == pytest.approx(5.5, abs=0.2)
