"""Random models: the published architectures to the last weight, folders that diffusers and transformers load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_demo.architectures import ARCHITECTURES, MAX_TOKENS, VOCABULARY
from sd_demo.cli import main
from sd_demo.errors import InvalidRequest, OutputFailed
from sd_demo.random_model import IMAGE_PROCESSOR, build, save, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about their own futures

# Millions of weights of the published networks, as their model cards and the literature state them.
PUBLISHED_UNETS = {
    "sd-1.5": 859.52,
    "sd-1.4": 859.52,
    "sd-1.5-inpainting": 859.54,
    "sd-2.1": 865.91,
    "sd-2-inpainting": 865.93,
    "x4-upscaler": 473.40,
}
PUBLISHED_TEXT_ENCODERS = {"sd-1.5": 123.06, "sd-2.1": 340.39}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each architecture."""
    root = tmp_path_factory.mktemp("random")
    for like in ARCHITECTURES:
        save(like, root / like, "tiny", seed=3)
    return root


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("like", PUBLISHED_UNETS)
def test_full_size_is_the_published_size(like: str) -> None:
    with init_empty_weights():
        unet = diffusers.UNet2DConditionModel.from_config(ARCHITECTURES[like].unet)
    assert millions(unet) == pytest.approx(PUBLISHED_UNETS[like], abs=0.02)


@pytest.mark.parametrize("like", PUBLISHED_TEXT_ENCODERS)
def test_the_text_encoder_and_the_vae_have_their_published_size(like: str) -> None:
    made = ARCHITECTURES[like]
    with init_empty_weights():
        text_encoder = CLIPTextModel(CLIPTextConfig(**(made.text_encoder or {})))
        vae = diffusers.AutoencoderKL.from_config(made.vae)
    assert millions(text_encoder) == pytest.approx(PUBLISHED_TEXT_ENCODERS[like], abs=0.02)
    assert millions(vae) == pytest.approx(83.65, abs=0.02)


def test_the_full_tokenizer_is_of_clips_form(tmp_path: Path) -> None:
    tokenizer(VOCABULARY).save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == VOCABULARY == 49_408
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (49_406, 49_407, 49_407)
    assert loaded.model_max_length == MAX_TOKENS
    assert loaded.convert_tokens_to_ids("!") == 0
    ids = loaded("a small red house, größer 😀", padding="max_length").input_ids
    assert len(ids) == MAX_TOKENS
    assert max(ids) < VOCABULARY
    assert loaded.decode(ids, skip_special_tokens=True) == "a small red house , größer 😀"


@pytest.mark.parametrize("like", [name for name, made in ARCHITECTURES.items() if made.pipeline])
def test_diffusers_loads_every_pipeline(folders: Path, like: str) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / like, local_files_only=True)
    assert type(pipe).__name__ == ARCHITECTURES[like].pipeline
    assert pipe.unet.config.in_channels == (ARCHITECTURES[like].unet or {})["in_channels"]
    assert pipe.text_encoder.dtype == pipe.unet.dtype == torch.float32
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert all(torch.isfinite(value).all() for value in part.parameters())
    assert (folders / like / "tokenizer" / "merges.txt").is_file()
    assert sum(file.stat().st_size for file in (folders / like).rglob("*")) < 20 * 2**20


@pytest.mark.parametrize("like", ["x4-upscaler", "x2-latent-upscaler", "lcm"])
def test_pipelines_that_the_engine_does_not_drive_run(folders: Path, like: str) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / like, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    values = {} if like == "lcm" else {"image": torch.zeros(1, 3, 64, 64)}
    size = {"height": 64, "width": 64} if like == "lcm" else {}
    result = pipe("a ball", num_inference_steps=1, output_type="np", **values, **size).images
    assert not math.isnan(result.sum())
    assert result.std() > 0


def test_the_networks_that_stand_alone_load(folders: Path) -> None:
    clip, report = CLIPModel.from_pretrained(folders / "clip-vit-base-patch32", output_loading_info=True)
    assert not report["missing_keys"]
    scores = clip(input_ids=torch.tensor([[998, 3, 999]]), pixel_values=torch.zeros(1, 3, 224, 224)).logits_per_image
    assert torch.isfinite(scores).all()
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker = StableDiffusionSafetyChecker.from_pretrained(folders / "safety-checker")
    _, flagged = checker(clip_input=torch.randn(2, 3, 224, 224), images=[0, 0])
    assert flagged == [False, False], "random weights must not withhold pictures"
    assert json.loads((folders / "safety-checker" / "preprocessor_config.json").read_text()) == IMAGE_PROCESSOR


def test_the_seed_decides_and_the_precision_does_not() -> None:
    one, same, other = (build("sd-1.5", "tiny", seed)["unet"] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.conv_in.weight, other.conv_in.weight)
    half = build("sd-1.5", "tiny", 1, dtype=torch.bfloat16)["unet"]
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.conv_in.weight, one.conv_in.weight.to(torch.bfloat16))


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"choose one of sd-1\.5, .*lcm"):
        build("sd-9")


def test_a_disk_that_fills_up_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = "Error while serializing: I/O error: No space left on device (os error 28)"

    def fill(*_: object) -> None:
        raise SafetensorError(full)

    monkeypatch.setattr("sd_demo.random_model._save_pipeline", fill)
    assert main(["random-model", "--like", "lcm", "--scale", "tiny", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"--output {tmp_path} cannot be written ({full}); choose another folder.\n"
    with pytest.raises(OutputFailed, match=f"^TMPDIR {tmp_path} cannot be written"):
        save("lcm", tmp_path, "tiny", told_by="TMPDIR")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["random-model", "--like", "sd-1.4", "--scale", "tiny", "--output", str(tmp_path / "here")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'here'}\n"
    assert main(words) == 1, "a folder that holds something is left alone"
    assert "is not empty" in capsys.readouterr().err
    for wrong in (["--like", "sd-9"], ["--scale", "huge"], ["--seed", "x"]):
        assert main([*words, *wrong]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
