"""The README keeps its word: a Space takes its front matter, its commands run, its files and flags exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from sd_demo.cli import COMMANDS, generate, main
from sd_demo.outputs import Outputs
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from tests.fake_engine import FakeEngine
from tests.fake_page import FakePage
from tests.receipts import make_receipt

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line.startswith(start)]


@pytest.fixture
def space() -> dict[str, Any]:
    return SpaceCard(README).data.to_dict()


def test_a_space_takes_the_front_matter(space: dict[str, Any]) -> None:
    assert README.startswith("---\n")
    assert space["sdk"] == "gradio"
    assert (ROOT / space["app_file"]).is_file()
    assert space["license"] == "apache-2.0"
    assert {space["colorFrom"], space["colorTo"]} <= COLOURS
    assert len(space["short_description"]) <= 60
    assert len(space["emoji"]) == 1
    assert space["pinned"] is False
    assert re.fullmatch(r"3\.\d+", space["python_version"]), "quoted, or YAML reads 3.10 as 3.1"
    assert space["models"] == [entry.source for entry in Registry() if not entry.is_embedded]


def test_the_space_runs_the_gradio_that_is_pinned(space: dict[str, Any]) -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert space["sdk_version"] == pins["gradio"]


def test_every_package_is_pinned_exactly() -> None:
    for name in ("requirements.txt", "tests/requirements.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert not line.strip() or line.startswith("#") or re.match(r"[\w.-]+==[\w.]+(?=[\s;]|$)", line), line


def test_the_two_commands_stand_near_the_top() -> None:
    head = README.split("---\n", 2)[2].splitlines()[:35]
    assert "pip install -r requirements.txt && python app.py" in head
    assert "bash tests/run.sh" in head


def test_ci_runs_what_people_run() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "exec bash tests/run.sh"]


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def make_engine(settings: Settings) -> FakeEngine:
        engine = FakeEngine(Outputs(settings.output_dir, by_visitor=False), step_s=0.0, settings=settings)
        engine.start()
        return engine

    monkeypatch.setattr(generate, "make_engine", make_engine)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("photo.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    Outputs(tmp_path, by_visitor=False).save(Image.new("RGB", (64, 64)), make_receipt(), visitor="").rename(
        "picture.png"
    )
    lines = commands("python -m sd_demo ")
    assert len(lines) >= 4
    for line in lines:
        assert main(shlex.split(line)[3:]) == 0, f"{line}: {capsys.readouterr().err}"


def test_every_command_is_told_of() -> None:
    table = README.split("| `python -m sd_demo …` |")[1].split("\n\n")[0]
    told = {
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", cell)
    }
    assert told == set(COMMANDS)


def test_the_script_runs(fake_page: FakePage, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = blocks("python")
    exec(script.replace("http://127.0.0.1:7860", fake_page.url), {})
    path, seed = capsys.readouterr().out.splitlines()[-1].split()
    assert seed == "7"
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_the_flags_of_the_page_exist() -> None:
    section = README.split("## Settings\n")[1].split("\n## ")[0]
    named = {flag.removeprefix("--").replace("-", "_") for flag in re.findall(r"--[a-z][a-z-]+", section)}
    assert named <= set(Settings.model_fields)
    assert {"host", "port", "share", "model", "auth", "device", "dtype", "attention", "output_dir"} <= named


def test_every_file_that_is_named_is_there() -> None:
    parts = README.split("## What each part is for\n")[1].split("\n## ")[0]
    named = set(re.findall(r"\]\(((?!http)[\w./-]+)\)", README)) | set(
        re.findall(r"^\| `([\w/.]+)`", parts, re.MULTILINE)
    )
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
