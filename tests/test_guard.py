"""The guard that keeps tests off the network works: else every test that relies on it proves nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guard import sitecustomize as network_guard

ELSEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody's address


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", b"localhost", None, socket.gethostname()]
)
def test_this_machine_is_local(host: object) -> None:
    assert network_guard.is_local(host)


@pytest.mark.parametrize("host", [ELSEWHERE, "10.0.0.1", "huggingface.co", "fe80::1%eth0", "127.0.0.1.example.org"])
def test_other_machines_are_not(host: str) -> None:
    assert not network_guard.is_local(host)


def test_a_connection_is_refused_and_remembered() -> None:
    with socket.socket() as stream, pytest.raises(OSError, match="may not reach"):
        stream.connect((ELSEWHERE, 443))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(OSError, match="may not reach"):
        datagram.sendto(b"", (ELSEWHERE, 53))
    with pytest.raises(OSError, match="may not reach"):
        socket.getaddrinfo("huggingface.co", 443)
    assert len(network_guard.attempts) == 3
    network_guard.attempts.clear()  # these three were meant


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_the_guard_holds_in_other_processes(guarded_environment: dict[str, str]) -> None:
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 443), timeout=1)"
    ended = subprocess.run([sys.executable, "-c", code], env=guarded_environment, capture_output=True, text=True)
    assert "may not reach the network" in ended.stderr
    log = Path(guarded_environment[network_guard.LOG_VARIABLE])
    assert ELSEWHERE in log.read_text()
    log.unlink()  # this one was meant
