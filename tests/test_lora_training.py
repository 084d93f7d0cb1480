"""LoRA training on a few tiny pictures: what it reads, tells, writes, and that it can be stopped and gone on with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file

from sd_demo import lora_training as training_module
from sd_demo.cli import main
from sd_demo.errors import DeviceFailure, InvalidRequest, JobCancelled, OutOfMemory, OutputFailed
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.loaded_model import LoadedModel
from sd_demo.lora import fit_lora, put_on, read_lora, take_off
from sd_demo.lora_trainer import LoraTrainer
from sd_demo.lora_training import LoraTraining
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from sd_demo.training_events import (
    Checkpoint,
    Paused,
    Preparing,
    Resumed,
    SamplePictures,
    Trained,
    TrainingCancelled,
    TrainingStep,
)
from sd_demo.training_pictures import TrainingPicture, keep_pictures, kept_files, read_pictures, without_trigger
from sd_demo.training_request import LoraTrainingRequest, parse_training
from sd_demo.training_views import CROPS, views_of
from sd_demo.turns import Turns

SETTINGS = Settings(device="cpu", dtype="float32", attention="sdpa")
SMALL = {"resolution": 64, "steps": 6, "rank": 2, "batch_size": 2, "sample_every": 0, "trigger": "snowman"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures with captions in text files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(4):
        image = Image.new("RGB", (80 + 8 * k, 80), (40 * k, 120, 200))
        ImageDraw.Draw(image).ellipse((20, 20, 60, 60), fill="white")
        image.save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a snowman number {k}\n")
    return folder


def request(folder: Path, **values: Any) -> LoraTrainingRequest:
    return parse_training({**SMALL, "images": folder, "output": folder.parent / "snowman.safetensors", **values})


def trained(folder: Path, **values: Any) -> tuple[LoraTraining, list[Any]]:
    training = LoraTraining(request(folder, **values), SETTINGS)
    training.start()
    return training, list(training.events())


@pytest.fixture
def trainer(folder: Path) -> Iterator[Callable[..., LoraTrainer]]:
    """A prepared trainer, without a thread."""

    def make(**values: Any) -> LoraTrainer:
        model = PipelineManager(SETTINGS, Registry()).get(EMBEDDED)
        asked = request(folder, **values).with_defaults(is_embedded=True, native_size=256)
        made = LoraTrainer(model, asked, read_pictures(asked))
        list(made.prepare())
        return made

    return make


def test_it_tells_its_way_and_writes_a_lora_that_diffusers_loads_with_the_same_result(
    folder: Path, model: LoadedModel
) -> None:
    training, told = trained(folder, sample_every=3, checkpoint_every=4, learning_rate=0.01)
    kinds = [type(event) for event in told if not isinstance(event, Preparing)]
    step = [TrainingStep]
    assert kinds == [SamplePictures, *step * 3, SamplePictures, *step, Checkpoint, *step * 2, SamplePictures, Trained]
    assert [event.index for event in told if isinstance(event, TrainingStep)] == [1, 2, 3, 4, 5, 6]
    samples = [event for event in told if isinstance(event, SamplePictures)]
    assert [(s.index, s.images[0].size) for s in samples] == [(0, (64, 64)), (3, (64, 64)), (6, (64, 64))]
    assert samples[0].prompts == ("a snowman number 0",)
    path = training.result().path
    assert {f.name for f in path.parent.iterdir()} == {"pictures", "snowman.safetensors", "snowman-4.safetensors"}

    pipe = model.pipeline("text_to_image", model.components["scheduler"])
    oracle = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32, safety_checker=None)
    before = picture(pipe)
    oracle.load_lora_weights(str(path))
    fit = fit_lora(read_lora(path, "snowman"), pipe.unet, pipe.text_encoder)
    assert fit.matched == fit.total == len(load_file(path))
    put_on(pipe, [(fit, 1.0)])
    worn = picture(pipe)
    take_off(pipe)
    assert torch.allclose(worn, picture(oracle), atol=1e-4)
    assert not torch.allclose(worn, before, atol=1e-3)


def picture(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    return pipe("a snowman", generator=torch.Generator().manual_seed(1), output_type="pt", **size).images


def test_the_file_says_how_it_was_made_and_nothing_of_the_place(folder: Path) -> None:
    training, _ = trained(folder, steps=1, train_text_encoder=False, target="attention", seed=5)
    with safe_open(training.result().path, framework="pt") as file:
        metadata = file.metadata()
    made = json.loads(metadata["sd_demo.training"])
    assert (made["rank"], made["steps"], made["ran"], made["seed"], made["images"]) == (2, 1, 1, 5, 4)
    assert made["model"] == EMBEDDED
    assert metadata["modelspec.trigger_phrase"] == "snowman"
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "2"
    assert str(folder) not in json.dumps(metadata)
    assert {key.split(".")[0] for key in load_file(training.result().path)} == {"unet"}


def test_the_loss_falls(trainer: Callable[..., LoraTrainer]) -> None:
    made = trainer(learning_rate=0.005, rank=8)
    losses = [made.step(0) for _ in range(12)]  # a step's number settles its pictures, noise and timesteps
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "values",
    [{"prior_preservation": True}, {"train_text_encoder": False}, {"target": "attention"}, {"snr_gamma": None}],
    ids=str,
)
def test_the_options_train_too(values: dict[str, Any], trainer: Callable[..., LoraTrainer]) -> None:
    made = trainer(**values)
    before = [p.detach().clone() for p in made.parameters]
    assert made.step(0) > 0
    assert made.step(1) > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, made.parameters, strict=True)]
    assert all(changed)


def test_gradient_checkpointing_changes_no_number(trainer: Callable[..., LoraTrainer]) -> None:
    plain, checkpointed = trainer(), trainer(gradient_checkpointing=True)
    assert [plain.step(k) for k in range(2)] == pytest.approx([checkpointed.step(k) for k in range(2)], rel=1e-4)


def test_half_precision_trains_float32_layers(folder: Path) -> None:
    training, told = trained(folder, dtype="bfloat16", steps=1)
    assert isinstance(told[-1], Trained)
    assert {tensor.dtype for tensor in load_file(training.result().path).values()} == {torch.float32}


def test_the_loss_is_weighted_by_the_capped_signal_to_noise_ratio(trainer: Callable[..., LoraTrainer]) -> None:
    made = trainer()
    kept = made._schedule.alphas_cumprod
    snr = kept / (1 - kept)
    t = torch.tensor([0, 500, 999])
    capped = snr[t].clamp(max=5)
    assert torch.allclose(made._weights(t, False), capped / snr[t])
    assert torch.allclose(made._weights(t, True), capped / (snr[t] + 1))


def test_the_learning_rate_rises_and_falls(trainer: Callable[..., LoraTrainer]) -> None:
    made = trainer(steps=100, learning_rate=1e-3)
    rates = [made.learning_rate(k) for k in range(100)]
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[0] < rates[5] < rates[9]
    assert rates[-1] == pytest.approx(1e-4, rel=0.05)


def stopped_at(training: LoraTraining, steps: int) -> list[Any]:
    """All events of a training that is cancelled as soon as `steps` are done."""
    told = []
    for event in training.events():
        told.append(event)
        if isinstance(event, TrainingStep) and event.index == steps:
            training.cancel()
    return told


def test_stopped_and_gone_on_with_it_is_the_same_lora(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trainer: Callable[..., LoraTrainer]
) -> None:
    whole = trainer()
    for k in range(6):
        whole.step(k)
    slow_down(monkeypatch, after=3)
    first = LoraTraining(request(folder), SETTINGS)
    first.start()
    stop = stopped_at(first, 3)[-1]
    assert isinstance(stop, TrainingCancelled)
    assert stop.can_go_on
    assert 3 <= stop.index < 6
    with pytest.raises(JobCancelled):
        first.result()
    output = folder.parent / "snowman.safetensors"
    assert not output.exists()
    with pytest.raises(InvalidRequest, match="made with another rank; give the same"):
        trained(folder, resume=True, rank=3)[0].result()
    monkeypatch.undo()
    _, told = trained(folder, resume=True)
    assert [event.index for event in told if isinstance(event, TrainingStep)] == list(range(stop.index + 1, 7))
    found = load_file(output)
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in whole.lora().items())
    assert not output.with_suffix(".training").exists()
    with pytest.raises(InvalidRequest, match="there is no snowman"):
        trained(folder, resume=True)[0].result()


def test_gone_on_with_it_learns_from_the_models_own_pictures_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    prepare = LoraTrainer._prepare_prior

    def noted(self: LoraTrainer, side: int) -> Iterator[Preparing]:
        yield from prepare(self, side)
        assert self._prior is not None
        drawn.append(self._prior[0])

    monkeypatch.setattr(LoraTrainer, "_prepare_prior", noted)
    with monkeypatch.context() as slow:
        slow_down(slow, after=3)
        first = LoraTraining(request(folder, prior_preservation=True, learning_rate=0.01), SETTINGS)
        first.start()
        assert stopped_at(first, 3)[-1].can_go_on
    trained(folder, prior_preservation=True, learning_rate=0.01, resume=True)[0].result()
    assert torch.equal(*drawn)


def test_stopped_before_its_first_step_it_cannot_go_on(folder: Path) -> None:
    (folder.parent / "snowman.training").write_bytes(b"what another training left")
    training = LoraTraining(request(folder), SETTINGS)
    told = []
    training.start()
    for event in training.events():
        told.append(event)
        training.cancel()
    assert isinstance(told[-1], TrainingCancelled)
    assert (told[-1].index, told[-1].can_go_on) == (0, False)
    with pytest.raises(InvalidRequest, match="there is no snowman"):
        trained(folder, resume=True)[0].result()


def slow_down(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Steps from number `after` on take their time, so that a cancel comes between them."""
    real = LoraTrainer.step

    def waiting(self: LoraTrainer, index: int) -> float:
        if index >= after:
            threading.Event().wait(0.5)
        return real(self, index)

    monkeypatch.setattr(LoraTrainer, "step", waiting)


def test_a_pause_holds_it_until_it_goes_on(folder: Path) -> None:
    training = LoraTraining(request(folder), SETTINGS)
    training.pause()
    training.start()
    told = []
    for event in training.events():
        told.append(type(event))
        if isinstance(event, Paused):
            assert training.is_paused
            assert not training.is_ended
            training.resume()
    assert told.count(Paused) == told.count(Resumed) == 1
    assert told.index(Resumed) == told.index(Paused) + 1
    assert told[-1] is Trained


def test_a_paused_training_can_be_cancelled(folder: Path) -> None:
    training = LoraTraining(request(folder), SETTINGS)
    training.pause()
    training.start()
    for event in training.events():
        if isinstance(event, Paused):
            training.cancel()
    assert training.is_ended
    with pytest.raises(JobCancelled):
        training.result()


def test_each_stretch_of_work_is_a_turn(folder: Path) -> None:
    class Counted(Turns):
        count = 0

        def __enter__(self) -> None:
            super().__enter__()
            self.count += 1

    turns = Counted()
    training = LoraTraining(request(folder), SETTINGS, turns=turns)
    training.start()
    training.result()
    assert turns.count >= 1 + 4 + 6


def test_turns_go_to_whoever_asked_first() -> None:
    turns, order, begun = Turns(), [], []
    threads = []

    def work(name: int) -> None:
        with turns:
            order.append(name)

    with turns:
        for k in range(5):
            threads.append(threading.Thread(target=work, args=(k,)))
            threads[-1].start()
            while turns._given < k + 2:  # until it stands in the line
                begun.append(k)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_loss_that_is_no_number_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoraTrainer, "_weights", lambda *_: torch.tensor(float("nan")))
    training, events = trained(folder)
    assert events[-1].error.__traceback__ is None, "its frames would keep the model in memory"
    with pytest.raises(DeviceFailure, match="lower learning_rate"):
        training.result()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("FIND was unable to find an engine"), MemoryError()],
)
def test_memory_that_runs_out_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(LoraTrainer, "step", lambda *_: (_ for _ in ()).throw(error))
    training, _ = trained(folder)
    with pytest.raises(OutOfMemory, match="try gradient_checkpointing"):
        training.result()


def test_an_unforeseen_error_is_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoraTrainer, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("/secret/path")))
    training, _ = trained(folder)
    with pytest.raises(DeviceFailure, match="it is in the log"):
        training.result()


def test_a_model_of_another_task_is_refused(folder: Path, model: LoadedModel) -> None:
    nine = SimpleNamespace(
        unet=SimpleNamespace(config=SimpleNamespace(in_channels=9)), vae=model.vae, entry=model.entry
    )
    with pytest.raises(InvalidRequest, match="is no plain text-to-image model"):
        LoraTrainer(nine, request(folder), [])  # type: ignore[arg-type]


def test_a_full_disk_is_said_and_leaves_no_half_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sd_demo.lora_checkpoint.save_file", fails)
    training, _ = trained(folder, steps=1)
    with pytest.raises(OutputFailed, match="free some space"):
        training.result()
    assert [f.name for f in folder.parent.iterdir()] == ["pictures"]


def test_captions_are_typed_or_beside_or_listed_or_the_word(folder: Path) -> None:
    (folder / "1.txt").unlink()
    (folder / "2.txt").unlink()
    lines = [{"file_name": "1.png", "text": "in a list"}, {"file_name": "0.png", "caption": "not used"}]
    (folder / "._1.png").write_bytes(b"what a Mac leaves")
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    found = read_pictures(request(folder, captions={"3.png": "typed, a Snowman"}))
    assert [p.caption for p in found] == ["a snowman number 0", "snowman, in a list", "snowman", "typed, a Snowman"]


def test_the_trigger_is_a_word_of_its_own_in_capitals_or_not(folder: Path) -> None:
    (folder / "0.txt").write_text("Snowman in a garden, snowmen")
    (folder / "1.txt").write_text("two snowmen")
    (folder / "2.txt").unlink()
    (folder / "2.TXT").write_text("in capitals")
    (folder / "metadata.jsonl").write_text('{"file_name": "3.png", "text": null, "caption": "listed"}\n')
    (folder / "3.txt").unlink()
    found = [picture.caption for picture in read_pictures(request(folder))]
    assert found == [
        "Snowman in a garden, snowmen",
        "snowman, two snowmen",
        "snowman, in capitals",
        "snowman, listed",
    ]
    bare = [without_trigger(caption, "snowman") for caption in found]
    assert bare == ["in a garden, snowmen", "two snowmen", "in capitals", "listed"]
    assert without_trigger("a cat", "") == "a cat"


@pytest.mark.parametrize(
    ("values", "spoil", "words"),
    [
        ({"trigger": ""}, lambda f: (f / "2.txt").unlink(), "2.png has none; write one into 2.txt"),
        ({}, lambda f: (f / "2.txt").write_bytes(b"\xff\xfe\x00\xd8"), "2.txt cannot be read as UTF-8"),
        ({}, lambda f: (f / "metadata.jsonl").write_text("{}\n"), "line 1 of metadata.jsonl is not as"),
        ({}, lambda f: (f / "metadata.jsonl").write_text("[" * 99_999), "line 1 of metadata.jsonl is not as"),
        ({}, lambda f: (f / "2.png").write_bytes(b"no picture"), "2.png cannot be read as a picture"),
        ({"captions": {"9.png": "nine"}}, lambda f: None, "there is no picture named 9.png"),
    ],
)
def test_pictures_and_captions_that_cannot_be_used(
    values: dict[str, Any], spoil: Callable[[Path], object], words: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(InvalidRequest, match=words):
        read_pictures(request(folder, **values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images": "no-such-folder"}, "there is no folder named no-such-folder"),
        ({"images": 5}, "images must be a folder or a list of picture files"),
        ({"resolution": 500}, "from 64 to 1024, a multiple of 8"),
        ({"images": ["a.png"] * 3}, "there are 3 pictures; training takes 4 to 50"),
        ({"images": ["a.png"] * 51}, "there are 51 pictures; training takes 4 to 50"),
        ({"output": "snowman.ckpt"}, "output must end in .safetensors"),
        ({"output": None}, "output must be the path of a file"),
        ({"rank": 0}, "rank must be a whole number from 1 to 256"),
        ({"rank": True}, "rank must be a whole number from 1 to 256"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0 and at most 0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"steps": 7.5}, "steps must be a whole number from 1 to 20000"),
        ({"target": "everything"}, "target must be one of attention, all"),
        ({"dtype": "float8"}, "dtype must be one of auto, float32, bfloat16, float16"),
        ({"random_flip": "yes"}, "random_flip must be true or false"),
        ({"sample_prompts": ["a"] * 5}, "sample_prompts must be at most 4 texts"),
        ({"captions": ["a"]}, "captions must be a text for each file name"),
        ({"epochs": 5}, "has no option 'epochs'"),
    ],
)
def test_what_cannot_be_asked_gets_one_sentence(values: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(folder, **values)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_views_are_squares_and_mirrored_only_where_no_side_is_named() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste("white", (0, 0, 150, 100))
    sided, free = (TrainingPicture("x", image, text) for text in ("a house on the Left", "a bright house"))
    assert len(views_of(sided, 64, has_flips=True, seed=0)) == CROPS
    assert len(views_of(free, 64, has_flips=False, seed=0)) == CROPS
    views = views_of(free, 64, has_flips=True, seed=0)
    assert len(views) == 2 * CROPS
    assert {view.size for view in views} == {(64, 64)}
    middle, mirrored = views[0], views[CROPS]
    assert (middle.getpixel((5, 30)), mirrored.getpixel((5, 30))) == ((255, 255, 255), (0, 0, 0))


def test_the_command_trains_and_prints_the_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder.parent / "made" / "snowman.safetensors"
    options = [
        "--trigger",
        "snowman",
        "--resolution",
        "64",
        "--steps",
        "2",
        "--rank",
        "2",
        "--batch-size",
        "1",
        "--sample-every",
        "2",
    ]
    code = main(["train-lora", "--images", str(folder), "--output", str(output), *options, "--device", "cpu", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["path"], answer["steps"]) == (0, str(output), 2)
    assert sorted(f.name for f in (output.parent / "snowman-samples").iterdir()) == ["00000-0.png", "00002-0.png"]


def test_the_example_teaches_a_snowman(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    script = Path(__file__).parents[1] / "examples" / "train_lora.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, "2"],
        cwd=tmp_path, env=guarded_environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "snowman.safetensors").is_file()
    assert (tmp_path / done.stdout.splitlines()[-1]).is_file()


@pytest.mark.parametrize(
    "options", [["--images", "gone", "--output", "a.safetensors"], ["--output", "a.safetensors"], ["--rank", "x"]]
)
def test_the_command_refuses_before_anything_is_loaded(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "LoraTraining", None)
    assert main(["train-lora", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(".\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("old.safetensors", r"old\.safetensors is there already; choose another name\."),
        ("file/new.safetensors", r"new\.safetensors cannot be written \(.+\); choose another place\."),
    ],
)
def test_the_command_looks_at_its_output_before_the_work(
    output: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "LoraTraining", None)
    (folder.parent / "old.safetensors").write_bytes(b"a LoRA of hours")
    (folder.parent / "file").touch()
    options = ["--images", str(folder), "--output", str(folder.parent / output), "--device", "cpu"]
    assert main(["train-lora", *options]) == 2
    assert re.fullmatch(f"output: .*{words}\n", capsys.readouterr().err)
    assert (folder.parent / "old.safetensors").read_bytes() == b"a LoRA of hours"


def test_kept_pictures_have_names_and_captions_of_their_own(tmp_path: Path) -> None:
    files = []
    for k, name in enumerate(("2.png", "1.png", "1.jpg", "1.png")):
        path = tmp_path / str(k) / name
        path.parent.mkdir()
        Image.new("RGB", (64, 64), (60 * k, 0, 0)).save(path)
        files.append((path, name))
    (tmp_path / "1.txt").write_text("beside")
    (tmp_path / "list").write_text('{"file_name": "2.png", "text": "listed"}')
    texts = [(tmp_path / "1.txt", "1.TXT"), (tmp_path / "list", "metadata.jsonl")]

    def read(folder: Path) -> list[tuple[str, str, int]]:
        pictures = [path for path, name in kept_files(folder) if name != "metadata.jsonl"]
        request = parse_training({"images": pictures, "output": tmp_path / "a.safetensors"})
        return [(one.name, one.caption, round(one.image.getpixel((9, 9))[0], -1)) for one in read_pictures(request)]  # type: ignore[index]

    keep_pictures([*texts, *files], "one\n\nthree\ntwo of them\n", tmp_path / "typed")
    assert read(tmp_path / "typed") == [
        ("2.png", "one", 0), ("1.png", "beside", 60), ("1.jpg", "three", 120), ("1-2.png", "two of them", 180)
    ]  # fmt: skip
    keep_pictures([*files, *texts], "", tmp_path / "found")
    assert [caption for _, caption, _ in read(tmp_path / "found")] == ["listed", "beside", "beside", "beside"]
    keep_pictures(kept_files(tmp_path / "typed"), "", tmp_path / "again")
    assert read(tmp_path / "again") == read(tmp_path / "typed")
    with pytest.raises(InvalidRequest, match=r"two files are called 1\.TXT"):
        keep_pictures([*files, *texts, texts[0]], "", tmp_path / "twice")


def test_pictures_are_held_no_larger_than_they_are_used(folder: Path) -> None:
    first = sorted(folder.glob("*.png"))[0]
    Image.linear_gradient("L").convert("RGB").resize((3000, 2000)).save(first)
    asked = request(folder, resolution=64).with_defaults(is_embedded=True, native_size=256)
    pictures = {picture.name: picture for picture in read_pictures(asked)}
    image = pictures[first.name].image
    assert image.size == (110, 73), "its smallest crop, 0.88 of its side, still has 64 pixels"
    assert min(picture.image.width for picture in pictures.values()) >= 64
