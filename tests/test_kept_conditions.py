"""What a UNet makes of prompts and times once: the same answers as from prompts and times, for every known UNet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoraConfig

from sd_demo import random_model
from sd_demo.kept_conditions import KeepingUnet, let_keep
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.loaded_model import LoadedModel

KEPT = ("sd-1.5", "sd-1.4", "sd-1.5-inpainting", "lcm", "sd-2.1", "sd-2-inpainting")


def unet_of(like: str) -> Any:
    if like == "picture-book":
        return UNet2DConditionModel.from_pretrained(EMBEDDED_FOLDER / "unet").eval()
    return random_model.build(like, "tiny", dtype=torch.float32)["unet"].eval()


def inputs_of(unet: Any, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(count)
    side = 16
    rows = torch.randn(count, unet.config.in_channels, side, side, generator=generator)
    times = torch.tensor([999.0, 500.0, 37.0, 1.0])[:count]
    conditions = {"encoder_hidden_states": torch.randn(count, 77, unet.config.cross_attention_dim, generator=generator)}
    if unet.config.time_cond_proj_dim is not None:
        cond = torch.randn(1, unet.config.time_cond_proj_dim, generator=generator)
        conditions["timestep_cond"] = cond.expand(count, -1)
    return rows, times, conditions


def answer(unet: Any, rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return unet(rows, times, **conditions, return_dict=False)[0]


def kept(
    unet: Any, times: torch.Tensor, conditions: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    times, conditions = unet.of_times(times, conditions)
    return times, conditions | {"encoder_hidden_states": unet.of_prompts(conditions["encoder_hidden_states"])}


@pytest.mark.parametrize("like", ["picture-book", *KEPT])
def test_answers_are_those_from_prompts_and_times(like: str) -> None:
    unet = unet_of(like)
    rows, times, conditions = inputs_of(unet)
    expected = answer(unet, rows, times, conditions)
    let_keep(unet, shares=True)
    assert isinstance(unet, KeepingUnet)
    assert torch.equal(answer(unet, rows, times, conditions), expected), "who gives what was always given"
    times, given = kept(unet, times, conditions)
    assert times.ndim == 2
    assert list(given) == ["encoder_hidden_states"]
    difference = (answer(unet, rows, times, given) - expected).norm() / expected.norm()
    assert difference < 1e-5


@pytest.mark.parametrize("like", ["x4-upscaler", "x2-latent-upscaler"])
def test_other_unets_stay_as_they_are(like: str) -> None:
    unet = unet_of(like)
    kinds = [type(module) for module in unet.modules()]
    let_keep(unet, shares=True)
    assert [type(module) for module in unet.modules()] == kinds


def test_nothing_is_made_again_in_a_call() -> None:
    unet = unet_of("sd-1.5")
    let_keep(unet, shares=True)
    rows, times, conditions = inputs_of(unet)
    times, given = kept(unet, times, conditions)
    met: list[str] = []
    for name, layer in unet.named_modules():
        if name.endswith(("time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2", "time_proj")):
            layer.register_forward_hook(lambda *_, name=name: met.append(name))
    widths: list[int] = []
    real = torch.nn.functional.linear

    def linear(x: torch.Tensor, *others: Any) -> torch.Tensor:
        widths.append(x.shape[1] if x.ndim == 3 else 0)
        return real(x, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", linear)
        answer(unet, rows, times, given)
    assert met == []
    assert widths, "layers of pictures run"
    assert 77 not in widths, "none of the prompt"


def test_each_row_is_made_by_itself() -> None:
    unet = unet_of("picture-book")
    let_keep(unet, shares=True)
    embeds = torch.randn(5, 77, unet.config.cross_attention_dim)
    asked: list[int] = []
    unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.register_forward_hook(
        lambda _, inputs, __: asked.append(len(inputs[0]))
    )
    together = unet.of_prompts(embeds)
    assert asked == [1] * 5, "a kernel may add up otherwise where there are more"
    assert torch.equal(unet.of_prompts(embeds[3:4])[0], together[3])


@pytest.mark.parametrize("target", ["to_k", "time_emb_proj"])
def test_what_a_lora_wraps_is_asked_for_as_ever(target: str) -> None:
    unet = unet_of("sd-1.5")
    other = copy.deepcopy(unet)
    let_keep(unet, shares=True)
    rows, times, conditions = inputs_of(unet)
    for one in (unet, other):
        torch.manual_seed(3)
        one.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False))
    times_given, given = kept(unet, times, conditions)
    is_wide = given["encoder_hidden_states"].shape[-1] != conditions["encoder_hidden_states"].shape[-1]
    assert (is_wide, times_given.ndim) == ((False, 2) if target == "to_k" else (True, 1))
    expected = answer(other, rows, times, conditions)
    assert torch.allclose(answer(unet, rows, times_given, given), expected, atol=1e-5)
    unet.unload_lora()
    times_given, given = kept(unet, times, conditions)
    assert times_given.ndim == 2
    plain = answer(unet_of("sd-1.5"), rows, times, conditions)
    assert torch.allclose(answer(unet, rows, times_given, given), plain, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_a_width_that_could_be_either_is_not_kept() -> None:
    unet = unet_of("sd-1.5")
    layers = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    whole = sum(block.attn2.to_k.out_features + block.attn2.to_v.out_features for block in layers)
    residuals = [m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D"]
    times = sum(block.time_emb_proj.out_features for block in residuals)
    for other in ({"cross_attention_dim": whole}, {"time_embedding_dim": times}, {"time_embedding_dim": times + 1}):
        same = UNet2DConditionModel(**{name: unet.config[name] for name in unet.config if name[0] != "_"} | other)
        let_keep(same, shares=True)
        assert type(same) is UNet2DConditionModel, other


@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(slice_size=1)])
def test_every_attention_takes_what_is_kept(processor: Any) -> None:
    unet = unet_of("sd-1.5")
    let_keep(unet, shares=True)
    unet.set_attn_processor(processor)
    rows, times, conditions = inputs_of(unet)
    expected = answer(unet, rows, times, conditions)
    assert (answer(unet, rows, *kept(unet, times, conditions)) - expected).norm() / expected.norm() < 1e-5


def test_long_prompts_stay_as_they_are() -> None:
    unet = unet_of("sd-1.5")
    let_keep(unet, shares=True)
    width = unet.config.cross_attention_dim
    for chunks, is_kept in ((1, True), (2, False)):
        embeds = torch.randn(1, 77 * chunks, width)
        assert (unet.of_prompts(embeds).shape[-1] != width) is is_kept


def test_where_the_memory_is_too_small_nothing_is_kept_and_nothing_given_up(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    given_up: list[str] = []
    monkeypatch.setattr(model.residence, "spare", lambda: bool(given_up.append("spare")))
    monkeypatch.setattr(model.residence, "step_down", lambda: bool(given_up.append("rung")))
    width, times = model.unet.config.cross_attention_dim, torch.ones(3)
    prompts = [torch.randn(1, 77, width), torch.randn(2, 77, width)]
    assert model.rows_of_prompts(prompts, 2).shape[-1] != width
    assert model.kept_of_times(times, {})[0].ndim == 2
    for name in ("of_prompts", "of_times"):
        monkeypatch.setattr(KeepingUnet, name, fail)
    rows = model.rows_of_prompts(prompts, 2)
    assert torch.equal(rows[::2], prompts[0].expand(2, -1, -1))
    assert torch.equal(rows[1::2], prompts[1])
    assert model.kept_of_times(times, {})[0] is times
    assert given_up == []
