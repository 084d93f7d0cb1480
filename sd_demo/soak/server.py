"""A server that a soak starts for itself, and its HTTP API as a script without any client library uses it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx

from sd_demo.errors import PlaygroundError
from sd_demo.requests import PICTURE_FIELDS, REQUESTS

APP: Final = Path(__file__).parents[2] / "app.py"
START_S: Final = 300
ANSWER_S: Final = 900
REFUSALS: Final = ("try again in about", "shutting down", "cancelled")


@dataclass(frozen=True)
class Answer:
    """`kind` is picture, refused, error or untyped; `seconds` from sending to the last word."""

    kind: str
    seconds: float
    text: str = ""
    receipts: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Server:
    """A process that answers at `url`, with its pictures in `folder`."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.url, self.process, self.folder = url, process, folder
        self.http = httpx.Client(base_url=url, timeout=ANSWER_S, limits=httpx.Limits(max_connections=400))

    @property
    def is_up(self) -> bool:
        """Whether the process lives and calls itself healthy."""
        try:
            return self.process.poll() is None and self.http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def metric(self, name: str) -> float:
        """One sample of /metrics, such as `sd_demo_resident_bytes`."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise KeyError(name)

    def upload(self, content: bytes, name: str = "picture.png") -> dict[str, Any] | None:
        """Send a file; its description for `call`, or None where it was refused at the door."""
        response = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        if response.status_code != 200:
            return None
        return {"path": response.json()[0], "meta": {"_type": "gradio.FileData"}}

    def function(self, task: str) -> int:
        """The number of an endpoint's function, which /cancel asks for."""
        declared = self.http.get("/config").json()["dependencies"]
        return int(next(one["id"] for one in declared if one["api_name"] == task))

    def join(self, task: str, data: Any, session: str | None = None) -> httpx.Response:
        """Ask, without waiting for the answer."""
        body = json.dumps({"data": data} | ({"session_hash": session} if session else {}))
        return self.http.post(f"/gradio_api/call/{task}", content=body, headers={"content-type": "application/json"})

    def call(self, task: str = "text_to_image", *, session: str | None = None, **values: Any) -> Answer:
        """Ask with a request's field names and wait for the end."""
        return self.call_raw(task, positional(task, values), session)

    def call_raw(self, task: str, data: Any, session: str | None = None) -> Answer:
        """Ask with these positional values and wait for the end."""
        start = time.perf_counter()
        joined = self.join(task, data, session)
        if joined.status_code != 200:
            typed = joined.headers.get("content-type", "").startswith("application/json")
            kind = "error" if typed and joined.status_code < 500 else "untyped"
            return Answer(kind, time.perf_counter() - start, joined.text[:200])
        stream = self.http.get(f"/gradio_api/call/{task}/{joined.json()['event_id']}")
        return _read(stream.text, time.perf_counter() - start)

    def call_all(self, asked: list[dict[str, Any]], *, session: str) -> list[Answer]:
        """Ask for several text_to_image of one visitor at once; their answers in the order in which they came."""
        start = time.perf_counter()
        joined = [self.join("text_to_image", positional("text_to_image", values), session) for values in asked]
        stream = self.http.get(f"/gradio_api/call/text_to_image/{joined[0].json()['event_id']}").text
        ends = [part for part in stream.split("\n\n") if part.startswith(("event: complete", "event: error"))]
        return [_read(end, time.perf_counter() - start) for end in ends]

    def picture(self, path: str) -> bytes:
        """The PNG of an answer."""
        return self.http.get(f"/gradio_api/file={path}").content


def positional(task: str, values: dict[str, Any]) -> list[Any]:
    """Values by field name as the API takes them: the prompt, the pictures, then the rest (null: left open)."""
    fields = REQUESTS[task].model_fields
    first = ["prompt", *(name for name in PICTURE_FIELDS if name in fields)]
    return [values.get(name) for name in first + [name for name in fields if name not in first]]


def _read(stream: str, seconds: float) -> Answer:
    for event, text in pairwise(stream.splitlines()):
        value = text.removeprefix("data: ")
        if event == "event: complete":
            data = json.loads(value)
            if not (isinstance(data, list) and len(data) == 2 and isinstance(data[1], list)):
                return Answer("error", seconds, "")  # another endpoint's answer, typed all the same
            files = [one["image"]["path"] for one in data[0] or []]
            return Answer("picture", seconds, receipts=data[1], files=files)
        if event == "event: error":
            error = json.loads(value)
            text = str(error.get("error") if isinstance(error, dict) else error)
            is_refusal = any(words in text for words in REFUSALS)
            return Answer("refused" if is_refusal else "error", seconds, text)
    return Answer("untyped", seconds, stream[:200])


@contextlib.contextmanager
def started(*flags: str) -> Iterator[Server]:
    """A server of this checkout's app.py on a free port, ended with the `with`.

    Raises PlaygroundError where it does not start.
    """
    if not APP.is_file():
        raise PlaygroundError("app.py is not here; run this in a checkout of the whole project.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sd-demo-soak-", ignore_cleanup_errors=True) as folder:
        own = ["--port", str(port), "--output-dir", f"{folder}/pictures"]
        log = Path(folder) / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 # this very program
                [sys.executable, str(APP), *own, *flags], stderr=file, stdout=subprocess.DEVNULL
            )
        server = Server(f"http://127.0.0.1:{port}", process, Path(folder) / "pictures")
        try:
            _wait_until_ready(server, log)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            server.http.close()


def _wait_until_ready(server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if server.http.get("/readyz").status_code == 200:
                return
        time.sleep(0.3)
    last = (log.read_text(encoding="utf-8", errors="replace").splitlines() or ["it said nothing"])[-1]
    raise PlaygroundError(f"The server for the soak did not start: {last}")
