"""Models from disk: the very weights that diffusers reads, and one sentence for everything that is not whole."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sd_demo import random_model
from sd_demo.architectures import ARCHITECTURES
from sd_demo.checkpoints import hash_of, read_model, weights_in_parts, weights_of
from sd_demo.checkpoints.single_file import _lent_tokenizer, has_guidance, predicts_noise
from sd_demo.errors import ModelUnavailable
from sd_demo.file_header import FIRST, FileHeader
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.model_files import MANIFEST, NETWORKS, weights_in
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


@pytest.mark.parametrize("is_file", [False, True])
def test_a_model_in_memory_is_its_own_whatever_becomes_of_its_file(
    copy: Path, pipe: Any, tmp_path: Path, is_file: bool
) -> None:
    """Written over in place, as `cp` does it: libraries leave weights that need no cast mapped onto their file."""
    place = copy
    if is_file:
        place = tmp_path / "tiny.safetensors"
        write_checkpoint(pipe, place)
        for weights in copy.rglob("*.safetensors"):
            weights.unlink()
    parts = read_model(place, torch.float32)
    for file in [place] if is_file else place.rglob("*.safetensors"):
        content = file.read_bytes()
        begins = 8 + int.from_bytes(content[:8], "little")
        with file.open("r+b") as opened:
            opened.seek(begins)
            opened.write(bytes(len(content) - begins))
    assert_same_weights(parts, pipe)


def test_half_precision_files_are_cast(copy: Path, pipe: Any) -> None:
    half = {key: value.half() for key, value in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(half, copy / UNET.replace(".safetensors", ".fp16.safetensors"))
    parts = read_model(copy, torch.float32)
    assert parts["unet"].dtype == torch.float32
    assert torch.equal(parts["unet"].conv_in.weight, pipe.unet.conv_in.weight.half().float())
    assert read_model(copy, torch.bfloat16)["vae"].dtype == torch.bfloat16


def test_of_both_variants_the_float16_one_is_read(copy: Path, pipe: Any) -> None:
    """A clone of Stable Diffusion 1.5 has both; each part of its own."""
    other = {key: value.half() + 1 for key, value in load_file(copy / UNET).items()}
    save_file(other, copy / UNET.replace(".safetensors", ".fp16.safetensors"))
    parts = read_model(copy, torch.float32)
    assert torch.equal(parts["unet"].conv_in.weight, (pipe.unet.conv_in.weight.half() + 1).float())
    assert torch.equal(parts["vae"].decoder.conv_in.weight, pipe.vae.decoder.conv_in.weight)


def test_a_half_that_is_not_whole_is_not_read_beside_whole_weights(copy: Path, pipe: Any) -> None:
    half = copy / UNET.replace(".safetensors", ".fp16.safetensors")
    save_file({key: value.half() for key, value in load_file(copy / UNET).items()}, half)
    whole = half.read_bytes()
    parts = [half.with_name(f"diffusion_pytorch_model.fp16-0000{k}-of-00002.safetensors") for k in (1, 2)]
    for content in (whole[:-1], whole[:100], b"version https://git-lfs.github.com/spec/v1\n", b""):
        half.write_bytes(content)
        assert weights_in(copy / "unet") == ""
        assert torch.equal(read_model(copy, torch.float32)["unet"].conv_in.weight, pipe.unet.conv_in.weight)
    half.write_bytes(whole)
    assert weights_in(copy / "unet") == "fp16"
    half.rename(parts[0])
    assert weights_in(copy / "unet") == "", "the second part has not come yet"
    parts[1].write_bytes(whole)
    assert weights_in(copy / "unet") == "fp16"


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
    assert "alone.safetensors knows 1,000 tokens, and CLIP's own tokenizer has 49,408; put" in refusal_of(file)
    with pytest.raises(ModelUnavailable, match="python -m sd_demo download tokenizer fetches it once"):
        _lent_tokenizer(file.name, 49_408, [tiny / "tokenizer"], FileHeader({}, {}))
    with pytest.raises(ModelUnavailable, match=r"alone\.safetensors could not be loaded: .*shape.*\]\)\.$"):
        read_model(file, torch.float32, [tiny / "nothing", tiny / "tokenizer"])  # tiny shapes, full-size configs


@pytest.mark.parametrize("name", ["time_embed", "time_embedding"])
def test_a_file_of_latent_consistency_has_all_its_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: Any
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "lcm", ARCHITECTURES["lcm"].tiny())
    folder = random_model.save("lcm", tmp_path / "lcm")
    made = SimpleNamespace(**random_model.build("lcm"))
    alone, beside = tmp_path / "alone.safetensors", tmp_path / "lcm.safetensors"
    tensors = write_checkpoint(made, alone)
    key = "model.diffusion_model.{}.cond_proj.weight"
    tensors[key.format(name)] = tensors.pop(key.format("time_embed"))
    for file in (alone, beside):
        save_file(tensors, file)
        parts = read_model(file, torch.float32, [folder / "tokenizer"])
        assert (parts["unet"].config.time_cond_proj_dim, type(parts["scheduler"]).__name__) == (256, "LCMScheduler")
        ours, theirs = parts["unet"].state_dict(), made.unet.state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key].float()) for key in ours)
        assert has_guidance(file)
    write_checkpoint(pipe, alone)
    assert not has_guidance(alone)


def test_of_a_file_only_what_is_read_counts(tiny: Path, pipe: Any, tmp_path: Path) -> None:
    tensors = write_checkpoint(pipe, tmp_path / "alone.safetensors")
    averages = {f"model_ema.{number}": value.clone() for number, value in enumerate(tensors.values())}
    save_file(tensors | averages, tmp_path / "averaged.safetensors")
    ids = 77  # the numbers from 0 to 76, which published files keep among the text encoder's weights
    assert weights_of(tmp_path / "averaged.safetensors") == weights_of(tiny) + ids
    assert weights_in_parts(tmp_path / "averaged.safetensors")["unet"] == weights_in_parts(tiny)["unet"]


def test_a_text_encoder_of_an_early_merge_is_told_of(pipe: Any, tmp_path: Path) -> None:
    tensors = write_checkpoint(pipe, tmp_path / "early.safetensors")
    early = {key.replace(".transformer.text_model.", ".transformer."): value for key, value in tensors.items()}
    save_file(early, tmp_path / "early.safetensors")
    assert "names from before text_model" in refusal_of(tmp_path / "early.safetensors")


def save_tokenizer(folder: Path, pad_token: str, form: str) -> Path:
    """A tokenizer's folder as transformers writes it today, or as the repositories of Stable Diffusion have it."""
    made = random_model.tokenizer(1000, pad_token)
    made.save_pretrained(folder)
    if form == "published":
        made.backend_tokenizer.model.save(str(folder))
        (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize("form", ["published", "saved anew"])
def test_a_file_of_version_1_reads_words_as_its_own_tokenizer_does_whoever_lends_it(
    copy: Path, pipe: Any, tmp_path: Path, form: str
) -> None:
    """Version 2 and the x4 upscaler pad with "!", and take one that is typed for padding."""
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(pipe, file)
    shutil.rmtree(copy / "tokenizer")
    lender = save_tokenizer(tmp_path / "lender", "!", form)
    words = ["a cat!", "hi! there !!", "!", "wow!!! a dog, 2 <|endoftext|>"]
    lent = read_model(file, torch.float32, [lender])["tokenizer"]
    for options in ({}, {"padding": "max_length"}):
        assert lent(words, **options)["input_ids"] == pipe.tokenizer(words, **options)["input_ids"]
    assert lent.pad_token_id == lent.eos_token_id == 999
    assert lent.model_max_length == 77


def as_noise_predictor(unet: Any) -> None:
    """Give a tiny UNet the weights with which it answers with its input, as models of epsilon do in pure noise."""
    weights = {key: torch.zeros_like(value) for key, value in unet.state_dict().items()}
    for channel in range(4):  # x and -x, as silu(x) - silu(-x) is x
        for row, sign in ((channel, 1.0), (channel + 4, -1.0)):
            weights["conv_in.weight"][row, channel, 1, 1] = sign
            weights["conv_out.weight"][channel, row, 1, 1] = sign
    last = f"up_blocks.{len(unet.up_blocks) - 1}.resnets.{len(unet.up_blocks[-1].resnets) - 1}.conv_shortcut.weight"
    for row in range(8):  # the second half of what it reads comes straight from conv_in
        weights[last][row, weights[last].shape[1] - weights["conv_in.weight"].shape[0] + row] = 1.0
    weights["conv_norm_out.weight"] += 1.0
    unet.load_state_dict(weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_what_a_silent_file_of_version_2_predicts_is_found_by_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, predicts: str, dtype: torch.dtype
) -> None:
    """2.0 and 2.1 base predict the noise at 512 pixels; taken for 2.1, which predicts v at 768, they draw garbage."""
    monkeypatch.setitem(ARCHITECTURES, "sd-2.1", ARCHITECTURES["sd-2.1"].tiny())
    caplog.set_level(logging.INFO)
    made = SimpleNamespace(**random_model.build("sd-2.1"))
    if predicts == "epsilon":
        as_noise_predictor(made.unet)
    file = tmp_path / "silent.safetensors"
    write_checkpoint(made, file)
    lender = save_tokenizer(tmp_path / "lender", "<|endoftext|>", "published")
    parts = read_model(file, dtype, [lender])
    side = {"epsilon": 64, "v_prediction": 96}[predicts]
    assert (parts["scheduler"].config.prediction_type, parts["unet"].config.sample_size) == (predicts, side)
    assert f"silent.safetensors does not say what it predicts; a trial says {predicts}" in caplog.text
    for name in NETWORKS:
        assert {value.dtype for value in parts[name].state_dict().values()} == {dtype}
        for key, value in getattr(made, name).state_dict().items():
            assert torch.equal(parts[name].state_dict()[key], value.to(dtype)), key
    assert not any(parameter.is_inference() for parameter in parts["unet"].parameters()), "a LoRA can be trained on it"
    words = ["a cat!", "!! 2 dogs"]
    expected = made.tokenizer(words, padding="max_length")["input_ids"]
    assert parts["tokenizer"](words, padding="max_length")["input_ids"] == expected
    write_checkpoint(made, file, {"modelspec.prediction_type": "v"})
    says = read_model(file, dtype, [lender])["scheduler"].config.prediction_type
    assert says == "v_prediction", "what the file says counts"


class AsEpsilon(torch.nn.Module):
    """A UNet of v whose answer is turned into the noise that it means (https://arxiv.org/abs/2202.00512)."""

    def __init__(self, unet: Any, alpha_bar: float) -> None:
        super().__init__()
        self.unet, self.config, self.alpha_bar = unet, unet.config, alpha_bar

    def forward(self, x: torch.Tensor, timestep: int, words: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        v = self.unet(x, timestep, words, **options)[0]
        return (self.alpha_bar**0.5 * v + (1 - self.alpha_bar) ** 0.5 * x,)


def test_the_trial_knows_what_a_trained_model_predicts() -> None:
    scheduler = DDIMScheduler.from_pretrained(EMBEDDED_FOLDER / "scheduler", local_files_only=True)
    unet = UNet2DConditionModel.from_pretrained(EMBEDDED_FOLDER / "unet", local_files_only=True)
    assert scheduler.config.prediction_type == "v_prediction"
    assert not predicts_noise(unet)
    assert predicts_noise(AsEpsilon(unet, float(scheduler.alphas_cumprod[-1])))


def test_the_configs_of_a_file_alone_are_the_published_ones(tmp_path: Path) -> None:
    """Shapes tell version 1 from 2 and inpainting from the rest; the metadata may tell what is predicted."""
    from sd_demo.checkpoints.single_file import _write_config

    v1 = {
        FIRST: (320, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    }
    v2 = {FIRST: (320, 9, 3, 3), "cond_stage_model.model.token_embedding.weight": (49408, 1024)}
    drawing = {**v2, FIRST: (320, 4, 3, 3)}
    architecture = "modelspec.architecture"
    for number, (shapes, metadata, width, channels, prediction, side) in enumerate(
        (
            (v1, {}, 768, 4, "epsilon", 64),
            (v1, {architecture: "stable-diffusion-v1"}, 768, 4, "epsilon", 64),
            (v1, {"modelspec.prediction_type": "v"}, 768, 4, "v_prediction", 64),
            (v2, {}, 1024, 9, "epsilon", 64),
            (drawing, {}, 1024, 4, "v_prediction", 96),
            (drawing, {"modelspec.prediction_type": "epsilon"}, 1024, 4, "epsilon", 64),
            (drawing, {"modelspec.predict_key": "epsilon"}, 1024, 4, "epsilon", 64),
            (drawing, {architecture: "stable-diffusion-v2-512"}, 1024, 4, "epsilon", 64),
            (drawing, {architecture: "stable-diffusion-v2-768-v"}, 1024, 4, "v_prediction", 96),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        _write_config(folder, FileHeader(shapes, metadata))
        unet = json.loads((folder / "unet" / "config.json").read_text())
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        assert (unet["cross_attention_dim"], unet["in_channels"], unet["sample_size"]) == (width, channels, side)
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
    assert refusal_of(copy).startswith("tiny is damaged")
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


def test_the_family_goes_by_other_names_too(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    assert (index["tokenizer"][1], index["_class_name"]) == ("CLIPTokenizer", "StableDiffusionPipeline")
    index["tokenizer"][1], index["_class_name"] = "CLIPTokenizerFast", "LatentConsistencyModelImg2ImgPipeline"
    (copy / "model_index.json").write_text(json.dumps(index))
    assert len(read_model(copy, torch.float32)["tokenizer"]) == 1000


def test_files_that_are_no_whole_checkpoint_are_refused(pipe: Any, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"  # the folder beside it lends configs and tokenizer
    tensors = write_checkpoint(pipe, file)
    for keys, words in (
        ("middle_block.1.proj_in.weight", "lacks some of its weights"),
        ("encoder.conv_in.bias", "lacks some of its weights"),
        ("final_layer_norm.weight", "lacks 1 of its weights"),
        ("cond_stage_model.", "holds no text encoder"),
        ("first_stage_model.", "holds no VAE"),
        ("model.diffusion_model.", "no checkpoint of Stable Diffusion"),
    ):
        save_file({key: value for key, value in tensors.items() if keys not in key}, file)
        assert words in refusal_of(file)
    save_file(tensors | {"model.diffusion_model.control.weight": torch.ones(2)}, file)
    assert "has 1 weights that the UNet of its family has no place for" in refusal_of(file)
    for channels, words in ((8, "8 channels (InstructPix2Pix)"), (5, "(depth to image)"), (7, "download x4-upscaler")):
        save_file(tensors | {FIRST: torch.ones(32, channels, 3, 3)}, file)
        assert words in refusal_of(file)
    reads = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    save_file(tensors | {reads: torch.ones(64, 48)}, file)
    assert "has a text encoder of width 32 and a UNet that reads 48" in refusal_of(file)
    save_file({"lora_unet_mid.lora_up.weight": torch.ones(2)}, file)
    assert "is a LoRA" in refusal_of(file)
    save_file(tensors | {"conditioner.embedders.0.x": torch.ones(2)}, file)
    assert "Stable Diffusion XL" in refusal_of(file)
    file.write_bytes(b"\x10" + b"\0" * 7 + b"nonsense")
    assert "tiny.safetensors is damaged" in refusal_of(file)


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


def test_only_weights_that_are_read_count(copy: Path) -> None:
    """A clone of Stable Diffusion 1.5 has its UNet four times."""
    before, count = hash_of(copy), weights_of(copy)
    plain = load_file(copy / UNET)
    half = copy / UNET.replace(".safetensors", ".fp16.safetensors")
    halves = {key: value.half() for key, value in plain.items()}
    save_file(halves, copy / UNET.replace(".safetensors", ".non_ema.safetensors"))
    assert (hash_of(copy), weights_of(copy)) == (before, count)
    save_file(halves, half)
    of_half = hash_of(copy)
    assert of_half != before
    assert weights_of(copy) == count
    (copy / UNET).unlink()
    assert (hash_of(copy), weights_of(copy)) == (of_half, count)
    half.unlink()
    assert weights_of(copy) < count


def with_checker(folder: Path) -> Path:
    """The weights of the safety checker that the model in `folder` has from now on."""
    random_model.save("safety-checker", folder / "safety_checker", "tiny")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder / "safety_checker" / "model.safetensors"


def test_the_safety_checker_counts_where_it_is_loaded(copy: Path) -> None:
    before, count = hash_of(copy), weights_of(copy)
    weights = load_file(with_checker(copy))
    assert weights_of(copy) == count + sum(value.numel() for value in weights.values())
    assert weights_of(copy, has_checker=False) == count
    assert hash_of(copy) == before, "receipts name what drew the picture"


def test_every_weight_of_a_download_is_looked_at(copy: Path) -> None:
    checker = with_checker(copy)
    files = [file.relative_to(copy).as_posix() for file in copy.rglob("*.safetensors")]
    hashes = {name: {"sha256": hash_of(copy / name)} for name in files}
    before = hash_of(copy)
    (copy / MANIFEST).write_text(json.dumps({"repo": "a/b", "commit": "0", "files": hashes}))
    assert len(files) == 4
    assert hash_of(copy) == before
    checker.write_bytes(checker.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelUnavailable, match=r"^safety_checker/model\.safetensors of A Model was damaged since"):
        hash_of(copy, "A Model")
    assert hash_of(copy, has_checker=False) == before, "what is not loaded may be as it likes"
    for name in ("safety_checker/model.safetensors", UNET):
        (copy / name).unlink()
    with pytest.raises(ModelUnavailable, match=r"was lost since its download; delete its folder and fetch it again\.$"):
        hash_of(copy)


def test_a_download_goes_by_its_title(copy: Path) -> None:
    """Its folder is called by its commit."""
    folder = copy.rename(copy.with_name("451f4fe16113bff5a5d2269ed5ad43b0592e9a14"))
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[: len(whole) // 2])
    for ask in (lambda: read_model(folder, torch.float32, title="A Model"), lambda: weights_of(folder, "A Model")):
        with pytest.raises(ModelUnavailable, match=r"^A Model is damaged \(.*\); fetch it again\.$"):
            ask()
    tensors = {"conv_in.weight": torch.ones(32, 4, 3, 3)}
    save_file(tensors, folder / UNET, {"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"^A Model/unet lacks \d+ of its weights"):
        read_model(folder, torch.float32, title="A Model")
    (folder / UNET).unlink()
    with pytest.raises(ModelUnavailable, match=r"^A Model is not complete"):
        read_model(folder, torch.float32, title="A Model")
    assert refusal_of(folder).startswith(folder.name)
