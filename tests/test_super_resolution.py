"""Models that make pictures larger give diffusers' own pixels, in tiles, in shared runs, and from the hub's folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from sd_demo import random_model
from sd_demo.checkpoints import read_model
from sd_demo.cli import main
from sd_demo.engine import Engine
from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.outputs import Outputs
from sd_demo.receipt import read_receipt_file
from sd_demo.registry import Registry, check_task
from sd_demo.requests import SuperResolution, TextToImage
from sd_demo.schedulers import make_scheduler
from sd_demo.settings import Settings
from sd_demo.upscale import Tile, plan_upscaling
from sd_demo.upscaling import Upscaled, run_upscaling

X4, X2 = "random:x4-upscaler:tiny", "random:x2-latent-upscaler:tiny"
LIKE = {X4: "x4-upscaler", X2: "x2-latent-upscaler"}
PIPELINES: dict[str, Any] = {
    X4: diffusers.StableDiffusionUpscalePipeline,
    X2: diffusers.StableDiffusionLatentUpscalePipeline,
}
FACTOR = {X4: 4, X2: 2}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("outputs")
    # One kind of attention on both sides, so that pixels may be compared bit for bit.
    engine = Engine(Settings(device="cpu", dtype="float32", attention="plain", model=X4), outputs=Outputs(folder))
    engine.start()
    yield engine
    engine.close()


def theirs(model: str, image: Image.Image, scheduler: str, seed: int, **asked: Any) -> np.ndarray:
    """What diffusers' own pipeline makes of `image` with the same weights."""
    pipe = PIPELINES[model](**random_model.build(LIKE[model], "tiny"))
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor())
    pipe.scheduler = make_scheduler(scheduler, pipe.scheduler.config)
    return np.asarray(pipe(image=image, generator=torch.Generator().manual_seed(seed), **asked).images[0])


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(
    ("model", "scheduler", "more"),
    [(X4, "ddim", {"noise_level": 60}), (X4, "euler_a", {"noise_level": 0}), (X2, "euler", {})],
)
def test_pixels_are_those_of_diffusers(
    engine: Engine, model: str, scheduler: str, more: dict[str, int], guidance: float
) -> None:
    image, words = picture(64, 96), {"prompt": "a cat", "negative_prompt": "a dog"}
    numbers = {"num_inference_steps": 3, "guidance_scale": guidance}
    request = SuperResolution(image=image, seed=5, scheduler=scheduler, model=model, **words, **numbers, **more)
    other = request.model_copy(update={"seed": 6, "image": picture(64, 96, 1), "guidance_scale": 3.0})
    jobs = [engine.submit(one) for one in (request, other)]  # which share the loop
    made = jobs[0].result(120).images[0]
    jobs[1].result(120)
    expected = theirs(model, image, scheduler, 5, **words, **numbers, **more)
    assert expected.std() > 5
    difference = np.abs(np.asarray(made.image, dtype=int) - expected)
    assert difference.max() <= 1, "the last bits may differ in a shared run"
    assert made.image.size == (64 * FACTOR[model], 96 * FACTOR[model])
    assert made.receipt.done.strength is None


@pytest.mark.parametrize(("model", "side"), [(X4, 16), (X2, 64)])
def test_a_larger_picture_is_made_in_tiles_and_verifies(
    engine: Engine, model: str, side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factor, entry = FACTOR[model], engine.defaults(model)
    image = picture(side * 2, side + 3)
    image.save(tmp_path / "small.png")
    values = {"image": image, "scale": factor, "num_inference_steps": 2, "seed": 3, "model": model, "prompt": "x"}
    plan = plan_upscaling(values, entry=entry)
    assert {(tile.width, tile.height) for tile in plan.tiles} == {(side * factor, side * factor)}
    covered = np.zeros((plan.made[1], plan.made[0]))
    for tile, request in zip(plan.tiles, plan.requests, strict=True):
        assert isinstance(request, SuperResolution)
        corner = tile.left // factor, tile.top // factor
        assert request.image.tobytes() == image.crop((*corner, corner[0] + side, corner[1] + side)).tobytes()
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.min() >= 1
    end = next(one for one in run_upscaling(engine, plan) if isinstance(one, Upscaled))
    assert end.result.image.size == end.enlarged.size == (image.width * factor, image.height * factor)
    receipt = read_receipt_file(end.result.path)
    assert (receipt.task, receipt.done.model, receipt.done.seed) == ("upscale", model, 3)
    assert f"{len(plan.tiles)} tiles of {side * factor}x{side * factor}" in receipt.notes[0]
    place = ["--image", str(tmp_path / "small.png"), "--output", str(tmp_path)]
    assert main(["verify", str(end.result.path), *place]) == 0
    assert capsys.readouterr().out.split(":")[0].strip() in ("identical", "same picture")


def test_a_smaller_scale_is_made_at_the_models_own_and_shrunk(engine: Engine) -> None:
    image = picture(32, 24)
    whole, half = (
        next(
            one.result
            for one in run_upscaling(engine, plan_upscaling({**asked, "image": image}, entry=engine.defaults(X4)))
            if isinstance(one, Upscaled)
        )
        for asked in ({"scale": scale, "seed": 1, "num_inference_steps": 2, "model": X4} for scale in (4, 2))
    )
    assert half.image.size == (64, 48)
    assert half.image.tobytes() == whole.image.resize((64, 48), Image.Resampling.LANCZOS).tobytes()
    assert any("made smaller, to 64x48" in note for note in half.receipt.notes)


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (X2, {"scale": 3}, "makes pictures 2 times as long; choose a scale up to it"),
        (X2, {"scheduler": "ddim"}, "works with the scheduler euler alone"),
        (X4, {"image": picture(600, 520), "scale": 1.5}, "would make 2400x2080, more than four megapixels"),
        (X4, {"loras": ("robot",)}, "takes no LoRAs"),
        (X4, {"noise_level": 351}, "noise_level must be a whole number from 0 to 350"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_it_runs(model: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan_upscaling({"image": picture(32, 32), **values}, entry=Registry().get(model))
    assert words in str(caught.value)


def test_such_a_model_draws_nothing_and_a_drawing_one_takes_no_such_request(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="only makes pictures larger; choose another model, or use Upscale"):
        engine.submit(TextToImage(prompt="a house", model=X4))
    with pytest.raises(InvalidRequest, match="only repaints parts of pictures"):
        engine.submit(SuperResolution(image=picture(32, 32), model="sd-1.5-inpainting"))
    with pytest.raises(InvalidRequest):
        check_task(Registry().get("picture-book"), "super_resolution")


@pytest.mark.parametrize("model", [X4, X2])
def test_a_folder_as_the_hub_has_it_loads_and_an_incomplete_one_is_refused(model: str, tmp_path: Path) -> None:
    folder = random_model.save(LIKE[model], tmp_path / "model", "tiny")
    entry = Registry().get(str(folder))
    assert (entry.upscale_factor, entry.tasks) == (FACTOR[model], ("super_resolution",))
    parts = read_model(folder, torch.float32)
    assert ("low_res_scheduler" in parts) == (model == X4)
    assert parts["unet"].config.in_channels == {X4: 7, X2: 8}[model]
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if index.pop("low_res_scheduler", None):
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(ModelUnavailable, match="takes 7 channels"):
            read_model(folder, torch.float32)


def test_the_command_takes_such_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = random_model.save("x4-upscaler", tmp_path / "model", "tiny")
    picture(20, 16).save(tmp_path / "small.png")
    place = ["--model", str(folder), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["upscale", str(tmp_path / "small.png"), "--scale", "4", "--num-inference-steps", "2", *place]) == 0
    with Image.open(capsys.readouterr().out.strip()) as made:
        assert made.size == (80, 64)
    assert main(["upscale", str(tmp_path / "small.png"), "--model", "x4-upscaler"]) == 1
    assert "download x4-upscaler fetches them" in capsys.readouterr().err


def test_tiles_of_the_large_picture_start_where_the_small_ones_do() -> None:
    plan = plan_upscaling({"image": picture(40, 16), "scale": 4}, entry=Registry().get(X4))
    assert plan.tiles == (Tile(0, 0, 64, 64), Tile(48, 0, 64, 64), Tile(96, 0, 64, 64))
