"""The bench answers its whole report, and its ratios are what its seconds say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sd_demo import bench as bench_module
from sd_demo import random_model
from sd_demo.bench import Bench
from sd_demo.bench_ways import Ways
from sd_demo.cli import main
from sd_demo.cli.bench import _second as in_a_line
from sd_demo.engine import Engine
from sd_demo.errors import DeviceFailure
from sd_demo.exactness import cudnn, last_latents, latent_errors
from sd_demo.image_difference import psnr
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.model_files import NETWORKS
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from tests.ldm_checkpoint import write_checkpoint

pytestmark = pytest.mark.timeout(600)
SHORT = ["--size", "64", "--steps", "2", "--repeats", "1", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a diffusers folder, whose weights are numbers of float16 in files of float32."""
    folder = random_model.save("sd-1.5", tmp_path_factory.mktemp("tiny") / "tiny", "tiny")
    for file in folder.rglob("*.safetensors"):
        save_file({key: value.half().float() for key, value in load_file(file).items()}, file, {"format": "pt"})
    return folder


def test_on_a_cpu_the_peak_is_what_the_system_says_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "peak_bytes", lambda: 300 * 2**20)
    done = SimpleNamespace(compiled_steps=0, encode_s=0.1, denoise_s=0.2, decode_s=0.3)
    drawn = SimpleNamespace(receipt=SimpleNamespace(done=done))
    asked: Any = SimpleNamespace(_is_cuda=False, ways=SimpleNamespace(ours=lambda *_: drawn))
    engine: Any = None
    assert Bench._alone(asked, engine)[1] == (300, 300)
    assert not hasattr(bench_module, "resource"), "Windows has no such module"


def in_half(folder: Path, parts: Sequence[str]) -> Path:
    """`folder` with the weights of `parts` in the files that a download keeps, and in no others."""
    for file in [file for part in parts for file in (folder / part).glob("*.safetensors")]:
        half = {key: value.half() for key, value in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
        file.unlink()
    return folder


def in_one_file(folder: Path) -> Path:
    """The model as a checkpoint beside `folder`, which keeps only configs and tokenizer."""
    file = folder.with_suffix(".safetensors")
    write_checkpoint(StableDiffusionPipeline.from_pretrained(folder, local_files_only=True), file)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return file


def ways_for(model: Path, steps: int) -> Ways:
    """The ways to a small picture of `model` on the CPU."""
    return Bench(model, size=64, steps=steps, repeats=1, device="cpu").ways


def test_bench_prints_its_report(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    command = [sys.executable, "-m", "sd_demo", "bench", *SHORT, "--write", str(page)]
    in_a_space = {**os.environ, "SPACE_ID": "me/x"}  # whose limits are a visitor's, not those of who measures
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=in_a_space)
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
    assert min(report["start_up_s"], report["first_image_s"]) > 0
    assert f"first image | {report['start_up_s']} s, {report['first_image_s']} s |" in written
    assert report["second_size"] == {"size": 768, "not_measured": "the model draws 256x256"}
    assert "| at 768x768 | not measured: the model draws 256x256 |" in written


@pytest.mark.parametrize("form", ["a download", "a folder of which a part is half", "a file"])
def test_every_form_of_a_model_is_measured_against_what_diffusers_makes_of_it(
    form: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = StableDiffusionPipeline.from_pretrained(tiny, dtype=torch.float32, local_files_only=True)
    model = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    if form == "a file":
        model = in_one_file(model)
    else:
        in_half(model, NETWORKS if form == "a download" else ["vae"])
    monkeypatch.setattr(Bench, "_together", lambda *_: {"images_per_s": 1.0})
    assert main(["bench", "--model", str(model), *SHORT]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["error"]["a"] == 99, "in float32 on the CPU, A is the exact run"
    ways = ways_for(model, 2)
    with ways.engine() as engine:
        ways.start(engine)
    plain = ways.plain()
    assert plain.scheduler.config == own.scheduler.config
    for name in NETWORKS:
        theirs = getattr(own, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in getattr(plain, name).state_dict().items())
    assert psnr(ways.theirs(plain, 3), ways.theirs(own, 3)) > 50, "but for rounding"


@pytest.mark.parametrize(
    ("own", "settings", "expected"),
    [
        ("EulerDiscreteScheduler", {}, "EulerDiscreteScheduler"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPMSolverMultistepScheduler"),
        ("UniPCMultistepScheduler", {}, "UniPCMultistepScheduler"),
        ("DEISMultistepScheduler", {}, "DDIMScheduler"),  # which ours has not
    ],
)
def test_all_ways_run_the_models_own_scheduler_or_one_that_ours_has(
    own: str, settings: dict[str, Any], expected: str, tiny: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", own]}))
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    getattr(diffusers, own).from_config(config, **settings).save_pretrained(folder / "scheduler")
    ways = ways_for(folder, 4)
    with closing(Engine(Settings(device="cpu", dtype="float32", model=str(folder)))) as engine:
        ways.start(engine)
        pipe = ways.plain()
        assert type(pipe.scheduler).__name__ == expected
        assert {name: pipe.scheduler.config[name] for name in settings} == settings
        ours = last_latents(engine, ways.request(7))
        assert latent_errors(ways.theirs(pipe, 7, "latent"), c=ours)["c"] < 1e-3


def test_a_damaged_model_is_said(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["bench", "--model", str(folder), *SHORT]) == 1
    assert "tiny is damaged" in capsys.readouterr().err


def test_a_second_size_is_measured_in_brief(tiny: Path) -> None:
    bench = Bench(tiny, size=96, steps=1, repeats=1, device="cpu")
    found = bench.in_brief(600)
    assert set(found["s_per_image"]) == {"a", "c"}
    assert set(found["ratios"]) == {"c_over_a", "eight_over_a"}
    assert set(found["together"]) == {1, 4, 8}
    assert found["size"] == 96
    name, figures = in_a_line(found)
    assert name == "at 96x96, C not compiled"
    assert f"C over A {found['ratios']['c_over_a']}, peak memory of C {found['peak_mib']} MiB, 1 at once" in figures
    hurried = bench.in_brief(0)
    assert hurried["together"] == {}
    assert set(hurried["ratios"]) == {"c_over_a"}
    assert "at once" not in in_a_line(hurried)[1]


def test_a_gpu_measures_a_second_size_where_the_model_draws_it_and_time_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bench, "in_brief", lambda bench, _: {"size": bench.size, "compiles": bench._compiles})
    report = {"start_up_s": 2.0, "first_image_s": 1.0, "s_per_image": {"a": 1.5, "c": 0.5}, "is_settled": True}

    def second(size: int, native: int, left_s: float = 100, *, is_cuda: bool = True, **told: Any) -> dict[str, Any]:
        bench = Bench(EMBEDDED_FOLDER, size=size, steps=1, repeats=1, device="cpu", compile="on")
        monkeypatch.setattr(bench, "_is_cuda", is_cuda)
        return bench.second_size(native, report | told, left_s)

    assert second(512, 512) == {"size": 768, "compiles": False}
    assert second(768, 768) == {"size": 512, "compiles": False}
    assert "not_measured" not in second(512, 512, 40)
    late = {"size": 768, "not_measured": "there was no time left for it"}
    assert second(512, 512, 35) == second(512, 512, is_settled=False) == late
    assert "GPU" in second(512, 512, is_cuda=False)["not_measured"]
    assert "256x256" in second(256, 256)["not_measured"]

    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nand much more")

    monkeypatch.setattr(Bench, "in_brief", fails)
    assert second(512, 512) == {"size": 768, "not_measured": "CUDA out of memory."}


def test_a_compiler_that_is_not_here_leaves_b_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncompiled:
        def __init__(self, given: Any, **_: Any) -> None:
            self.given = given

        def __getattr__(self, name: str) -> Any:
            return getattr(self.given, name)

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("Failed to find C compiler.\nand much more")

    ways = ways_for(EMBEDDED_FOLDER, 1)
    with ways.engine() as engine:
        ways.start(engine)
    pipe = ways.documented(60.0)
    before, unet = ways.theirs(pipe, 3), pipe.unet
    monkeypatch.setattr(torch, "compile", Uncompiled)
    ways._compile(pipe, 60.0)
    assert (ways.not_compiled, pipe.unet) == ("Failed to find C compiler.", unet)
    assert psnr(ways.theirs(pipe, 3), before) > 50


def test_a_compiler_that_takes_too_long_is_stopped_and_leaves_b_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def searching(*_: Any, **__: Any) -> None:
        while True:  # as one that takes every error for a choice that is none
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    ways, unet = ways_for(EMBEDDED_FOLDER, 1), SimpleNamespace()
    monkeypatch.setattr(ways, "theirs", searching)
    pipe = SimpleNamespace(unet=unet, vae=SimpleNamespace(decode=None))
    monkeypatch.setattr(torch, "compile", lambda given, **_: SimpleNamespace())
    kept = signal.getsignal(signal.SIGALRM)
    ways._compile(pipe, 0.2)
    assert (ways.not_compiled, pipe.unet) == ("it was not done within 0 s", unet)
    assert signal.getsignal(signal.SIGALRM) is kept
    assert not callable(kept) or signal.getitimer(signal.ITIMER_REAL)[0] > 60, "pytest's own is still set"


def test_theirs_are_gone_before_the_exact_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, made, living = Ways.plain, [], []

    def watched(ways: Ways, dtype: torch.dtype | None = None) -> Any:
        living.append(sum(unet() is not None for unet in made))
        pipe = plain(ways, dtype)
        made.append(weakref.ref(pipe.unet))
        return pipe

    monkeypatch.setattr(Ways, "plain", watched)
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--size", "100"], "--size must be a multiple of 8 from 64 to 1024."),
        (["--size", "0"], "--size must be a multiple of 8 from 64 to 1024."),
        (["--size", "2048"], "--size must be a multiple of 8 from 64 to 1024."),
        (["--steps", "0"], "--steps must be a whole number from 1 to 150."),
        (["--steps", "200"], "--steps must be a whole number from 1 to 150."),
        (["--repeats", "0"], "--repeats must be a whole number from 1."),
        (["--write", "file/page.md"], "write: file/page.md cannot be written (File exists); choose another place."),
        (["--write", "."], "write: . cannot be written (it is a folder); choose another place."),
        (["--write", "locked.md"], "write: locked.md cannot be written (it is write-protected); choose another place."),
    ],
)
def test_what_cannot_be_measured_or_written_is_said_before_the_work(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("locked.md").touch()
    allowed = os.access  # root may write everywhere
    monkeypatch.setattr("os.access", lambda file, mode: Path(file).name != "locked.md" and allowed(file, mode))
    monkeypatch.setattr(bench_module, "Bench", None)
    assert main(["bench", *options]) == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_figures_that_can_no_longer_be_written_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"

    def measured(*_: Any) -> dict[str, int]:
        page.mkdir()
        return {"size": 64}

    monkeypatch.setattr("sd_demo.cli.bench._measure", measured)
    monkeypatch.setattr("sd_demo.cli.bench._section", lambda *_: "")
    assert main(["bench", "--json", "--write", str(page)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"size": 64}
    assert err.startswith(f"--write {page} cannot be written (")


def test_weights_that_were_downloaded_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = tmp_path / "weights", []
    monkeypatch.setattr(Registry, "weights", lambda registry, entry: folder)
    monkeypatch.setenv("SD_DEMO_DATA_DIR", str(tmp_path))

    def stop(folder: Path, *, data_dir: Path, **_: Any) -> None:
        asked.append((folder, data_dir))  # where the tokenizer lies that a single file lacks
        raise DeviceFailure("enough")

    monkeypatch.setattr(bench_module, "Bench", stop)
    assert main(["bench", "--model", "sd-1.5"]) == 1
    assert asked == [(folder, tmp_path)]


@pytest.mark.parametrize(
    ("name", "like", "scale", "size"),
    [("sd-1.5", "sd-1.5", "full", 512), ("sd-2.1", "sd-2.1", "full", 768), ("sd-1.5:tiny", "sd-1.5", "tiny", 128)],
)
def test_a_random_model_goes_by_the_name_that_it_has_everywhere_and_has_its_own_size(
    name: str, like: str, scale: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sd_demo.random_model.save", lambda *given, **_: asked.append(given) or given[1])

    def stop(folder: Path, *, size: int, steps: int, **_: Any) -> None:
        asked.append((folder, size, steps))
        raise DeviceFailure("enough")

    monkeypatch.setattr(bench_module, "Bench", stop)
    assert main(["bench", "--model", f"random:{name}"]) == 1
    folder = asked[0][1]
    assert asked == [(like, folder, scale), (folder, size, 50)]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("random:safety-checker", "There is no random model 'random:safety-checker'; try random:sd-1.5 or"),
        ("random:x4-upscaler", "random:x4-upscaler only makes pictures larger; choose another model"),
    ],
)
def test_what_draws_nothing_is_refused_before_its_weights_are_made(
    model: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sd_demo.random_model.save", None)
    assert main(["bench", "--model", model]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_ours_is_measured_after_everything_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    looks: list[int] = []  # while something compiles, how often one asked
    stopped: list[int] = []
    monkeypatch.setattr(Bench, "_together", lambda self, engine, count: drawn.append(count))

    def status() -> SimpleNamespace:
        looks.append(len(drawn))
        return SimpleNamespace(is_settled=bool(stopped) or len(looks) % 3 == 0)

    captured = SimpleNamespace(settle=lambda: stopped.append(len(drawn)))
    manager = SimpleNamespace(current=SimpleNamespace(captured=captured))
    engine: Any = SimpleNamespace(status=status, _manager=manager)
    for compile, calls, expected in (("off", None, []), ("off", captured, [8, 4]), ("on", captured, [8, 4] * 3)):
        drawn.clear()
        looks.clear()
        manager.current.captured = calls
        bench = Bench(EMBEDDED_FOLDER, size=64, steps=50, repeats=1, device="cpu", compile=compile)
        bench._settle(engine, (8, 4), time.monotonic() + 60)
        assert drawn == expected
        assert looks == ([k for k in range(1, 7) for _ in range(3)] if compile == "on" else []), "it waits after each"
    drawn.clear()
    bench._settle(engine, (8, 4), 0.0)
    assert drawn == [8, 4] * 3, "what compiles for ever does not stop it"
    looks.clear()
    bench._quieten(engine)
    assert stopped == [6], "and is stopped before anything is measured"
    assert drawn[6:] == [1, 4, 8], "what was waited for comes into use"
    monkeypatch.setattr(bench, "_is_cuda", True)
    monkeypatch.setattr(bench, "_compiles", False)
    drawn.clear()
    bench._settle(engine, (8, 4), 0.0)
    assert drawn == [8, 4], "each number of rows is searched and recorded for once"
    bench._quieten(engine)
    assert drawn == [8, 4], "where all was settled nothing is drawn again"


def test_the_memory_of_one_request_is_measured_before_others_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    monkeypatch.setattr(Bench, "_settle", lambda self, engine, counts, until: did.append(counts))
    monkeypatch.setattr(Bench, "_quieten", lambda self, engine: did.append("quiet"))
    monkeypatch.setattr(Bench, "_alone", lambda self, engine: (did.append("alone"), ({}, (1.0, 2.0)))[1])

    def enough(*_: Any) -> None:
        raise DeviceFailure("enough")

    monkeypatch.setattr(Ways, "plain", enough)
    with pytest.raises(DeviceFailure):
        Bench(EMBEDDED_FOLDER, size=64, steps=1, repeats=1, device="cpu").run()
    assert did == [(1,), "alone", (8, 4), "quiet", "alone"]


def test_the_latents_of_the_loop_are_those_of_an_exact_run() -> None:
    ways = ways_for(EMBEDDED_FOLDER, 2)
    with closing(Engine(Settings(device="cpu", dtype="float32"))) as engine:
        ways.start(engine)
        truth = ways.theirs(ways.plain(), 7, "latent")
        found = latent_errors(truth, a=truth * 0.9, c=last_latents(engine, ways.request(7)))
    assert found["a"] == pytest.approx(0.1, rel=1e-3)
    assert found["c"] < 1e-3


def test_cudnn_is_as_it_was_after_plain_diffusers_ran() -> None:
    settings = torch.backends.cudnn
    before = settings.benchmark, settings.allow_tf32
    with cudnn(benchmark=not before[0], allow_tf32=not before[1]):
        assert (settings.benchmark, settings.allow_tf32) == (not before[0], not before[1])
    assert (settings.benchmark, settings.allow_tf32) == before
