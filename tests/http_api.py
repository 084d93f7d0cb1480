"""The API as a script without gradio_client uses it: plain HTTP, so that nothing is checked or repaired on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from sd_demo.requests import REQUESTS
from sd_demo.ui.api import parameters


@dataclass(frozen=True)
class Answer:
    """`data` of a call that worked, or the sentence of one that did not."""

    data: list[Any] | None = None
    error: str | None = None

    @property
    def receipts(self) -> list[dict[str, Any]]:
        assert self.data is not None, self.error
        return self.data[1]


class HttpApi:
    """Calls to a running page."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/gradio_api", timeout=60)

    def close(self) -> None:
        self._http.close()

    def upload(self, content: bytes, name: str = "picture.png") -> dict[str, Any]:
        """Send a file; the answer describes it as a value of `call`."""
        response = self._http.post("/upload", files={"files": (name, content)})
        response.raise_for_status()
        return {"path": response.json()[0], "meta": {"_type": "gradio.FileData"}}

    def call(self, task: str, **values: Any) -> Answer:
        """Ask for a picture with the request's own field names; what is not named is sent as null."""
        return self.call_raw(task, [values.get(name) for name in parameters(REQUESTS[task])])

    def call_raw(self, task: str, data: Any) -> Answer:
        """Ask with these positional values; NaN and infinity go out as Python writes them."""
        body = json.dumps({"data": data})
        joined = self._http.post(f"/call/{task}", content=body, headers={"content-type": "application/json"})
        if joined.status_code != 200:
            return Answer(error=f"HTTP {joined.status_code}: {joined.text}")
        lines = self._http.get(f"/call/{task}/{joined.json()['event_id']}").text.splitlines()
        for kind, text in pairwise(lines):
            if kind == "event: complete":
                return Answer(data=json.loads(text.removeprefix("data: ")))
            if kind == "event: error":
                return Answer(error=json.loads(text.removeprefix("data: "))["error"])
        raise AssertionError(f"no end in the answer: {lines}")
