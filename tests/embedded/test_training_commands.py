"""What would lose work, or end a training without a model, is said in one sentence before the training begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sd_demo.embedded import export as exporting
from sd_demo.embedded import train as training
from sd_demo.embedded.export import export
from sd_demo.errors import InvalidRequest


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
