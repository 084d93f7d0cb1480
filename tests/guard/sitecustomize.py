"""No test reaches the network. Any connection or look-up beyond this machine raises and is remembered.

As `sitecustomize` on PYTHONPATH this also holds in the processes that tests start (fixture `guarded_environment`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

LOG_VARIABLE = "SD_DEMO_TEST_CONNECTIONS"  # file that attempts are written to, one a line

attempts: list[str] = []
_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex
_sendto = socket.socket.sendto
_getaddrinfo = socket.getaddrinfo


def is_local(host: object) -> bool:
    """True for this machine's own names and addresses; None and "" mean it in look-ups."""
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _check(host: object, what: str) -> None:
    if is_local(host):
        return
    attempt = f"{what} {host!r}"
    attempts.append(attempt)
    log = os.environ.get(LOG_VARIABLE)
    if log:
        with Path(log).open("a") as file:
            file.write(attempt + "\n")
    raise OSError(f"tests may not reach the network: {attempt}")


def _check_address(address: Any, what: str) -> None:
    if isinstance(address, tuple):  # a path or bytes is a socket of this machine
        _check(address[0], what)


def install() -> None:
    """Put the guard around the socket module; calling it twice changes nothing."""

    def connect(self: socket.socket, address: Any) -> None:
        _check_address(address, "connect to")
        _connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        _check_address(address, "connect to")
        return _connect_ex(self, address)

    def sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        _check_address(rest[-1], "send to")
        return _sendto(self, data, *rest)

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        _check(host, "look up")
        return _getaddrinfo(host, *rest, **named)

    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
    socket.socket.sendto = sendto  # type: ignore[assignment, method-assign]
    socket.getaddrinfo = getaddrinfo


if os.environ.get(LOG_VARIABLE):
    install()
