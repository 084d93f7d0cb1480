"""LoRA files on the embedded model: every way of naming layers, the pixels of diffusers, refusals, and no trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from sd_demo import pipeline_manager
from sd_demo.errors import InvalidRequest
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.loaded_model import LoadedModel
from sd_demo.lora import fit_lora, put_on, read_lora, take_off
from sd_demo.lora_folder import add_lora, find_lora, lora_names
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import Registry
from sd_demo.requests import LoraChoice
from sd_demo.settings import Settings

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1"]
TEXT = ["q_proj", "v_proj", "fc1"]


@pytest.fixture(scope="module")
def oracle() -> Any:
    """Plain diffusers with the embedded model."""
    return StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32, safety_checker=None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, oracle: Any) -> Path:
    """A LoRA with random matrices on UNet and text encoder, alpha 2 and rank 4, as diffusers writes it."""
    torch.manual_seed(0)
    for module, targets in ((oracle.unet, ATTENTION), (oracle.text_encoder, TEXT)):
        module.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False), "made")
    folder = tmp_path_factory.mktemp("loras")
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(oracle.unet, adapter_name="made"),
        text_encoder_lora_layers=get_peft_model_state_dict(oracle.text_encoder, adapter_name="made"),
        weight_name="made.safetensors",
        unet_lora_adapter_metadata=oracle.unet.peft_config["made"].to_dict(),
        text_encoder_lora_adapter_metadata=oracle.text_encoder.peft_config["made"].to_dict(),
    )
    oracle.unload_lora_weights()
    return folder / "made.safetensors"


@pytest.fixture
def pipe(model: LoadedModel) -> Iterator[Any]:
    """The shared model as a pipeline; whatever a test puts on it is taken off again."""
    pipe = model.pipeline("text_to_image", model.components["scheduler"])
    pipe.set_progress_bar_config(disable=True)
    yield pipe
    take_off(pipe)


def picture(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    return pipe("a red ball", generator=generator, output_type="pt", **size).images


def fitted(path: Path, pipe: Any) -> Any:
    return fit_lora(read_lora(path, path.stem), pipe.unet, pipe.text_encoder)


def state_of(pipe: Any) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    return {f"{part}.{k}": v.clone() for part, module in parts.items() for k, v in module.state_dict().items()}


def rewritten(file: Path, name: str, change: Any, metadata: dict[str, str] | None = None) -> Path:
    """The LoRA with other names or tensors."""
    path = file.with_name(f"{name}.safetensors")
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, path, metadata=metadata)
    return path


def test_pixels_are_those_of_plain_diffusers_and_taking_it_off_leaves_no_trace(
    file: Path, pipe: Any, oracle: Any
) -> None:
    before, state, layers = picture(pipe), state_of(pipe), [type(m) for m in pipe.unet.modules()]
    fit = fitted(file, pipe)
    assert fit.matched == fit.total == len(load_file(file))
    put_on(pipe, [(fit, 1.0)])
    worn = picture(pipe)
    oracle.load_lora_weights(str(file))
    assert torch.allclose(worn, picture(oracle), atol=1e-4)
    oracle.unload_lora_weights()
    assert not torch.allclose(worn, before, atol=1e-2)
    take_off(pipe)
    after = state_of(pipe)
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert [type(m) for m in pipe.unet.modules()] == layers
    assert torch.equal(picture(pipe), before)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # the oracle's
def test_several_with_weights_are_those_of_diffusers(file: Path, pipe: Any, oracle: Any) -> None:
    only_unet = rewritten(file, "unet", lambda t: {k: v * 0.5 for k, v in t.items() if k.startswith("unet.")})
    put_on(pipe, [(fitted(file, pipe), 0.5), (fitted(only_unet, pipe), -1.5)])
    oracle.load_lora_weights(str(file), adapter_name="a")
    oracle.load_lora_weights(str(only_unet), adapter_name="b")
    oracle.set_adapters(["a", "b"], [0.5, -1.5])
    assert torch.allclose(picture(pipe), picture(oracle), atol=1e-4)
    oracle.unload_lora_weights()


def test_what_was_read_is_its_own_whatever_becomes_of_the_file(file: Path) -> None:
    """Written over in place, as `cp` does it, while a model wears it."""
    read = read_lora(file, "mine")
    before = {key: tensor.clone() for key, tensor in read.tensors.items()}
    content = file.read_bytes()
    begins = 8 + int.from_bytes(content[:8], "little")
    with file.open("r+b") as opened:
        opened.seek(begins)
        opened.write(bytes(len(content) - begins))
    assert all(torch.equal(read.tensors[key], tensor) for key, tensor in before.items())
    file.write_bytes(content)


def test_a_weight_of_0_is_none(file: Path, pipe: Any) -> None:
    before = picture(pipe)
    put_on(pipe, [(fitted(file, pipe), 0.0)])
    assert torch.allclose(picture(pipe), before, atol=1e-6)


def as_kohya(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' own conversion, which writes alphas too; the text encoder's names get the level that files have."""
    named = {k.replace("text_encoder.encoder", "text_encoder.text_model.encoder"): v for k, v in tensors.items()}
    kohya = convert_state_dict_to_kohya(named)
    return {k: torch.tensor(2.0) if k.endswith(".alpha") else v for k, v in kohya.items()}


def as_older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of diffusers before it used PEFT; alphas are not kept there, so the scale goes into the matrix."""
    found = {}
    for key, tensor in tensors.items():
        if "attn" not in key or not key.startswith("unet."):
            continue
        head, tail = key.split(".to_") if ".to_" in key else (None, "")
        if head is None:
            continue
        part, tail = tail.replace("out.0", "out").split(".", 1)
        half = "down" if "lora_A" in tail else "up"
        found[f"{head}.processor.to_{part}_lora.{half}.weight"] = tensor * (1.0 if half == "down" else 0.5)
    return found


def without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT's own file of one module."""
    return {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in tensors.items() if k.startswith("unet.")}


def test_kohya_names_give_the_same_layers_and_scales(file: Path, pipe: Any) -> None:
    ours, kohya = fitted(file, pipe), fitted(rewritten(file, "kohya", as_kohya), pipe)
    assert kohya.matched == kohya.total > len(load_file(file))
    assert set(kohya.weights) == set(ours.weights)
    assert all(torch.equal(kohya.weights[name], tensor) for name, tensor in ours.weights.items())


def test_older_names_give_the_same_layers_and_scales(file: Path, pipe: Any) -> None:
    ours, older = fitted(file, pipe), fitted(rewritten(file, "older", as_older), pipe)
    assert older.matched == older.total > 0
    assert all(torch.equal(ours.weights[name], tensor) for name, tensor in older.weights.items())


def test_pefts_own_names_are_the_unets(file: Path, pipe: Any) -> None:
    fit = fitted(rewritten(file, "peft", without_prefix), pipe)
    assert fit.matched == fit.total > 0
    assert all(name.startswith("unet.") for name in fit.weights)


def test_what_has_no_layer_here_is_counted_and_left_out(file: Path, pipe: Any) -> None:
    extra = {"unet.nowhere.to_k.lora_A.weight": torch.ones(4, 8), "unet.nowhere.to_k.lora_B.weight": torch.ones(8, 4)}
    fit = fitted(rewritten(file, "extra", lambda t: {**t, **extra}), pipe)
    assert (fit.total - fit.matched, any("nowhere" in name for name in fit.weights)) == (2, False)


def of_another_family(context: int, like: str) -> Any:
    """Names and sizes that a LoRA for a family with texts `context` wide has."""

    def made(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        sizes = {f"unet.{layer}.lora_A.weight": (4, context), f"unet.{layer}.lora_B.weight": (640, 4)}
        found = {name: torch.ones(size) for name, size in sizes.items()}
        return as_kohya(found) if like == "kohya" else found

    return made


def one(name: str) -> Any:
    return lambda tensors: {name: torch.ones(4, 4)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_another_family(768, "peft"), "does not fit this model: it is a LoRA for Stable Diffusion 1;"),
        (of_another_family(768, "kohya"), "does not fit this model: it is a LoRA for Stable Diffusion 1;"),
        (of_another_family(1024, "kohya"), "does not fit this model: it is a LoRA for Stable Diffusion 2;"),
        (of_another_family(2048, "peft"), "does not fit this model: it is a LoRA for SDXL;"),
        (of_another_family(64, "peft"), "it is a LoRA for models whose texts are 64 wide;"),
        (one("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), "it is a LoRA for SDXL;"),
        (one("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"), "it is a LoRA for Flux;"),
        (one("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"), "it is a LoRA for Flux;"),
        (one("transformer.transformer_blocks.0.attn.to_k.lora_A.weight"), "it is a LoRA for a transformer model;"),
        (one("lora_unet_mid_block_attentions_0_proj_in.lokr_w1"), "is a LoKr file, which is not used here"),
        (one("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"), "is a LoHa file, which is not used here"),
        (one("model.diffusion_model.input_blocks.0.0.weight"), "is a whole model, which is not used here"),
        (one("emb_params"), "is a textual inversion, which is not used here"),
        (one("weight"), "holds no LoRA;"),
        (lambda tensors: {k: v * float("nan") for k, v in tensors.items()}, "values that are not finite;"),
        (
            lambda tensors: {k.replace(".to_", ".from_").replace("conv1", "conv7"): v for k, v in tensors.items()},
            "tensors have a layer here, and its layers have other sizes;",
        ),
    ],
)  # fmt: skip
def test_a_file_of_another_family_or_kind_is_refused_with_its_reason(
    change: Any, words: str, file: Path, pipe: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fitted(rewritten(file, "strange", change), pipe)
    text = str(caught.value)
    assert text.startswith("loras: strange ")
    assert words in text
    assert text.endswith(".")
    assert ". " not in text
    assert caught.value.field == "loras"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_small_number_formats_are_read(dtype: torch.dtype, file: Path, pipe: Any) -> None:
    fit = fitted(rewritten(file, "small", lambda tensors: {k: v.to(dtype) for k, v in tensors.items()}), pipe)
    assert fit.matched == fit.total
    assert all(torch.isfinite(weight).all() for weight in fit.weights.values())
    with pytest.raises(InvalidRequest, match="values that are not finite"):
        fitted(
            rewritten(file, "bad", lambda tensors: {k: (v * float("nan")).to(dtype) for k, v in tensors.items()}), pipe
        )


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95 pickled", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_files_get_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"^loras: bad (cannot be read as a safetensors file|holds no LoRA)"):
        read_lora(path, "bad")


def test_strangers_settings_in_a_file_change_nothing_but_the_scale(file: Path, pipe: Any) -> None:
    config = {"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": "(a+)+$", "unet.init_lora_weights": "eva"}
    path = rewritten(file, "settings", dict, {"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    ours, theirs = fitted(file, pipe).weights, fitted(path, pipe).weights
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items() if name.startswith("unet."))
    for text in ("[1]", "{", '{"unet.lora_alpha": "x"}', "[" * 100_000):
        assert fitted(rewritten(file, "odd", dict, {"lora_adapter_metadata": text}), pipe).matched


def test_an_error_while_putting_on_leaves_nothing_on(file: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = list(state_of(pipe))
    monkeypatch.setattr(UNet2DConditionModel, "set_adapters", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        put_on(pipe, [(fitted(file, pipe), 1.0)])
    assert list(state_of(pipe)) == state


def test_the_folder_names_its_loras(tmp_path: Path) -> None:
    for name in ("snowman.safetensors", "styles/Pencil.safetensors", "notes.txt", "old.ckpt", ".writing-x.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert lora_names(tmp_path) == ["snowman", "styles/Pencil"]
    assert lora_names(tmp_path / "gone") == []
    assert find_lora("styles/Pencil", tmp_path) == tmp_path / "styles/Pencil.safetensors"
    assert find_lora(str(tmp_path / "snowman.safetensors"), tmp_path / "gone").name == "snowman.safetensors"
    for name, words in [
        ("snoman", "such as snowman"),
        ("../snowman", "there is no LoRA"),
        ("a\0b", "there is no LoRA"),
    ]:
        with pytest.raises(InvalidRequest, match=words):
            find_lora(name, tmp_path)
    with pytest.raises(InvalidRequest, match=r"old\.ckpt is no \.safetensors file"):
        find_lora(str(tmp_path / "old.ckpt"), tmp_path)


def test_an_added_file_gets_a_free_and_harmless_name(tmp_path: Path) -> None:
    folder, source = tmp_path / "loras", tmp_path / "upload"
    source.write_bytes(b"first")
    assert add_lora(source, "../../etc/my: style.safetensors", folder) == "my_ style"
    source.write_bytes(b"second")
    assert add_lora(source, "my: style.safetensors", folder) == "my_ style-2"
    assert [f.read_bytes() for f in sorted(folder.iterdir())] == [b"second", b"first"]
    assert lora_names(folder) == ["my_ style", "my_ style-2"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidRequest, match="cannot be saved"):
        add_lora(source, "x", tmp_path / "file")


def test_where_paths_are_not_taken_no_answer_tells_whether_a_file_is_there(file: Path) -> None:
    folder = file.parent
    assert find_lora(str(file), folder.parent / "none") == file
    said = set()
    for path in (file, file.with_suffix(".txt"), Path(__file__)):
        with pytest.raises(InvalidRequest) as caught:
            find_lora(str(path), folder.parent / "none", takes_paths=False)
        said.add(str(caught.value).replace(repr(str(path)[:80]), "NAME"))
    assert len(said) == 1


def test_the_manager_changes_loras_only_where_they_differ(file: Path) -> None:
    manager = PipelineManager(
        Settings(device="cpu", dtype="float32", attention="sdpa", lora_dir=file.parent), Registry()
    )
    half, whole = (LoraChoice(name="made", weight=w) for w in (0.5, 1.0))
    bare = manager.get(EMBEDDED)
    worn = manager.get(EMBEDDED, loras=[half])
    assert manager.holds(EMBEDDED, [half])
    assert not manager.holds(EMBEDDED, [whole])
    assert not manager.holds(EMBEDDED, [])
    assert worn.unet is bare.unet
    assert manager.get(EMBEDDED, loras=[half]) is worn
    assert worn.loras[0].matched == worn.loras[0].total
    with pytest.raises(InvalidRequest, match="no LoRA 'gone'"):
        manager.get(EMBEDDED, loras=[LoraChoice(name="gone")])
    assert manager.holds(EMBEDDED, [])
    assert manager.get(EMBEDDED).loras == ()


def test_other_loras_and_a_freed_model_let_go_of_recorded_calls(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorded:
        forgotten, waited_after = 0, 0

        def forget(self) -> None:
            self.forgotten += 1

        def wait(self) -> None:
            self.waited_after = self.forgotten

    recorded = Recorded()
    monkeypatch.setattr(pipeline_manager, "_captured_calls", lambda *_, **__: recorded)
    manager = PipelineManager(
        Settings(device="cpu", dtype="float32", attention="sdpa", lora_dir=file.parent), Registry()
    )
    manager.get(EMBEDDED)
    assert recorded.forgotten == 0
    for count, loras in enumerate(([LoraChoice(name="made")], []), 1):
        manager.get(EMBEDDED, loras=loras)
        manager.get(EMBEDDED, loras=loras)
        assert recorded.forgotten == count
    assert recorded.waited_after == 0, "LoRAs change while something compiles"
    manager.free()
    assert recorded.forgotten == recorded.waited_after == 3
