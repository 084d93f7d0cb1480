"""`python app.py` as people and Spaces start it: the page answers, the log is short, a signal ends it in order."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sd_demo.passwords import hash_password
from tests.http_api import HttpApi

ROOT = Path(__file__).parents[1]
PATIENCE_S = 200
KNOWN_LINES = re.compile(
    r"The page is at http://127\.0\.0\.1:\d+/?|Pictures go to .+|Stopping: running jobs may finish\.|"
    r"picture-book: cpu \w+, attention .+"
)


class App:
    """A running `python app.py` without a terminal."""

    def __init__(self, *arguments: str, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=log.parent,
            )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def wait_for(self, words: str) -> str:
        """The first line of the log that holds these words."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in self.lines:
                if words in line:
                    return line
            assert self.process.poll() is None, "\n".join(self.lines)
            time.sleep(0.1)
        raise AssertionError(f"{words!r} never came; the log is\n" + "\n".join(self.lines))

    def url(self) -> str:
        return self.wait_for("The page is at ").split()[-1].rstrip("/")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A folder that cannot be made: a read-only checkout to any user, root included."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "outputs"


@pytest.fixture
def app(tmp_path: Path, blocked: Path, guarded_environment: dict[str, str]) -> Iterator[App]:
    environment = {**guarded_environment, "PYTHONPATH": f"{guarded_environment['PYTHONPATH']}:{ROOT}"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment |= {"SD_DEMO_PORT": str(port), "SD_DEMO_OUTPUT_DIR": str(blocked), "SD_DEMO_DEVICE": "cpu"}
    del environment["GRADIO_ANALYTICS_ENABLED"]  # a person's shell does not have it either
    started = App(environment=environment, log=tmp_path / "log.txt")
    yield started
    started.end()


def test_it_serves_says_where_pictures_go_and_ends_in_order(app: App, blocked: Path) -> None:
    url = app.url()
    assert httpx.get(url).status_code == 200
    told = app.wait_for("Pictures go to")
    folder = Path(told.removeprefix("Pictures go to ").split(":")[0].rstrip("."))
    assert folder.is_dir()
    assert str(blocked) in told, "it says why"

    api = HttpApi(url)
    answer = api.call("text_to_image", prompt="a ball", num_inference_steps=2, seed=7)
    assert answer.receipts[0]["done"]["seed"] == 7
    assert len(list(folder.glob("*/*.png"))) == 1
    api.close()

    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(PATIENCE_S) == 0
    assert [line for line in app.lines if not KNOWN_LINES.fullmatch(line)] == []


def test_a_wrong_setting_is_one_sentence(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    environment = {**guarded_environment, "GRADIO_TEMP_DIR": str(tmp_path / "temporary")}
    app = App("--port", "0", "--model", "no-such-model", environment=environment, log=tmp_path / "log.txt")
    assert app.process.wait(PATIENCE_S) == 1
    (line,) = app.lines
    assert "no-such-model" in line
    assert line.endswith(".")
    assert list((tmp_path / "temporary").iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize("flags", [["--port", "x"], ["--port", "0", "--auth", "a:b", "--auth-file", "f"]])
@pytest.mark.parametrize("door", [["app.py"], ["-m", "sd_demo", "serve"]])
def test_bad_input_ends_with_the_code_that_it_has_for_every_command(
    door: list[str], flags: list[str], guarded_environment: dict[str, str]
) -> None:
    command = [sys.executable, *door, *flags]
    ended = subprocess.run(command, env=guarded_environment, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith(".\n")
    assert ended.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = App("--port", str(port), environment=guarded_environment, log=tmp_path / "log.txt")
        assert app.process.wait(PATIENCE_S) != 0
    assert app.process.returncode == 1
    assert app.lines == [f"Nothing can listen on 127.0.0.1 port {port}; choose another --port or --host."]


def test_users_of_a_file_log_in_and_logs_are_json(tmp_path: Path, guarded_environment: dict[str, str]) -> None:
    (tmp_path / "users").write_text(f"ann:{hash_password('right')}\n")
    flags = ["--auth-file", str(tmp_path / "users"), "--log-format", "json", "--output-dir", str(tmp_path / "out")]
    app = App("--port", "0", *flags, environment=guarded_environment, log=tmp_path / "log.txt")
    try:
        told = json.loads(app.wait_for("The page is at"))
        url = told["message"].removeprefix("The page is at ").rstrip("/")
        assert httpx.get(f"{url}/config").status_code == 401
        for password, status in (("wrong", 400), ("right", 200)):
            answer = httpx.post(f"{url}/login", data={"username": "ann", "password": password})
            assert answer.status_code == status
    finally:
        app.process.kill()
        app.process.wait(PATIENCE_S)
    bad = App(
        "--port", "0", "--auth-file", str(tmp_path / "none"), environment=guarded_environment, log=tmp_path / "bad.txt"
    )
    assert bad.process.wait(PATIENCE_S) == 2
    assert bad.lines == [f"The file of users {tmp_path / 'none'} cannot be read."]


def test_demo_can_be_imported_as_a_space_does(guarded_environment: dict[str, str]) -> None:
    code = "import app, gradio; assert isinstance(app.demo, gradio.Blocks); print('a page')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=guarded_environment, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.stdout == "a page\n", ended.stderr
