"""Twins, both rows of a guided picture: what they have in common is run once, and the answer is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sd_demo.canvas import Canvas
from sd_demo.denoising import Denoising, advance
from sd_demo.kept_conditions import KeepingUnet, let_keep
from sd_demo.loaded_model import LoadedModel, cut
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.plan import Plan
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from sd_demo.twin_rows import twice
from tests.test_kept_conditions import KEPT, answer, inputs_of, kept, unet_of


def twins_of(unet: Any, count: int, side: int = 16) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Of `count` pictures each row twice with words of its own, and what is kept of that."""
    rows, times, conditions = inputs_of(unet, count)
    rows = torch.nn.functional.interpolate(rows, side)
    conditions = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in conditions.items()}
    words = conditions["encoder_hidden_states"]
    conditions["encoder_hidden_states"] = words + torch.randn(words.shape, generator=torch.Generator().manual_seed(1))
    times, given = kept(unet, twice(times), conditions)
    return twice(rows), times, given


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("like", ["picture-book", *KEPT])
def test_twins_have_the_answers_of_single_rows(like: str, layout: torch.memory_format) -> None:
    unet = unet_of(like).to(memory_format=layout)
    let_keep(unet, shares=True)
    assert unet.shares
    met: list[int] = []
    for resnet in (unet.down_blocks[0].resnets[0], unet.up_blocks[0].resnets[0]):
        resnet.register_forward_hook(lambda _, inputs, __: met.append(len(inputs[0])))
    for count, side in ((1, 16), (3, 16), (4, 18)):
        rows, times, given = twins_of(unet, count, side)
        expected = answer(unet, rows, times, given)
        met.clear()
        found = answer(unet, rows, unet.of_twins(times), given)
        assert met == [count, 2 * count], "the first layers run once for both"
        assert (found - expected).norm() / expected.norm() < 1e-5
    assert (found[::2] - found[1::2]).abs().max() > 1e-3, "the prompts tell them apart"


def test_each_row_stands_twice_in_the_same_layout() -> None:
    for x in (
        torch.randn(3, 4, 5, 6),
        torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
        torch.randn(3, 7, 2),
        torch.randn(3),
    ):
        both = twice(x)
        assert torch.equal(both[::2], x)
        assert torch.equal(both[1::2], x)
        if x.ndim == 4:
            assert both.is_contiguous(memory_format=torch.channels_last) == x.is_contiguous(
                memory_format=torch.channels_last
            )


@pytest.mark.parametrize(
    ("part", "are_still"),
    [
        ((0, 2), True),
        ((2, 6), True),
        ((2, 8), True),
        ((1, 3), False),
        ((0, 3), False),
        ((3, 6), False),
        ((5, 6), False),
    ],
)
def test_parts_of_twins_are_twins_where_no_two_are_parted(part: tuple[int, int], are_still: bool) -> None:
    rows = torch.arange(6.0)[:, None]
    some, times, conditions, are_twins = cut((rows, rows[:, 0], {"words": rows}, True), slice(*part))
    assert are_twins is are_still
    assert len(some) == len(times) == len(conditions["words"]) == min(part[1], 6) - part[0]
    assert not cut((rows, rows[:, 0], {"words": rows}, False), slice(*part))[3]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[LoadedModel]:
    settings = Settings(device="cpu", dtype="float32", attention="sdpa", model="random:sd-1.5:tiny", data_dir=tmp_path)
    manager = PipelineManager(settings, Registry())
    model = manager.get("random:sd-1.5:tiny")
    assert not model.unet.shares, "on a CPU latents are diffusers' own"
    model.unet.shares = True
    yield model
    manager.free()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_twins_in_parts_have_the_answers_of_the_whole(tiny: LoadedModel, count: int) -> None:
    """Where the memory is too small: down to single rows, which are no twins any more."""
    unet = tiny.unet
    _, times, given = twins_of(unet, 1)
    rows = twice(torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(2)))
    times, given = times.repeat(count, 1), {name: value.repeat(count, 1, 1) for name, value in given.items()}
    real = unet.forward
    with torch.inference_mode():
        whole, plain = tiny.predict(rows, times, given, True), tiny.predict(rows, times, given)
        assert (whole - plain).norm() / plain.norm() < 1e-5
        for limit in (1, 2, 3):

            def short(rows: torch.Tensor, *others: Any, limit: int = limit, **more: Any) -> Any:
                if len(rows) > limit:
                    raise torch.OutOfMemoryError("out of memory")
                return real(rows, *others, **more)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(unet, "forward", short)
                parts = replace(tiny).predict_in_parts(rows, times, given, True)
            assert max(len(part) for part in parts) <= limit
            assert (torch.cat(parts) - plain).norm() / plain.norm() < 1e-5


def test_guided_pictures_are_twins_and_beside_others_they_are_not(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[int, int]] = []
    tiny.unet.down_blocks[0].resnets[0].register_forward_hook(
        lambda _, inputs, answer: met.append((len(inputs[0]), len(inputs[1])))
    )
    embeds = tiny.prompts.encode("a cat", "a dog", device="cpu", dtype=torch.float32)

    def begun(scale: float, *seeds: int) -> Denoising:
        plan = Plan("text_to_image", seeds, 2, scale, "ddim")
        return Denoising(tiny, plan, Canvas(64, 64, 64, 64), embeds)

    for group, expected in (
        ([begun(5.0, 1)], (1, 2)),
        ([begun(5.0, 1, 2), begun(7.0, 3)], (3, 6)),
        ([begun(5.0, 1), begun(1.0, 2)], (3, 3)),
        ([begun(1.0, 1), begun(1.0, 2)], (2, 2)),
    ):
        met.clear()
        advance(group)
        assert met == [expected]


def test_pictures_of_several_rows_are_as_without_sharing(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randn(3, 77, tiny.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(5))
    embeds = replace(
        tiny.prompts.encode("a cat", "a dog", device="cpu", dtype=torch.float32),
        prompt_embeds=words[:2],
        negative_prompt_embeds=words[2:],
    )

    def latents() -> torch.Tensor:
        plans = [Plan("text_to_image", seeds, 3, scale, "ddim") for seeds, scale in (((1, 2), 5.0), ((3, 4), 7.0))]
        group = [Denoising(tiny, plan, Canvas(64, 64, 64, 64), embeds) for plan in plans]
        for _ in range(3):
            advance(group)
        return torch.cat([one.latents for one in group])

    shared = latents()
    monkeypatch.setattr(tiny.unet, "shares", False)
    apart = latents()
    assert (shared - apart).norm() / apart.norm() < 1e-4


def test_the_picture_book_does_not_share_as_copying_costs_what_that_saves(model: LoadedModel) -> None:
    assert isinstance(model.unet, KeepingUnet)
    assert isinstance(model.unet, KeepingUnet)
    assert not model.unet.shares


def test_who_keeps_times_and_who_does_not_share_no_call(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    embeds = tiny.prompts.encode("a cat", "", device="cpu", dtype=torch.float32)

    def begun() -> Denoising:
        return Denoising(tiny, Plan("text_to_image", (1,), 2, 5.0, "ddim"), Canvas(64, 64, 64, 64), embeds)

    keeps, keeps_too = begun(), begun()
    monkeypatch.setattr(LoadedModel, "kept_of_times", lambda _, *given: given)
    does_not = begun()
    assert keeps.key == keeps_too.key != does_not.key
