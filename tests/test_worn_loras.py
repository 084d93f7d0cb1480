"""LoRAs in the engine: requests with different ones wait for one another, and each picture's receipt tells its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sd_demo.engine import Engine
from sd_demo.errors import InvalidRequest
from sd_demo.job import Job
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.lora_folder import TRIGGER_KEY
from sd_demo.receipt import read_receipt_file
from sd_demo.requests import LoraChoice, parse_request
from sd_demo.settings import Settings
from sd_demo.ui.live_lines import token_line
from sd_demo.worn_loras import WornLora, are_worn

WAIT_S = 250
WIDTH = json.loads((EMBEDDED_FOLDER / "unet" / "config.json").read_text())["block_out_channels"][-1]
LAYERS = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (WIDTH, 128),
    "unet.mid_block.resnets.0.conv1": (WIDTH, WIDTH, 3),
}
TEXT = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (128, 128)}


def write(path: Path, seed: int, layers: dict[str, tuple[int, ...]], **metadata: str) -> None:
    torch.manual_seed(seed)
    tensors = {}
    for name, (outer, inner, *kernel) in layers.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, inner, *kernel * 2)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outer, 2, *[1] * 2 * len(kernel))
    save_file(tensors, path, metadata=metadata)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "loras").mkdir()
    write(folder / "loras/one.safetensors", 1, LAYERS, **{TRIGGER_KEY: "Snowman, hat"})
    write(folder / "loras/two.safetensors", 2, LAYERS | TEXT)
    write(folder / "loras/partly.safetensors", 3, LAYERS | {"unet.nowhere.to_k": (8, 8)})
    write(
        folder / "loras/strange.safetensors",
        4,
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (WIDTH, 768)},
    )
    place = {"output_dir": folder / "out", "lora_dir": folder / "loras", "data_dir": folder / "data"}
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", model="picture-book", **place))
    engine.start()
    yield engine
    engine.close()


def submit(engine: Engine, *loras: str, **values: Any) -> Job:
    small = {"prompt": "a red ball", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 1}
    return engine.submit(parse_request("text_to_image", {**small, **values, "loras": list(loras)}))


def pixels(job: Job) -> np.ndarray:
    return np.asarray(job.result(WAIT_S).images[0].image, dtype=np.int16)


def test_each_request_gets_its_own_loras_and_none_leaks_into_another(engine: Engine) -> None:
    sets = [(), ("one",), ("two:0.5",), ("one:-1", "two"), ()]
    alone = [pixels(submit(engine, *names)) for names in sets]
    together = [submit(engine, *names) for names in sets]
    for k, (picture, job) in enumerate(zip(alone, together, strict=True)):
        assert np.array_equal(picture, pixels(job)), k
    assert np.array_equal(alone[0], alone[-1])
    differences = [np.abs(alone[0] - other).mean() for other in alone[1:4]]
    assert min(differences) > 0.5, differences


def test_requests_with_the_same_loras_share_a_step(engine: Engine) -> None:
    jobs = [submit(engine, "one", num_inference_steps=8, seed=k) for k in range(3)]
    assert max(job.result(WAIT_S).images[0].receipt.done.shared_with for job in jobs) >= 1


def test_the_receipt_tells_name_weight_hash_and_tensors(engine: Engine) -> None:
    result = submit(engine, "one", "partly:0.5").result(WAIT_S).images[0]
    receipt = read_receipt_file(result.path)
    assert receipt == result.receipt
    assert receipt.asked["loras"] == [{"name": "one", "weight": 1.0}, {"name": "partly", "weight": 0.5}]
    first, second = receipt.done.loras
    assert (first.name, first.weight, first.matched, first.total, len(first.sha256)) == ("one", 1.0, 4, 4, 64)
    assert (second.matched, second.total) == (4, 6)
    assert "Of the LoRA partly 4 of 6 tensors fit the model and were used." in receipt.notes
    assert submit(engine).result(WAIT_S).images[0].receipt.done.loras == []


def test_a_file_that_cannot_be_asked_is_not_worn(tmp_path: Path) -> None:
    choice, path = LoraChoice(name="one"), tmp_path / "one.safetensors"
    path.touch()
    worn = WornLora(choice, path, path.stat().st_mtime_ns, "", 1, 1, "")
    assert are_worn([worn], [choice])
    assert not are_worn([replace(worn, path=tmp_path / ("x" * 300))], [choice])
    path.unlink()
    assert not are_worn([worn], [choice])


def test_a_word_that_a_lora_teaches_is_not_unknown(engine: Engine) -> None:
    prompt = "a snowman and a dragon"
    assert submit(engine, prompt=prompt).result(WAIT_S).images[0].receipt.done.unknown_words == ["snowman", "dragon"]
    assert submit(engine, "one", prompt=prompt).result(WAIT_S).images[0].receipt.done.unknown_words == ["dragon"]
    assert "snowman" in token_line(engine, prompt, None)
    assert "snowman" not in token_line(engine, prompt, None, ["one:0.5", "nowhere", ":"])
    counted = token_line(engine, "a pair of sky blue balls", None)
    assert "3 of 75 tokens" in counted, "as many as are read"
    assert "not known" not in counted


def test_unknown_words_of_a_negative_prompt_are_named_where_it_acts(engine: Engine) -> None:
    def named(**values: float) -> list[str]:
        job = submit(engine, "one", prompt="a dragon", negative_prompt="no sun, snowman, Dragon, blurry", **values)
        return job.result(WAIT_S).images[0].receipt.done.unknown_words

    assert named(guidance_scale=3.0) == ["dragon", "blurry"]
    assert named(guidance_scale=1.0) == ["dragon"]


def test_one_that_does_not_fit_fails_its_job_alone(engine: Engine) -> None:
    before = pixels(submit(engine))
    bad = submit(engine, "one", "strange")
    with pytest.raises(InvalidRequest, match="strange does not fit this model"):
        bad.result(WAIT_S)
    assert np.array_equal(before, pixels(submit(engine)))


def test_layers_that_diffusers_cannot_load_are_said(engine: Engine) -> None:
    path = engine.settings.lora_dir / "mlp.safetensors"
    write(path, 7, LAYERS | {"text_encoder.text_model.encoder.layers.0.mlp.fc1": (512, 128)})
    with pytest.raises(InvalidRequest, match="mlp has layers that diffusers cannot load"):
        submit(engine, "mlp").result(WAIT_S)
    assert submit(engine).result(WAIT_S)


def test_one_that_is_not_there_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="no LoRA 'on' in loras; choose one such as one"):
        submit(engine, "on")


def test_a_file_that_was_written_again_is_read_again(engine: Engine) -> None:
    path = engine.settings.lora_dir / "new.safetensors"
    write(path, 5, LAYERS)
    first = pixels(submit(engine, "new"))
    write(path, 6, LAYERS)
    assert not np.array_equal(first, pixels(submit(engine, "new")))


def test_where_paths_are_not_taken_no_lora_is_worn_by_its_path(tmp_path: Path) -> None:
    write(tmp_path / "mine.safetensors", 9, LAYERS)
    place = {"device": "cpu", "output_dir": tmp_path / "out", "lora_dir": tmp_path / "loras", "data_dir": tmp_path}
    own, shared = (Engine(Settings(**place, takes_paths=takes)) for takes in (True, False))  # nobody works: they wait
    path = str(tmp_path / "mine.safetensors")
    assert submit(own, path).request.loras[0].name == path
    with pytest.raises(InvalidRequest, match="there is no LoRA"):
        submit(shared, path)
