"""A hub on this machine: the part of its protocol that huggingface_hub 2.4 and this program use, and its faults.

Model info with blobs, resolve with HEAD, ETag, X-Repo-Commit, X-Linked-Size and a redirect to another origin for
weights (as the hub does), ranges. `hub.fault = "…"` spoils the answers until it is None again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
TOKEN: Final = "hf_right_token_of_the_tests"
HTML: Final = b"<!doctype html><title>Hotel</title>Please log in to use our network."
STATUS_FAULTS: Final = {
    "wrong token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "unknown": (401, {}),
    "gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}),
    "forbidden": (403, {}),
    "not found": (404, {"X-Error-Code": "RepoNotFound"}),
    "no revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    "too many": (429, {"Retry-After": "17"}),
    "broken": (500, {}),
    "busy": (503, {}),
}


@dataclass
class LocalHub:
    """Its files, what is wrong with it now, and what was asked of it."""

    url: str = ""
    weights_url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fault: str | None = None
    fault_path: str = ""  # only answers about files whose path ends so are spoilt; "" spoils all
    pause_s: float = 0.03  # between the eighths of a slow answer
    revisions: tuple[str, ...] = ()  # further ones that it has
    is_terse: bool = False  # model info without sizes and hashes, as older mirrors answer
    commit: str = COMMIT  # as model info names it
    licence: str = "creativeml-openrail-m"
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, folder: Path) -> None:
        """Publish the files of `folder` as `repo`."""
        self.repos[repo] = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def serve() -> Iterator[LocalHub]:
    """A hub that answers until the block ends. Two ports: the second one is where weights are redirected to."""
    hub = LocalHub()
    servers = [_Server(("127.0.0.1", 0), hub, is_store) for is_store in (False, True)]
    hub.url, hub.weights_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.release.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def git_sha1(content: bytes) -> str:
    """The name that git gives a file of this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], hub: LocalHub, is_store: bool) -> None:
        super().__init__(address, _Handler)
        self.hub, self.is_store = hub, is_store

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        hub.requests.append((self.command, self.path, dict(self.headers)))
        spoilt = hub.fault if path.endswith(hub.fault_path) else None
        if spoilt in STATUS_FAULTS:
            status, headers = STATUS_FAULTS[spoilt]
            self._send(status, b'{"error": "fault"}', headers)
        elif spoilt == "html":
            self._send(200, HTML, {"Content-Type": "text/html; charset=utf-8"})
        elif spoilt == "silent":
            hub.release.wait(20)
            self.close_connection = True
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            self._info(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[3], spoilt)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _info(self, repo: str, revision: str) -> None:
        hub = self.server.hub
        if repo not in hub.repos:
            self._send(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        if revision not in ("main", COMMIT, *hub.revisions):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for name, content in hub.repos[repo].items():
            about: dict[str, Any] = {"rfilename": name}
            if not hub.is_terse:
                about |= {"size": len(content), "blobId": git_sha1(content)}
                if name.endswith(".safetensors"):
                    about["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            siblings.append(about)
        answer = {"id": repo, "sha": hub.commit, "siblings": siblings, "cardData": {"license": hub.licence}}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, name: str, spoilt: str | None) -> None:
        content = self.server.hub.repos.get(repo, {}).get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        is_large = name.endswith(".safetensors")
        tag = hashlib.sha256(content).hexdigest() if is_large else git_sha1(content)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if is_large and not self.server.is_store:
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{tag}"'}
            self._send(302, b"", headers | linked | {"Location": self.server.hub.weights_url + self.path})
            return
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and spoilt != "no ranges":
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if spoilt == "wrong hash":
            content = bytes([content[0] ^ 1]) + content[1:]
        if spoilt == "wrong length":
            content += b"more than was announced"
        self._send(status, content, headers, spoilt)

    def _send(self, status: int, content: bytes, headers: dict[str, str], spoilt: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if spoilt == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif spoilt == "stalling":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.hub.release.wait(20)
            self.close_connection = True
        elif spoilt == "slow":
            for start in range(0, len(content), max(1, len(content) // 8)):
                self.wfile.write(content[start : start + max(1, len(content) // 8)])
                self.wfile.flush()
                time.sleep(self.server.hub.pause_s)
        else:
            self.wfile.write(content)
