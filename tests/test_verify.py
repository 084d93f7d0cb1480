"""`verify` says identical for what was made here, and names the likely cause for what was not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_demo.cli import generate, main
from sd_demo.errors import InvalidRequest
from sd_demo.events import ResultImage
from sd_demo.outputs import Outputs
from sd_demo.receipt import Lora
from sd_demo.registry import Registry
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.verify import compare, places, what_made
from tests.receipts import make_receipt

SMALL = {"num_inference_steps": 2, "seed": 5, "width": 64, "height": 64}
Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from sd_demo.engine import Engine

    outputs = Outputs(tmp_path_factory.mktemp("outputs"), by_visitor=False)
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa"), outputs=outputs)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def verify(engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Verify:
    """Run the command over the one engine of these tests: (exit code, its JSON)."""
    asked: list[Settings] = []

    class Lent:
        submit = engine.submit

        def close(self, timeout_s: float) -> None: ...

    def lend(settings: Settings) -> Lent:
        asked.append(settings)
        return Lent()

    monkeypatch.setattr(generate, "make_engine", lend)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
        code = main(["verify", *map(str, arguments), "--json"])
        assert all((s.device, s.dtype, s.attention) == ("cpu", "float32", "sdpa") for s in asked)
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {"error": err}

    return run


def photo(size: tuple[int, int] = (80, 64)) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.rotate(180), Image.new("L", size, 90)))


def make(engine: Any, task: str = "text_to_image", **values: Any) -> ResultImage:
    return engine.submit(parse_request(task, {**SMALL, **values})).result(240).images[-1]


def test_a_picture_of_a_batch_in_a_shared_run_is_the_same(engine: Any, verify: Verify) -> None:
    requests = [
        parse_request(
            "text_to_image", {**SMALL, "prompt": "a ball", "num_images_per_prompt": 2, "scheduler": "euler_a"}
        ),
        parse_request("text_to_image", {**SMALL, "prompt": "a (red:1.3) house", "num_inference_steps": 3}),
    ]
    jobs = [engine.submit(request) for request in requests]
    for job in jobs:
        code, answer = verify(job.result(240).images[-1].path)
        assert code == 0
        assert answer["verdict"] in ("identical", "same picture")


def test_a_picture_made_from_another_is_found_by_its_fingerprint(engine: Any, verify: Verify, tmp_path: Path) -> None:
    first = make(engine, prompt="a ball")
    second = make(engine, "image_to_image", prompt="a house", image=first.image, strength=0.6)
    assert verify(second.path)[0] == 0
    alone = tmp_path / "alone.png"
    alone.write_bytes(second.path.read_bytes())
    code, answer = verify(alone)
    assert (code, "--image FILE" in answer["error"]) == (2, True)
    assert verify(alone, "--image", first.path)[0] == 0
    photo().save("other.png")
    code, answer = verify(alone, "--image", "other.png")
    assert (code, "not the image" in answer["error"]) == (2, True)


def test_an_inpainted_picture_needs_its_mask(engine: Any, verify: Verify) -> None:
    mask = Image.new("L", (80, 64))
    mask.paste(255, (16, 16, 60, 60))
    photo().save("photo.png")
    mask.save("mask.png")
    made = make(engine, "inpaint", prompt="a ball", image=photo(), mask_image=mask, width=None, height=None)
    assert verify(made.path, "--image", "photo.png")[0] == 2
    assert verify(made.path, "--image", "photo.png", "--mask-image", "mask.png") == (
        0,
        {"verdict": "identical", "psnr_db": None, "causes": []},
    )


def test_an_edited_picture_is_told_from_the_one_that_was_made(engine: Any, verify: Verify) -> None:
    made = make(engine, prompt="a ball")
    info = made.receipt.png_info()
    edited = made.image.copy()
    edited.paste((255, 0, 0), (0, 0, 32, 32))
    edited.save("edited.png", pnginfo=info)
    code, answer = verify("edited.png")
    assert (code, answer["verdict"]) == (1, "different")
    assert 0 < answer["psnr_db"] < 50
    assert "edited" in answer["causes"][0]
    made.image.resize((48, 48)).save("smaller.png", pnginfo=info)
    code, answer = verify("smaller.png")
    assert (code, answer["psnr_db"]) == (1, None)
    assert "48x48" in answer["causes"][0]
    noisy = Image.fromarray(np.asarray(made.image) ^ np.uint8(1))
    noisy.save("noisy.png", pnginfo=info)
    assert verify("noisy.png")[1]["verdict"] == "different"  # 48.1 dB
    barely = made.image.copy()
    barely.putpixel((0, 0), tuple(min(255, v + 3) for v in made.image.getpixel((0, 0))))  # type: ignore[union-attr]
    barely.save("barely.png", pnginfo=info)
    assert verify("barely.png")[1]["verdict"] == "same picture"


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_what_is_no_picture_of_ours_is_bad_input(content: bytes | None, verify: Verify) -> None:
    if content is not None:
        Path("file.png").write_bytes(content)
    assert verify("file.png")[0] == 2
    photo().save("file.png")
    assert verify("file.png")[0] == 2


def test_each_difference_is_a_likely_cause() -> None:
    worn = Lora(name="pencil", weight=1.0, sha256="a", matched=1, total=1)
    then = make_receipt(model_hash="a" * 64, torch="2.0", diffusers="0.1", device="cuda", dtype="float16", loras=[worn])
    then = then.model_copy(update={"version": "0.0.1"})
    then = then.model_copy(update={"done": then.done.model_copy(update={"compiled_steps": 17, "read_prompt": "a cat"})})
    now = make_receipt(shared_with=3, loras=[worn.model_copy(update={"sha256": "b"})], retries=["decoded again"])
    black, white = Image.new("RGB", (256, 256)), Image.new("RGB", (256, 256), "white")
    found = compare(white, then, ResultImage(Path(), black, now))
    told = " ".join(found.causes)
    for word in ("weights", "pencil", "0.0.1", "device was cuda", "dtype was float16", "torch was 2.0",
                 "diffusers was 0.1", "decoded again", "with 3", "17 of its steps ran compiled",
                 'read as "a cat", and is read as "a red ball" here'):  # fmt: skip
        assert word in told


@pytest.mark.parametrize(("dtype", "level", "says"), [("bfloat16", 5, "rounds"), ("bfloat16", 90, "edited"),
                                                     ("float32", 5, "edited")])  # fmt: skip
def test_another_processors_rounding_is_not_taken_for_an_edit(dtype: str, level: int, says: str) -> None:
    receipt = make_receipt(dtype=dtype)
    black, other = Image.new("RGB", (256, 256)), Image.new("RGB", (256, 256), (level, level, level))
    found = compare(other, receipt, ResultImage(Path(), black, receipt))
    assert found.verdict == "different"
    assert says in " ".join(found.causes)


def test_what_is_not_here_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"weights of Stable Diffusion 1\.5 are not here"):
        what_made(make_receipt(model="sd-1.5"), registry=Registry(models_dir=tmp_path), lora_dir=Path("none"))
    with pytest.raises(InvalidRequest, match="another"):
        what_made(make_receipt(model="another"), registry=Registry(), lora_dir=Path("none"))


def test_a_model_that_goes_by_another_name_here_is_said_by_a_flag(
    engine: Any, verify: Verify, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a picture that was made among strangers, whose receipt has the file's name and not its path."""
    from sd_demo.random_model import save

    place = save("sd-1.5", tmp_path / "far" / "dream", "tiny")
    made = make(engine, prompt="a ball", model=str(place))
    receipt = made.receipt.model_copy(update={"done": made.receipt.done.model_copy(update={"model": "dream"})})
    made.image.save("file.png", pnginfo=receipt.png_info())
    code, answer = verify("file.png")
    assert (code, "there is no model 'dream'; --model says which one to use" in answer["error"]) == (2, True)
    assert verify("file.png", "--model", place)[0] == 0
    assert "weights" in verify("file.png", "--model", "picture-book")[1]["causes"][0]
    assert "There is no model 'nowhere'" in verify("file.png", "--model", "nowhere")[1]["error"]
    monkeypatch.setenv("SD_DEMO_MODEL", str(place))
    assert verify("file.png")[0] == 0


def test_the_receipts_place_is_tried_first_and_then_less_of_it() -> None:
    tried = list(places(make_receipt(device="cuda", dtype="float16", attention="xformers")))
    assert tried[0] == {"device": "cuda", "dtype": "float16", "attention": "xformers"}
    assert tried[-1] == {}


def test_another_machines_place_falls_back_to_this_one(
    engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = make(engine, prompt="a ball")
    receipt = made.receipt.model_copy(update={"done": made.receipt.done.model_copy(update={"device": "mps"})})
    made.image.save(tmp_path / "file.png", pnginfo=receipt.png_info())
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "file.png", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.split()[0] in ("identical", "same")
