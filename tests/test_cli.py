"""The commands: answers on standard output, sentences on standard error, exit codes that scripts can use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_demo import cli
from sd_demo.cli import generate, main, train_lora
from sd_demo.events import Step
from sd_demo.outputs import Outputs
from sd_demo.receipt import read_receipt_file
from sd_demo.requests import PICTURE_FIELDS, REQUESTS
from sd_demo.settings import Settings
from sd_demo.training_events import TrainingCancelled
from tests.fake_engine import FakeEngine
from tests.receipts import make_receipt

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """`generate` gets an engine that draws squares; the engines that it made are listed here."""
    made: list[FakeEngine] = []

    def make_engine(settings: Settings) -> FakeEngine:
        engine = FakeEngine(Outputs(settings.output_dir, by_visitor=False), step_s=0.001, settings=settings)
        engine.start()
        made.append(engine)
        return engine

    monkeypatch.setattr(generate, "make_engine", make_engine)
    return made


@pytest.fixture
def pictures(command: Command) -> None:
    """photo.png and mask.png in the current folder."""
    Image.new("RGB", (96, 64), "red").save("photo.png")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save("mask.png")


def is_one_sentence(text: str) -> bool:
    return text.endswith(".\n") and text.count("\n") == 1 and "Traceback" not in text


def test_json_is_all_that_standard_output_holds(command: Command, engines: list[FakeEngine], tmp_path: Path) -> None:
    code, out, err = command("generate", "a red ball", "--seed", "7", "--output", "here", "--json")
    (answer,) = json.loads(out)
    path = Path(answer["path"])
    assert (code, err) == (0, "")
    assert path.parent == tmp_path / "here"
    assert answer["receipt"] == read_receipt_file(path).model_dump(mode="json")
    assert answer["receipt"]["done"]["seed"] == 7


def test_without_json_it_prints_the_paths_and_tells_what_ran(command: Command, engines: list[FakeEngine]) -> None:
    code, out, err = command("generate", "ball", "--num-images-per-prompt", "3", "--output", "here")
    assert code == 0
    assert len(out.split()) == 3
    assert all(Path(line).is_file() for line in out.splitlines())
    assert err.count("dpmpp_2m") == 3


def test_what_a_library_prints_does_not_reach_standard_output(
    command: Command, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "close", lambda self, timeout_s: sys.stdout.write("chatter\n"))
    _, out, err = command("generate", "ball", "--json")
    assert json.loads(out)
    assert err == "chatter\n"


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        ([], "text_to_image"),
        (["--image", "photo.png"], "image_to_image"),
        (["--image", "photo.png", "--mask-image", "mask.png"], "inpaint"),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_the_pictures_given_choose_the_task(
    flags: list[str], task: str, command: Command, engines: list[FakeEngine]
) -> None:
    assert command("generate", "ball", *flags, "--json")[0] == 0
    assert engines[0].jobs[0].request.task == task


@pytest.mark.usefixtures("pictures")
def test_every_field_of_every_request_is_a_flag(command: Command, engines: list[FakeEngine]) -> None:
    values: dict[str, Any] = {
        "negative_prompt": "sun", "height": 72, "width": 80, "num_inference_steps": 3, "guidance_scale": 2.5,
        "scheduler": "euler", "seed": 9, "num_images_per_prompt": 2, "keep_best": 2, "grid": "1x2",
        "model": "picture-book", "strength": 0.25, "image": "photo.png", "mask_image": "mask.png",
    }  # fmt: skip
    assert {"prompt", "loras", *values} == {name for kind in REQUESTS.values() for name in kind.model_fields}
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    Path("loras").mkdir()
    Path("loras/snowman.safetensors").touch()
    flags += ["--lora", "snowman:0.5", "--lora", "snowman"]
    assert command("generate", "ball", *flags, "--json")[0] == 0
    request = engines[0].jobs[0].request
    assert [(lora.name, lora.weight) for lora in request.loras] == [("snowman", 0.5), ("snowman", 1.0)]
    for name in set(values) - set(PICTURE_FIELDS):
        assert getattr(request, name) == values[name]


def test_settings_come_from_flags_then_variables(
    command: Command, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SD_DEMO_DEVICE", "cuda")
    monkeypatch.setenv("SD_DEMO_OUTPUT_DIR", "elsewhere")
    command("generate", "ball", "--dtype", "float32", "--model", "picture-book")
    command("generate", "ball", "--device", "cpu", "--output", "here")
    first, second = (engine.settings for engine in engines)
    assert (first.device, first.dtype, first.model, first.output_dir) == (
        "cuda", "float32", "picture-book", Path("elsewhere"),
    )  # fmt: skip
    assert (second.device, second.model, second.output_dir) == ("cpu", None, Path("here"))


BAD_INPUT = [
    ["generate"],
    ["generate", "ball", "--num-inference-steps", "0"],
    ["generate", "ball", "--num-inference-steps", "-1"],
    ["generate", "ball", "--num-inference-steps", "7.5"],
    ["generate", "ball", "--num-inference-steps", "ten"],
    ["generate", "ball", "--num-inference-steps", "True"],
    ["generate", "ball", "--num-inference-steps", "10000"],
    ["generate", "ball", "--num-inference-steps", ""],
    ["generate", "ball", "--guidance-scale", "nan"],
    ["generate", "ball", "--guidance-scale", "inf"],
    ["generate", "ball", "--guidance-scale", "-inf"],
    ["generate", "ball", "--height", "7"],
    ["generate", "ball", "--width", "100000"],
    ["generate", "ball", "--seed", str(2**64)],
    ["generate", "ball", "--seed", "9" * 5000],
    ["generate", "ball", "--scheduler", "k_lms"],
    ["generate", "ball", "--model", "no-such-model"],
    ["generate", "ball", "--steps", "5"],
    ["generate", "ball", "--num", "5"],
    ["generate", "ball", "--device", "abacus"],
    ["generate", "ball", "--lora", "gone"],
    ["generate", "ball", "--lora", "words.png"],
    ["generate", "ball", "--lora", "gone:3"],
    ["generate", "ball", "--dtype", "float8"],
    ["generate", "ball", "--strength", "0.5"],
    ["generate", "ball", "--image", "gone.png"],
    ["generate", "ball", "--image", ""],
    ["generate", "ball", "--image", "words.png"],
    ["generate", "ball", "--mask-image", "mask.png"],
    ["generate", "ball", "--image", "photo.png", "--mask-image", "small.png"],
    ["generate", "ball", "--image", "photo.png", "--mask-image", "empty.png"],
    ["generate", "ball", "--image", "photo.png", "--strength", "0"],
    ["generate", "x" * 50_000],
    ["generate", "undecodable \udcff"],
    ["generate", "two", "prompts"],
    ["show"],
    ["show", "gone.png"],
    ["show", "photo.png"],
    ["show", "words.png"],
    ["show", "."],
    ["embedded"],
    ["embedded", "dance"],
    ["embedded", "vocabulary", "--yaml"],
    ["embedded", "sample-world", "--output", "here", "--count", "0"],
    ["embedded", "sample-world", "--output", "here", "--count", "many"],
    ["embedded", "sample-world", "--output", "here", "--size", "3"],
    ["embedded", "sample-world"],
    ["download", "nonsense"],
    ["download", "a/b/c"],
    ["download", "picture-book"],
    ["download", ""],
    ["soak", "--scale", "nan"],
    ["soak", "--scale", "inf"],
    ["soak", "--scale", "0"],
    ["train-lora", "--images", "x" * 300, "--output", "a.safetensors"],
    ["embedded", "evaluate", "--weights", "x" * 300],
    ["embedded", "sweep", "--output", f"{'x' * 300}.png"],
    ["embedded", "sweep", "--output", "a.png", "--scheduler", "ddim,lcm", "--steps", "20,60"],
    ["paint"],
    ["--loud"],
    [],
]


@pytest.mark.parametrize("arguments", BAD_INPUT, ids=lambda arguments: " ".join(arguments)[:60] or "nothing")
@pytest.mark.usefixtures("pictures")
def test_bad_input_gets_one_sentence_and_code_2(
    arguments: list[str], command: Command, engines: list[FakeEngine]
) -> None:
    Image.new("L", (48, 32), 255).save("small.png")
    Image.new("L", (96, 64)).save("empty.png")
    Path("words.png").write_text("no picture")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert is_one_sentence(err), err
    assert len(err) < 500
    assert engines == [], "bad input must be answered before a model is loaded"


@pytest.mark.parametrize("prompt", ["fail", "full"])
def test_other_expected_errors_get_one_sentence_and_code_1(
    prompt: str, command: Command, engines: list[FakeEngine]
) -> None:
    code, out, err = command("generate", prompt, "--json")
    assert (code, out) == (1, "")
    assert is_one_sentence(err)


def test_a_folder_that_cannot_be_written_is_said_before_the_work(command: Command, engines: list[FakeEngine]) -> None:
    Path("taken").write_text("")
    code, _, err = command("generate", "ball", "--output", "taken/here")
    assert (code, engines) == (1, [])
    assert is_one_sentence(err)


def test_ctrl_c_cancels_the_job(command: Command, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(event: object) -> str:
        if isinstance(event, Step) and event.index == 3:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(generate, "_words", interrupted)
    code, out, _ = command("generate", "ball", "--num-inference-steps", "150", "--json")
    assert (code, out) == (130, "")
    assert engines[0].jobs[0].is_cancelled.is_set()
    assert list(Path("outputs").iterdir()) == []


def test_progress_is_told_where_somebody_is_looking(
    command: Command, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, err = command("generate", "ball", "--num-inference-steps", "4", "--json")
    assert json.loads(out)
    for words in ("waiting, number 1", "reading the prompt", "step 1 / 4", "step 4 / 4", "making pixels"):
        assert words in err
    assert err.endswith("\x1b[K"), "the line is cleared at the end"


@pytest.mark.parametrize(
    "wrong", [["--minutes=-1"], ["--stage", "unet-256", "--minutes", "1", "--pictures", "1"], ["--pictures", "0"]]
)
def test_a_training_that_cannot_begin_says_why(command: Command, wrong: list[str], tmp_path: Path) -> None:
    code, out, err = command("embedded", "train", "--work", str(tmp_path / "work"), *wrong)
    assert (code, out) == (2, "")
    assert is_one_sentence(err.splitlines()[-1] + "\n"), "after what the training logs"


@pytest.mark.parametrize(
    ("can_go_on", "words"), [(True, "go on with --resume, robot.training holds the state"), (False, "nothing was kept")]
)
def test_a_training_that_is_stopped_says_what_is_left_of_it(
    capsys: pytest.CaptureFixture[str], can_go_on: bool, words: str
) -> None:
    class Training:
        is_cancelled = False

        def cancel(self) -> None:
            self.is_cancelled = True

        def events(self) -> Iterator[object]:
            if not self.is_cancelled:
                raise KeyboardInterrupt
            yield TrainingCancelled(0, can_go_on)

    with pytest.raises(KeyboardInterrupt):
        train_lora._wait(Training(), Path("robot.safetensors"))  # type: ignore[arg-type]
    assert words in capsys.readouterr().err


def test_show_prints_the_receipt(command: Command, tmp_path: Path) -> None:
    receipt = make_receipt(prompt='a "red" ball\x1b[2J', notes=["The size was padded."], unknown_words=["zebra"])
    path = Outputs(tmp_path).save(Image.new("RGB", (32, 32)), receipt, visitor="anna")
    code, out, _ = command("show", str(path))
    assert code == 0
    for words in ("text_to_image", "asked", "done", 'a \\"red\\" ball', "seed", "dpmpp_2m", "zebra", "size was padded"):
        assert words in out
    assert "\x1b" not in out, "a file of anybody's must not steer the terminal"
    _, out, _ = command("show", str(path), "--json")
    assert json.loads(out) == receipt.model_dump(mode="json")


def test_vocabulary_and_world(command: Command) -> None:
    known = json.loads(command("embedded", "vocabulary", "--json")[1])
    assert {"objects", "colours", "sizes", "positions", "scenes"} <= set(known)
    assert "ball" in command("embedded", "vocabulary")[1]
    code, out, err = command("embedded", "sample-world", "--count", "2", "--seed", "5", "--size", "64", "--output", "w")
    assert (code, out, err) == (0, "w/captions.jsonl\n", "")
    lines = [json.loads(line) for line in Path("w/captions.jsonl").read_text().splitlines()]
    for line in lines:
        assert {"file", "caption", "scene", "objects"} <= set(line)
        with Image.open(Path("w") / line["file"]) as image:
            assert image.size == (64, 64)
    assert len(lines) == 2


def test_serve_hands_its_flags_to_app(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sd_demo.cli import serve

    app = tmp_path / "app.py"
    app.write_text("import sys\nif __name__ == '__main__':\n    print(sys.argv[1:])\n")
    monkeypatch.setattr(serve, "APP", app)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert command("serve", "--port", "0")[1] == "['--port', '0']\n"
    monkeypatch.setattr(serve, "APP", tmp_path / "gone.py")
    code, _, err = command("serve")
    assert code == 1
    assert is_one_sentence(err)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["generate", "--help"], ["generate", "x", "--seed", "-1"]]
)
def test_help_and_bad_input_are_answered_without_torch(arguments: list[str]) -> None:
    code = f"import sys; from sd_demo.cli import main\ntry: main({arguments!r})\nfinally: print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "False"


def test_help_names_every_command_and_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], *([name] for name in cli.COMMANDS if name != "serve")):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: python -m sd_demo {' '.join(words)}".rstrip())
        if not words:
            assert all(name in out for name in cli.COMMANDS)


def process(*arguments: str | Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sd_demo", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[1],
        # Tests that were started in the background ignore Ctrl+C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_the_real_command_makes_a_picture(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    quick = ("--num-inference-steps", "2", "--device", "cpu", "--dtype", "float32")
    command = process("generate", "a ball", *quick, "--output", tmp_path, "--json", environment=guarded_environment)
    out, err = command.communicate(timeout=200)
    assert (command.returncode, err) == (0, "")
    (answer,) = json.loads(out)
    with Image.open(answer["path"]) as image:
        assert image.size == (256, 256)
    assert answer["receipt"]["done"]["effective_steps"] == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl+C to whole consoles only")
def test_the_real_command_ends_at_ctrl_c(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    long = ("--num-inference-steps", "150", "--height", "1024", "--width", "1024", "--device", "cpu")
    command = process("generate", "a ball", *long, "--output", tmp_path / "out", environment=guarded_environment)
    while not (tmp_path / "out").exists():
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    try:
        out, err = command.communicate(timeout=100)
    finally:
        command.kill()
    assert (command.returncode, out, err) == (130, "", "Cancelled.\n")
    assert list((tmp_path / "out").iterdir()) == []
