"""Weights in memory once for all tasks, switched and freed whole, never mixed; the same pictures from every source."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_demo import newer_weights, pipeline_manager, random_model
from sd_demo.checkpoints import weights_of
from sd_demo.engine import Engine
from sd_demo.errors import InvalidRequest, ModelUnavailable, OutOfMemory
from sd_demo.health import is_fatal
from sd_demo.hub.downloads import Downloads
from sd_demo.loaded_model import LoadedModel
from sd_demo.memory_need import MemoryNeed
from sd_demo.model_files import MANIFEST
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import EMBEDDED, Registry
from sd_demo.requests import parse_request
from sd_demo.schedulers import make_scheduler
from sd_demo.settings import Settings
from tests.hub_server import serve
from tests.ldm_checkpoint import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about their own futures
REPO = "somebody/tiny"
WAIT_S = 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models: sd-1.5 and sd-1.4 (other weights), as folders; file.safetensors with file/ of configs beside it."""
    root = tmp_path_factory.mktemp("models")
    random_model.save("sd-1.5", root / "one", "tiny", seed=1)
    random_model.save("sd-1.4", root / "two", "tiny", seed=2)
    pipe = StableDiffusionPipeline.from_pretrained(root / "one", local_files_only=True)
    write_checkpoint(pipe, root / "file.safetensors")
    random_model.save("sd-1.5", root / "file", "tiny", seed=1)
    for weights in (root / "file").rglob("*.safetensors"):
        weights.unlink()
    return root


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Settings:
    return Settings(
        device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path / "out", data_dir=root / "data",
        model=str(root / "one"),
    )  # fmt: skip


@pytest.fixture
def manager(settings: Settings) -> PipelineManager:
    return PipelineManager(settings, Registry(models_dir=settings.models_dir))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine(settings)
    engine.start()
    while engine.status().state == "loading":  # the libraries' loading is not made for two threads at once
        time.sleep(0.05)
    yield engine
    engine.close()


def picture(engine: Engine, model: str, task: str = "text_to_image", **values: Any) -> np.ndarray:
    size = {"width": 64, "height": 64} if task == "text_to_image" else {}
    asked = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 7, "scheduler": "ddim", **size, **values}
    done = engine.submit(parse_request(task, {**asked, "model": model})).result(WAIT_S)
    return np.asarray(done.images[0].image, dtype=np.float64)


def oracle(pipe: Any, **values: Any) -> np.ndarray:
    """What diffusers' own pipeline draws for the same request."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    asked = {"width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 7.5, **values}
    return np.asarray(pipe("a red ball", generator=generator, **asked).images[0], dtype=np.float64)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a - b) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def test_a_folder_a_file_and_a_download_draw_what_diffusers_draws(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StableDiffusionPipeline.from_pretrained(root / "one", local_files_only=True, safety_checker=None)
    folder.scheduler = DDIMScheduler.from_config(folder.scheduler.config)
    expected = oracle(folder)
    assert expected.std() > 5, "a picture of one colour would prove nothing"
    single = StableDiffusionPipeline.from_single_file(
        str(root / "file.safetensors"), config=str(root / "file"), local_files_only=True
    )
    single.scheduler = DDIMScheduler.from_config(single.scheduler.config)
    assert psnr(oracle(single), expected) > 60
    with pytest.raises(ModelUnavailable, match="download somebody/tiny"):
        picture(engine, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as hub:
        hub.add(REPO, root / "one")
        downloads = Downloads(engine.settings.data_dir, endpoint=hub.url)
        downloads.start(downloads.offer(engine.registry.for_download(REPO)), accepts_licence=True).result()
    for name in (str(root / "one"), str(root / "file.safetensors"), REPO):
        assert psnr(picture(engine, name), expected) > 50, name
    assert psnr(picture(engine, str(root / "two")), expected) < 40, "other weights draw another picture"


def test_the_receipt_names_the_weights(engine: Engine, root: Path) -> None:
    import hashlib

    values = {"prompt": "", "num_inference_steps": 1, "width": 64, "height": 64}

    def hash_in_receipt(model: Path) -> str:
        request = parse_request("text_to_image", {**values, "model": str(model)})
        return engine.submit(request).result(WAIT_S).images[0].receipt.done.model_hash

    file = root / "file.safetensors"
    assert hash_in_receipt(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len({hash_in_receipt(root / "one"), hash_in_receipt(root / "two"), hash_in_receipt(file)}) == 3


def test_all_tasks_share_one_set_of_weights(manager: PipelineManager, root: Path) -> None:
    model = manager.get(str(root / "one"))
    pipes = [
        model.pipeline(task, make_scheduler("ddim", model.scheduler_config))
        for task in ("text_to_image", "image_to_image", "inpaint")
    ]
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for pipe in pipes
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for parameter in part.parameters()
    }
    assert sum(storages.values()) == weights_of(root / "one") * 4
    assert len({id(pipe.scheduler) for pipe in pipes}) == 3, "a scheduler is mutable and never shared"


def bytes_alive() -> int:
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor) and not thing.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def test_switching_frees_the_old_model_whole(manager: PipelineManager, root: Path) -> None:
    manager.get(str(root / "one"))
    before = bytes_alive()
    watched = [weakref.ref(part) for part in manager.get(str(root / "one")).components.values() if part is not None]
    for name in ("two", "one", "two", "one"):
        manager.get(str(root / name))
        assert bytes_alive() <= 1.05 * before
    assert [ref() for ref in watched if ref() is not None] == []
    manager.free()
    assert manager.current is None
    assert bytes_alive() < before - weights_of(root / "one") * 4 * 0.95


def test_the_old_model_is_gone_before_the_new_one_loads(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 7, "width": 64, "height": 64}
    engine.submit(parse_request("text_to_image", {**values, "model": str(root / "one")})).result(WAIT_S)
    assert engine._manager.current is not None
    old = weakref.ref(engine._manager.current.unet)
    alive: list[bool] = []
    load = PipelineManager._load

    def loaded(self: PipelineManager, *how: Any) -> LoadedModel:
        alive.append(old() is not None)
        return load(self, *how)

    monkeypatch.setattr(PipelineManager, "_load", loaded)
    engine.submit(parse_request("text_to_image", {**values, "model": str(root / "two")})).result(WAIT_S)
    assert alive == [False], "both at once need not fit into the memory"


def test_switching_under_load_finishes_running_jobs_and_never_mixes(engine: Engine, root: Path) -> None:
    names = [str(root / "one"), str(root / "two")]
    values = {"prompt": "a red ball", "num_inference_steps": 3, "seed": 7, "width": 64, "height": 64}
    alone = {
        name: np.asarray(
            engine.submit(parse_request("text_to_image", {**values, "model": name})).result(WAIT_S).images[0].image
        )
        for name in names
    }
    jobs = [
        engine.submit(parse_request("text_to_image", {**values, "model": names[k % 2]}), visitor=f"v{k % 3}")
        for k in range(8)
    ]
    for k, job in enumerate(jobs):
        image = job.result(WAIT_S).images[0]
        assert image.receipt.done.model == names[k % 2]
        assert psnr(np.asarray(image.image, dtype=float), alone[names[k % 2]].astype(float)) > 50
    assert psnr(*(alone[name].astype(float) for name in names)) < 40


def test_several_models_stay_where_the_memory_allows_it(settings: Settings, root: Path) -> None:
    mib = weights_of(root / "one") * 4 / 2**20
    roomy = settings.model_copy(update={"model_memory_mib": round(2.5 * mib)})
    manager = PipelineManager(roomy, Registry(models_dir=settings.models_dir))
    one, two, file = (str(root / name) for name in ("one", "two", "file.safetensors"))
    loads: list[str] = []
    for name in (one, two, one, file, one, two):
        manager.get(name, lambda name=name: loads.append(name))
        assert manager.current is not None
        assert manager.current.entry.name == name
        assert sum(model.weights_mib for model in manager.loaded) <= roomy.model_memory_mib
    assert loads == [one, two, file, two], "the one used longest ago goes first"


def test_other_weights_under_the_same_name_are_taken_at_the_next_job(
    settings: Settings, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newer_weights, "LOOK_EVERY_S", 0.0)
    roomy = settings.model_copy(update={"model_memory_mib": 10_000, "data_dir": tmp_path})
    manager = PipelineManager(roomy, Registry(models_dir=roomy.models_dir))
    place = roomy.models_dir / "somebody--a-model"

    def fetch(commit: str, what: str) -> None:
        folder = Path(shutil.copytree(root / what, place / commit))
        (folder / MANIFEST).write_text(json.dumps({"repo": "somebody/a-model", "commit": commit, "files": {}}))

    fetch("0123", "one")
    name, loads = "somebody/a-model", []
    for _ in range(2):
        before = manager.get(name, lambda: loads.append(1), renews=True).model_hash
        assert manager.holds(name, ())
    assert len(loads) == 1
    fetch("4567", "two")
    os.utime(place / "0123" / MANIFEST, (1, 1))
    assert not manager.holds(name, ()), "what runs ends with the weights that it began with"
    assert manager.get(name).model_hash == before, "where something may be running nothing is freed"
    after = manager.get(name, lambda: loads.append(1), renews=True)
    assert (after.model_hash != before, len(loads), len(manager.loaded)) == (True, 2, 1)
    assert manager.holds(name, ())
    weights = place / "4567" / "unet" / "diffusion_pytorch_model.safetensors"
    changed = {key: value + 1 for key, value in load_file(weights).items()}
    save_file(changed, place / "new.safetensors", {"format": "pt"})
    half = (place / "new.safetensors").read_bytes()[:-1000]
    (place / "half").write_bytes(half)
    (place / "half").replace(weights)
    assert manager.holds(name, ()), "what is not whole yet costs nobody the model that works"
    (place / "new.safetensors").replace(weights)
    assert manager.get(name, renews=True).model_hash not in (before, after.model_hash), "somebody writes into it"
    weights.rename(place / "aside")
    assert manager.holds(name, ())
    shutil.rmtree(place)
    assert manager.holds(name, ()), "what is gone from the disk can be used while it is in memory"
    assert manager.get(name).entry.name == name


@pytest.mark.parametrize("side", [None, [8, 8]])
def test_a_model_whose_config_says_its_size_otherwise_draws(engine: Engine, tmp_path: Path, side: Any) -> None:
    folder = random_model.save("sd-1.5", tmp_path / "odd", "tiny", seed=1)
    blank = Image.new("RGB", (64, 64), "orange")
    tasks: dict[str, dict[str, Any]] = {
        "text_to_image": {},
        "image_to_image": {"image": blank, "strength": 0.9},
        "inpaint": {"image": blank, "mask_image": Image.new("L", (64, 64), 255), "strength": 0.9},
    }
    usual = {task: picture(engine, str(folder), task, **given) for task, given in tasks.items()}
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": side}))
    other = folder.rename(tmp_path / "other")
    for task, given in tasks.items():
        assert psnr(picture(engine, str(other), task, **given), usual[task]) > 50, task


def test_a_safety_checker_takes_room_only_where_it_is_loaded(settings: Settings, root: Path, tmp_path: Path) -> None:
    checked = Path(shutil.copytree(root / "one", tmp_path / "checked"))
    random_model.save("safety-checker", checked / "safety_checker", "tiny")
    settings_of_pictures = checked / "safety_checker" / "preprocessor_config.json"
    (checked / "feature_extractor").mkdir()
    settings_of_pictures.rename(checked / "feature_extractor" / settings_of_pictures.name)
    index = json.loads((checked / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (checked / "model_index.json").write_text(json.dumps(index))
    mib = (weights_of(root / "two") + weights_of(checked, has_checker=False)) * 4 / 2**20
    for is_on in (True, False):
        limits = {"model_memory_mib": mib + 0.01, "safety_checker": is_on}
        manager = PipelineManager(settings.model_copy(update=limits), Registry(models_dir=settings.models_dir))
        for name in (str(root / "two"), str(checked)):
            manager.get(name)
        assert len(manager.loaded) == (1 if is_on else 2)
        assert sum(model.weights_mib for model in manager.loaded) <= limits["model_memory_mib"]
        manager.free()


def test_a_damaged_download_goes_by_its_title(settings: Settings, root: Path, tmp_path: Path) -> None:
    """Its folder is called by its commit, which tells nobody anything."""
    settings = settings.model_copy(update={"data_dir": tmp_path})
    folder = Path(shutil.copytree(root / "one", settings.models_dir / "somebody--damaged" / "0123"))
    manager = PipelineManager(settings, Registry(models_dir=settings.models_dir))
    (folder / MANIFEST).write_text(json.dumps({"repo": "somebody/damaged", "commit": "0123", "files": {}}))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable, match=r"^somebody/damaged lacks the safety checker"):
        manager.get("somebody/damaged")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"conv_in.bias": torch.ones(32)}, file, {"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"^somebody/damaged/unet lacks \d+ of its weights"):
        manager.get("somebody/damaged")
    file.write_bytes(b"cut off")
    with pytest.raises(ModelUnavailable, match=r"^somebody/damaged is damaged"):
        manager.get("somebody/damaged")


def test_idle_models_go_before_the_one_in_use_suffers(
    settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = settings.model_copy(update={"model_memory_mib": 100_000})
    manager = PipelineManager(roomy, Registry(models_dir=settings.models_dir))
    names = [str(root / name) for name in ("one", "two", "file.safetensors")]

    def held() -> list[str]:
        return [model.entry.name for model in manager.loaded]

    model = [manager.get(name) for name in names[:2]][-1]
    assert held() == names[:2]
    assert model.residence.spared()  # as where a call runs out of memory
    assert held() == names[1:2]
    assert not model.residence.spared()

    load, tries = manager._load, []

    def short_once(*given: Any) -> Any:
        tries.append(len(manager.loaded))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*given)

    with monkeypatch.context() as patch:
        patch.setattr(manager, "_load", short_once)
        manager.get(names[2])
    assert tries == [1, 0]
    assert held() == names[2:]

    monkeypatch.setattr(MemoryNeed, "rung_at_load", lambda *_: "one_at_a_time" if manager.loaded else "resident")
    assert manager.get(names[0]).residence.rung == "resident"
    assert held() == names[:1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_while_loading_is_said(
    manager: PipelineManager, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def out_of_memory(*_: object) -> None:
        raise error

    assert not is_fatal(error)
    for where in ("sd_demo.pipeline_manager.place", "sd_demo.checkpoints.read_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(where, out_of_memory)
            with pytest.raises(OutOfMemory, match="one does not fit into the memory of cpu"):
                manager.get(str(root / "one"))
    assert manager.get(str(root / "one")).components


DAMAGES = {
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n",
    "cut off": None,
}


@pytest.fixture(params=[*DAMAGES, "a folder"])
def damaged(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Path:
    """A model that came in part, or of which only the pointer came."""
    if request.param == "a folder":
        shutil.copytree(root / "one", tmp_path / "bad")
        (weights,) = (tmp_path / "bad" / "unet").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-100])
        return tmp_path / "bad"
    path = tmp_path / "bad.safetensors"
    content = DAMAGES[request.param]
    path.write_bytes((root / "file.safetensors").read_bytes()[:2000] if content is None else content)
    return path


def test_a_damaged_model_to_start_with_leaves_the_others_usable(settings: Settings, root: Path, damaged: Path) -> None:
    engine = Engine(settings.model_copy(update={"model": str(damaged)}))
    engine.start()
    try:
        with pytest.raises(ModelUnavailable, match=r"^bad\S* is damaged \(.*\); fetch it again\.$"):
            picture(engine, str(damaged))
        assert engine.health().fault == ""
        assert engine.status().state == "failed"
        assert "fetch it again" in engine.status().message
        assert picture(engine, str(root / "one")).std() > 5
        assert (engine.status().state, engine.status().message) == ("ready", "")
    finally:
        engine.close()


def test_an_unforeseen_fault_at_the_start_leaves_the_others_usable(
    settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("what nobody foresaw")

    with monkeypatch.context() as patch:
        patch.setattr(PipelineManager, "get", fail)
        engine = Engine(settings)
        engine.start()
        while engine.status().state == "loading" and not engine.health().fault:
            time.sleep(0.05)
    try:
        assert engine.health().fault == ""
        assert "it is in the log" in engine.status().message
        assert picture(engine, str(root / "one")).std() > 5
    finally:
        engine.close()


def test_a_damaged_model_is_said_and_the_one_in_memory_stays_ready(
    settings: Settings, root: Path, damaged: Path
) -> None:
    engine = Engine(settings.model_copy(update={"model_memory_mib": 4000}))
    engine.start()
    try:
        before = picture(engine, str(root / "one"))
        with pytest.raises(ModelUnavailable, match=r"^bad\S* is damaged \(.*\); fetch it again\.$"):
            picture(engine, str(damaged))
        assert (engine.status().state, engine.status().title) == ("ready", "one")
        assert np.array_equal(picture(engine, str(root / "one")), before)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["a LoRA", "another family", "without a tokenizer", "a spoilt download"])
def test_what_its_files_rule_out_costs_nobody_the_model_in_memory(
    settings: Settings, root: Path, tmp_path: Path, kind: str
) -> None:
    """There is room for one model only, and the refused one is not read."""
    bad = tmp_path / "bad"
    shutil.copytree(root / "one", bad)
    if kind == "a LoRA":
        bad = tmp_path / "bad.safetensors"
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, bad)
    elif kind == "another family":
        index = json.loads((bad / "model_index.json").read_text())
        (bad / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    elif kind == "without a tokenizer":
        shutil.rmtree(bad / "tokenizer")
    else:
        (weights,) = (bad / "unet").glob("*.safetensors")
        known = {"unet/" + weights.name: {"size": weights.stat().st_size, "sha256": "0" * 64}}
        (bad / MANIFEST).write_text(json.dumps({"repo": "a/b", "commit": "0", "files": known}))
    with closing(Engine(settings.model_copy(update={"model_memory_mib": 0}))) as engine:
        engine.start()
        picture(engine, str(root / "one"))
        before = engine._manager.current
        with pytest.raises(ModelUnavailable):
            picture(engine, str(bad))
        assert engine._manager.current is before
        assert (engine.status().state, engine.status().title, engine.health().is_ready) == ("ready", "one", True)


def test_a_checker_that_is_not_loaded_may_be_as_it_likes(settings: Settings, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "one", tmp_path / "own")
    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (tmp_path / "own" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "own" / "safety_checker").mkdir()
    (tmp_path / "own" / "safety_checker" / "model.safetensors").write_bytes(b"no weights")
    for is_on in (True, False):
        manager = PipelineManager(settings.model_copy(update={"safety_checker": is_on}), Registry())
        if is_on:
            with pytest.raises(ModelUnavailable, match="is damaged"):
                manager.get(str(tmp_path / "own"))
        else:
            assert manager.get(str(tmp_path / "own")).safety is None


def test_after_memory_ran_out_while_loading_nothing_is_said_to_be_loading(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_manager, "place", out_of_memory)
        with pytest.raises(OutOfMemory):
            picture(engine, str(root / "two"))
    assert engine.status().state == "failed"
    assert "does not fit into the memory of cpu" in engine.status().message


def test_a_model_that_is_not_here_leaves_the_current_one(manager: PipelineManager, root: Path) -> None:
    model = manager.get(str(root / "one"))
    with pytest.raises(ModelUnavailable, match=r"python -m sd_demo download sd-1\.5 "):
        manager.get("sd-1.5")
    assert manager.current is model
    assert model.components


def test_a_model_that_predicts_velocity_draws_what_diffusers_draws(engine: Engine, tmp_path: Path) -> None:
    folder = random_model.save("sd-2.1", tmp_path / "v2", "tiny")
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert psnr(picture(engine, str(folder)), oracle(pipe)) > 50


def test_a_distilled_model_draws_what_diffusers_draws(engine: Engine, tmp_path: Path) -> None:
    folder = random_model.save("lcm", tmp_path / "lcm", "tiny")
    entry = engine.registry.get(str(folder))
    assert (entry.num_inference_steps, entry.guidance_scale, entry.scheduler) == (4, 8.5, "lcm")
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    expected = oracle(pipe, num_inference_steps=4, guidance_scale=8.5)
    asked = {"num_inference_steps": None, "scheduler": None}
    assert psnr(picture(engine, str(folder), **asked), expected) > 50
    values = {"prompt": "a red ball", "negative_prompt": "sun", "width": 64, "height": 64, "model": str(folder)}
    notes = engine.submit(parse_request("text_to_image", values)).result(WAIT_S).images[0].receipt.notes
    assert notes == ["The negative prompt had no effect, because this model is distilled and reads none."]


def test_an_inpainting_model_inpaints_and_says_what_it_cannot(engine: Engine, tmp_path: Path) -> None:
    folder = random_model.save("sd-1.5-inpainting", tmp_path / "nine", "tiny")
    photo, mask = Image.effect_noise((64, 64), 60).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    with pytest.raises(InvalidRequest, match="nine only repaints parts of pictures; choose another model") as caught:
        picture(engine, str(folder))
    assert caught.value.field == "model"
    with pytest.raises(InvalidRequest, match="only repaints"):
        picture(engine, str(folder), "image_to_image", image=photo)
    result = picture(engine, str(folder), "inpaint", image=photo, mask_image=mask)
    assert np.array_equal(result[:8], np.asarray(photo)[:8])
    assert not np.array_equal(result[20:44, 20:44], np.asarray(photo)[20:44, 20:44])


def test_an_inpainting_file_says_what_it_cannot_once_it_is_read(engine: Engine, tmp_path: Path) -> None:
    folder = random_model.save("sd-1.5-inpainting", tmp_path / "nine", "tiny")
    write_checkpoint(
        StableDiffusionPipeline.from_pretrained(folder, local_files_only=True), tmp_path / "nine.safetensors"
    )
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    with pytest.raises(InvalidRequest, match="only repaints"):
        picture(engine, str(tmp_path / "nine.safetensors"))


def test_random_weights_are_made_in_memory(manager: PipelineManager, root: Path) -> None:
    model = manager.get("random:sd-1.5:tiny")
    folder = json.loads((root / "one" / "unet" / "config.json").read_text())
    assert model.unet.config.block_out_channels == folder["block_out_channels"]
    assert model.model_hash == "random:sd-1.5:tiny"
    for wrong in ("random:sd-9", "random:sd-1.5:huge", "random:", "random:safety-checker:tiny"):
        with pytest.raises(ModelUnavailable, match="no random model"):
            manager.get(wrong)
    assert manager.get("random:x4-upscaler:tiny").components["low_res_scheduler"] is not None


def test_the_embedded_model_is_always_there(manager: PipelineManager) -> None:
    assert manager.get(EMBEDDED).entry.is_embedded


def test_the_embedded_models_channels_lie_together_on_a_cpu_and_no_others(manager: PipelineManager) -> None:
    for name, is_so in ((EMBEDDED, True), ("random:sd-1.5:tiny", False)):
        model = manager.get(name)
        for weight in (model.unet.conv_in.weight, model.vae.decoder.conv_in.weight):
            assert weight.is_contiguous(memory_format=torch.channels_last) == is_so
