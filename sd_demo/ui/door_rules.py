"""What the web door lets in: which names and origins, which of Gradio's own routes, how many bytes; and what it adds.

Gradio by itself answers any Host, reflects any Origin with credentials, and takes bodies without end.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sd_demo.images import MAX_BYTES
from sd_demo.settings import Settings

MEBIBYTE: Final = 2**20
UPLOADS: Final = "/gradio_api/upload"
# By the beginning of the path: a form of training pictures, one picture or painted layer, and JSON.
BODY_LIMITS: Final = (
    (UPLOADS, 256 * MEBIBYTE),
    ("/gradio_api/component_server", MAX_BYTES + MEBIBYTE),
    ("", 2 * MEBIBYTE),
)
# Gradio's helpers for developers, and whatever fetches or keeps something for a caller. Nothing here uses them.
CLOSED: Final = re.compile(
    r"/gradio_api/(proxy=|(undo-)?vibe-|process_recording|dev/|profiling|stream/|deep_link|custom_component/|"
    r"run-history|runs\b|mcp|token\b|file=/*[a-z][a-z0-9+.-]+:)|/monitoring|/pwa_icon|/svelte/",
    re.IGNORECASE,
)
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
EMBEDDERS: Final = "https://huggingface.co https://*.huggingface.co https://*.hf.space"  # a Space is shown in a frame
SAFE_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True)
class Hosts:
    """The names that this server answers to, so that no web page can reach it under a name of its own.

    That attack ("DNS rebinding") always comes with a name: where the network is served, any address is fine.
    """

    names: frozenset[str]
    suffixes: tuple[str, ...]
    any_address: bool
    any_name: bool

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Hosts:
        """Loopback, `--host`, `--trusted-hosts`, and what a Space or a share link is reached by."""
        trusted = [name.strip().lower() for name in settings.trusted_hosts.split(",") if name.strip()]
        is_open = settings.host not in LOOPBACK
        names = {*LOOPBACK, settings.host.lower(), *trusted, environment.get("SPACE_HOST", "").lower()}
        names |= {socket.gethostname().lower()} if is_open else set()
        suffixes: tuple[str, ...] = (".hf.space",) if settings.effective_profile == "space" else ()
        suffixes += (".gradio.live",) if settings.share else ()
        return cls(frozenset(names - {"", "*"}), suffixes, is_open, "*" in trusted)

    def allow(self, host: str) -> bool:
        """Whether a Host header, with or without a port, is one of ours."""
        name = host_name(host)
        if self.any_name or name in self.names or (self.suffixes and name.endswith(self.suffixes)):
            return bool(name)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def allow_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may send something: it is this server's own, or one of its public names."""
        scheme, _, rest = origin.partition("://")
        if scheme not in ("http", "https") or not rest:
            return False  # "null" too: the origin of a file or of a sandboxed frame
        is_public_name = host_name(rest) not in LOOPBACK and self.allow(rest) and not self.any_name
        return rest.lower() == host.lower() or (is_public_name and not _is_address(host_name(rest)))


def host_name(host: str) -> str:
    """The name or address of a Host header in lower case, without its port and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def body_limit(path: str) -> int:
    """The most bytes that a request to `path` may bring."""
    return next(limit for beginning, limit in BODY_LIMITS if path.startswith(beginning))


def security_headers(*, is_space: bool) -> dict[str, str]:
    """Headers of every answer. Gradio's page needs inline scripts and styles, and blobs for what it shows."""
    policy = {
        "default-src": "'self'",
        "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "media-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": f"'self' {EMBEDDERS}" if is_space else "'self'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
