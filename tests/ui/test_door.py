"""The web door: names and origins, closed routes, body sizes, headers, health; asked over HTTP of a running page."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from sd_demo.ui import blocks, door
from sd_demo.ui.door_rules import Hosts, host_name
from tests.fake_engine import FakeEngine
from tests.fake_page import FakePage
from tests.http_api import HttpApi


@pytest.fixture
def http(fake_page: FakePage) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fake_page.url, timeout=60) as client:
        yield client


def raw(url: str, head: str, body: bytes = b"") -> str:
    """The answer's first line to a request that httpx would not send."""
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return connection.recv(4096).decode(errors="replace").splitlines()[0]


def test_the_page_itself_is_served_with_the_headers(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert "object-src 'none'" in answer.headers["content-security-policy"]
    assert re.fullmatch("[0-9a-f]{8}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", ""]
)
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/upload"])
def test_other_names_are_not_answered(http: httpx.Client, host: str, path: str) -> None:
    answer = http.get(path, headers={"host": host})
    assert answer.status_code == 400
    assert "--trusted-hosts" in answer.json()["detail"]
    assert http.get(path, headers={"x-forwarded-host": host or "evil.example"}).status_code == 400


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machines_names_are(http: httpx.Client, name: str) -> None:
    assert http.get("/config", headers={"host": f"{name}:7860"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
def test_no_page_of_another_site_can_read_or_send(http: httpx.Client, origin: str) -> None:
    read = http.get("/config", headers={"origin": origin})
    assert not [name for name in read.headers if name.startswith("access-control-")]
    for method in ("POST", "OPTIONS", "PUT", "DELETE"):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        answer = http.request(method, "/gradio_api/call/text_to_image", headers=headers, json={"data": ["a ball"]})
        assert answer.status_code == 403, method
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_pages_own_origin_may_send(http: httpx.Client, fake_page: FakePage) -> None:
    answer = http.post(
        "/gradio_api/call/text_to_image", headers={"origin": fake_page.url}, json={"data": ["a ball", *[None] * 10]}
    )
    assert answer.status_code == 200
    assert http.get(f"/gradio_api/call/text_to_image/{answer.json()['event_id']}").status_code == 200


CLOSED = [
    "/gradio_api/proxy=https://example.hf.space/x", "/gradio_api/file=http://127.0.0.1:9/x", "/monitoring",
    "/gradio_api/file=//evil://x", "/monitoring/summary", "/gradio_api/vibe-code/", "/gradio_api/dev/reload",
    "/gradio_api/deep_link?session_hash=x", "/gradio_api/custom_component/1/client/component/index.js",
    "/gradio_api/%70roxy=https://example.hf.space/x", "/gradio_api/stream/x/0/0/playlist.m3u8",
    "/gradio_api/run-history/buckets", "/gradio_api/profiling/traces", "/gradio_api/token",
]  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_what_gradio_offers_beyond_this_page_is_closed(http: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = http.request(method, path)
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"] == "There is nothing here."


def test_a_run_beside_the_queue_is_refused(http: httpx.Client, fake_page: FakePage) -> None:
    before = len(fake_page.engine.jobs)
    for way in ("run", "api"):
        assert http.post(f"/gradio_api/{way}/text_to_image", json={"data": ["a ball"] + [None] * 10}).status_code == 404
    assert len(fake_page.engine.jobs) == before


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", str(Path(__file__).resolve()), str(Path(__file__).parents[2] / "app.py")],
)
def test_no_file_of_this_machine_is_served(http: httpx.Client, path: str) -> None:
    for way in (path, quote(path, safe=""), "/" + path):
        for route in ("file=", "file/"):
            assert http.get(f"/gradio_api/{route}{way}").status_code in (403, 404)


def test_pictures_are_served_by_their_published_address_only(http: httpx.Client, fake_page: FakePage) -> None:
    api = HttpApi(fake_page.url)
    answer = api.call("text_to_image", prompt="a ball", seed=3)
    api.close()
    assert answer.data is not None
    published = answer.data[0][0]["image"]["path"]
    assert http.get(f"/gradio_api/file={published}").headers["content-type"] == "image/png"
    for saved in fake_page.engine.outputs.folder.rglob("*"):
        assert http.get(f"/gradio_api/file={saved}").status_code == 403
    assert http.get(f"/gradio_api/file={Path(published).parent}").status_code == 403
    assert http.get(f"/gradio_api/file={Path(published).parents[1]}").status_code == 403


def test_a_body_without_end_is_refused_announced_or_not(fake_page: FakePage) -> None:
    head = f"POST /gradio_api/call/text_to_image HTTP/1.1\nhost: {urlsplit(fake_page.url).netloc}\n"
    announced = raw(fake_page.url, f"{head}content-type: application/json\ncontent-length: 99999999999")
    assert " 413 " in announced
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    silent = raw(
        fake_page.url, f"{head}content-type: application/json\ntransfer-encoding: chunked", chunk * 2100 + b"0\r\n\r\n"
    )
    assert " 413 " in silent


COMPONENT_SERVER: list[Any] = [
    None, {}, {"data": 1, "component_id": 10**9, "session_hash": "x", "fn_name": "accept_blobs"},
    {"data": 1, "component_id": 1, "session_hash": "x", "fn_name": "__init__"},
    {"data": 1, "component_id": 1, "session_hash": [1], "fn_name": "x"},
    {"data": 1, "component_id": {}, "session_hash": "x", "fn_name": 5},
]  # fmt: skip


@pytest.mark.parametrize("body", COMPONENT_SERVER, ids=str)
def test_the_component_server_answers_nonsense_with_a_sentence(http: httpx.Client, body: Any) -> None:
    answer = http.post("/gradio_api/component_server", content=json.dumps(body))
    assert 400 <= answer.status_code < 500
    assert isinstance(answer.json()["detail"], str)


def test_a_watcher_is_told(http: httpx.Client) -> None:
    assert http.get("/healthz").json()["detail"] == "ok"
    assert http.get("/readyz").status_code == 200
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "sd_demo_jobs_total" in metrics.text
    assert http.post("/healthz").status_code == 405


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePage]:
    """A page behind a login, as a Space shows it, whose worker never started."""
    engine = FakeEngine(
        Outputs(tmp_path_factory.mktemp("outputs")), settings=Settings(profile="space", trusted_hosts="art.example")
    )
    page = blocks.build(engine)  # type: ignore[arg-type] # the same contract
    _, url, _ = page.launch(auth=("me", "right"), prevent_thread_lock=True)
    yield FakePage(url.rstrip("/"), engine)
    page.close(verbose=False)


def test_a_dead_worker_is_503_with_its_reason(locked: FakePage) -> None:
    for path in ("/healthz", "/readyz"):
        answer = httpx.get(f"{locked.url}{path}")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "The worker is not running."


def test_a_space_may_be_shown_by_hugging_face(locked: FakePage) -> None:
    assert "https://huggingface.co" in httpx.get(f"{locked.url}/").headers["content-security-policy"]


def test_names_that_were_trusted_are_answered(locked: FakePage) -> None:
    for host in ("art.example", "someone-playground.hf.space"):
        assert httpx.get(f"{locked.url}/", headers={"host": host}).status_code == 200
    assert httpx.get(f"{locked.url}/", headers={"host": "evil.example"}).status_code == 400


def test_nothing_but_the_login_is_open_and_guessing_is_slow(locked: FakePage) -> None:
    for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd", "gradio_api/queue/status"):
        assert httpx.get(f"{locked.url}/{path}").status_code == 401
    wrong = {"username": "me", "password": "wrong"}
    statuses = [httpx.post(f"{locked.url}/login", data=wrong).status_code for _ in range(12)]
    assert statuses[:10] == [400] * 10
    assert statuses[10:] == [429] * 2


def test_wrong_passwords_lock_their_own_address_and_no_other_behind_the_proxy(tmp_path: Path) -> None:
    engine = FakeEngine(Outputs(tmp_path), settings=Settings(profile="space", trusted_hosts="art.example"))

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = door.Door(refuse, engine, None)  # type: ignore[arg-type] # the same contract

    def status(*headers: tuple[str, str], peer: str = "10.16.0.4") -> int:
        named = [(name.encode(), value.encode()) for name, value in (("host", "art.example"), *headers)]
        scope = {"type": "http", "method": "POST", "path": "/login", "headers": named, "client": (peer, 1)}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(guarded(scope, None, send))  # type: ignore[arg-type] # nothing reads a body
        return int(sent[0]["status"])

    for_many = [status(("x-forwarded-for", f"1.1.1.{k}, 8.8.8.8")) for k in range(12)]
    assert for_many == [400] * 10 + [429] * 2, "what stands before the proxy's own word, the caller wrote"
    assert status(("x-forwarded-for", "8.8.4.4")) == 400
    unnamed = [status() for _ in range(12)]
    assert unnamed[10:] == [429] * 2, "where nothing tells callers apart, they are counted together"


def test_hosts_by_how_the_server_is_started() -> None:
    here = Hosts.of(Settings(), {})
    assert not here.allow("192.168.1.5:7860")
    everywhere = Hosts.of(Settings(host="0.0.0.0"), {})
    assert everywhere.allow("192.168.1.5:7860")
    assert everywhere.allow("[fe80::1]:7860")
    assert not everywhere.allow("evil.example")
    assert Hosts.of(Settings(share=True), {}).allow("0123abcd.gradio.live")
    assert not Hosts.of(Settings(share=True), {}).allow("gradio.live.evil.example")
    assert Hosts.of(Settings(trusted_hosts="*"), {}).allow("anything.example")
    assert Hosts.of(Settings(), {"SPACE_HOST": "me-art.hf.space"}).allow("me-art.hf.space")


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.example:80", "a.example"), ("[::1]:80", "::1"), ("::1", "::1"), ("a.example", "a.example"), ("", "")],
)
def test_a_host_is_read_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name
