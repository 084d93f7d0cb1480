"""The web door: every HTTP request passes here before Gradio sees it, and every answer on its way out.

It also answers /healthz, /readyz and /metrics itself, for whoever watches over the process.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from gradio.routes import App, ORJSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_demo.ui import visitor
from sd_demo.ui.door_rules import CLOSED, SAFE_METHODS, UPLOADS, Hosts, body_limit, security_headers
from sd_demo.ui.sessions import Sessions

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.ui.temporary_files import TemporaryFiles

logger: Final = logging.getLogger(__name__)

LOGIN_TRIES: Final = 10  # failed ones a minute from one address
MAX_ADDRESSES: Final = 1000
WATCHED: Final = ("/healthz", "/readyz", "/metrics")
UNREADABLE: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


class GuardedApp(App):
    """Gradio's app with the door as its outermost layer, outside what Gradio itself says about origins."""

    def __init__(self, engine: Engine, temporary_files: TemporaryFiles | None = None) -> None:
        super().__init__(default_response_class=ORJSONResponse)
        self.state_holder = Sessions()
        self._engine, self._temporary_files = engine, temporary_files

    def build_middleware_stack(self) -> ASGIApp:
        """As Starlette's, behind the door."""
        return Door(super().build_middleware_stack(), self._engine, self._temporary_files)


class Refused(Exception):
    """The answer to a request that goes no further."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Door:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, engine: Engine, temporary_files: TemporaryFiles | None) -> None:
        self._app, self._engine, self._temporary_files = app, engine, temporary_files
        self._hosts = Hosts.of(engine.settings)
        self._headers = security_headers(is_space=engine.settings.effective_profile == "space")
        self._failed_logins: OrderedDict[str, deque[float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # nothing here speaks websockets
        visit = _Visit(scope, receive, send, self._headers)
        try:
            if scope["path"] in WATCHED:
                await self._answer_watcher(visit)
                return
            self._check(scope)
            await self._check_room(scope)
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k != b"origin"]}
            await self._app(scope, visit.receive, visit.send)
            if not visit.has_answered:
                await visit.answer(500, f"Something went wrong here; try again, and quote the id {visit.id}.")
            if visit.is_login and visit.status in (400, 401):
                self._note_failed_login(self._caller(scope))
        except Refused as refused:
            await visit.answer(refused.status, str(refused))
        except Exception as error:
            if visit.has_answered:
                raise
            # Whatever Gradio's own routes stumble over is the form of the request, for ours answer for themselves.
            logger.info("request %s could not be answered: %s", visit.id, type(error).__name__)
            if isinstance(error, UNREADABLE):
                await visit.answer(400, "The request cannot be read; send what the API page describes.")
            else:
                await visit.answer(500, f"Something went wrong here; try again, and quote the id {visit.id}.")

    def _check(self, scope: Scope) -> None:
        """Raises Refused where the request must not go further."""
        headers, path = Headers(scope=scope), unquote(unquote(scope["path"]))
        host, origin = headers.get("host", ""), headers.get("origin")
        for name in (host, headers.get("x-forwarded-host") or host):
            if not self._hosts.allow(name):
                raise Refused(
                    400, "This server is not reached by that name; start it with --trusted-hosts to allow it."
                )
        own = headers.get("x-forwarded-host") or host
        if origin is not None and scope["method"] not in SAFE_METHODS and not self._hosts.allow_origin(origin, own):
            raise Refused(403, "Pages of other sites may not use this server.")
        if CLOSED.match(path):
            raise Refused(404, "There is nothing here.")
        if path.rstrip("/") == "/login" and self._has_failed_too_often(scope):
            raise Refused(429, "Too many wrong passwords; try again in a minute.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > body_limit(path):
            raise Refused(413, f"The request is too large; {body_limit(path) >> 20} MiB is the most here.")

    async def _check_room(self, scope: Scope) -> None:
        """Raises Refused where the files that a request brings do not fit on the disk's share for them."""
        is_upload = scope["method"] not in SAFE_METHODS and scope["path"].startswith(UPLOADS)
        if self._temporary_files is None or not is_upload:  # how an upload goes on is asked under such a path, too
            return
        announced = Headers(scope=scope).get("content-length")
        coming = int(announced) if announced else body_limit(scope["path"])
        if not await run_in_threadpool(self._temporary_files.has_room, coming):
            raise Refused(507, "Too many files wait here already; try again in a minute.")

    async def _answer_watcher(self, visit: _Visit) -> None:
        path = visit.scope["path"]
        if visit.scope["method"] not in SAFE_METHODS:
            await visit.answer(405, "Ask with GET.")
        elif path == "/metrics":
            await visit.answer_text(200, "text/plain; version=0.0.4; charset=utf-8", self._engine.metrics_text())
        else:
            health = self._engine.health()
            if path == "/healthz":
                await visit.answer(503 if health.fault else 200, health.fault or "ok")
            else:
                await visit.answer(200 if health.is_ready else 503, "ready" if health.is_ready else health.state)

    def _note_failed_login(self, address: str) -> None:
        times = self._failed_logins.setdefault(address, deque(maxlen=LOGIN_TRIES))
        times.append(time.monotonic())
        self._failed_logins.move_to_end(address)
        while len(self._failed_logins) > MAX_ADDRESSES:
            self._failed_logins.popitem(last=False)

    def _has_failed_too_often(self, scope: Scope) -> bool:
        times = self._failed_logins.get(self._caller(scope), deque())
        return len(times) == LOGIN_TRIES and times[0] > time.monotonic() - 60

    def _caller(self, scope: Scope) -> str:
        """Whose tries are counted together: one network address, also behind a proxy that all come through."""
        return visitor.origin(Request(scope), self._engine.settings) or str((scope.get("client") or ("?",))[0])


class _Visit:
    """One request on its way: its id, the bytes that it brought, and whether anything was answered yet."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        self.id = secrets.token_hex(4)
        self.scope, self._receive, self._send, self._headers = scope, receive, send, headers
        self.is_login = scope["path"].rstrip("/") == "/login"
        self.status = 0
        self.has_answered = False
        self._left = body_limit(scope["path"])
        self._held: list[Message] = []

    async def receive(self) -> Message:
        """The next part of the body. Raises Refused past the limit, also where no length was announced."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0 and not self.has_answered:
            raise Refused(413, "The request is too large.")
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on with the door's headers. One of 500 waits: the exception behind it may follow."""
        if self._left < 0 and not self.has_answered:  # whoever read the body made something else of it
            raise Refused(413, "The request is too large.")
        if message["type"] == "http.response.start":
            self.status = message["status"]
        if self.status == 500 and not self.has_answered:
            self._held.append(message)
            if message["type"] != "http.response.body" or message.get("more_body"):
                return
            if _says_json(self._held[0]):  # Gradio's own words about a failed handler
                self.has_answered = True
                self._add_headers(self._held[0])
                for held in self._held:
                    await self._send(held)
            return
        if message["type"] == "http.response.start":
            self.has_answered = True
            self._add_headers(message)
        await self._send(message)

    async def answer(self, status: int, sentence: str) -> None:
        """Answer with one sentence as JSON."""
        body = {"detail": sentence, "request_id": self.id}
        await self.answer_text(status, "application/json", json.dumps(body))

    async def answer_text(self, status: int, kind: str, text: str) -> None:
        """Answer with `text`."""
        body = text.encode()
        start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": []}
        headers = MutableHeaders(scope=start)
        headers["content-type"], headers["content-length"] = kind, str(len(body))
        headers["cache-control"] = "no-store"
        self.has_answered = True
        self._add_headers(start)
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})

    def _add_headers(self, message: Message) -> None:
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        headers.update({**self._headers, "x-request-id": self.id})


def _says_json(message: Message) -> bool:
    return Headers(scope=message).get("content-type", "").startswith("application/json")
