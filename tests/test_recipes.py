"""Each text of "copy as code" makes the very picture again, and no prompt can become code."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from sd_demo import canvas
from sd_demo.cli.generate import parser
from sd_demo.diffusers_script import SCALED
from sd_demo.errors import InvalidRequest
from sd_demo.events import ResultImage
from sd_demo.model_files import MANIFEST, NETWORKS, repo_folder
from sd_demo.outputs import Outputs
from sd_demo.receipt import Lora, Receipt
from sd_demo.recipes import Recipes, recipes
from sd_demo.registry import Registry
from sd_demo.requests import parse_request
from sd_demo.restore import from_receipt
from sd_demo.settings import Settings
from sd_demo.upscale import plan_upscaling
from tests.ldm_checkpoint import write_checkpoint
from tests.receipts import make_receipt

ROOT = Path(__file__).parents[1]
NASTY = """it's "a" $HOME `id` \\ ball; rm -rf * # ☃\n\t'''); import os"""
SMALL = {"num_inference_steps": 3, "guidance_scale": 4.0, "seed": 5, "scheduler": "dpmpp_2m_karras"}


def texts_of(receipt: Receipt) -> Recipes:
    return recipes(from_receipt(receipt, registry=Registry(), lora_dir=ROOT / "loras"), Registry())


def psnr(first: Image.Image, second: Image.Image) -> float:
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(float((difference**2).mean()), 1e-9)))


def photo(size: tuple[int, int]) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.rotate(180), Image.new("L", size, 90)))


def see_through(size: tuple[int, int]) -> Image.Image:
    """A picture whose transparent half has a colour of its own below."""
    picture = photo(size).convert("RGBA")
    picture.paste((255, 255, 255, 40), (0, 0, size[0], size[1] // 4))
    picture.paste((200, 0, 0, 90), (size[0] // 2, 0, size[0], size[1]))
    return picture


def deep(size: tuple[int, int]) -> Image.Image:
    """A grey picture of 16 bits."""
    return Image.fromarray(
        (np.asarray(Image.linear_gradient("L").resize(size)).astype(np.uint16) * 251).astype(np.uint16)
    )


def painted(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    return mask


def line(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (35, 10, 37, 50))
    return mask


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from sd_demo.engine import Engine

    outputs = Outputs(tmp_path_factory.mktemp("outputs"))
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa"), outputs=outputs)
    engine.start()
    yield engine
    engine.close()


def make(engine: Any, task: str, **values: Any) -> ResultImage:
    return engine.submit(parse_request(task, {**SMALL, **values})).result(240).images[-1]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "words": ("text_to_image", {"prompt": NASTY, "negative_prompt": "sun", "width": 64, "height": 68}),
    "weights": ("text_to_image", {"prompt": "a (red:1.4) ball", "width": 64, "height": 64, "guidance_scale": 1.0}),
    "negative unread": (
        "text_to_image",
        {
            "prompt": "a (red:1.4) ball",
            "negative_prompt": "(snow:1.2), " * 60,
            "guidance_scale": 1.0,
            "width": 64,
            "height": 64,
        },
    ),
    "long": ("text_to_image", {"prompt": "a red ball and " * 30, "width": 64, "height": 64}),
    "batch": ("text_to_image", {"prompt": "x", "width": 64, "height": 64, "num_images_per_prompt": 2}),
    "picture": ("image_to_image", {"prompt": "x", "image": photo((100, 70)), "strength": 0.7}),
    "cropped": ("image_to_image", {"prompt": "x", "image": photo((100, 70)), "width": 64, "height": 64}),
    "16 bits": ("image_to_image", {"prompt": "x", "image": deep((64, 64)), "strength": 0.3}),
    "see-through": ("image_to_image", {"prompt": "x", "image": see_through((64, 64)), "strength": 0.3}),
    "see-through mask": (
        "inpaint",
        {"prompt": "x", "image": see_through((64, 64)), "mask_image": see_through((64, 64)), "strength": 0.8},
    ),
    "mask": ("inpaint", {"prompt": "ball", "image": photo((76, 64)), "mask_image": painted((76, 64)), "strength": 0.8}),
    "line": ("inpaint", {"prompt": "x", "image": photo((76, 64)), "mask_image": line((76, 64)), "strength": 0.8}),
    "smaller": ("inpaint", {"prompt": "x", "image": photo((90, 80)), "mask_image": painted((90, 80)), "height": 68}),
}


def test_the_script_scales_a_mask_as_the_program_does() -> None:
    mask = Image.new("L", (2400, 1800))
    mask.putpixel((1600, 600), 255)  # too small for the eye at the size of the work
    mask.paste(255, (200, 900, 1100, 903))
    names = {"mask": mask, "np": np, "Image": Image}
    exec(SCALED.format(width=85, height=64), names)
    scaled = names["mask"]
    assert isinstance(scaled, Image.Image)
    assert scaled.getpixel((1600 * 85 // 2400, 600 * 64 // 1800)) == 255
    assert np.array_equal(scaled, canvas.scaled(mask, (85, 64)))


@pytest.mark.parametrize("case", CASES)
def test_the_diffusers_script_gives_the_same_pixels(
    case: str, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, values = CASES[case]
    made = make(engine, task, **values)
    monkeypatch.chdir(tmp_path)
    for name, file in (("image", "input.png"), ("mask_image", "mask.png")):
        if name in values:
            values[name].save(file)
    script = texts_of(made.receipt).diffusers
    exec(compile(script, "script", "exec"), {})  # the script is what is tested
    assert psnr(Image.open("picture.png"), made.image) >= 50


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_the_script_of_a_single_file_predicts_and_measures_as_the_program_does(
    predicts: str, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers goes by shapes: it takes each file of version 2 for 2.1, which predicts v, others for 1.5."""
    from diffusers import StableDiffusionPipeline

    from sd_demo.random_model import save

    monkeypatch.chdir(tmp_path)
    hub, beside = save("sd-1.5", tmp_path / "hub", "tiny"), tmp_path / "tiny"
    write_checkpoint(StableDiffusionPipeline.from_pretrained(hub, local_files_only=True), tmp_path / "tiny.safetensors")
    shutil.copytree(hub, beside)
    for folder, prediction in ((beside, predicts), (hub, {"epsilon", "v_prediction"}.difference({predicts}).pop())):
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": prediction}))
    # Stands for the hub, where diffusers fetches the configs of the family that it takes the file for.
    family = {"pretrained_model_name_or_path": str(hub)}
    monkeypatch.setattr("diffusers.loaders.single_file.fetch_diffusers_config", lambda checkpoint: family)
    picture = photo((300, 200))
    picture.save("input.png")
    made = make(engine, "image_to_image", prompt="x", image=picture, model=str(tmp_path / "tiny.safetensors"))
    assert made.image.size == (192, 128), "one and a half times the size that the loaded model says"
    script = texts_of(made.receipt).diffusers
    left: dict[str, Any] = {}
    exec(compile(script, "script", "exec"), left)  # the script is what is tested
    assert left["pipe"].scheduler.config.prediction_type == predicts, "the pixels of random weights tell little of it"
    assert psnr(Image.open("picture.png"), made.image) >= 50


def test_a_file_that_diffusers_does_not_read_has_no_script(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = make(engine, "text_to_image", prompt="a ball", width=64, height=64).receipt
    monkeypatch.setattr("sd_demo.recipes.has_guidance", lambda path: True)
    told = texts_of(receipt)
    assert told.diffusers.startswith("# diffusers alone reads no model of latent consistency from a single file;")
    assert told.diffusers.count("\n") == 1
    assert told.command.startswith("python -m sd_demo generate")


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """A tiny model whose weights are in float16 alone, and which ships a checker that flags everything."""
    import torch
    from safetensors.torch import load_file, save_file  # of tensors

    from sd_demo.random_model import save

    folder = save("sd-1.5", tmp_path / "model", "tiny")
    save("safety-checker", folder / "safety_checker", "tiny")
    (folder / "feature_extractor").mkdir()
    (folder / "safety_checker" / "preprocessor_config.json").rename(
        folder / "feature_extractor" / "preprocessor_config.json"
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in (*NETWORKS, "safety_checker"):
        (file,) = (folder / name).glob("*.safetensors")
        weights = {key: value.half() for key, value in load_file(file).items()}
        if name == "safety_checker":
            weights["concept_embeds_weights"] = torch.full((17,), -2.0, dtype=torch.float16)
        save_file(weights, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
        file.unlink()
    return folder


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("task", ["text_to_image", "upscale"])
def test_no_text_for_strangers_tells_where_the_host_keeps_its_model(task: str, is_file: bool, tmp_path: Path) -> None:
    place = tmp_path / "secret" / ("dream.safetensors" if is_file else "dream")
    place.parent.mkdir()
    if is_file:
        place.touch()
    else:
        (place / "unet").mkdir(parents=True)
        (place / "model_index.json").write_text("{}")
    registry = Registry(models_dir=tmp_path, takes_paths=False, chosen=str(place))
    receipt = make_receipt(model=registry.get(str(place)).name, strength=0.3)
    picture = {"sha256": "0" * 64, "width": 256, "height": 256}
    receipt = receipt.model_copy(update={"task": task, "asked": {**receipt.asked, "image": picture, "scale": 2.0}})
    if task == "text_to_image":
        receipt.asked.pop("image")
        receipt.asked.pop("scale")
    told = recipes(from_receipt(receipt, registry=registry, lora_dir=tmp_path), registry)
    assert str(tmp_path) not in f"{told}{receipt.parameters()}"
    assert "model='dream'" in told.client, "as this server knows it"
    assert f"--model {place.name} " in told.command, "as another machine would, with the file beside"
    assert f"'{place.name}'" in told.diffusers


def test_the_script_loads_what_the_program_does(checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sd_demo.engine import Engine

    monkeypatch.chdir(tmp_path)
    place = Settings(device="cpu", dtype="float32", attention="sdpa", model=str(checked), safety_checker=False)
    engine = Engine(place, outputs=Outputs(tmp_path / "outputs"))
    engine.start()
    try:
        made = make(engine, "text_to_image", prompt="x", width=64, height=64)
    finally:
        engine.close()
    script = texts_of(made.receipt).diffusers
    exec(compile(script, "script", "exec"), {})  # the script is what is tested
    assert psnr(Image.open("picture.png"), made.image) >= 50


def test_the_script_of_a_download_takes_the_files_that_were_downloaded(tmp_path: Path) -> None:
    entry = Registry().get("sd-1.5")
    assert entry.revision
    folder = tmp_path / repo_folder(entry.source) / entry.revision
    (folder / "unet").mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")

    def script(**done: Any) -> str:
        registry = Registry(models_dir=tmp_path)
        receipt = make_receipt(model="sd-1.5", **done)
        return recipes(from_receipt(receipt, registry=registry, lora_dir=tmp_path), registry).diffusers

    assert "variant" not in script()
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert f"revision={entry.revision!r}, variant='fp16', dtype=torch.float32, safety_checker=None)" in script()
    assert f"revision={entry.revision!r}, variant='fp16', dtype=torch.float32)" in script(is_safety_checked=True)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").touch()
    assert "variant" not in script(), "of both the program reads float16 where that is there in truth"
    save_file({"a": np.ones(1)}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert "variant='fp16'" in script()
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert "variant" not in script()
    (folder / "vae").mkdir()
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert "variant='fp16'" in script(), "diffusers decides by part, too"


def test_noise_by_a_setting_has_the_pictures_seed() -> None:
    """The scheduler's package is not here, so the script is read and not run."""
    receipt = make_receipt(scheduler="dpmpp_sde")
    scheduler = "pipe.scheduler = DPMSolverSDEScheduler.from_config(pipe.scheduler.config, noise_sampler_seed="
    assert f"\n{scheduler}[7])" in texts_of(receipt).diffusers
    asked = {"prompt": "x", "image": {"sha256": "ab", "width": 96, "height": 64}, "strength": 0.1, "scale": 2.0}
    larger = receipt.model_copy(update={"task": "upscale", "asked": asked})
    assert f"\n    {scheduler}[tile.seed])" in texts_of(larger).diffusers
    assert "noise_sampler_seed" not in texts_of(make_receipt()).diffusers


def test_script_and_command_line_run_in_a_shell(engine: Any, tmp_path: Path) -> None:
    made = make(engine, *[CASES["words"][0]], **CASES["words"][1])
    texts = texts_of(made.receipt)
    (tmp_path / "script.py").write_text(texts.diffusers, encoding="utf-8")
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    line = texts.command.replace("generate", "generate --output here", 1)
    done = subprocess.run(
        f"python script.py && {line}", shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "here").glob("*.png")
    for again in (tmp_path / "picture.png", path):
        assert psnr(Image.open(again), made.image) >= 50


LARGER: dict[str, dict[str, Any]] = {
    "refined": {
        "image": photo((80, 64)),
        "scale": 2.0,
        "prompt": "a house",
        "negative_prompt": "sun, x",
        "strength": 0.3,
        "seed": 4,
    },
    "less than a step": {"image": photo((64, 64)), "scale": 1.0, "strength": 0.02, "num_inference_steps": 20},
    "in tiles": {"image": photo((160, 64)), "scale": 2.0, "num_inference_steps": 20},
    "x4": {"image": photo((20, 16)), "scale": 4.0, "model": "x4-upscaler", "num_inference_steps": 2, "noise_level": 9},
    "x2": {"image": photo((96, 64)), "scale": 1.5, "model": "x2-latent-upscaler", "num_inference_steps": 2},
}


@pytest.mark.parametrize("case", LARGER)
def test_each_text_of_a_larger_picture_gives_its_pixels(
    case: str, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sd_demo.cli import main
    from sd_demo.random_model import save
    from sd_demo.upscaling import Upscaled, run_upscaling

    monkeypatch.chdir(tmp_path)
    values = dict(LARGER[case])
    if "model" in values:
        values["model"] = str(save(values["model"], tmp_path / values["model"], "tiny"))
    values["image"].save("input.png")
    plan = plan_upscaling(values, entry=engine.defaults(values.get("model")))
    made = next(one.result for one in run_upscaling(engine, plan) if isinstance(one, Upscaled))
    texts = texts_of(made.receipt)
    exec(compile(texts.diffusers, "script", "exec"), {})  # the script is what is tested
    assert psnr(Image.open("picture.png"), made.image) >= 50
    assert main([*shlex.split(texts.command.splitlines()[-1])[3:], "--output", "here"]) == 0
    assert psnr(Image.open(capsys.readouterr().out.strip()), made.image) >= 50
    assert 'api_name="/upscale"' in texts.client
    ast.parse(texts.client)


PROMPTS = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)


@given(PROMPTS, PROMPTS)
@settings(max_examples=100)
def test_no_prompt_becomes_code(prompt: str, negative_prompt: str) -> None:
    receipt = make_receipt(prompt=prompt)
    texts = texts_of(receipt.model_copy(update={"asked": {"prompt": prompt, "negative_prompt": negative_prompt}}))
    told = vars(parser().parse_args(shlex.split(texts.command)[4:]))
    assert (told["prompt"], told.get("negative_prompt", "")) == (prompt, negative_prompt)
    for script in (texts.diffusers, texts.client):
        literals = [node.value for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Constant)]
        assert prompt in literals
        assert not negative_prompt or negative_prompt in literals
        assert len(ast.parse(script).body) == len(ast.parse(plain_twin(script, prompt, negative_prompt)).body)


def plain_twin(script: str, *texts: str) -> str:
    for text in sorted(texts, key=len, reverse=True):
        if len(text) > 1:
            script = script.replace(repr(text), "'x'")
    return script


def test_the_client_call_names_every_value_that_matters(tmp_path: Path) -> None:
    known = {"sha256": "ab", "width": 96, "height": 64}
    receipt = make_receipt(strength=0.4, prompt=NASTY)
    asked = {"prompt": NASTY, "image": known, "mask_image": known}
    texts = texts_of(receipt.model_copy(update={"task": "inpaint", "asked": asked}))
    (call,) = [
        node
        for node in ast.walk(ast.parse(texts.client))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "predict"
    ]
    named = {word.arg: ast.unparse(word.value) for word in call.keywords}
    assert named.pop("image") == "handle_file('input.png')"
    assert named.pop("mask_image") == "handle_file('mask.png')"
    values = {name: ast.literal_eval(value) for name, value in named.items() if name}
    assert values == {
        "prompt": NASTY, "num_inference_steps": 20, "guidance_scale": 5.0, "scheduler": "dpmpp_2m", "seed": 7,
        "model": "picture-book", "strength": 0.4, "api_name": "/inpaint",
    }  # fmt: skip


def test_loras_are_named_with_their_weights(tmp_path: Path) -> None:
    (tmp_path / "pencil.safetensors").touch()
    receipt = make_receipt(loras=[Lora(name="pencil", weight=0.5, sha256="", matched=1, total=1)])
    texts = recipes(from_receipt(receipt, registry=Registry(), lora_dir=tmp_path), Registry())
    assert "pipe.load_lora_weights('loras', weight_name='pencil.safetensors', adapter_name='lora_0')" in texts.diffusers
    assert "pipe.set_adapters(['lora_0'], [0.5])" in texts.diffusers
    assert "--lora pencil:0.5" in texts.command
    assert "loras=['pencil:0.5']" in texts.client


def test_what_is_no_longer_here_gives_no_code() -> None:
    """Without its LoRA it would be another picture."""
    with pytest.raises(InvalidRequest, match=r"^There is no code for it here: The LoRA 'gone' is not here\.$"):
        texts_of(make_receipt(loras=[Lora(name="gone", weight=0.5, sha256="", matched=1, total=1)]))
    with pytest.raises(InvalidRequest, match="no code for it here: The model 'gone' is not here"):
        texts_of(make_receipt(model="gone"))


@pytest.mark.parametrize(
    "done", [{"device": 'cpu"); print("x'}, {"dtype": "float32; x"}, {"guidance_scale": float("nan")}, {"seed": -1}]
)
def test_a_receipt_that_nobody_could_have_got_here_gives_no_code(done: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="no code"):
        texts_of(make_receipt(**done))
