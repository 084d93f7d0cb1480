"""What would lose work, or end a training without a model, is said in one sentence before the training begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from sd_demo.embedded import clip, judge_training
from sd_demo.embedded import export as exporting
from sd_demo.embedded import train as training
from sd_demo.embedded.export import export
from sd_demo.embedded.training_commands import run_command
from sd_demo.embedded.training_folder import START
from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.known_models import EMBEDDED_FOLDER


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise AssertionError("the training began")

    for name in ("run", "start_from", "export_trained"):
        monkeypatch.setattr(training, name, run)


@pytest.fixture
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for what `export` writes: a model_index.json that is new each time."""
    written = iter(range(9))

    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "model_index.json").write_text(str(next(written)))

    monkeypatch.setattr(exporting, "build_pipeline", lambda *_: SimpleNamespace(save_pretrained=save))
    monkeypatch.setattr(exporting, "_in_float16", lambda part: part)
    monkeypatch.setattr(exporting, "_finish", lambda *_: None)
    return dict.fromkeys(("vae", "unet", "text_encoder", "tokenizer"))


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("pictures", "something else than a model"),
        ("file", "is a file"),
        ("file/model", "cannot be written"),
        (".", "is in use"),
        ("/", "is in use"),
        ("here/..", "is in use"),
        ("work", "is in use"),
        ("above", "is in use"),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_what_is_no_model_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, told: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_text("a cat")
    (tmp_path / "file").write_text("in the way")
    work = tmp_path / ("above/work" if output == "above" else "work")
    named = Path(output) if output in (".", "/") else tmp_path / output
    with pytest.raises(InvalidRequest, match=rf"^output: .*{told}"):
        training.train(work=work, output=named, device="cpu")
    assert (tmp_path / "pictures" / "cat.png").read_text() == "a cat"
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_export_replaces_a_model_and_nothing_else(tmp_path: Path, quick_parts: dict[str, Any]) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_text("a cat")
    with pytest.raises(InvalidRequest, match="something else than a model"):
        export(tmp_path / "pictures", **quick_parts)
    assert (tmp_path / "pictures" / "cat.png").read_text() == "a cat"
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    for time, name in enumerate(("model", "model", "link", "link")):
        export(tmp_path / name, **quick_parts)
        assert (tmp_path / "model" / "model_index.json").read_text() == str(time)
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "model", "link"}


@pytest.mark.parametrize("main", [training.main, judge_training.main, clip.main])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--minutes", "inf"), "minutes: inf is out of range"),
        (("--minutes", "nan"), "minutes: nan is out of range"),
        (("--seed", "1" + 20 * "0"), "seed: 10+ is out of range"),
        (("--work", "file"), r"work: file cannot be written \(it is a file\)"),
        (("--output", "file/model/weights"), r"output: .*file/model.* cannot be written"),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_each_training_says_what_is_wrong_before_it_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[Sequence[str]], None],
    wrong: tuple[str, str],
    told: str,
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match=f"^{told}"):
        main(["--work", "work", "--output", "model/weights", *wrong])


def test_a_judge_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^output: .*cannot be written \(it is a folder\)"):
        judge_training.main(["--work", str(tmp_path / "work"), "--output", str(tmp_path)])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--redrawn", "-5"), r"redrawn must be 0 to the number of pictures, 12000\."),
        (("--redrawn", "13000"), "redrawn must be 0 to"),
        (("--model", "nothing"), "model: nothing has no autoencoder that can be read; name a model's folder"),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_what_redraws_the_judges_pictures_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match=f"^{told}"):
        judge_training.main(["--work", "work", "--output", "judge.safetensors", *wrong])


@pytest.mark.usefixtures("nothing_runs")
def test_a_first_stage_that_never_ran_is_missed_before_the_minutes(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"has no vae\.pt; train that stage first"):
        training.train(work=tmp_path / "work", stage="text", device="cpu")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Starts a training that neither trains nor exports, in the folder "work"."""
    monkeypatch.setattr(training, "run", lambda *_: None)
    monkeypatch.setattr(training, "export_trained", lambda *_: None)

    def start(weights: Path | None = EMBEDDED_FOLDER) -> None:
        training.train(work=tmp_path / "work", start=weights, stage="decoder", device="cpu")

    return start


def test_the_same_command_goes_on_with_a_training_from_weights(tmp_path: Path, started: Callable[..., None]) -> None:
    started()
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.pt")}
    assert {path.name for path in first} == {START, "vae-normalised.pt"}
    started()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.pt")} == first
    (tmp_path / "work" / "vae-normalised.pt").unlink()  # as if the first call had been interrupted
    started()
    assert {path.name for path in (tmp_path / "work").glob("*.pt")} == {START, "vae-normalised.pt"}

    other = torch.load(tmp_path / "work" / START)
    next(iter(other.values())).add_(1)
    torch.save(other, tmp_path / "work" / START)
    with pytest.raises(InvalidRequest, match=r"^start: .*from other weights; .*empty work folder .*leave --start out"):
        started()
    started(None)


def test_weights_never_take_the_place_of_a_training(tmp_path: Path, started: Callable[..., None]) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "unet-128.pt").write_text("a training")
    with pytest.raises(InvalidRequest, match=r"^start: .*of its own; .*empty work folder .*leave --start out"):
        started()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["unet-128.pt"]


@pytest.mark.parametrize("fault", ["no tokenizer", "no vae", "another unet"])
def test_weights_that_cannot_be_started_from_are_told(tmp_path: Path, started: Callable[..., None], fault: str) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(EMBEDDED_FOLDER, weights)
    part = weights / fault.split()[1]
    shutil.rmtree(part)
    if fault == "another unet":
        blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        UNet2DConditionModel(**blocks, block_out_channels=(8, 8), norm_num_groups=8).save_pretrained(part)
    with pytest.raises(InvalidRequest, match=r"^start: the weights at .* are incomplete or of another kind"):
        started(weights)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(("error", "code"), [(InvalidRequest("No."), 2), (ModelUnavailable("Gone."), 1)])
def test_a_command_ends_with_a_sentence(error: Exception, code: int, caplog: pytest.LogCaptureFixture) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == code
    assert caplog.messages == [str(error)]
