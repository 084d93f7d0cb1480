"""The model's own safety checker: what it flags is never saved or shown, and that is said."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_demo import random_model, safety
from sd_demo.cli import main
from sd_demo.compare import plan_comparison
from sd_demo.comparing import WITHHELD, Compared, run_comparison
from sd_demo.engine import Engine
from sd_demo.errors import ModelUnavailable, NonFiniteImage, PictureWithheld
from sd_demo.events import Step
from sd_demo.lora_training import LoraTraining
from sd_demo.requests import parse_request
from sd_demo.safety import read_safety_checker
from sd_demo.settings import Settings
from sd_demo.training_events import SamplePictures
from sd_demo.training_request import parse_training
from sd_demo.upscale import plan_upscaling
from sd_demo.upscaling import Upscaled, run_upscaling

WAIT_S = 120
ALWAYS, NEVER = -2.0, 2.0  # thresholds of a cosine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that ships a tiny checker."""
    folder = random_model.save("sd-1.5", tmp_path_factory.mktemp("safety") / "checked", "tiny")
    random_model.save("safety-checker", folder / "safety_checker", "tiny")
    (folder / "feature_extractor").mkdir()
    settings = folder / "safety_checker" / "preprocessor_config.json"
    shutil.move(settings, folder / "feature_extractor" / settings.name)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def with_threshold(model: Path, folder: Path, threshold: float | list[float]) -> Path:
    """The model again, its checker flagging above this cosine."""
    shutil.copytree(model, folder)
    file = folder / "safety_checker" / "model.safetensors"
    weights = load_file(file)
    weights["concept_embeds_weights"] = torch.full((17,), threshold)
    save_file(weights, file, {"format": "pt"})
    return folder


def engine_for(model: Path, outputs: Path, **settings: object) -> Engine:
    engine = Engine(
        Settings(
            model=str(model), device="cpu", dtype="float32", attention="sdpa", output_dir=outputs, **settings  # type: ignore[arg-type]
        )
    )  # fmt: skip
    engine.start()
    return engine


@contextlib.contextmanager
def engine_above(threshold: float, model: Path, folder: Path) -> Iterator[Engine]:
    """An engine whose checker flags above this cosine."""
    engine = engine_for(with_threshold(model, folder / "model", threshold), folder / "outputs")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def strict(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose checker flags everything."""
    with engine_above(ALWAYS, model, tmp_path_factory.mktemp("strict")) as engine:
        yield engine


@pytest.fixture(scope="module")
def lenient(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose checker flags nothing by itself."""
    with engine_above(NEVER, model, tmp_path_factory.mktemp("lenient")) as engine:
        yield engine


def ask(count: int = 1) -> object:
    values = {"prompt": "a", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
    return parse_request("text_to_image", values | {"num_images_per_prompt": count})


def test_a_flagged_picture_is_withheld_with_a_sentence(strict: Engine) -> None:
    job = strict.submit(ask())
    with pytest.raises(PictureWithheld, match=r"withheld the picture, .*; try another seed or other words\.$"):
        job.result(WAIT_S)
    assert list(strict.outputs.folder.rglob("*.png")) == [], "nothing of it is on the disk"


def test_no_preview_shows_what_the_end_would_withhold(strict: Engine) -> None:
    job = strict.submit(ask(), has_previews=True)
    steps = [event for event in job.events() if isinstance(event, Step)]
    assert steps
    assert all(not step.previews for step in steps)


def test_only_the_flagged_ones_of_several_are_withheld(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(with_threshold(model, tmp_path / "model", NEVER), tmp_path / "outputs")
    assert all(one.receipt.done.is_safety_checked for one in engine.submit(ask(3)).result(WAIT_S).images)
    monkeypatch.setattr(safety.SafetyChecker, "flags", lambda self, images: [False, True, False])
    images = engine.submit(ask(3)).result(WAIT_S).images
    engine.close()
    assert [one.receipt.done.index for one in images] == [0, 2]
    assert [one.receipt.done.seed for one in images] == [1, 3]
    assert all("withheld 1 of 3 pictures" in " ".join(one.receipt.notes) for one in images)


def flag_some(patch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the pictures of these numbers be flagged, in the order in which they are looked at."""
    seen = itertools.count()
    patch.setattr(safety.SafetyChecker, "flags", lambda self, images: [next(seen) in numbers for _ in images])


def test_a_flagged_cell_takes_no_other_with_it(lenient: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"prompt": "a", "num_inference_steps": 2, "width": 64, "height": 64}
    comparison = plan_comparison("text_to_image", values, "seed: 1, 2, 3")
    flag_some(monkeypatch, 1)
    *_, end = run_comparison(lenient, comparison)
    assert isinstance(end, Compared)
    assert [one.receipt.done.seed for one in end.images] == [1, 3]
    assert end.withheld == (1,)
    assert end.about_withheld.startswith("The model's safety checker withheld 1 more, grey on the sheet")
    greys = np.all(np.asarray(end.sheet) == WITHHELD, axis=-1)
    assert greys.sum() >= 64 * 64
    flag_some(monkeypatch, 0, 1, 2)
    with pytest.raises(PictureWithheld, match="withheld the picture"):
        list(run_comparison(lenient, comparison))


def test_the_command_names_flagged_cells(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_threshold(model, tmp_path / "model", NEVER)
    flag_some(monkeypatch, 1)
    places = [f"--model={folder}", f"--output={tmp_path / 'outputs'}", "--device=cpu", "--dtype=float32"]
    sizes = ["--num-inference-steps=2", "--width=64", "--height=64", "--x=seed: 1, 2, 3"]
    assert main(["compare", "a", *sizes, *places, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["withheld"] == [1]
    assert [one["receipt"]["done"]["seed"] for one in told["images"]] == [1, 3]
    assert "The model's safety checker withheld 1 more, grey on the sheet" in err


def test_a_flagged_tile_stays_as_it_was_enlarged(lenient: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = lenient.defaults().model_copy(update={"native_size": 64})
    picture = Image.effect_noise((96, 64), 60).convert("RGB")
    values = {"image": picture, "scale": 1.0, "seed": 1, "num_inference_steps": 2, "strength": 0.5}
    plan = plan_upscaling(values, entry=entry)
    count = len(plan.tiles)
    assert count == 2
    flag_some(monkeypatch)
    *_, whole = run_upscaling(lenient, plan)
    flag_some(monkeypatch, 0)
    *_, part = run_upscaling(lenient, plan)
    assert isinstance(whole, Upscaled)
    assert isinstance(part, Upscaled)
    assert any("withheld 1 of them" in note for note in part.result.receipt.notes)
    assert not any("withheld" in note for note in whole.result.receipt.notes)
    changed = [np.abs(np.asarray(one.result.image, int) - np.asarray(one.enlarged, int)) for one in (whole, part)]
    alone = plan.tiles[1].left  # what only the first tile covers
    assert changed[0][:, : alone // 2].max() > 0
    assert changed[1][:, alone + 8 :].max() > 0, "the other one is refined all the same"
    assert part.result.receipt.done.seed == 1
    assert changed[1][:, : alone // 2].max() < changed[0][:, : alone // 2].max()
    for numbers in (range(count), range(count, 2 * count)):  # refined, or as they were
        flag_some(monkeypatch, *numbers)
        with pytest.raises(PictureWithheld, match="withheld a part of the picture"):
            list(run_upscaling(lenient, plan))


def test_it_can_be_left_off(model: Path, tmp_path: Path) -> None:
    folder = with_threshold(model, tmp_path / "model", ALWAYS)
    engine = engine_for(folder, tmp_path / "outputs", safety_checker=False)
    image = engine.submit(ask()).result(WAIT_S).images[0]
    engine.close()
    assert not image.receipt.done.is_safety_checked


def test_it_flags_what_diffusers_flags(model: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    pictures = [Image.fromarray(chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(6)]
    pictures += [Image.new("RGB", (64, 64), color) for color in ("black", "red", "white")]
    checker = read_safety_checker(model, torch.float32, torch.device("cpu"))
    assert checker is not None
    features = checker._processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = checker.network.visual_projection(checker.network.vision_model(features)[1])
        cosines = torch.nn.functional.cosine_similarity(seen[:, None], checker.network.concept_embeds[None], dim=-1)
    folder = with_threshold(model, tmp_path / "model", float(cosines.max(dim=1).values.median()))
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    arrays = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
    _, expected = pipe.run_safety_checker(arrays, torch.device("cpu"), torch.float32)
    ours = read_safety_checker(folder, torch.float32, torch.device("cpu"))
    assert ours is not None
    assert ours.flags(pictures) == expected
    assert 0 < sum(expected) < len(pictures), "so that both answers were seen"


def test_a_checker_that_answers_nan_lets_nothing_through(model: Path) -> None:
    checker = read_safety_checker(model, torch.float32, torch.device("cpu"))
    assert checker is not None
    with torch.no_grad():
        checker.network.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteImage, match="--dtype float32"):
        checker.flags([Image.new("RGB", (64, 64))])


def test_a_promised_checker_that_is_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "safety_checker" / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"^model lacks .*\(SD_DEMO_SAFETY_CHECKER=0\)"):
        read_safety_checker(folder, torch.float32, torch.device("cpu"))
    with pytest.raises(ModelUnavailable, match=r"^A Model lacks"):  # a download's folder is called by its commit
        read_safety_checker(folder, torch.float32, torch.device("cpu"), "A Model")


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    folder = random_model.save("sd-1.5", tmp_path / "plain", "tiny")
    assert read_safety_checker(folder, torch.float32, torch.device("cpu")) is None
    assert read_safety_checker(tmp_path / "file.safetensors", torch.float32, torch.device("cpu")) is None


def test_flagged_samples_of_a_training_are_told_and_not_shown(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(4):
        Image.new("RGB", (64, 64), (60 * k, 90, 120)).save(folder / f"{k}.png")
    small = {"resolution": 64, "steps": 2, "rank": 2, "sample_every": 1, "trigger": "thing"}
    small |= {"model": str(with_threshold(model, tmp_path / "model", ALWAYS))}
    asked = parse_training({**small, "images": folder, "output": tmp_path / "thing.safetensors"})
    training = LoraTraining(asked, Settings(device="cpu", dtype="float32", output_dir=tmp_path / "out"))
    training.start()
    samples = [event for event in training.events() if isinstance(event, SamplePictures)]
    assert [(one.index, one.prompts, one.images) for one in samples] == [(0, (), ()), (1, (), ()), (2, (), ())]
    assert any("withheld 3 of the sample pictures" in note for note in training.result().notes)
