"""Which models there are, where their weights lie, and what a name that is none of them gets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.file_header import FIRST, GUIDANCE, TOKENS
from sd_demo.known_models import ModelEntry
from sd_demo.model_files import INDEX, MANIFEST, PARTS, missing_in, needed, parts_of
from sd_demo.registry import EMBEDDED, Registry, check_request, check_task, default_model, what_is_missing
from sd_demo.requests import parse_request

REPO = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of this test alone, whatever lies on this machine."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return Registry(models_dir=tmp_path / "models")


def write_folder(folder: Path, **unet: Any) -> Path:
    """A diffusers folder with all its files, which hold nothing."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": 64, **unet}))
    (folder / "model_index.json").write_text(json.dumps(dict.fromkeys(PARTS, ("diffusers", "X"))))
    return folder


def write_download(registry: Registry, repo: str, commit: str) -> Path:
    folder = write_folder(registry.models_dir / repo.replace("/", "--") / commit)
    (folder / MANIFEST).write_text(json.dumps({"repo": repo, "commit": commit}))
    return folder


def test_the_embedded_model_is_there_and_needs_no_download(registry: Registry) -> None:
    entry = registry.get(EMBEDDED)
    assert entry.is_embedded
    assert entry.download_mib == 0
    assert (entry.native_size, entry.licence) == (256, "Apache-2.0")
    assert registry.weights(entry) == entry.folder


def test_the_built_in_models_are_pinned_and_under_their_licence(registry: Registry) -> None:
    downloads = [entry for entry in registry if not entry.is_embedded]
    assert [entry.name for entry in downloads] == ["sd-1.5", "sd-1.4", "sd-1.5-inpainting", "x4-upscaler"]
    for entry in downloads:
        assert re.fullmatch(r"[0-9a-f]{40}", entry.revision or "")
        assert entry.licence == ("CreativeML Open RAIL++-M" if entry.upscale_factor > 1 else "CreativeML OpenRAIL-M")
        assert entry.download_mib > 1500
        assert registry.weights(entry) is None


def test_every_model_says_what_it_is_and_under_which_licence(registry: Registry) -> None:
    for entry in registry:
        assert entry.summary.endswith("."), entry.name
        assert entry.licence, entry.name
        assert entry.licence_url.startswith("https://"), entry.name


def test_the_default_is_the_best_that_is_here_and_runs(registry: Registry) -> None:
    assert default_model(registry, has_gpu=True) == EMBEDDED
    assert "Stable Diffusion 1.5 is not here: it is a download of 2.6 GiB." in what_is_missing(registry, has_gpu=True)
    assert "without a GPU" in what_is_missing(registry, has_gpu=False)
    write_download(registry, REPO, registry.get("sd-1.5").revision or "")
    assert default_model(registry, has_gpu=True) == "sd-1.5"
    assert what_is_missing(registry, has_gpu=True) == ""
    assert default_model(registry, has_gpu=False) == EMBEDDED
    assert "choose it yourself" in what_is_missing(registry, has_gpu=False)


def test_a_diffusers_folder_is_a_model(registry: Registry, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", sample_size=96)
    entry = registry.get(str(folder))
    assert (entry.name, entry.title, entry.folder, entry.native_size) == (str(folder), "mine", folder, 768)
    assert registry.weights(entry) == folder
    assert not entry.is_embedded


def test_the_unet_tells_what_suits_it(registry: Registry, tmp_path: Path) -> None:
    distilled = registry.get(str(write_folder(tmp_path / "lcm", time_cond_proj_dim=256)))
    assert (distilled.num_inference_steps, distilled.scheduler) == (4, "lcm")
    inpainting = registry.get(str(write_folder(tmp_path / "nine", in_channels=9)))
    check_task(inpainting, "inpaint")
    with pytest.raises(InvalidRequest, match="nine only repaints"):
        check_task(inpainting, "text_to_image")
    many = {"num_inference_steps": 51}
    for entry, scheduler in ((distilled, None), (registry.get(EMBEDDED), "lcm")):
        check_request(entry, parse_request("text_to_image", {"num_inference_steps": 50, "scheduler": scheduler}))
        with pytest.raises(InvalidRequest, match="lcm takes at most 50 steps; ask for fewer") as caught:
            check_request(entry, parse_request("text_to_image", {**many, "scheduler": scheduler}))
        assert caught.value.field == "num_inference_steps"
    check_request(distilled, parse_request("text_to_image", {**many, "scheduler": "ddim"}))
    for version, size in (("0.6.0", 512), ("0.9.0", 256)):  # the first published ones said 32 and meant 64
        written = write_folder(tmp_path / version, sample_size=32, _diffusers_version=version)
        assert registry.get(str(written)).native_size == size
    (tmp_path / "nine" / "unet" / "config.json").write_text("[not json")
    assert registry.get(str(tmp_path / "nine")).native_size == 512


@pytest.mark.parametrize("sample_size", [None, [96, 96], [], "96", 0])
def test_a_size_that_a_config_says_otherwise_takes_nothing_else_along(
    registry: Registry, tmp_path: Path, sample_size: Any
) -> None:
    entry = registry.get(str(write_folder(tmp_path / "odd", sample_size=sample_size, in_channels=9)))
    assert entry.native_size == (768 if sample_size == [96, 96] else 512)
    assert entry.tasks == ("inpaint",)


def write_header(file: Path, metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> Path:
    """A file of weights called as `header.names` has it, which are all 0."""
    names = {
        "first": FIRST, "v1": TOKENS[0], "v2": TOKENS[1], "guidance": GUIDANCE[0], "guided": GUIDANCE[1]
    }  # fmt: skip
    save_file({names[name]: np.zeros(shape, dtype=np.float16) for name, shape in shapes.items()}, file, metadata)
    return file


def test_a_file_tells_what_suits_it_before_it_is_loaded(registry: Registry, tmp_path: Path) -> None:
    v1, v2 = {"first": (1, 4, 1, 1), "v1": (1, 1)}, {"first": (1, 4, 1, 1), "v2": (1, 1)}
    number = 0

    def entry_of(metadata: dict[str, str] | None = None, **shapes: Any) -> ModelEntry:
        nonlocal number
        number += 1
        return registry.get(str(write_header(tmp_path / f"{number}.safetensors", metadata, **shapes)))

    usual = entry_of(**v1)
    assert (usual.native_size, usual.num_inference_steps, usual.scheduler) == (512, 25, "dpmpp_2m")
    for name in ("guidance", "guided"):
        distilled = entry_of(**v1, **{name: (8, 256)})
        assert (distilled.num_inference_steps, distilled.guidance_scale, distilled.scheduler) == (4, 8.5, "lcm")
    assert entry_of(**{**v1, "first": (1, 9, 1, 1)}).tasks == ("inpaint",)
    assert entry_of({"modelspec.prediction_type": "v"}, **v2).native_size == 768
    assert entry_of({"modelspec.prediction_type": "v"}, **v1).native_size == 512
    assert entry_of({"modelspec.prediction_type": "v"}, **{**v2, "first": (1, 9, 1, 1)}).native_size == 512
    assert entry_of(**v2).native_size == 512, "it does not say; loading tries"
    beside = write_header(tmp_path / "beside.safetensors", **{**v1, "guidance": (8, 256)})
    write_folder(tmp_path / "beside", sample_size=96, in_channels=9)
    entry = registry.get(str(beside))
    assert (entry.native_size, entry.num_inference_steps) == (768, 4)
    assert "text_to_image" in entry.tasks, "the file itself has 4 channels, whatever lies beside it"
    for channels in (5, 7, 8):
        assert entry_of(**{**v1, "first": (1, channels, 1, 1)}).tasks == usual.tasks, "loading says why it cannot"
    assert entry_of(**v1, guidance=(8,)).native_size == 512
    assert entry_of(first=(4,)).native_size == 512
    for content in (b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 16, b"\x09\0\0\0\0\0\0\0" + b'{"a": 1}]'):
        (tmp_path / "odd.safetensors").write_bytes(content)
        assert registry.get(str(tmp_path / "odd.safetensors")).native_size == 512


@pytest.mark.parametrize(("stem", "size"), [
    ("v2-1_768-ema-pruned", 768), ("768-v-ema", 768), ("512-base-ema", 512), ("model17680", 512)
])  # fmt: skip
def test_where_a_file_of_version_2_says_nothing_its_name_may(
    registry: Registry, tmp_path: Path, stem: str, size: int
) -> None:
    def size_of(metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> int:
        return registry.get(str(write_header(tmp_path / f"{stem}.safetensors", metadata, **shapes))).native_size

    assert size_of(first=(1, 4, 1, 1), v2=(1, 1)) == size
    assert size_of({"modelspec.prediction_type": "epsilon"}, first=(1, 4, 1, 1), v2=(1, 1)) == 512, (
        "what it says counts"
    )
    assert size_of(first=(1, 4, 1, 1), v1=(1, 1)) == 512, "version 1 has one size"
    assert size_of(first=(1, 7, 1, 1), v2=(1, 1)) == 512, "what does not run from a file"


def test_a_file_is_a_model_and_a_pickle_is_not(registry: Registry, tmp_path: Path) -> None:
    for name in ("mine.safetensors", "mine.ckpt"):
        (tmp_path / name).write_bytes(b"")
    entry = registry.get(str(tmp_path / "mine.safetensors"))
    assert (entry.title, registry.weights(entry)) == ("mine", tmp_path / "mine.safetensors")
    with pytest.raises(ModelUnavailable, match=r"mine\.ckpt is a pickle"):
        registry.get(str(tmp_path / "mine.ckpt"))


def test_random_weights_are_always_here(registry: Registry) -> None:
    made_up = registry.get("random:sd-1.5")
    assert registry.weights(made_up) is None
    assert registry.is_here(made_up)
    assert registry.is_here(registry.get(EMBEDDED))
    assert not registry.is_here(registry.get("sd-1.5"))


def test_a_hub_id_is_a_model_once_it_is_here(registry: Registry) -> None:
    with pytest.raises(ModelUnavailable, match="python -m sd_demo download somebody/a-model"):
        registry.get("somebody/a-model")
    write_download(registry, "somebody/a-model", "old")
    assert registry.get("somebody/a-model").source == "somebody/a-model"
    assert "somebody/a-model" in {entry.name for entry in registry}


def test_a_path_is_not_taken_for_a_hub_id(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is offered to be downloaded under its name, and no hub is asked for it."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/mine.safetensors", "models/mine.ckpt", "models/MINE.PT", "models/mine.bin"):
        for ask in (registry.get, registry.for_download):
            with pytest.raises(ModelUnavailable, match=f"^There is no file {name} here; look at its path"):
                ask(name)
    Path("models/dreamshaper").mkdir(parents=True)
    for ask in (registry.get, registry.for_download):
        with pytest.raises(ModelUnavailable, match=r"^The folder models/dreamshaper holds no model_index\.json"):
            ask("models/dreamshaper")
    (Path("models/dreamshaper") / INDEX).write_text("{}")
    with pytest.raises(ModelUnavailable, match="models/dreamshaper is a folder here: name it as the model"):
        registry.for_download("models/dreamshaper")
    closed = Registry(models_dir=registry.models_dir, takes_paths=False)
    assert closed.for_download("models/dreamshaper").name == "models/dreamshaper", "strangers learn of no folder"
    write_download(registry, "somebody/a.bin", "commit")
    assert registry.get("somebody/a.bin").name == "somebody/a.bin"


def test_another_commit_is_not_the_pinned_one(registry: Registry) -> None:
    write_download(registry, REPO, "f" * 40)
    assert registry.weights(registry.get("sd-1.5")) is None
    pinned = write_download(registry, REPO, registry.get("sd-1.5").revision or "")
    assert registry.weights(registry.get("sd-1.5")) == pinned


def test_what_other_programs_left_in_the_hubs_cache_is_used(registry: Registry, tmp_path: Path) -> None:
    entry = registry.get("sd-1.4")
    snapshots = tmp_path / "hf" / "hub" / "models--CompVis--stable-diffusion-v1-4" / "snapshots"
    folder = write_folder(snapshots / (entry.revision or ""))
    assert registry.weights(entry) == folder
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert registry.weights(entry) is None, "half a snapshot is none"


def test_a_snapshot_that_was_fetched_without_its_safety_checker_is_none(registry: Registry, tmp_path: Path) -> None:
    entry = registry.get("sd-1.4")
    snapshots = tmp_path / "hf" / "hub" / "models--CompVis--stable-diffusion-v1-4" / "snapshots"
    folder = write_folder(snapshots / (entry.revision or ""))
    index = json.loads((folder / "model_index.json").read_text())
    listed = {**index, "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps(listed))
    assert registry.weights(entry) is None
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"")
    assert registry.weights(entry) == folder
    (folder / "safety_checker" / "model.safetensors").unlink()
    (folder / "model_index.json").write_text(json.dumps({**index, "safety_checker": [None, None]}))
    assert registry.weights(entry) == folder


@pytest.mark.parametrize("name", ["", "/", "no/such", "x" * 300, "a\x00b", "~nobody-of-that-name/model", "\n", ".."])
def test_an_unknown_name_gets_one_sentence_with_the_known_ones(name: str, registry: Registry) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        registry.get(name)
    text = str(caught.value)
    assert EMBEDDED in text
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 300


def test_where_paths_are_not_taken_only_listed_names_and_the_chosen_one_are(registry: Registry, tmp_path: Path) -> None:
    here = str(write_folder(tmp_path / "mine"))
    other = str(write_folder(tmp_path / "other"))
    (tmp_path / "x.ckpt").touch()
    write_download(registry, "owner/name", "0" * 40)
    closed = Registry(models_dir=registry.models_dir, takes_paths=False, chosen=here)
    assert registry.get(other).source == other
    assert closed.get(here).source == here
    assert [closed.get(name).name for name in (EMBEDDED, "owner/name")] == [EMBEDDED, "owner/name"]
    for name in (other, str(tmp_path / "x.ckpt"), str(tmp_path / "nothing"), "random:sd-1.5"):
        with pytest.raises(ModelUnavailable, match="on this server; choose one of picture-book"):
            closed.get(name)


def put_model(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint or a diffusers folder at `place` in `folder`, which is where the program then runs."""
    monkeypatch.chdir(folder)
    if place.endswith(".safetensors"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).touch()
    else:
        write_folder(folder / place)


@pytest.mark.parametrize(
    ("place", "known_as"),
    [
        ("dream.safetensors", "dream"),
        ("models/dream.safetensors", "dream"),
        ("models/mine", "mine"),
        ("sd-1.5.safetensors", "local-sd-1.5"),
    ],
)
def test_a_model_that_the_host_chose_by_its_path_goes_by_its_name_alone_among_strangers(
    place: str, known_as: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(place, tmp_path, monkeypatch)
    for chosen in (place, str(tmp_path / place)):
        assert registry.get(chosen).name == chosen, "a person's own machine knows it by what was typed"
        closed = Registry(models_dir=registry.models_dir, takes_paths=False, chosen=chosen)
        assert closed.get(chosen) == closed.get(known_as)
        assert closed.get(known_as).name == known_as
        assert closed.known_as(chosen) == known_as
        assert closed.weights(closed.get(known_as)) == Path(chosen)
    if Path(place).is_file():
        Path(place).unlink()
        with pytest.raises(ModelUnavailable, match="on this server") as caught:
            closed.get(known_as)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("place", ["dream.safetensors", "models/dream.safetensors", "models/dream"])
def test_the_name_of_a_chosen_model_among_strangers_finds_it_on_a_persons_own_machine(
    place: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(place, tmp_path, monkeypatch)
    for chosen in (place, str(tmp_path / place)):
        own = Registry(models_dir=registry.models_dir, chosen=chosen)
        assert own.get("dream") == own.get(chosen)
        assert own.get("dream").name == own.known_as("dream") == own.known_as(chosen) == chosen
        with pytest.raises(ModelUnavailable, match="There is no model 'another'"):
            own.get("another")
    too_long = "x" * 5000
    with pytest.raises(ModelUnavailable, match="There is no model 'xxx"):
        Registry(models_dir=registry.models_dir, chosen=too_long).get(too_long)
    write_folder(tmp_path / "dream")
    assert own.get("dream").folder == Path(own.known_as("dream")) == Path("dream"), "the folder of that very name"


def test_what_is_needed_of_a_repository() -> None:
    names = [
        "model_index.json", "README.md", "model.ckpt", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors", "text_encoder/pytorch_model.bin",
    ]  # fmt: skip
    wanted, lacking = needed(names, ["tokenizer", "unet", "vae", "text_encoder"])
    assert set(wanted) == {
        "model_index.json", "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
    }  # fmt: skip
    assert lacking == ["text_encoder"]
    assert parts_of({"unet": ["a", "B"], "safety_checker": [None, None], "_class_name": "X"}) == ["unet"]


def test_what_a_folder_lacks(tmp_path: Path) -> None:
    assert missing_in(tmp_path) == ["model_index.json"]
    folder = write_folder(tmp_path / "whole")
    assert missing_in(folder) == []
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    assert missing_in(folder) == ["vae/*.safetensors"]
