"""Each text of "copy as code" makes the very picture again, and no prompt can become code."""

from __future__ import annotations

import ast
import shlex
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

from sd_demo.cli.generate import parser
from sd_demo.errors import InvalidRequest
from sd_demo.events import ResultImage
from sd_demo.outputs import Outputs
from sd_demo.receipt import Lora, Receipt
from sd_demo.recipes import Recipes, recipes
from sd_demo.registry import Registry
from sd_demo.requests import parse_request
from sd_demo.restore import from_receipt
from sd_demo.settings import Settings
from sd_demo.upscale import plan_upscaling
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
    "long": ("text_to_image", {"prompt": "a red ball and " * 30, "width": 64, "height": 64}),
    "batch": ("text_to_image", {"prompt": "x", "width": 64, "height": 64, "num_images_per_prompt": 2}),
    "picture": ("image_to_image", {"prompt": "x", "image": photo((100, 70)), "strength": 0.7}),
    "cropped": ("image_to_image", {"prompt": "x", "image": photo((100, 70)), "width": 64, "height": 64}),
    "see-through": ("image_to_image", {"prompt": "x", "image": see_through((64, 64)), "strength": 0.3}),
    "see-through mask": (
        "inpaint",
        {"prompt": "x", "image": see_through((64, 64)), "mask_image": see_through((64, 64)), "strength": 0.8},
    ),
    "mask": ("inpaint", {"prompt": "x", "image": photo((76, 64)), "mask_image": painted((76, 64)), "strength": 0.8}),
    "line": ("inpaint", {"prompt": "x", "image": photo((76, 64)), "mask_image": line((76, 64)), "strength": 0.8}),
    "smaller": ("inpaint", {"prompt": "x", "image": photo((90, 80)), "mask_image": painted((90, 80)), "height": 68}),
}


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
    "refined": {"image": photo((80, 64)), "scale": 2.0, "prompt": "a house", "strength": 0.3, "seed": 4},
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
@settings(max_examples=100, deadline=None)
def test_no_prompt_becomes_code(prompt: str, negative_prompt: str) -> None:
    receipt = make_receipt(prompt=prompt)
    texts = texts_of(receipt.model_copy(update={"asked": {"prompt": prompt, "negative_prompt": negative_prompt}}))
    told = vars(parser().parse_args(shlex.split(texts.command)[4:]))
    assert (told["prompt"], told.get("negative_prompt", "")) == (prompt, negative_prompt)
    for script in (texts.diffusers, texts.client):
        literals = [node.value for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Constant)]
        assert prompt in literals
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


@pytest.mark.parametrize(
    "done", [{"device": 'cpu"); print("x'}, {"dtype": "float32; x"}, {"guidance_scale": float("nan")}, {"seed": -1}]
)
def test_a_receipt_that_nobody_could_have_got_here_gives_no_code(done: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="no code"):
        texts_of(make_receipt(**done))
