"""All downloads of this program, beside the running engine: an offer first, then a download of it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from sd_demo.errors import DownloadFailed
from sd_demo.hub.download import MARGIN, Download, Offer
from sd_demo.hub.licences import Licences, named, restrictions
from sd_demo.hub.repository import Hub, Listing, RemoteFile
from sd_demo.hub.sentences import as_download_failed, no_space
from sd_demo.hub.transfer import on_disk
from sd_demo.known_models import ModelEntry
from sd_demo.model_files import MANIFEST, PARTIAL, downloaded, in_hub_cache, manifest_in, repo_folder


class Downloads:
    """All downloads of this program. Thread-safe; a door makes one and drives it beside the engine.

    data_dir: of the settings; models go to `data_dir/models`. endpoint: of the hub, for tests and mirrors.
    """

    def __init__(self, data_dir: Path, endpoint: str | None = None) -> None:
        self._data_dir, self._endpoint = data_dir, endpoint
        self._licences = Licences(data_dir / "licences.json")
        self._running: dict[str, Download] = {}
        self._lock = threading.Lock()

    def offer(self, entry: ModelEntry, token: str | None = None) -> Offer:
        """What `entry` costs and asks; the hub is asked for it. Raises DownloadFailed.

        One with a pinned revision that is here whole needs no hub that answers.
        """
        has_token = bool(token)
        found = self._found(entry)
        try:
            hub = Hub(token, self._endpoint)
            has_token = hub.has_token
            listing = hub.listing(entry)
        except Exception as error:
            kept = _told_by_folder(entry, found)
            if kept is None:
                raise as_download_failed(error, entry.source, has_token=has_token) from None
            listing = kept
        folder = self._data_dir / "models" / repo_folder(entry.source, entry.parts) / listing.commit
        is_here = found is not None and found.name == listing.commit and listing.is_in(found)
        if found is not None and is_here:
            folder = found
        partial = folder.with_name(folder.name + PARTIAL)
        try:
            here = listing.size if is_here else sum(on_disk(partial / file.path, file.size) for file in listing.files)
            free = _free(folder)
        except OSError as error:  # a folder that nobody may look into
            raise as_download_failed(error, entry.source, has_token=has_token) from None
        own = entry.licence if entry.licence_url else listing.licence
        licence, url = named(own, f"https://huggingface.co/{entry.source}")
        return Offer(
            entry=entry,
            listing=listing,
            destination=folder,
            is_here=is_here,
            here=here,
            free=free,
            licence=licence,
            licence_url=url,
            restrictions=restrictions(licence, url),
            is_accepted=is_here or self._licences.is_accepted(licence, url),
        )

    def start(self, offer: Offer, token: str | None = None, *, accepts_licence: bool = False) -> Download:
        """Begin, or join the download of the same model that is on its way; one that was just cancelled goes on.

        accepts_licence: the person has read `offer.restrictions` and agrees; remembered from then on.
        Raises DownloadFailed where the licence is not accepted or the disk has no room.
        """
        with self._lock:
            # One repository may go by two names.
            same = [
                one for name, one in self._running.items()
                if name == offer.entry.name or one.offer.destination == offer.destination
            ]  # fmt: skip
            running = next((one for one in same if one.go_on()), None)
            if running is not None:
                self._running[offer.entry.name] = running
                return running
            for one in same:
                for _ in one.events():  # one that is stopping just now still holds the files
                    pass
            if not offer.is_accepted and not accepts_licence:
                raise DownloadFailed(
                    f"{offer.licence} has to be read and accepted first: {offer.licence_url}", "licence"
                )
            if not offer.fits:
                raise no_space(offer.size - offer.here + MARGIN, offer.free, _existing(offer.destination))
            try:
                hub = Hub(token, self._endpoint)
                if not offer.is_accepted:
                    self._licences.accept(offer.licence, offer.licence_url)
            except Exception as error:
                raise as_download_failed(error, offer.listing.repo, has_token=bool(token)) from None
            download = self._running[offer.entry.name] = Download(offer, hub)
        threading.Thread(target=download.run, name=f"download {offer.entry.name}", daemon=True).start()
        return download

    def running(self, name: str) -> Download | None:
        """The latest download of the model called `name`, also one that is over; None where there was none."""
        return self._running.get(name)

    def _found(self, entry: ModelEntry) -> Path | None:
        """The folder that the program would run `entry` from now: a download's, or one of the hub's own cache."""
        here = downloaded(self._data_dir / "models", repo_folder(entry.source, entry.parts), entry.revision)
        return here or in_hub_cache(entry.source, entry.revision)


def _told_by_folder(entry: ModelEntry, folder: Path | None) -> Listing | None:
    """What the hub would list of a pinned revision, where all of it is in `folder`: a commit never changes."""
    if entry.revision is None or folder is None:
        return None
    if not (folder / MANIFEST).exists():  # a whole snapshot in the hub's own cache
        here = (path for path in sorted(folder.rglob("*")) if path.is_file())
        kept = tuple(RemoteFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in here)
        return Listing(entry.source, folder.name, kept, entry.licence)
    manifest = manifest_in(folder)
    try:
        files = tuple(RemoteFile(path, told["size"], told["sha256"]) for path, told in manifest["files"].items())
    except (KeyError, TypeError, AttributeError):  # somebody wrote in it
        return None
    listing = Listing(entry.source, folder.name, files, entry.licence)
    return listing if files and listing.is_in(folder) else None


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))  # which never raises


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free
