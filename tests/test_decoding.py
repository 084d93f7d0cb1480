"""Memory that is too small for the whole: the UNet runs in parts, the picture is decoded in tiles, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sd_demo import decoding as decoding_module
from sd_demo.decoding import Decoded, decode, preview
from sd_demo.denoising import Denoising, advance
from sd_demo.engine import Engine
from sd_demo.events import Step
from sd_demo.finishing import make_plan
from sd_demo.image_difference import psnr
from sd_demo.loaded_model import LoadedModel
from sd_demo.requests import parse_request
from sd_demo.residence import Residence
from sd_demo.settings import Settings
from sd_demo.super_resolution import begin


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A started engine of the embedded model, whose latents and pictures repeat to the last bit."""
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    yield engine
    engine.close()


def model_of(engine: Engine) -> LoadedModel:
    """The one that has drawn."""
    model = engine._manager.current
    assert model is not None
    return model


def draw(engine: Engine, **options: Any) -> tuple[Image.Image, Any]:
    values = {"prompt": "a red house", "num_inference_steps": 6, "seed": 3, "width": 320, "height": 320}
    one = engine.submit(parse_request("text_to_image", values), **options).result(120).images[0]
    return one.image, one.receipt


def test_a_picture_too_large_for_the_memory_is_decoded_in_tiles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = draw(engine)
    model = model_of(engine)
    vae, decode = model.vae, model.vae.decode

    def small_memory(latents: torch.Tensor, **options: Any) -> Any:
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(latents, **options)

    monkeypatch.setattr(vae, "decode", small_memory)
    tiled, receipt = draw(engine)
    monkeypatch.undo()
    again, plain = draw(engine)
    assert "decoded in tiles, because the memory was too small for the whole" in receipt.notes
    assert psnr(tiled, whole) > 20, "the same picture, but for seams"
    assert tiled.size == whole.size
    assert plain.done.retries == []
    assert np.array_equal(np.asarray(again), np.asarray(whole)), "the next one is whole again"


def test_a_given_picture_too_large_for_the_memory_is_encoded_in_tiles(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = parse_request(
        "image_to_image", {"image": Image.radial_gradient("L").resize((320, 320)), "num_inference_steps": 1, "seed": 3}
    )
    embeds, vae = model.prompts.encode("", "", device=model.placement.device, dtype=model.placement.dtype), model.vae

    def begun() -> Denoising:
        return begin(model, make_plan(request, model.entry), request, embeds)

    def short_of_whole(pixels: torch.Tensor, **options: Any) -> Any:
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return encode(pixels, **options)

    whole, encode = begun(), vae.encode
    assert not whole.is_encoded_in_tiles
    monkeypatch.setattr(vae, "encode", short_of_whole)
    tiled = begun()
    monkeypatch.undo()
    again = begun()
    assert model.residence.rung == "resident"
    assert torch.equal(again.latents, whole.latents), "the next one is whole again"
    difference = (tiled.latents - whole.latents).std() / whole.latents.std()
    assert 0 < difference < 0.1, "the same picture, but for seams"
    assert decode(tiled).retries == [
        ["the given picture was encoded in tiles, because the memory was too small for the whole"]
    ]
    assert decode(whole).retries == [[]]


class HalfPrecision:
    """A small bfloat16 decoder that answers NaN, and 40x40 latents, on what seems a device with memory of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(3)
        blocks: Any = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        self.vae: Any = AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, **blocks).eval().bfloat16()
        self.residence = Residence({"vae": self.vae}, torch.device("cpu"))
        monkeypatch.setattr(self.residence, "_can_step_down", True)
        self.is_short_of_whole = False
        self.decode = self.vae.decode
        monkeypatch.setattr(self.vae, "decode", self.overflowing)

    def overflowing(self, latents: torch.Tensor, **options: Any) -> Any:
        if latents.dtype == torch.float32 and self.is_short_of_whole and not self.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        (pixels,) = self.decode(latents, **options)
        return (pixels * torch.nan if latents.dtype == torch.bfloat16 else pixels,)

    def decoded(self) -> Decoded:
        latents = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(1))
        model = SimpleNamespace(vae=self.vae, residence=self.residence)
        canvas = SimpleNamespace(restore=lambda picture: picture)
        denoising: Any = SimpleNamespace(model=model, latents=latents, canvas=canvas, is_encoded_in_tiles=False)
        return decode(denoising)

    @property
    def dtypes(self) -> set[torch.dtype]:
        return {parameter.dtype for parameter in self.vae.parameters()}


def test_the_float32_picture_is_decoded_in_tiles_too_before_a_rung_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    half = HalfPrecision(monkeypatch)
    whole = half.decoded()
    assert [text.partition(",")[0] for text in whole.retries[0]] == ["decoded again in float32"]
    half.is_short_of_whole = True
    tiled = half.decoded()
    assert [text.partition(",")[0] for text in tiled.retries[0]] == ["decoded in tiles", "decoded again in float32"]
    assert half.residence.rung == "resident"
    assert tiled.images[0].size == whole.images[0].size == (80, 80)
    assert half.dtypes == {torch.bfloat16}


def test_memory_that_runs_out_half_way_to_float32_leaves_a_decoder_of_one_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half, tries = HalfPrecision(monkeypatch), []
    whole = half.decoded()
    last = half.vae.decoder.conv_out
    convert = last._apply

    def short_at_first(*arguments: Any, **options: Any) -> Any:
        tries.append(half.dtypes)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
        return convert(*arguments, **options)

    monkeypatch.setattr(last, "_apply", short_at_first)
    again = half.decoded()
    assert tries[0] == {torch.float32, torch.bfloat16}, "else it would prove nothing"
    assert again.retries == whole.retries
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(whole.images[0]))
    assert half.dtypes == {torch.bfloat16}


def test_what_is_held_only_to_be_faster_goes_before_tiles_and_parts_are_tried(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = draw(engine)
    model = model_of(engine)
    held: list[str] = []
    calls: list[torch.Size] = []

    def short_at(number: int, call: Any) -> Any:
        """`call`, for which the memory is too small from its call `number` on, until what is held was spared."""

        def tried(inputs: torch.Tensor, *others: Any, **options: Any) -> Any:
            calls.append(inputs.shape)
            if len(calls) == number:
                held.append("recording")
            if held:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return call(inputs, *others, **options)

        return tried

    class Recordings:
        was_compiled = False

        def __call__(self, unet: Any, latents: torch.Tensor, times: torch.Tensor, words: dict[str, Any]) -> Any:
            return call(latents, times, **words, return_dict=False)[0]

    call = short_at(3, model.unet)
    object.__setattr__(model, "captured", Recordings())  # as on a GPU
    monkeypatch.setattr(model.residence, "spare", lambda: bool(held and held.pop()))
    again, receipt = draw(engine)
    assert [shape[0] for shape in calls] == [2] * 7, "six steps, one of them twice, and whole"
    object.__setattr__(model, "captured", None)
    calls.clear()
    monkeypatch.setattr(model.vae, "decode", short_at(1, model.vae.decode))
    last, of_last = draw(engine)
    assert [shape[-2:] for shape in calls] == [(40, 40)] * 2, "twice, and whole"
    for picture in (again, last):
        assert np.array_equal(np.asarray(picture), np.asarray(whole))
    assert receipt.done.retries == of_last.done.retries == []


def test_a_preview_that_finds_no_memory_costs_only_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = draw(engine)
    model = model_of(engine)
    decode, calls, spared = model.vae.decode, [], []
    monkeypatch.setattr(model.residence, "_can_step_down", True)  # as on a device with memory of its own
    monkeypatch.setattr(model.residence, "spare", lambda: bool(spared.append("recording")))

    def short_at_first(latents: torch.Tensor, **options: Any) -> Any:
        calls.append(tuple(latents.shape))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(latents, **options)

    monkeypatch.setattr(model.vae, "decode", short_at_first)
    again, receipt = draw(engine, has_previews=True)
    assert calls == [(1, 4, 20, 20), (1, 4, 40, 40)], "one look was tried, and the end came out"
    assert (receipt.done.memory, receipt.done.retries, spared) == ("resident", [], [])
    assert np.array_equal(np.asarray(again), np.asarray(whole))


def test_previews_of_many_pictures_take_the_memory_of_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(engine)
    vae = model_of(engine).vae
    decode, rows = vae.decode, []

    def counted(latents: torch.Tensor, **options: Any) -> Any:
        rows.append(len(latents))
        return decode(latents, **options)

    monkeypatch.setattr(vae, "decode", counted)
    values = {"prompt": "a red house", "num_inference_steps": 2, "width": 64, "height": 64, "num_images_per_prompt": 3}
    job = engine.submit(parse_request("text_to_image", values), has_previews=True)
    assert [len(event.previews) for event in job.events() if isinstance(event, Step)] == [3, 0]
    assert rows == [1] * 6


def test_rows_that_do_not_fit_together_run_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"prompt": "a red house", "num_inference_steps": 3, "seed": 3, "width": 64, "height": 64}
    request = parse_request("text_to_image", values | {"num_images_per_prompt": 3})
    whole = engine.submit(request).result(120).images
    model = model_of(engine)
    forward, failures = model.unet.forward, []

    def small_memory(rows: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(rows) > 2:
            failures.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(rows, *arguments, **options)

    monkeypatch.setattr(model.unet, "forward", small_memory)
    parted = engine.submit(request).result(120).images
    for one, other in zip(parted, whole, strict=True):
        assert psnr(one.image, other.image) > 50, "the same picture"
        assert one.receipt.done.retries == [
            "the UNet ran in 3 parts, because the memory was too small for all rows at once"
        ]
        assert other.receipt.done.retries == []
    assert failures == [6, 4], "what was too much is not tried again at each step"
    monkeypatch.undo()
    model._too_much.clear()  # as a minute later
    assert engine.submit(request).result(120).images[0].receipt.done.retries == []


def test_only_the_picture_that_was_decoded_again_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = iter([[], ["decoded again"], []])
    real = decoding_module._decoded
    monkeypatch.setattr(decoding_module, "_decoded", lambda *given: (real(*given)[0], next(decoded)))
    values = {"prompt": "a red house", "num_inference_steps": 1, "width": 64, "height": 64, "num_images_per_prompt": 3}
    made = engine.submit(parse_request("text_to_image", values)).result(120).images
    assert [one.receipt.done.retries for one in made] == [[], ["decoded again"], []]


def test_a_server_that_limits_the_rows_of_a_call_does_so_for_one_request(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path, max_rows=2))
    engine.start()
    values = {"prompt": "a red house", "num_inference_steps": 2, "width": 64, "height": 64}
    engine.submit(parse_request("text_to_image", values)).result(120)
    rows: list[int] = []
    model_of(engine).unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    done = engine.submit(parse_request("text_to_image", values | {"num_images_per_prompt": 3})).result(120)
    engine.close()
    assert rows == [2] * 6
    assert done.images[0].receipt.done.retries == []


def test_a_preview_shows_what_comes_and_not_the_noise_on_it(engine: Engine) -> None:
    draw(engine)
    model = model_of(engine)
    values = {"prompt": "a red house", "num_inference_steps": 8, "seed": 3, "width": 128, "height": 128}
    request = parse_request("text_to_image", values)
    plan = make_plan(request, model.entry)
    denoising = begin(model, plan, request, model.read(plan, request))
    for _ in range(4):
        advance([denoising])
    (look,), (noisy,) = preview(denoising), decode(denoising).images
    while not denoising.is_finished:
        advance([denoising])
    (final,) = decode(denoising).images
    assert psnr(look, final) > psnr(noisy, final)
