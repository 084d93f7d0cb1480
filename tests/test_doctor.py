"""The doctor: what it finds is so, for people and as JSON, also where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sd_demo import doctor, random_model
from sd_demo.cli import main
from sd_demo.doctor import _model, _try_attention, _why_dtype, examine, readable
from sd_demo.model_files import MANIFEST
from sd_demo.placement import Placement
from sd_demo.registry import EMBEDDED, Registry
from sd_demo.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about their own futures
TINY = "random:sd-1.5:tiny"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings on this machine, with one damaged download."""
    data = tmp_path_factory.mktemp("data")
    folder = data / "models" / "somebody--spoilt" / "0123"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True)
        (folder / part / "model.safetensors").write_bytes(b"not what came")
    index = dict.fromkeys(("unet", "vae", "text_encoder", "tokenizer", "scheduler"), ("diffusers", "X"))
    (folder / "model_index.json").write_text(json.dumps(index))
    manifest = {"repo": "somebody/spoilt", "commit": "0123", "files": {"unet/model.safetensors": {"sha256": "0" * 64}}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return examine(Settings(device="cpu", dtype="float32", model=TINY, data_dir=data, output_dir=data / "out"))


def test_it_says_what_will_be_used_and_why(found: dict[str, Any]) -> None:
    use = found["will_use"]
    assert (use["model"], use["device"], use["dtype"], use["error"]) == (TINY, "cpu", "float32", None)
    assert use["attention"] in use["reason"]
    assert "float32 as asked, networks resident" in use["reason"]
    assert (use["memory"], use["cuda_graphs"], use["compiles"]) == ("resident", False, False)
    assert found["packages"]["torch"] == torch.__version__
    assert found["machine"]["cpu_count"] >= 1
    assert found["devices"][0]["device"] == "cpu"
    assert "Stable Diffusion 1.5 is not here" in found["missing"]


def test_every_precision_and_attention_is_tried(found: dict[str, Any]) -> None:
    assert [trial["name"] for trial in found["precisions"]] == ["float32", "bfloat16", "float16"]
    trials = {trial["name"]: trial for trial in found["attentions"]}
    assert set(trials) == {"sdpa", "plain", "xformers", "sliced"}
    for name in ("sdpa", "plain", "sliced"):
        assert trials[name]["runs"], trials[name]
        assert trials[name]["milliseconds"] > 0
    assert trials["xformers"]["runs"] or trials["xformers"]["error"]


def test_attention_is_tried_also_where_the_model_is_not_here(tmp_path: Path) -> None:
    settings = Settings(device="cpu", dtype="float32", model="sd-1.5", data_dir=tmp_path, output_dir=tmp_path)
    found = examine(settings)
    assert "are not here" in found["will_use"]["error"]
    assert {trial["name"]: trial["runs"] for trial in found["attentions"]}["sdpa"]


@pytest.mark.parametrize("like", ["x4-upscaler", "x2-latent-upscaler"])
def test_every_attention_is_tried_with_a_model_that_upscales(like: str, tmp_path: Path) -> None:
    settings = Settings(device="cpu", dtype="float32", data_dir=tmp_path, output_dir=tmp_path / "out")
    trial = _try_attention("sdpa", settings, Registry(models_dir=settings.models_dir), f"random:{like}:tiny")
    assert trial["runs"], trial


def test_a_model_of_which_a_file_is_gone_is_not_whole(tmp_path: Path) -> None:
    folder = random_model.save("sd-1.5", tmp_path / "models" / "somebody--lost" / "0123", "tiny")
    lost = {"safety_checker/model.safetensors": {"sha256": "0" * 64}}
    (folder / MANIFEST).write_text(json.dumps({"repo": "somebody/lost", "commit": "0123", "files": lost}))
    registry = Registry(models_dir=tmp_path / "models")
    assert "was lost since its download" in _model(registry, "somebody/lost")["state"]
    (folder / MANIFEST).unlink()
    assert _model(registry, str(folder))["state"] == f"here, whole, in {folder}"
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = vae.read_bytes()
    vae.write_bytes(whole[:-9])
    assert "is damaged" in _model(registry, str(folder))["state"]
    vae.unlink()
    assert _model(registry, str(folder))["state"] == f"not whole: {folder} lacks vae/*.safetensors"


def test_a_weight_file_that_cannot_be_read_is_told_of_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, *_: Any) -> str:
        raise PermissionError(13, "Permission denied", f"{path}/unet/model.safetensors")

    monkeypatch.setattr(doctor, "hash_of", forbidden)
    state = _model(Registry(), EMBEDDED)["state"]
    assert "model.safetensors cannot be read (Permission denied)" in state
    monkeypatch.setattr(doctor, "missing_in", forbidden)
    assert _model(Registry(), EMBEDDED)["state"] == state


def test_models_are_here_or_how_to_get_them_or_damaged(found: dict[str, Any]) -> None:
    models = {model["name"]: model for model in found["models"]}
    assert models["picture-book"]["is_here"]
    assert len(models["picture-book"]["hash"]) == 64
    assert "python -m sd_demo download sd-1.5" in models["sd-1.5"]["state"]
    assert "was damaged since its download" in models["somebody/spoilt"]["state"]


def test_it_is_json_and_it_can_be_read(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found)) == found
    text = readable(found)
    assert text.startswith(f"will use   {TINY}: cpu float32, attention ")
    for words in ("precision  bfloat16", "attention  sliced", "model      sd-1.4: not here", "data       "):
        assert words in text


def test_the_command_says_why_a_start_would_fail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("cuda is here")
    (tmp_path / "empty").mkdir()
    words = ["doctor", "--model", str(tmp_path / "empty"), "--device", "cuda", "--data-dir", str(tmp_path)]
    assert main([*words, "--json"]) == 1
    out, _ = capsys.readouterr()
    assert "There is no cuda device" in json.loads(out)["will_use"]["error"]
    assert main(["doctor", "--attention", "flash"]) == 2


@pytest.mark.parametrize(
    ("dtype", "device", "chosen", "is_faster", "why"),
    [
        ("bfloat16", "cpu", torch.bfloat16, False, "bfloat16 as asked"),
        ("auto", "cuda", torch.float16, False, "half precision as on any GPU"),
        ("auto", "cpu", torch.bfloat16, True, "bfloat16 as it is faster on this CPU"),
        ("auto", "cpu", torch.float32, True, "float32 as in bfloat16 pictures would depend on who shares the loop"),
        ("auto", "cpu", torch.float32, False, "float32 as bfloat16 is not faster on this CPU"),
    ],
)
def test_the_precision_has_its_reason(
    dtype: Any, device: str, chosen: torch.dtype, is_faster: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.placement._is_bfloat16_faster", lambda: is_faster)
    assert _why_dtype(Settings(dtype=dtype), Placement(torch.device(device), chosen, "sdpa", "")) == why
