"""Rows of shared calls: filled up without a change, tried with the network, and float32 where they depend on others."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_demo import pipeline_manager
from sd_demo.engine import Engine
from sd_demo.known_models import EMBEDDED
from sd_demo.outputs import Outputs
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import Registry
from sd_demo.requests import parse_request
from sd_demo.row_independence import BLOCK, WholeBlocks, are_rows_independent, in_pairs, use_whole_blocks
from sd_demo.settings import Settings

HALF = Settings(device="cpu", dtype="bfloat16")


def tiny() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("tokens", [(1, 1), (2, 64), (2, 256), (3, BLOCK)])
def test_whole_blocks_give_the_same_numbers(tokens: tuple[int, int]) -> None:
    layer = torch.nn.Linear(6, 5)
    x = torch.randn(*tokens, 6)
    expected = layer(x)
    layer.__class__ = WholeBlocks
    assert torch.allclose(layer(x), expected, atol=1e-6)
    seen: list[int] = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", lambda x, *_: (seen.append(len(x)), x[:, :5])[1])
        layer(x)
    assert seen[0] % BLOCK == 0


def test_a_unet_with_whole_blocks_answers_as_before_them() -> None:
    unet = tiny()
    inputs = torch.randn(3, 4, 8, 8), torch.tensor([1.0, 500.0, 999.0]), torch.randn(3, 7, 8)
    with torch.inference_mode():
        expected = unet(*inputs, return_dict=False)[0]
        use_whole_blocks(unet)
        assert torch.allclose(unet(*inputs, return_dict=False)[0], expected, atol=1e-5)
    count = sum(isinstance(module, WholeBlocks) for module in unet.modules())
    assert count == sum(name.endswith("ff.net.2") for name, _ in unet.named_modules()) > 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_come_in_pairs(count: int) -> None:
    rows, times, words = torch.randn(count, 4, 2, 2), torch.rand(count), torch.randn(count, 7, 8)
    paired = in_pairs(rows, times, {"words": words})
    for value, given in zip((*paired[:2], paired[2]["words"]), (rows, times, words), strict=True):
        assert len(value) % 2 == 0
        assert torch.equal(value[:count], given)
        assert torch.equal(value[-1], given[-1])


@pytest.mark.parametrize("depends", [False, True])
def test_a_network_whose_rows_depend_on_others_is_found_out(depends: bool) -> None:
    class Net(torch.nn.Module):
        config = tiny().config
        dtype = torch.float32

        def forward(
            self, rows: torch.Tensor, times: torch.Tensor, *, encoder_hidden_states: torch.Tensor, return_dict: bool
        ) -> tuple[torch.Tensor]:
            assert len(rows) % 2 == 0
            if depends and len(rows) > 8:
                return (torch.cat([rows[:-3], rows[-3:] * (1 + 1e-6)]),)
            return (rows + times[:, None, None, None],)

    assert are_rows_independent(Net(), f"net {depends}", "sdpa") is not depends
    assert are_rows_independent(tiny(), f"net {depends}", "sdpa") is not depends, "kept from the first time"


@pytest.mark.parametrize("is_independent", [True, False])
def test_the_picture_book_takes_bfloat16_only_where_nobody_depends_on_others(
    is_independent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_manager, "choose_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(pipeline_manager, "are_rows_independent", lambda *_: is_independent)
    manager = PipelineManager(Settings(device="cpu"), Registry())
    model = manager.get(EMBEDDED)
    assert model.unet.dtype == (torch.bfloat16 if is_independent else torch.float32)
    assert model.vae.dtype == model.placement.dtype == model.unet.dtype
    assert model.in_pairs == is_independent
    manager.free()


def pictures(engine: Engine, asked: list[dict[str, Any]]) -> list[np.ndarray]:
    quick = {"prompt": "a red ball", "num_inference_steps": 3, "width": 128, "height": 128}
    jobs = [engine.submit(parse_request("text_to_image", quick | values)) for values in asked]
    return [np.asarray(job.result(240).images[0].image) for job in jobs]


def test_odd_rows_run_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    forward = UNet2DConditionModel.forward

    def counting(self: Any, rows: torch.Tensor, *values: Any, **named: Any) -> Any:
        counts.append(len(rows))
        return forward(self, rows, *values, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counting)
    with closing(Engine(HALF.model_copy(update={"model": EMBEDDED}), outputs=Outputs(tmp_path))) as engine:
        engine.start()
        counts.clear()
        pictures(engine, [{"guidance_scale": 1.0, "seed": 1}])
        assert set(counts) == {2}


def test_here_pictures_are_the_same_alone_and_together_to_the_last_bit(tmp_path: Path) -> None:
    with closing(Engine(HALF.model_copy(update={"model": EMBEDDED}), outputs=Outputs(tmp_path))) as engine:
        engine.start()
        pictures(engine, [{"seed": 0}])
        model = engine._manager.current
        assert model is not None
        if not are_rows_independent(model.unet, model.model_hash, model.placement.attention):
            pytest.skip("this processor adds up otherwise, and float32 is taken")
        asked: list[dict[str, Any]] = [{"seed": seed} for seed in range(4)]
        asked[2]["guidance_scale"] = 1.0
        alone = [pictures(engine, [values])[0] for values in asked]
        together = pictures(engine, asked)
    assert all(np.array_equal(*two) for two in zip(alone, together, strict=True))
