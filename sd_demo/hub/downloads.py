"""All downloads of this program, beside the running engine: an offer first, then a download of it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from sd_demo.errors import DownloadFailed
from sd_demo.hub.download import MARGIN, PARTIAL, Download, Offer
from sd_demo.hub.licences import RESTRICTIONS, Licences, is_restricted
from sd_demo.hub.repository import Hub
from sd_demo.hub.sentences import as_download_failed, no_space
from sd_demo.hub.transfer import PART
from sd_demo.known_models import OPENRAIL, OPENRAIL_URL, ModelEntry
from sd_demo.model_files import repo_folder


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
        """What `entry` costs and asks; the hub is asked for it. Raises DownloadFailed."""
        hub = Hub(token, self._endpoint)
        try:
            listing = hub.listing(entry)
        except Exception as error:
            raise as_download_failed(error, entry.source, has_token=hub.has_token) from None
        folder = self._data_dir / "models" / repo_folder(entry.source, entry.parts) / listing.commit
        partial = folder.with_name(folder.name + PARTIAL)
        own = entry.licence if entry.licence_url else listing.licence
        is_openrail = is_restricted(own)
        return Offer(
            entry=entry,
            listing=listing,
            destination=folder,
            here=sum(_size_of(partial / file.path, file.size) for file in listing.files),
            free=_free(folder),
            licence=OPENRAIL if is_openrail else own,
            licence_url=OPENRAIL_URL if is_openrail else f"https://huggingface.co/{entry.source}",
            restrictions=RESTRICTIONS if is_openrail else "",
            is_accepted=self._licences.is_accepted(own),
        )

    def start(self, offer: Offer, token: str | None = None, *, accepts_licence: bool = False) -> Download:
        """Begin, or join the download of the same model that is on its way.

        accepts_licence: the person has read `offer.restrictions` and agrees; remembered from then on.
        Raises DownloadFailed where the licence is not accepted or the disk has no room.
        """
        with self._lock:
            running = self._running.get(offer.entry.name)
            if running is not None and not running.is_over:
                return running
            if not offer.is_accepted and not accepts_licence:
                raise DownloadFailed(
                    f"{offer.licence} has to be read and accepted first: {offer.licence_url}", "licence"
                )
            if not offer.fits:
                raise no_space(offer.size - offer.here + MARGIN, offer.free, _existing(offer.destination))
            try:
                if not offer.is_accepted:
                    self._licences.accept(offer.licence)
            except OSError as error:
                raise as_download_failed(error, offer.listing.repo, has_token=False) from None
            download = self._running[offer.entry.name] = Download(offer, Hub(token, self._endpoint))
        threading.Thread(target=download.run, name=f"download {offer.entry.name}", daemon=True).start()
        return download

    def running(self, name: str) -> Download | None:
        """The latest download of the model called `name`, also one that is over; None where there was none."""
        return self._running.get(name)


def _size_of(file: Path, whole: int) -> int:
    for candidate in (file, file.with_name(file.name + PART)):
        if candidate.is_file():
            return min(candidate.stat().st_size, whole)
    return 0


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free
