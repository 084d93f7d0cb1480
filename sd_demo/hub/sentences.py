"""What went wrong with the hub, in one sentence with the next step; no token and no address of a file is in it."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Final

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from sd_demo.errors import DownloadFailed

TOKENS_URL: Final = "https://huggingface.co/settings/tokens"
AGAIN: Final = "start the download again and it goes on from there"


class NotTheHub(Exception):
    """Something answered that is not the hub, such as the login page of a network."""


class Damaged(Exception):
    """What came is not what was announced; the text names the file."""


class Interrupted(Exception):
    """The connection ended before the file did."""


def as_download_failed(error: Exception, repo: str, *, has_token: bool) -> DownloadFailed:
    """`error` in words for people; one that nobody foresaw names its kind."""
    if isinstance(error, DownloadFailed):
        return error
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _of_status(error, repo, has_token)
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadFailed(f"Downloads are switched off by {offline_by()}; unset it and start again.", "offline")
    if isinstance(error, NotTheHub):
        return DownloadFailed(
            "Something other than the hub answered, with a web page instead of data; a network that asks for a login "
            "or a proxy does that: open any web page in a browser, then try again.",
            "not-the-hub",
        )
    if isinstance(error, Damaged):
        return DownloadFailed(f"{error} came damaged and was thrown away; start the download again.", "damaged")
    if isinstance(error, httpx2.TimeoutException):
        return DownloadFailed(f"The hub stopped answering; {AGAIN}, perhaps a little later.", "stalled")
    if isinstance(error, httpx2.ConnectError):
        if isinstance(error.__cause__, ssl.SSLError) or "certificate" in str(error).lower():
            return DownloadFailed(
                "The hub's certificate was not accepted; check this machine's clock and its proxy, then try again.",
                "offline",
            )
        return DownloadFailed("The hub cannot be reached; check the network or proxy, then try again.", "offline")
    if isinstance(error, httpx2.ProxyError):
        return DownloadFailed(
            "The proxy does not let this program through to the hub; check HTTPS_PROXY, and the name and password in "
            "it, then try again.",
            "offline",
        )
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return DownloadFailed(
            "The hub's address cannot be used; let HF_ENDPOINT begin with https://, or unset it.", "offline"
        )
    if isinstance(error, httpx2.TransportError | Interrupted):
        return DownloadFailed(f"The connection broke before all was here; {AGAIN}.", "interrupted")
    if isinstance(error, ImportError):  # httpx reads socks:// only with another package
        return DownloadFailed(
            "The proxy that ALL_PROXY or HTTPS_PROXY names is of a kind that this program cannot use; let it begin "
            "with http://, then try again.",
            "offline",
        )
    if isinstance(error, ssl.SSLError) or (isinstance(error, FileNotFoundError) and _lacks_certificates()):
        return DownloadFailed(
            "The file of certificates that SSL_CERT_FILE names cannot be used; let it name one that can, or unset it.",
            "offline",
        )
    if isinstance(error, OSError):
        return _of_disk(error)
    return DownloadFailed(f"The download stopped for an unforeseen reason ({type(error).__name__}); {AGAIN}.", "other")


def offline_by() -> str:
    """The variable that switches every request to the hub off; "" where none does."""
    if not constants.is_offline_mode():
        return ""
    return "TRANSFORMERS_OFFLINE" if not os.environ.get("HF_HUB_OFFLINE") else "HF_HUB_OFFLINE"


def no_space(needed: int, free: int, folder: object) -> DownloadFailed:
    """The sentence for a disk without room; `needed` and `free` in bytes."""
    return DownloadFailed(
        f"{gib(needed)} are needed and {gib(free)} are free in {folder}; make room there, or let SD_DEMO_DATA_DIR name "
        "a folder on another disk.",
        "no-space",
    )


def gib(size: float) -> str:
    """Bytes for people: 2.1 GiB, 340 MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _lacks_certificates() -> bool:
    file = os.environ.get("SSL_CERT_FILE", "")
    return file != "" and not os.path.isfile(file)


def _of_status(error: HfHubHTTPError, repo: str, has_token: bool) -> DownloadFailed:
    status, page = error.response.status_code, f"https://huggingface.co/{repo}"
    if isinstance(error, RevisionNotFoundError):
        return DownloadFailed(f"The hub has {repo}, but not this revision of it; update this program.", "not-found")
    if isinstance(error, RemoteEntryNotFoundError):
        return DownloadFailed(f"{repo} lacks a file that it lists; try again later.", "not-found")
    if isinstance(error, GatedRepoError) or (status == 403 and has_token):
        return DownloadFailed(
            f"{repo} is gated ({status}): accept its terms at {page} with your account, then give a token of that "
            f"account that may read gated models ({TOKENS_URL}).",
            "gated",
        )
    if status in (401, 403) and has_token:
        return DownloadFailed(
            f"The hub refused the token ({status}): make a new one that may read at {TOKENS_URL}, or give none for a "
            "public model (one of HF_TOKEN or of the hub's own login is sent too: unset it, or log out); it also "
            f"answers so where there is no {repo}.",
            "token",
        )
    if status in (401, 403):
        return DownloadFailed(
            f"The hub does not show {repo} to everybody ({status}): check the name, and give a token ({TOKENS_URL}) if "
            "the model is private or gated.",
            "token",
        )
    if status in (404, 410):
        return DownloadFailed(f"The hub has no model {repo} ({status}); check the name's spelling.", "not-found")
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdigit() else "in some minutes"
        return DownloadFailed(
            f"The hub has had too many requests from here (429); try again {when}, or give a token.", "rate-limit"
        )
    if status >= 500:
        return DownloadFailed(f"The hub is in trouble ({status}); try again in some minutes.", "server")
    return DownloadFailed(f"The hub refused ({status}); try again later.", "server")


def _of_disk(error: OSError) -> DownloadFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DownloadFailed(f"The disk is full; make room, then {AGAIN}.", "no-space")
    return DownloadFailed(
        f"The weights cannot be written ({error.strerror or type(error).__name__}); let SD_DEMO_DATA_DIR name a folder "
        "that can.",
        "not-writable",
    )
