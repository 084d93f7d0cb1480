"""The audit finds what a list of vulnerabilities knows, and says so where none can be asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import dependency_audit


class KnowsPillow(BaseHTTPRequestHandler):
    """Speaks OSV's protocol; one package has a vulnerability."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        one = {
            "id": "OSV-1", "summary": "bad", "details": "bad", "aliases": ["CVE-1"],
            "affected": [{"package": {"name": "pillow", "ecosystem": "PyPI"},
                          "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]}],
        }  # fmt: skip
        body = json.dumps({"vulns": [one]} if asked["package"]["name"] == self.server.known else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def osv() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), KnowsPillow)
    server.known = "nothing"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def flags(server: ThreadingHTTPServer) -> list[str]:
    return ["--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]


def test_a_known_vulnerability_fails_the_audit(osv: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    osv.known = "pillow"
    assert dependency_audit.main(flags(osv)) == 1
    told = capsys.readouterr().out
    assert "pillow" in told
    assert "fixed in 99.1" in told


def test_none_is_told_with_how_many_were_asked_about(
    osv: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dependency_audit.main(flags(osv)) == 0
    count = len(dependency_audit.installed(dependency_audit.REQUIREMENTS))
    assert f"no known vulnerability in {count} of {count}" in capsys.readouterr().out


def test_where_nobody_can_be_asked_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = ["--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/v1/query", "--timeout", "2"]
    assert dependency_audit.main(nobody) == 0
    assert "skipped" in capsys.readouterr().out


def test_all_that_requirements_bring_is_asked_about() -> None:
    names = dependency_audit.installed(dependency_audit.REQUIREMENTS)
    assert {"torch", "gradio", "pillow", "starlette", "jinja2"} <= set(names), "what gradio and torch need, too"
    assert "pytest" not in names, "what tests alone need is not installed for people"
