"""What the hub says about a model: its files with sizes and hashes, its commit, its licence."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.utils import get_session, hf_raise_for_status

from sd_demo import __version__
from sd_demo.errors import DownloadFailed
from sd_demo.hub.sentences import TOKENS_URL, NotTheHub
from sd_demo.known_models import ModelEntry
from sd_demo.model_files import INDEX, needed, parts_of, why_foreign

SINGLE_NETWORK: Final = "config.json"  # at the root of a repository that is one network by itself
MAX_REDIRECTS: Final = 5
# It becomes a folder's name. The hub has 40 hex digits, mirrors what they like, and no folder above or beside.
_COMMIT: Final = re.compile(r"[0-9a-z][0-9a-z_.-]{0,99}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. One of the hashes is known for every file that the hub describes in full."""

    path: str
    size: int
    sha256: str | None = None  # of weights, which the hub stores by it
    git_sha1: str | None = None  # of small files: SHA-1 over "blob <size>\\0" and the content


@dataclass(frozen=True)
class Listing:
    """The files to fetch for a model, at one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str  # as the model's page names it, or ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def is_in(self, folder: Path) -> bool:
        """True where `folder` holds every file in its full length; what is in them is not read."""
        paths = [(folder / file.path, file.size) for file in self.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)


class Hub:
    """The hub as one visitor sees it. The token is kept in memory for as long as this object lives, and nowhere else.

    token: default the one of HF_TOKEN or of the hub's own login. endpoint: default HF_ENDPOINT, or the public hub.
    Raises DownloadFailed where the token cannot be read, or cannot be one.
    """

    def __init__(self, token: str | None = None, endpoint: str | None = None) -> None:
        self._token = token or _own_token()
        if self._token and not (self._token.isascii() and self._token.isprintable()):
            whose = "The token" if token else "The token of HF_TOKEN or of the hub's own login"
            raise DownloadFailed(
                f"{whose} holds a character that no token has, such as … or a line break; copy it whole from "
                f"{TOKENS_URL}.",
                "token",
            )
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        # A wait for every answer and every piece of a file; not for a file as a whole.
        self.timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)

    @property
    def has_token(self) -> bool:
        """True where requests carry a token."""
        return bool(self._token)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request. Uncompressed, so that lengths are those of the files."""
        # Not huggingface_hub's build_hf_headers: in 2.4 that asks the public hub for a list of programs first.
        made = {"User-Agent": f"sd-demo/{__version__}", "Accept-Encoding": "identity"}
        return {**made, "Authorization": f"Bearer {self._token}"} if self._token else made

    def url(self, repo: str, commit: str, path: str) -> str:
        """The address of one file."""
        return f"{self._endpoint}/{repo}/resolve/{quote(commit, safe='')}/{quote(path)}"

    def listing(self, entry: ModelEntry) -> Listing:
        """What a download of `entry` fetches. Raises DownloadFailed where the repository is no model for this program.

        The hub's own errors come as they are; `as_download_failed` puts them into words.
        """
        repo, revision = entry.source, entry.revision or "main"
        about = self._json(f"{self._endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}", {"blobs": "true"})
        commit, siblings = about.get("sha"), about.get("siblings")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
            raise NotTheHub
        known = {file["rfilename"]: file for file in siblings}
        parts = entry.parts or self._parts(repo, commit, known)
        wanted, lacking = needed(known, parts)
        if lacking:
            names = ", ".join(part or "network" for part in lacking)
            raise DownloadFailed(
                f"{repo} has no .safetensors weights for its {names}, and weights of other kinds can carry code; look "
                "for another copy of the model.",
                "no-safetensors",
            )
        files = tuple(self._described(repo, commit, path, known[path]) for path in wanted)
        card = about.get("cardData") or {}
        licence = card.get("license_name") or card.get("license") or ""
        return Listing(repo, commit, files, licence if isinstance(licence, str) else ", ".join(map(str, licence)))

    def _parts(self, repo: str, commit: str, known: dict[str, Any]) -> list[str]:
        if INDEX in known:
            index = self._json(self.url(repo, commit, INDEX), {})
            if why := why_foreign(repo, index):
                raise DownloadFailed(why, "not-a-model")
            return parts_of(index)
        if SINGLE_NETWORK in known:
            config = self._json(self.url(repo, commit, SINGLE_NETWORK), {})
            if config.get("model_type") == "clip":  # which ranks pictures
                return [""]
            kind = str(config.get("_class_name") or config.get("model_type") or "of no known kind")
            raise DownloadFailed(
                f"{repo} is no whole model but a single network ({kind[:60]}), and of those only a CLIP is used here; "
                "name the repository of a model of Stable Diffusion 1 or 2.",
                "not-a-model",
            )
        raise DownloadFailed(
            f"{repo} is no diffusers model; if it holds a .safetensors checkpoint, download that and name the file.",
            "not-a-model",
        )

    def _described(self, repo: str, commit: str, path: str, told: dict[str, Any]) -> RemoteFile:
        large = told.get("lfs") or {}
        if isinstance(told.get("size"), int) and (large.get("sha256") or told.get("blobId")):
            return RemoteFile(path, told["size"], large.get("sha256"), None if large else told["blobId"])
        headers = self._head(self.url(repo, commit, path))
        size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
        if not size.isdigit():
            raise NotTheHub
        tag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        is_hex = all(c in "0123456789abcdef" for c in tag)
        return RemoteFile(
            path, int(size), tag if is_hex and len(tag) == 64 else None, tag if is_hex and len(tag) == 40 else None
        )

    def _head(self, url: str) -> httpx2.Headers:
        """The headers that describe a file: those of the hub itself, not of the store that it redirects to."""
        for _ in range(MAX_REDIRECTS):
            response = get_session().head(url, headers=self.headers, timeout=self.timeout, follow_redirects=False)
            hf_raise_for_status(response)
            onward = response.headers.get("Location", "")
            if "X-Linked-Size" in response.headers or not response.is_redirect:
                return response.headers
            url = urljoin(url, onward)  # a renamed repository
            if urlsplit(url)[:2] != urlsplit(self._endpoint)[:2]:  # the token is for the hub alone
                break
        raise NotTheHub

    def _json(self, url: str, params: dict[str, str]) -> dict[str, Any]:
        response = get_session().get(
            url, headers=self.headers, params=params, timeout=self.timeout, follow_redirects=True
        )
        hf_raise_for_status(response)
        try:
            read = response.json()
        except ValueError:
            raise NotTheHub from None
        if not isinstance(read, dict):
            raise NotTheHub
        return read


def has_own_token() -> bool:
    """Whether there is a token that nobody had to give here."""
    try:
        return bool(_own_token())
    except DownloadFailed:
        return False


def _own_token() -> str | None:
    """The token of HF_TOKEN or of the hub's own login. Raises DownloadFailed where that cannot be read."""
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    try:
        return get_token()
    except (OSError, ValueError) as error:  # ValueError: a file that is no text
        why = getattr(error, "strerror", None) or type(error).__name__
        raise DownloadFailed(
            f"The token of the hub's own login cannot be read ({why}); log in again, or set HF_TOKEN.",
            "token",
        ) from None
