"""Models from disk: the very weights that diffusers reads, and one sentence for everything that is not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sd_demo import random_model
from sd_demo.checkpoints import hash_of, read_model, weights_of
from sd_demo.errors import ModelUnavailable
from sd_demo.model_files import MANIFEST, NETWORKS
from tests.ldm_checkpoint import write_checkpoint

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a diffusers folder."""
    return random_model.save("sd-1.5", tmp_path_factory.mktemp("tiny") / "tiny", "tiny")


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Any:
    """What diffusers makes of it."""
    return StableDiffusionPipeline.from_pretrained(tiny, dtype=torch.float32, local_files_only=True)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """The model again, to be spoilt."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def assert_same_weights(parts: dict[str, Any], expected: Any) -> None:
    for name in NETWORKS:
        ours, theirs = parts[name].state_dict(), getattr(expected, name).state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def refusal_of(path: Path) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        read_model(path, torch.float32)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 330
    return text


def test_a_folder_has_the_weights_that_diffusers_reads(tiny: Path, pipe: Any) -> None:
    parts = read_model(tiny, torch.float32)
    assert_same_weights(parts, pipe)
    assert parts["scheduler"].config == pipe.scheduler.config
    assert parts["tokenizer"].get_vocab() == pipe.tokenizer.get_vocab()
    count = sum(parameter.numel() for name in NETWORKS for parameter in parts[name].parameters())
    assert weights_of(tiny) == count


def test_half_precision_files_are_cast(copy: Path, pipe: Any) -> None:
    half = {key: value.half() for key, value in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(half, copy / UNET.replace(".safetensors", ".fp16.safetensors"))
    parts = read_model(copy, torch.float32)
    assert parts["unet"].dtype == torch.float32
    assert torch.equal(parts["unet"].conv_in.weight, pipe.unet.conv_in.weight.half().float())
    assert read_model(copy, torch.bfloat16)["vae"].dtype == torch.bfloat16


def test_a_file_has_the_weights_that_diffusers_reads(copy: Path, pipe: Any, tmp_path: Path) -> None:
    """Beside the file lies a folder of its name with the configs and the tokenizer."""
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(pipe, file)
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    theirs = StableDiffusionPipeline.from_single_file(str(file), config=str(copy), local_files_only=True)
    parts = read_model(file, torch.float32)
    assert_same_weights(parts, pipe)
    assert_same_weights(parts, theirs)
    assert parts["scheduler"].config["prediction_type"] == "epsilon"
    assert hash_of(file) != hash_of(copy)


def test_a_file_alone_needs_a_tokenizer_of_its_size(pipe: Any, tmp_path: Path, tiny: Path) -> None:
    file = tmp_path / "alone.safetensors"
    write_checkpoint(pipe, file)
    assert "download tokenizer" in refusal_of(file)
    with pytest.raises(ModelUnavailable, match=r"alone\.safetensors could not be loaded: .*shape"):
        read_model(file, torch.float32, [tiny / "nothing", tiny / "tokenizer"])  # tiny shapes, full-size configs


def test_the_configs_of_a_file_alone_are_the_published_ones(tmp_path: Path) -> None:
    """Shapes tell version 1 from 2 and inpainting from the rest; the metadata may tell what is predicted."""
    from sd_demo.checkpoints.single_file import _write_config

    first = "model.diffusion_model.input_blocks.0.0.weight"
    v1 = {
        first: (320, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    }
    v2 = {first: (320, 9, 3, 3), "cond_stage_model.model.token_embedding.weight": (49408, 1024)}
    for name, shapes, metadata, width, channels, prediction in (
        ("1", v1, {}, 768, 4, "epsilon"),
        ("2", v2, {}, 1024, 9, "epsilon"),
        ("3", {**v2, first: (320, 4, 3, 3)}, {}, 1024, 4, "v_prediction"),
        ("4", {**v2, first: (320, 4, 3, 3)}, {"modelspec.prediction_type": "epsilon"}, 1024, 4, "epsilon"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        _write_config(folder, shapes, metadata)
        unet = json.loads((folder / "unet" / "config.json").read_text())
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        assert (unet["cross_attention_dim"], unet["in_channels"]) == (width, channels)
        assert scheduler["prediction_type"] == prediction


Spoil = Callable[[dict[str, torch.Tensor]], None]


@pytest.mark.parametrize("part", NETWORKS)
def test_missing_weights_are_refused(copy: Path, part: str) -> None:
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, file, {"format": "pt"})
    assert f"tiny/{part} lacks 1 of its weights, such as {gone}" in refusal_of(copy)


@pytest.mark.parametrize("part", NETWORKS)
def test_weights_of_another_network_are_refused(copy: Path, part: str) -> None:
    (file,) = (copy / part).glob("*.safetensors")
    save_file(load_file(file) | {"control.weight": torch.ones(2)}, file, {"format": "pt"})
    assert "has 1 weights that the network has no place for, such as control.weight" in refusal_of(copy)


def test_what_old_versions_wrote_is_read(copy: Path, pipe: Any) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    old = load_file(file) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(old, file, {"format": "pt"})
    assert_same_weights(read_model(copy, torch.float32), pipe)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    tensors = load_file(copy / UNET)
    save_file(tensors | {"conv_in.weight": torch.ones(32, 5, 3, 3)}, copy / UNET)
    assert "could not be loaded" in refusal_of(copy)


def test_damaged_and_missing_files_are_said(copy: Path) -> None:
    whole = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refusal_of(copy)
    (copy / UNET).unlink()
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    assert "not complete: it lacks unet/*.safetensors" in refusal_of(copy)
    shutil.rmtree(copy / "tokenizer")
    assert "lacks tokenizer, unet" in refusal_of(copy)
    (copy / "model_index.json").write_text("{")
    assert "no diffusers folder" in refusal_of(copy)


def test_other_families_are_refused(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    assert "is a StableDiffusionXLPipeline; only models of Stable Diffusion 1 and 2 run here" in refusal_of(copy)
    (copy / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderTiny"]}))
    assert "AutoencoderTiny as its vae" in refusal_of(copy)


def test_files_that_are_no_whole_checkpoint_are_refused(pipe: Any, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"  # the folder beside it lends configs and tokenizer
    tensors = write_checkpoint(pipe, file)
    for keys, words in (
        ("middle_block.1.proj_in.weight", "lacks some of its weights"),
        ("encoder.conv_in.bias", "lacks some of its weights"),
        ("final_layer_norm.weight", "lacks 1 of its weights"),
        ("cond_stage_model.", "holds no text encoder"),
        ("model.diffusion_model.", "no checkpoint of Stable Diffusion"),
    ):
        save_file({key: value for key, value in tensors.items() if keys not in key}, file)
        assert words in refusal_of(file)
    save_file(tensors | {"model.diffusion_model.control.weight": torch.ones(2)}, file)
    assert "has 1 weights that the UNet of its family has no place for" in refusal_of(file)
    save_file({"lora_unet_mid.lora_up.weight": torch.ones(2)}, file)
    assert "is a LoRA" in refusal_of(file)
    save_file(tensors | {"conditioner.embedders.0.x": torch.ones(2)}, file)
    assert "Stable Diffusion XL" in refusal_of(file)
    file.write_bytes(b"\x10" + b"\0" * 7 + b"nonsense")
    assert "damaged" in refusal_of(file)


def test_a_flipped_bit_in_a_download_is_found(copy: Path) -> None:
    """safetensors itself reads it without complaint."""
    hashes = {UNET: {"sha256": hash_of(copy / UNET)}}
    (copy / MANIFEST).write_text(json.dumps({"repo": "a/b", "commit": "0", "files": hashes}))
    before = hash_of(copy)
    content = bytearray((copy / UNET).read_bytes())
    content[-5] ^= 1
    (copy / UNET).write_bytes(content)
    read_model(copy, torch.float32)
    with pytest.raises(ModelUnavailable, match="was damaged since its download"):
        hash_of(copy)
    (copy / MANIFEST).unlink()
    assert hash_of(copy) != before
