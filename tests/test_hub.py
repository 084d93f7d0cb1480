"""Downloads against a local hub: whole or not at all, each fault with its sentence, and success on the next try."""

from __future__ import annotations

import dataclasses
import errno
import getpass
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import close_session, constants

from sd_demo.cli import main
from sd_demo.errors import DownloadFailed, JobCancelled, ModelUnavailable
from sd_demo.events import Cancelled
from sd_demo.hub import download as download_module
from sd_demo.hub import downloads as downloads_module
from sd_demo.hub import transfer
from sd_demo.hub.download import Broken, Download, Fetched, Fetching
from sd_demo.hub.downloads import Downloads
from sd_demo.hub.repository import Hub, NotTheHub
from sd_demo.known_models import OPENRAIL, OPENRAIL_2, OPENRAIL_2_URL, OPENRAIL_URL
from sd_demo.model_files import MANIFEST, PARTIAL
from sd_demo.registry import Registry
from tests.hub_server import COMMIT, TOKEN, LocalHub, serve

REPO = "somebody/a-model"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(autouse=True)
def may_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The local hub may be asked, soon gives up waiting, and nobody is logged in."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nobody"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def write_model(folder: Path) -> dict[str, bytes]:
    """A folder laid out as a diffusers repository: what is to be fetched (returned) and what is not."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
    }
    wanted = {
        "model_index.json": json.dumps(index).encode(),
        UNET: os.urandom(3_000_000),
        "vae/diffusion_pytorch_model.safetensors": os.urandom(50_000),
        "text_encoder/model.safetensors": os.urandom(40_000),
        "tokenizer/merges.txt": b"#version: 0.2\na b",
        "scheduler/scheduler_config.json": b"{}",
        **{f"{part}/config.json": b"{}" for part in ("unet", "vae", "text_encoder")},
    }
    unwanted = {
        "README.md": b"about",
        "v1-5-pruned.safetensors": b"x" * 1000,
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.safetensors": b"in float32",
        "unet/diffusion_pytorch_model.non_ema.safetensors": b"for training",
        "safety_checker/model.safetensors": b"x",
    }
    for name, content in (wanted | unwanted).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return wanted


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def files(hub: LocalHub, tmp_path: Path) -> dict[str, bytes]:
    """The published model: the files that a download must bring."""
    wanted = write_model(tmp_path / "published")
    hub.add(REPO, tmp_path / "published")
    return wanted


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(models_dir=tmp_path / "data" / "models")


Fetch = Callable[..., Path]


@pytest.fixture
def downloads(tmp_path: Path, hub: LocalHub, files: dict[str, bytes]) -> Downloads:
    return Downloads(tmp_path / "data", endpoint=hub.url)


@pytest.fixture
def fetch(downloads: Downloads, registry: Registry) -> Fetch:
    """Download the model and return its folder."""

    def run(token: str | None = None) -> Path:
        return start(downloads, registry, token).result()

    return run


def start(downloads: Downloads, registry: Registry, token: str | None = None) -> Download:
    offer = downloads.offer(registry.for_download(REPO), token)
    return downloads.start(offer, token, accepts_licence=True)


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and 20 < len(text) < 330 and "Traceback" not in text


def test_a_download_brings_exactly_the_needed_files(fetch: Fetch, files: dict[str, bytes], registry: Registry) -> None:
    with pytest.raises(ModelUnavailable, match=f"download {REPO}"):
        registry.get(REPO)
    folder = fetch()
    found = content_of(folder)
    manifest = json.loads(found.pop(MANIFEST))
    assert found == files
    assert (manifest["repo"], manifest["commit"]) == (REPO, COMMIT)
    assert manifest["files"][UNET]["sha256"] == hashlib.sha256(files[UNET]).hexdigest()
    assert registry.weights(registry.get(REPO)) == folder
    assert REPO in {entry.name for entry in registry}


def test_without_sizes_in_the_listing_every_file_is_asked_for(
    fetch: Fetch, hub: LocalHub, files: dict[str, bytes]
) -> None:
    hub.is_terse = True
    hub.fault, hub.fault_path = "wrong hash", UNET
    with pytest.raises(DownloadFailed, match="came damaged"):
        fetch()
    hub.fault = None
    found = content_of(fetch())
    del found[MANIFEST]
    assert found == files


def test_the_offer_says_what_it_costs_and_asks(
    downloads: Downloads, registry: Registry, files: dict[str, bytes], hub: LocalHub, tmp_path: Path
) -> None:
    entry = registry.for_download(REPO)
    offer = downloads.offer(entry)
    assert offer.size == sum(map(len, files.values()))
    assert offer.destination.is_relative_to(tmp_path / "data")
    assert offer.free > 0
    assert offer.fits
    assert (offer.licence, offer.is_accepted) == ("CreativeML OpenRAIL-M", False)
    assert "https://huggingface.co/spaces/CompVis/stable-diffusion-license" in offer.restrictions
    with pytest.raises(DownloadFailed, match="accepted first") as caught:
        downloads.start(offer)
    assert caught.value.kind == "licence"
    assert not (tmp_path / "data").exists()
    downloads.start(offer, accepts_licence=True).result()
    assert Downloads(tmp_path / "data", hub.url).offer(entry).is_accepted, "another start of the program remembers"


def test_a_licence_without_restrictions_needs_no_yes(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    hub.licence = "apache-2.0"
    offer = downloads.offer(registry.for_download(REPO))
    assert (offer.licence, offer.is_accepted, offer.restrictions) == ("apache-2.0", True, "")
    assert downloads.start(offer).result().is_dir()


@pytest.mark.parametrize(
    ("tag", "name", "url"),
    [
        ("creativeml-openrail-m", OPENRAIL, OPENRAIL_URL),
        ("openrail++", OPENRAIL_2, OPENRAIL_2_URL),
        ("CreativeML Open RAIL++-M", OPENRAIL_2, OPENRAIL_2_URL),
        ("openrail", "openrail", f"https://huggingface.co/{REPO}"),
        ("bigscience-openrail-m", "bigscience-openrail-m", f"https://huggingface.co/{REPO}"),
    ],
)
def test_the_licence_that_is_accepted_is_the_one_that_was_shown(
    tag: str, name: str, url: str, downloads: Downloads, registry: Registry, hub: LocalHub, tmp_path: Path
) -> None:
    hub.licence = tag
    offer = downloads.offer(registry.for_download(REPO))
    assert (offer.licence, offer.licence_url, offer.is_accepted) == (name, url, False)
    assert name in offer.restrictions
    assert url in offer.restrictions
    shutil.rmtree(downloads.start(offer, accepts_licence=True).result())
    again = Downloads(tmp_path / "data", hub.url)
    assert again.offer(registry.for_download(REPO)).is_accepted, "once is enough"
    hub.repos["somebody/else"] = hub.repos[REPO]
    is_known = name in (OPENRAIL, OPENRAIL_2)
    assert again.offer(registry.for_download("somebody/else")).is_accepted == is_known, "a family has many texts"
    hub.licence = "creativeml-openrail-m" if name != OPENRAIL else "openrail++"
    assert not again.offer(registry.for_download("somebody/else")).is_accepted, "and speaks of no other licence"


def test_the_upscalers_licence_is_asked_for(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    entry = registry.for_download("x4-upscaler")
    hub.repos[entry.source], hub.revisions = hub.repos[REPO], (entry.revision or "",)
    offer = downloads.offer(entry)
    assert (offer.licence, offer.licence_url, offer.is_accepted) == (OPENRAIL_2, OPENRAIL_2_URL, False)
    assert "not: to break a law" in offer.restrictions


FAULTS = [  # fault, the file that it hits, kind, words of the sentence
    ("wrong token", "", "token", "refused the token (401)"),
    ("unknown", "", "token", "refused the token (401)"),
    ("gated", "", "gated", f"accept its terms at https://huggingface.co/{REPO}"),
    ("forbidden", UNET, "gated", "accept its terms"),
    ("not found", "", "not-found", "check the name's spelling"),
    ("no revision", "", "not-found", "not this revision"),
    ("too many", "", "rate-limit", "try again in 17 s"),
    ("broken", "", "server", "in trouble (500)"),
    ("busy", UNET, "server", "in trouble (503)"),
    ("html", "", "not-the-hub", "web page instead of data"),
    ("html", UNET, "not-the-hub", "web page instead of data"),
    ("html", "model_index.json", "not-the-hub", "web page instead of data"),
    ("silent", "", "stalled", "stopped answering"),
    ("stalling", UNET, "stalled", "goes on from there"),
    ("cut", UNET, "interrupted", "goes on from there"),
    ("wrong length", UNET, "damaged", "came damaged and was thrown away"),
    ("wrong hash", UNET, "damaged", "came damaged and was thrown away"),
    ("wrong hash", "merges.txt", "damaged", "came damaged and was thrown away"),
]


@pytest.mark.parametrize(("fault", "path", "kind", "words"), FAULTS, ids=[f"{f[0]} {f[1][:4]}".strip() for f in FAULTS])
def test_every_fault_has_its_sentence_and_the_next_try_succeeds(
    fault: str, path: str, kind: str, words: str, fetch: Fetch, hub: LocalHub, files: dict[str, bytes],
    registry: Registry,
) -> None:  # fmt: skip
    hub.fault, hub.fault_path = fault, path
    with pytest.raises(DownloadFailed) as caught:
        fetch(TOKEN)
    text = str(caught.value)
    assert caught.value.kind == kind, text
    assert words in text
    assert is_one_sentence(text), text
    assert TOKEN not in text
    with pytest.raises(ModelUnavailable):
        registry.get(REPO)
    assert [entry.name for entry in registry if entry.name == REPO] == []
    hub.fault = None
    hub.release.set()
    found = content_of(fetch(TOKEN))
    del found[MANIFEST]
    assert found == files


def test_without_a_token_a_401_asks_for_one(fetch: Fetch, hub: LocalHub) -> None:
    hub.fault = "unknown"
    with pytest.raises(DownloadFailed, match="give a token") as caught:
        fetch()
    assert caught.value.kind == "token"


def test_a_slow_hub_is_waited_for(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    hub.fault, hub.fault_path = "slow", UNET
    events = list(start(downloads, registry).events())
    assert isinstance(events[-1], Fetched)
    told = [event for event in events if isinstance(event, Fetching)]
    assert all(a.done <= b.done for a, b in pairwise(told))
    assert any(event.speed and event.remaining_s is not None for event in told)


def test_offline(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Downloads(tmp_path / "data", endpoint="http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="cannot be reached") as caught:
        nobody.offer(registry.for_download(REPO))
    assert caught.value.kind == "offline"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE") as caught:
        nobody.offer(registry.for_download(REPO))
    assert caught.value.kind == "offline"
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # the library heeds another program's variable, too
    with pytest.raises(DownloadFailed, match="switched off by TRANSFORMERS_OFFLINE; unset it"):
        nobody.offer(registry.for_download(REPO))


@pytest.mark.parametrize("token", ["hf_abc…", "hf_abc\ndef", "hf_\u202eabc"])
def test_what_cannot_be_a_token_is_said_before_it_is_sent(
    token: str, downloads: Downloads, registry: Registry, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.for_download(REPO)
    with pytest.raises(DownloadFailed, match="The token holds a character that no token has") as caught:
        downloads.offer(entry, token)
    assert caught.value.kind == "token"
    assert is_one_sentence(str(caught.value))
    assert token not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_…")
    with pytest.raises(DownloadFailed, match="HF_TOKEN or of the hub's own login"):
        downloads.offer(entry)
    assert hub.requests == []


def test_a_login_that_cannot_be_read_is_said(
    downloads: Downloads, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(DownloadFailed, match="cannot be read") as caught:
        downloads.offer(registry.for_download(REPO))
    assert caught.value.kind == "token"
    assert is_one_sentence(str(caught.value))
    offer = downloads.offer(registry.for_download(REPO), TOKEN)
    with pytest.raises(DownloadFailed, match="cannot be read"):
        downloads.start(offer, accepts_licence=True)


def test_a_proxy_that_refuses_and_an_address_that_is_none_are_said(
    registry: Registry, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", hub.url)  # which knows no CONNECT
    close_session()  # the next one reads the variable
    try:
        with pytest.raises(DownloadFailed, match="proxy does not let") as caught:
            Downloads(tmp_path / "data", "https://hub.invalid").offer(registry.for_download(REPO))
    finally:
        close_session()
    assert caught.value.kind == "offline"
    monkeypatch.delenv("HTTPS_PROXY")
    unusable = {"ALL_PROXY": ("socks5://127.0.0.1:9", "let it begin with http://")}
    unusable["SSL_CERT_FILE"] = (str(tmp_path / "gone.pem"), "the file of certificates that SSL_CERT_FILE names")
    for name, (value, words) in unusable.items():
        with monkeypatch.context() as only:
            only.setenv(name, value)
            close_session()
            try:
                with pytest.raises(DownloadFailed, match=f"(?i){words}") as caught:
                    Downloads(tmp_path / "data", "https://hub.invalid").offer(registry.for_download(REPO))
            finally:
                close_session()
        assert caught.value.kind == "offline"
    for endpoint in ("hub.invalid", "https://hub.invalid:port"):
        with pytest.raises(DownloadFailed, match="let HF_ENDPOINT begin with https://") as caught:
            Downloads(tmp_path / "data", endpoint).offer(registry.for_download(REPO))
        assert caught.value.kind == "offline"


def test_no_space_is_said_before_it_starts(
    downloads: Downloads, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads_module, "_free", lambda folder: 1_000_000)
    offer = downloads.offer(registry.for_download(REPO))
    assert not offer.fits
    with pytest.raises(DownloadFailed, match="make room there, or let SD_DEMO_DATA_DIR") as caught:
        downloads.start(offer, accepts_licence=True)
    assert caught.value.kind == "no-space"
    assert not (tmp_path / "data").exists()


def test_a_disk_that_fills_up_is_said(fetch: Fetch, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    real = transfer._Hashes.update

    def full(self: Any, piece: bytes) -> None:
        real(self, piece)
        if self._file.path == UNET:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer._Hashes, "update", full)
        with pytest.raises(DownloadFailed, match="disk is full") as caught:
            fetch()
    assert caught.value.kind == "no-space"
    found = content_of(fetch())
    del found[MANIFEST]
    assert found == files


def test_a_folder_that_nobody_may_look_into_is_said(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root left it; to root, who tests here, every folder is open."""

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(downloads_module, "on_disk", forbidden)
    with pytest.raises(DownloadFailed, match="cannot be written \\(Permission denied\\)") as caught:
        fetch()
    assert caught.value.kind == "not-writable"


def test_a_folder_that_cannot_be_written_is_said(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DownloadFailed, match="cannot be written") as caught:
        fetch()
    assert caught.value.kind == "not-writable"


def ranges(hub: LocalHub) -> list[str]:
    return [headers["Range"] for _, path, headers in hub.requests if path.endswith(UNET) and "Range" in headers]


def test_an_interrupted_file_goes_on_where_it_broke_off(fetch: Fetch, hub: LocalHub, files: dict[str, bytes]) -> None:
    hub.fault, hub.fault_path = "cut", UNET
    with pytest.raises(DownloadFailed):
        fetch()
    hub.fault = None
    folder = fetch()
    (asked,) = set(ranges(hub))
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start < len(files[UNET])
    assert (folder / UNET).read_bytes() == files[UNET]


def test_a_server_without_ranges_begins_anew(fetch: Fetch, hub: LocalHub, files: dict[str, bytes]) -> None:
    hub.fault, hub.fault_path = "cut", UNET
    with pytest.raises(DownloadFailed):
        fetch()
    hub.fault = "no ranges"
    assert (fetch() / UNET).read_bytes() == files[UNET]


def test_a_server_without_ranges_begins_anew_also_near_the_end(
    fetch: Fetch, hub: LocalHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.fault, hub.fault_path = "cut", UNET
    with pytest.raises(DownloadFailed):
        fetch()
    (part,) = (tmp_path / "data").rglob(f"*{transfer.PART}")
    part.write_bytes(files[UNET][:-10])
    hub.fault = "no ranges"
    assert (fetch() / UNET).read_bytes() == files[UNET]


def test_a_long_file_is_resumed_by_itself(
    fetch: Fetch, hub: LocalHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WORTH_RESUMING", 100_000)
    hub.fault, hub.fault_path = "cut", UNET
    with pytest.raises(DownloadFailed, match="connection broke"):
        fetch()  # each try brings half of the rest, until that is not worth another one
    assert len(ranges(hub)) >= 3
    hub.fault = None
    assert (fetch() / UNET).read_bytes() == files[UNET]


def test_what_the_disk_spoilt_between_two_tries_is_fetched_again(
    fetch: Fetch, hub: LocalHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.fault, hub.fault_path = "cut", "vae/diffusion_pytorch_model.safetensors"
    with pytest.raises(DownloadFailed):
        fetch()
    (partial,) = (tmp_path / "data" / "models").glob("*/*.partial")
    spoilt = bytearray((partial / UNET).read_bytes())
    spoilt[1000] ^= 1
    (partial / UNET).write_bytes(spoilt)
    hub.fault = None
    with pytest.raises(DownloadFailed, match="came damaged"):
        fetch()
    assert (fetch() / UNET).read_bytes() == files[UNET]


def test_a_folder_that_never_got_its_name_is_no_model(
    fetch: Fetch, hub: LocalHub, files: dict[str, bytes], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(DownloadFailed, match="cannot be written"):
            fetch()
    (partial,) = registry.models_dir.glob(f"*/*{PARTIAL}")
    assert (partial / MANIFEST).is_file(), "as a process leaves it that ends here"
    with pytest.raises(ModelUnavailable):
        registry.get(REPO)
    assert REPO not in {entry.name for entry in registry}
    shutil.copytree(partial, partial.with_name("older"))
    assert (registry.weights(registry.get(REPO)) or partial).name == "older", "however new the other one is"
    (partial / UNET).unlink()
    hub.fault, hub.fault_path = "cut", UNET
    with pytest.raises(DownloadFailed, match="goes on from there"):
        fetch()
    assert not (partial / MANIFEST).exists(), "a manifest speaks of whole files"
    hub.fault = None
    assert (fetch() / UNET).read_bytes() == files[UNET]


def fetched(hub: LocalHub) -> list[str]:
    """The weights that were asked for."""
    return [path for method, path, _ in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_what_is_here_is_not_fetched_again(
    downloads: Downloads, registry: Registry, hub: LocalHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = downloads.offer(registry.for_download(REPO))
    folder = start(downloads, registry).result()
    hub.requests.clear()
    monkeypatch.setattr(downloads_module, "_free", lambda folder: 0)
    offer = downloads.offer(registry.for_download(REPO))
    assert (offer.is_here, offer.here, offer.destination, offer.fits) == (True, offer.size, folder, True)
    (folder / "mine.txt").write_text("kept")
    assert downloads.start(offer).result() == folder
    late = dataclasses.replace(before, is_accepted=True)  # made before another program was done
    assert downloads.start(late).result() == folder
    assert (folder / "mine.txt").is_file()
    assert fetched(hub) == []
    (folder / UNET).write_bytes(files[UNET][:-1])
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not downloads.offer(registry.for_download(REPO)).is_here
    assert (start(downloads, registry).result() / UNET).read_bytes() == files[UNET]


def test_what_the_hubs_own_cache_has_whole_is_not_fetched(
    downloads: Downloads, registry: Registry, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    cached = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}"
    snapshot = shutil.copytree(tmp_path / "published", cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    offer = downloads.offer(registry.for_download(REPO))
    assert (offer.is_here, offer.destination) == (True, snapshot)
    assert downloads.start(offer).result() == snapshot
    hub.fault = "broken"
    pinned = downloads.offer(registry.for_download(REPO).model_copy(update={"revision": COMMIT}))
    assert (pinned.is_here, pinned.destination, pinned.listing.commit) == (True, snapshot, COMMIT)
    hub.fault = None
    (snapshot / UNET).unlink()  # another precision is left: it runs, but it is not what a download brings
    assert not downloads.offer(registry.for_download(REPO)).is_here


def test_a_pinned_revision_that_is_here_needs_no_hub(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    pinned = registry.for_download(REPO).model_copy(update={"revision": COMMIT})
    folder = downloads.start(downloads.offer(pinned), accepts_licence=True).result()
    hub.fault = "broken"
    offer = downloads.offer(pinned)
    assert (offer.is_here, offer.destination, offer.listing.commit) == (True, folder, COMMIT)
    assert downloads.start(offer).result() == folder
    with pytest.raises(DownloadFailed, match="in trouble"):
        downloads.offer(registry.for_download(REPO))  # nobody knows whether there is a newer one
    (folder / UNET).unlink()
    with pytest.raises(DownloadFailed, match="in trouble"):
        downloads.offer(pinned)


@pytest.fixture
def command(hub: LocalHub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m sd_demo download` asks the local hub, and puts what comes into the test's folder."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SD_DEMO_DATA_DIR", str(tmp_path / "data"))


@pytest.mark.usefixtures("command")
def test_the_command_fetches_once_and_says_so(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", REPO, "--accept-licence"]) == 0
    folder = capsys.readouterr().out.strip()
    hub.requests.clear()
    assert main(["download", REPO, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["folder"] == folder
    assert err == f"{REPO} is here already; to fetch it anew, delete {folder} first.\n"
    assert fetched(hub) == []


@pytest.mark.usefixtures("command")
def test_the_command_tells_a_log_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sd_demo.cli.download.LOGGED_EVERY_S", 0.0)
    assert main(["download", REPO, "--accept-licence"]) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if re.match(r"[\d.]+ \w+ of [\d.]+ \w+", line)]
    assert told, lines
    assert not any("\r" in line or "\x1b" in line for line in lines), "which only a terminal understands"
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setattr("sd_demo.cli.download.LOGGED_EVERY_S", 3600.0)
    assert main(["download", REPO, "--accept-licence"]) == 0
    assert not set(told) & set(capsys.readouterr().err.splitlines()), "not each of many events"


def test_the_command_without_a_token_to_read_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", ended)
    assert main(["download", REPO, "--ask-token"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("No token was given; ")
    assert is_one_sentence(err.removesuffix("\n"))


def test_cancel_keeps_what_came_for_the_next_time(
    downloads: Downloads, registry: Registry, hub: LocalHub, files: dict[str, bytes]
) -> None:
    hub.fault, hub.fault_path = "slow", UNET
    download = start(downloads, registry)
    for event in download.events():
        if isinstance(event, Fetching) and event.file == UNET:
            download.cancel()
    assert isinstance(download.latest, Cancelled)
    with pytest.raises(JobCancelled, match="goes on from there"):
        download.result()
    with pytest.raises(ModelUnavailable):
        registry.get(REPO)
    hub.fault = None
    assert downloads.offer(registry.for_download(REPO)).here > 0
    assert (start(downloads, registry).result() / UNET).read_bytes() == files[UNET]


def test_a_start_right_after_a_cancel_goes_on(
    downloads: Downloads, registry: Registry, hub: LocalHub, files: dict[str, bytes]
) -> None:
    hub.fault, hub.fault_path, hub.pause_s = "slow", UNET, 0.2
    download = start(downloads, registry)
    for event in download.events():
        if isinstance(event, Fetching) and event.file == UNET:
            download.cancel()
            break
    assert (start(downloads, registry).result() / UNET).read_bytes() == files[UNET]


def test_a_cancel_can_be_taken_back_until_it_is_noticed(downloads: Downloads, registry: Registry) -> None:
    download = Download(downloads.offer(registry.for_download(REPO)), Hub())
    download.cancel()
    assert download.go_on()
    download._progress(1, UNET)
    download.cancel()
    with pytest.raises(transfer.Stopped):
        download._progress(2, UNET)
    assert not download.go_on()


def test_a_cancel_while_nothing_comes_is_no_fault_of_the_hub(
    downloads: Downloads, registry: Registry, hub: LocalHub
) -> None:
    hub.fault, hub.fault_path = "stalling", UNET
    download = start(downloads, registry)
    for event in download.events():
        if isinstance(event, Fetching) and event.file == UNET:
            threading.Event().wait(0.4)  # by now half of it is here, and nothing more will come
            download.cancel()
    assert isinstance(download.latest, Cancelled)


def test_what_is_here_is_told_from_the_beginning_on_and_is_no_speed(
    downloads: Downloads, registry: Registry, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault, hub.fault_path = "cut", UNET
    assert isinstance(list(start(downloads, registry).events())[-1], Broken)
    hub.fault = "slow"
    offer = downloads.offer(registry.for_download(REPO))
    told = [e for e in downloads.start(offer, accepts_licence=True).events() if isinstance(e, Fetching)]
    assert offer.here > 1_500_000
    assert all(event.done >= offer.here for event in told)
    assert all(a.done <= b.done for a, b in pairwise(told))

    download = Download(dataclasses.replace(offer, is_here=False), Hub())
    speeds = {}
    for now, done in ((0, 500), (5, 500), (10, 500), (11, 600), (13, 800)):  # five hundred are read, the others come
        monkeypatch.setattr(download_module, "time", SimpleNamespace(monotonic=lambda now=now: now))
        download._progress(done, UNET)
        assert isinstance(download.latest, Fetching)
        speeds[now] = download.latest.speed
    assert speeds == {0: None, 5: None, 10: None, 11: 100, 13: 100}


def test_two_starts_are_one_download(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    hub.fault, hub.fault_path = "stalling", UNET
    first = start(downloads, registry)
    assert start(downloads, registry) is first
    assert downloads.running(REPO) is first
    assert isinstance(list(first.events())[-1], Broken)
    hub.fault = None
    hub.release.set()
    again = start(downloads, registry)
    assert again is not first
    assert again.result().is_dir()


def test_one_repository_under_two_names_is_one_download(
    downloads: Downloads, registry: Registry, hub: LocalHub
) -> None:
    hub.fault, hub.fault_path = "stalling", UNET
    first = start(downloads, registry)
    offer = downloads.offer(registry.for_download(REPO))
    alias = dataclasses.replace(offer, entry=offer.entry.model_copy(update={"name": "a-model"}))
    assert downloads.start(alias, None, accepts_licence=True) is first
    assert downloads.running("a-model") is first
    another = offer.entry.model_copy(update={"name": "another"})
    other = dataclasses.replace(offer, entry=another, destination=offer.destination.with_name("another"))
    second = downloads.start(other, None, accepts_licence=True)
    assert second is not first
    for one in (first, second):
        assert isinstance(list(one.events())[-1], Broken), "the hub does not answer"
    hub.fault = None
    hub.release.set()
    again = start(downloads, registry)
    assert again is not first
    assert downloads.start(alias, None, accepts_licence=True) in (again, downloads.running("a-model"))
    assert again.result().is_dir()


def test_another_program_that_downloads_the_same_is_waited_for(
    downloads: Downloads, registry: Registry, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)  # the first is to stay until it is released
    hub.fault, hub.fault_path = "stalling", UNET
    first = start(downloads, registry)
    for event in first.events():
        if isinstance(event, Fetching) and event.file == UNET:
            break
    other = Downloads(tmp_path / "data", endpoint=hub.url)
    with pytest.raises(DownloadFailed, match="Another program") as caught:
        start(other, registry).result()
    assert caught.value.kind == "busy"
    hub.release.set()
    assert isinstance(list(first.events())[-1], Broken)


def test_pickles_are_never_fetched(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    del hub.repos[REPO]["unet/diffusion_pytorch_model.safetensors"], hub.repos[REPO][UNET]
    with pytest.raises(DownloadFailed, match=r"no \.safetensors weights for its unet") as caught:
        downloads.offer(registry.for_download(REPO))
    assert caught.value.kind == "no-safetensors"


def test_a_repository_that_is_no_model_is_said(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    hub.repos[REPO] = {"README.md": b"", "big.safetensors": b"x"}
    with pytest.raises(DownloadFailed, match="no diffusers model") as caught:
        downloads.offer(registry.for_download(REPO))
    assert caught.value.kind == "not-a-model"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "is a StableDiffusionXLPipeline; only models of Stable Diff"),
        ({"_class_name": 7, "vae": 7}, "is a 7; only models of Stable Diffusion 1 and 2 run here"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "has a T5EncoderModel as its text_encoder; only CLIPT"),
    ],
)
def test_a_model_of_another_family_is_refused_before_it_comes(
    changed: dict[str, Any], words: str, downloads: Downloads, registry: Registry, hub: LocalHub
) -> None:
    index = json.loads(hub.repos[REPO]["model_index.json"])
    hub.repos[REPO]["model_index.json"] = json.dumps(index | changed).encode()
    with pytest.raises(DownloadFailed, match=f"^{REPO} {words}") as caught:
        downloads.offer(registry.for_download(REPO))
    assert caught.value.kind == "not-a-model"


def test_of_single_networks_only_those_come_that_are_used(
    downloads: Downloads, registry: Registry, hub: LocalHub
) -> None:
    weights = {"model.safetensors": b"x", "model.bin": b"y", "vocab.json": b"{}"}
    hub.repos[REPO] = weights | {"config.json": b'{"model_type": "clip"}'}
    offer = downloads.offer(registry.for_download(REPO))
    assert {file.path for file in offer.listing.files} == {"model.safetensors", "vocab.json", "config.json"}
    for config, kind in ((b'{"model_type": "qwen3"}', "qwen3"), (b'{"_class_name": "AutoencoderKL"}', "AutoencoderKL")):
        hub.repos[REPO] = weights | {"config.json": config}
        with pytest.raises(DownloadFailed, match=f"no whole model but a single network .{kind}.") as caught:
            downloads.offer(registry.for_download(REPO))
        assert is_one_sentence(str(caught.value))


def test_names_in_a_listing_cannot_leave_the_folder(
    downloads: Downloads, registry: Registry, hub: LocalHub, tmp_path: Path
) -> None:
    evil = {
        "../../evil.json": b"{}",
        "../evil/config.json": b"{}",
        "unet/../../evil.json": b"{}",
        "/etc/evil.json": b"{}",
    }
    hub.repos[REPO] |= evil
    index = json.loads(hub.repos[REPO]["model_index.json"])
    index |= {"../evil": ["diffusers", "UNet2DConditionModel"], "": ["diffusers", "X"], "/etc": ["diffusers", "X"]}
    hub.repos[REPO]["model_index.json"] = json.dumps(index).encode()
    start(downloads, registry).result()
    assert list(tmp_path.rglob("*evil*")) == []


@pytest.mark.parametrize("commit", ["../../..", "..", "", ".", "/etc", "a/b", "a\\b", "0" * 39 + "\n", "0" * 101])
def test_a_commit_that_is_none_becomes_no_folder(
    downloads: Downloads, registry: Registry, hub: LocalHub, commit: str
) -> None:
    hub.commit = commit
    with pytest.raises(DownloadFailed) as caught:
        downloads.offer(registry.for_download(REPO))
    assert is_one_sentence(str(caught.value))


def test_the_token_goes_to_the_hub_alone_and_is_kept_nowhere(
    downloads: Downloads, registry: Registry, hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    download = start(downloads, registry, TOKEN)
    events = list(download.events())
    asked = [h.get("Authorization", h.get("authorization")) for _, _, h in hub.requests]
    assert f"Bearer {TOKEN}" in asked
    elsewhere = hub.weights_url.removeprefix("http://")
    stored = [h for _, _, h in hub.requests if h.get("Host", h.get("host")) == elsewhere]
    assert stored, "weights come from another origin"
    assert all(TOKEN not in str(headers) for headers in stored)
    written = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert TOKEN.encode() not in written
    assert TOKEN not in caplog.text + repr(events) + repr(download.offer) + str(dataclasses.asdict(download.offer))


def test_the_environments_token_is_used(fetch: Fetch, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch()
    assert any(f"Bearer {TOKEN}" in str(headers) for _, _, headers in hub.requests)


def test_where_a_refused_token_may_come_from_is_said(
    fetch: Fetch, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = "wrong token"
    with pytest.raises(DownloadFailed, match=r"refused the token \(401\).*one of HF_TOKEN or of the hub's own login"):
        fetch()


def test_the_tokenizer_alone_can_be_fetched(downloads: Downloads, registry: Registry, hub: LocalHub) -> None:
    entry = registry.for_download("tokenizer")
    assert registry.tokenizers() == []
    hub.repos[entry.source] = hub.repos[REPO]
    entry = entry.model_copy(update={"revision": COMMIT})
    folder = downloads.start(downloads.offer(entry), accepts_licence=True).result()
    assert set(content_of(folder)) == {MANIFEST, "model_index.json", "tokenizer/merges.txt"}


@pytest.mark.parametrize("name", ["picture-book", "no model", "a/b/c", "../x", "https://huggingface.co/a/b", ""])
def test_what_cannot_be_downloaded_is_said(registry: Registry, name: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        registry.for_download(name)
    assert is_one_sentence(str(caught.value))


@pytest.mark.parametrize(("like", "factor"), [("x4-upscaler", 4), ("x2-latent-upscaler", 2)])
def test_a_model_that_upscales_comes_whole_and_loads(
    like: str, factor: int, downloads: Downloads, registry: Registry, hub: LocalHub, tmp_path: Path
) -> None:
    import torch

    from sd_demo.checkpoints import read_model
    from sd_demo.random_model import save

    repo = f"somebody/{like}"
    hub.add(repo, save(like, tmp_path / like, "tiny"))
    offer = downloads.offer(registry.for_download(repo), None)
    folder = downloads.start(offer, None, accepts_licence=True).result()
    assert (folder / "low_res_scheduler").is_dir() == (factor == 4)
    entry = registry.get(repo)
    assert (entry.upscale_factor, entry.tasks) == (factor, ("super_resolution",))
    assert read_model(registry.weights(entry) or tmp_path, torch.float32)["unet"].config.in_channels > 4


@pytest.mark.parametrize(
    "place", ["https://elsewhere.example/x", "//elsewhere.example/x", "https://hub.example.evil/x"]
)
def test_a_token_follows_no_redirect_to_another_place(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, **_: Any) -> httpx2.Response:
            asked.append(url)
            return httpx2.Response(302, headers={"Location": place}, request=httpx2.Request("HEAD", url))

    monkeypatch.setattr("sd_demo.hub.repository.get_session", Session)
    with pytest.raises(NotTheHub):
        Hub(TOKEN, "https://hub.example")._head("https://hub.example/a/b/vocab.json")
    assert asked == ["https://hub.example/a/b/vocab.json"]
