"""How the process ends: in order at a signal, with an error where the device is lost; app.py over a fake engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sd_demo.outputs import TEMPORARY_PREFIX

ROOT = Path(__file__).parents[1]
PATIENCE_S = 200  # to start, on a busy machine
END_S = 60  # the promise is 10 on a machine that is not starved; the job below would take longer than this

CODE = """
import runpy, sys
from pathlib import Path
import sd_demo.engine
from sd_demo.outputs import Outputs
from tests.fake_engine import FakeEngine, Health

class Engine(FakeEngine):
    def __init__(self, settings):
        super().__init__(Outputs(settings.output_dir), step_s=1.0, settings=settings)

    def health(self):
        is_lost = Path("lost").exists()
        return Health("The device is lost.", False, "lost") if is_lost else super().health()

    def close(self, timeout_s=10.0):
        super().close(timeout_s)
        Path("closed").write_text(str([job.is_cancelled.is_set() for job in self.jobs]))

sd_demo.engine.Engine = Engine
sys.argv = ["app.py", "--port", sys.argv[1], "--output-dir", "pictures"]
runpy.run_path(sys.path[0] + "/app.py", run_name="__main__")
"""


@dataclass
class Running:
    """The process, its address, and the folder that it works in."""

    process: subprocess.Popen[str]
    url: str
    folder: Path


@pytest.fixture
def running(tmp_path: Path, guarded_environment: dict[str, str]) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), guarded_environment["PYTHONPATH"]])
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CODE}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port)],
        cwd=tmp_path, env={**guarded_environment, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.2)
    yield Running(process, url, tmp_path)
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_hands_back_what_runs_and_leaves_nothing_partial(running: Running, number: int) -> None:
    data = ["a ball", "", None, None, 150, *[None] * 6]  # 150 s of steps
    joined = httpx.post(f"{running.url}/gradio_api/call/text_to_image", json={"data": data})
    assert joined.status_code == 200
    event = joined.json()["event_id"]
    with httpx.stream("GET", f"{running.url}/gradio_api/call/text_to_image/{event}", timeout=60) as stream:
        assert next(stream.iter_lines()) == "event: generating"  # it runs
        running.process.send_signal(number)
        assert running.process.wait(END_S) == 0
    assert (running.folder / "closed").read_text() == "[True]", "handed back in order, not ended by the last resort"
    assert list((running.folder / "pictures").rglob(f"*{TEMPORARY_PREFIX}*")) == []
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{running.url}/healthz")


def test_a_lost_device_is_told_and_ends_the_process_with_an_error(running: Running) -> None:
    (running.folder / "lost").touch()
    answer = httpx.get(f"{running.url}/healthz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The device is lost."
    assert running.process.wait(END_S) == 1
    assert running.process.stderr is not None
    assert "The device is lost." in running.process.stderr.read()
