"""Who is asking: a random id that the browser keeps, so that nothing of one visitor shows to another."""

from __future__ import annotations

import hashlib
import re
import secrets
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, TypedDict

import gradio as gr
from starlette.requests import Request

from sd_demo.outputs import Outputs
from sd_demo.settings import Settings

STORAGE_PREFIX: Final = "sd-demo-"
# Gradio sends this word to every browser: it hides nothing, it only keeps settings readable after a restart.
STORAGE_WORD: Final = "kept-in-browser"
MAX_REMEMBERED: Final = 16
_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")


def browser_state(name: str, default: Any = None) -> gr.BrowserState:
    """A value that this page keeps in the browser's own storage under `name`."""
    return gr.BrowserState(default, storage_key=STORAGE_PREFIX + name, secret=STORAGE_WORD)


def known_or_new(value: Any) -> str:
    """The id that the browser kept, or a new one that cannot be guessed."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else secrets.token_urlsafe(24)


def folder_name(value: Any, request: gr.Request | None) -> str:
    """The visitor for the engine: a digest, so that no path tells the id that opens a visitor's pictures.

    Without a kept id (an API caller) it is the session's; without either, nobody's: a fresh one.
    """
    session = getattr(request, "session_hash", None)
    if isinstance(value, str) and _ID.fullmatch(value):
        secret = f"browser {value}"
    elif isinstance(session, str) and session:
        secret = f"session {session}"
    else:
        secret = secrets.token_urlsafe(24)
    return hashlib.sha256(secret.encode()).hexdigest()[:24]


class Caller(TypedDict):
    """Whose a job is, as `Engine.submit` takes it."""

    visitor: str
    origin: str


def caller(value: Any, request: gr.Request | None, settings: Settings) -> Caller:
    """The visitor, and the network address that it calls from."""
    return {"visitor": folder_name(value, request), "origin": origin(request, settings)}


def origin(request: gr.Request | Request | None, settings: Settings) -> str:
    """The network address of a request (of IPv6 the 64 bits that one subscriber has), "" where it is not known.

    Behind a share link's tunnel (which comes from this machine) and a Space's proxy it is the last public address in
    X-Forwarded-For, which the proxy added: what stands before it, the caller wrote.
    """
    peer = _address(getattr(getattr(request, "client", None), "host", None))
    if peer is None:
        return ""
    is_hosted = settings.effective_profile == "space"
    if peer.is_loopback or (is_hosted and not peer.is_global):
        named = str(getattr(request, "headers", {}).get("x-forwarded-for", "")).split(",")
        public = [address for address in map(_address, named) if address is not None and address.is_global]
        if not public:
            return ""
        peer = public[-1]
    return str(ip_network((peer, 64), strict=False)) if peer.version == 6 else str(peer)


def _address(text: Any) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(str(text).strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def remembered_pictures(outputs: Outputs, visitor: str, names: Any) -> list[Path]:
    """The files of this visitor that `names` (from the browser, so not to be trusted) speaks of."""
    if not isinstance(names, list):
        return []
    folder = outputs.visitor_folder(visitor)
    paths = [
        folder / Path(name).name for name in names[:MAX_REMEMBERED] if isinstance(name, str) and "\x00" not in name
    ]
    return [path for path in paths if path.suffix == ".png" and path.is_file()]
