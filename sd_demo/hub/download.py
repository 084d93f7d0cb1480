"""One download: what it costs and asks, then what it tells on its way, until the model is here whole.

Files come into a folder that ends in `.partial`; when each of them is verified, the folder gets its manifest and its
name in one rename. What breaks off stays partial and is taken up again; the registry never sees it.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from sd_demo.errors import DownloadFailed, JobCancelled
from sd_demo.events import Cancelled
from sd_demo.hub.repository import Hub, Listing
from sd_demo.hub.sentences import as_download_failed
from sd_demo.hub.transfer import Stopped, fetch, on_disk
from sd_demo.known_models import ModelEntry
from sd_demo.model_files import MANIFEST, PARTIAL

MARGIN: Final = 2**26  # bytes to leave free on the disk
WINDOW_S: Final = 10.0  # over which the speed is taken
TELL_EVERY_S: Final = 0.2


@dataclass(frozen=True)
class Offer:
    """What a download costs and asks, before it starts. Sizes in bytes."""

    entry: ModelEntry
    listing: Listing
    destination: Path
    is_here: bool  # all of it is in `destination` already, and nothing will be fetched
    here: int  # bytes that an earlier try left
    free: int  # bytes free at the destination
    licence: str  # "" where the model's page names none
    licence_url: str
    restrictions: str  # for people; "" where the licence has none
    is_accepted: bool  # also where nothing has to be

    @property
    def size(self) -> int:
        """Bytes of the whole model."""
        return self.listing.size

    @property
    def fits(self) -> bool:
        """True where the disk has room for what is still to come."""
        return self.is_here or self.size - self.here + MARGIN <= self.free


@dataclass(frozen=True)
class Fetching:
    """Bytes so far and in all; bytes a second and seconds left, None until they can be told."""

    done: int
    total: int
    file: str
    speed: float | None = None
    remaining_s: float | None = None


@dataclass(frozen=True)
class Fetched:
    """The model is here; the next job that names it runs with it."""

    model: str
    folder: Path


@dataclass(frozen=True)
class Broken:
    """The download ended early; `error` says why, and what to do."""

    error: DownloadFailed


DownloadEvent = Fetching | Fetched | Broken | Cancelled


class Download:
    """One download on its way. Any number of readers may follow it; `cancel` keeps what has come for the next time."""

    def __init__(self, offer: Offer, hub: Hub) -> None:
        self.offer = offer
        self._hub = hub
        self._changed = threading.Condition()
        self._latest: DownloadEvent = Fetching(offer.here, offer.size, "")
        self._count = 0
        self._is_cancelled, self._is_stopping = False, False
        self._speed: deque[tuple[float, int]] = deque()

    @property
    def latest(self) -> DownloadEvent:
        """Where it stands now."""
        return self._latest

    @property
    def is_over(self) -> bool:
        return not isinstance(self._latest, Fetching)

    def events(self) -> Iterator[DownloadEvent]:
        """Where it stands, at each change but at most five times a second; ends after Fetched, Broken or Cancelled."""
        seen = -1
        while True:
            with self._changed:
                while self._count == seen:
                    self._changed.wait()
                event, seen = self._latest, self._count
            yield event
            if not isinstance(event, Fetching):
                return

    def cancel(self) -> None:
        """Ask it to stop; harmless after its end."""
        self._is_cancelled = True

    def go_on(self) -> bool:
        """Take a `cancel` back, if there was one; False where it is too late for that, as after the end."""
        with self._changed:
            if self._is_stopping or self.is_over:
                return False
            self._is_cancelled = False
            return True

    def result(self) -> Path:
        """The model's folder, when all is here. Raises DownloadFailed, or JobCancelled."""
        for event in self.events():
            if isinstance(event, Fetched):
                return event.folder
            if isinstance(event, Broken):
                raise event.error
        raise JobCancelled("The download was cancelled; start it again and it goes on from there.")

    def run(self) -> None:
        """Fetch everything. In a thread of its own, which `Downloads.start` makes."""
        try:
            self._tell(Fetched(self.offer.entry.name, self._fetch_all()))
        except Stopped:
            self._tell(Cancelled())
        except Timeout:
            busy = f"Another program is downloading {self.offer.entry.title} already; wait for it."
            self._tell(Broken(DownloadFailed(busy, "busy")))
        except Exception as error:
            has_token = self._hub.has_token
            self._tell(Broken(as_download_failed(error, self.offer.listing.repo, has_token=has_token)))

    def _fetch_all(self) -> Path:
        listing, folder = self.offer.listing, self.offer.destination
        if self.offer.is_here:
            return folder
        partial = folder.with_name(folder.name + PARTIAL)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock"), timeout=0):
            if (folder / MANIFEST).is_file() and listing.is_in(folder):  # another program's, since the offer
                return folder
            partial.mkdir(exist_ok=True)
            (partial / MANIFEST).unlink(missing_ok=True)  # it speaks of whole files, and they become parts again
            hashes: dict[str, str] = {}
            here = {file.path: on_disk(partial / file.path, file.size) for file in listing.files}
            for file in listing.files:

                def on_bytes(count: int, path: str = file.path) -> None:
                    here[path] = count
                    self._progress(sum(here.values()), path)

                url = self._hub.url(listing.repo, listing.commit, file.path)
                hashes[file.path] = fetch(self._hub, url, file, partial / file.path, on_bytes)
            manifest = {
                "repo": listing.repo,
                "commit": listing.commit,
                "revision": self.offer.entry.revision,
                "files": {file.path: {"size": file.size, "sha256": hashes[file.path]} for file in listing.files},
            }
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        return folder

    def _progress(self, done: int, path: str) -> None:
        with self._changed:
            if self._is_cancelled:
                self._is_stopping = True
                raise Stopped
        now = time.monotonic()
        is_same_file = isinstance(self._latest, Fetching) and self._latest.file == path
        if is_same_file and now - self._speed[-1][0] < TELL_EVERY_S:
            return
        if self._speed and done <= self._speed[-1][1]:
            self._speed.clear()  # what an earlier try left is read again, or a file begins anew: neither tells of speed
        self._speed.append((now, done))
        while now - self._speed[0][0] > WINDOW_S:
            self._speed.popleft()
        start, before = self._speed[0]
        speed = (done - before) / (now - start) if now > start and done > before else None
        left = (self.offer.size - done) / speed if speed else None
        self._tell(Fetching(done, self.offer.size, path, speed, left))

    def _tell(self, event: DownloadEvent) -> None:
        with self._changed:
            self._latest = event
            self._count += 1
            self._changed.notify_all()
