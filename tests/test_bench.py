"""The bench answers its whole report, and its ratios are what its seconds say."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sd_demo import bench as bench_module
from sd_demo.bench import Bench
from sd_demo.cli import main
from sd_demo.engine import Engine
from sd_demo.errors import DeviceFailure
from sd_demo.exactness import cudnn, last_latents, latent_errors
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.registry import Registry
from sd_demo.settings import Settings

pytestmark = pytest.mark.timeout(600)


def test_bench_prints_its_report(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    command = [sys.executable, "-m", "sd_demo", "bench", "--size", "64", "--steps", "2", "--repeats", "1", "--json"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--write", str(page)], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    seconds, ratios = report["s_per_image"], report["ratios"]
    assert set(seconds) == {"a", "b", "c"}
    assert ratios["c_over_a"] == pytest.approx(seconds["a"] / seconds["c"], rel=0.05)
    assert ratios["eight_over_a"] == pytest.approx(report["together"]["8"]["images_per_s"] * seconds["a"], rel=0.05)
    assert report["peak_mib"] > 100
    assert report["error"]["a"] == 99  # in float32 on the CPU, A is the exact run
    assert report["error"]["c"] >= 35
    assert report["error"]["unit"] == "dB"
    assert report["peak_reserved_mib"] >= report["peak_mib"]
    assert report["device"]
    written = page.read_text(encoding="utf-8")
    assert "`python -m sd_demo bench --model picture-book --size 64 --steps 2`" in written
    assert f"| C over A, C over B | {ratios['c_over_a']}, {ratios['c_over_b']} |" in written


def test_theirs_are_gone_before_the_exact_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, made, living = Bench._plain, [], []

    def watched(bench: Bench, dtype: torch.dtype) -> Any:
        living.append(sum(unet() is not None for unet in made))
        pipe = plain(bench, dtype)
        made.append(weakref.ref(pipe.unet))
        return pipe

    monkeypatch.setattr(Bench, "_plain", watched)
    monkeypatch.setattr(Bench, "_together", lambda *_: {"images_per_s": 1.0})
    Bench(EMBEDDED_FOLDER, size=64, steps=1, repeats=1, device="cpu").run()
    assert living == [0, 1, 0], "A, then B beside it, then the exact run alone"


def test_a_model_that_is_not_here_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SD_DEMO_DATA_DIR", str(tmp_path))
    assert main(["bench", "--model", "sd-1.5"]) == 1
    assert "is not here; fetch it with python -m sd_demo download sd-1.5" in capsys.readouterr().err
    assert main(["bench", "--model", "nope"]) == 2


def test_weights_that_were_downloaded_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = tmp_path / "weights", []
    monkeypatch.setattr(Registry, "weights", lambda registry, entry: folder)

    def stop(folder: Path, **_: Any) -> None:
        asked.append(folder)
        raise DeviceFailure("enough")

    monkeypatch.setattr(bench_module, "Bench", stop)
    assert main(["bench", "--model", "sd-1.5"]) == 1
    assert asked == [folder]


def test_ours_is_measured_after_everything_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(Bench, "_together", lambda self, engine, count: drawn.append(count))
    engine = SimpleNamespace(status=lambda: SimpleNamespace(is_settled=len(drawn) % 3 == 0))
    for compile, expected in (("off", []), ("on", [1, 1, 1, 4, 4, 4, 8, 8, 8] * 3)):
        bench = Bench(EMBEDDED_FOLDER, size=64, steps=50, repeats=1, device="cpu", compile=compile)
        bench._settle(engine)  # type: ignore[arg-type]
        assert drawn == expected
    monkeypatch.setattr(bench_module, "SETTLE_S", 0)
    drawn.clear()
    bench._settle(engine)  # type: ignore[arg-type]
    assert drawn == [1, 4, 8] * 3, "what compiles for ever does not stop it"
    monkeypatch.setattr(bench, "_is_cuda", True)
    monkeypatch.setattr(bench, "_compiles", False)
    drawn.clear()
    bench._settle(engine)  # type: ignore[arg-type]
    assert drawn == [1, 4, 8], "each number of rows is searched and recorded for once"


def test_the_latents_of_the_loop_are_those_of_an_exact_run() -> None:
    bench = Bench(EMBEDDED_FOLDER, size=64, steps=2, repeats=1, device="cpu")
    with closing(Engine(Settings(device="cpu", dtype="float32"))) as engine:
        engine.start()
        bench._ours(engine, 1)
        truth = bench._theirs(bench._plain(torch.float32), 7, "latent")
        found = latent_errors(truth, a=truth * 0.9, c=last_latents(engine, bench._request(engine, 7)))
    assert found["a"] == pytest.approx(0.1, rel=1e-3)
    assert found["c"] < 1e-3


def test_cudnn_is_as_it_was_after_plain_diffusers_ran() -> None:
    settings = torch.backends.cudnn
    before = settings.benchmark, settings.allow_tf32
    with cudnn(benchmark=not before[0], allow_tf32=not before[1]):
        assert (settings.benchmark, settings.allow_tf32) == (not before[0], not before[1])
    assert (settings.benchmark, settings.allow_tf32) == before
