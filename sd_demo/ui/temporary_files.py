"""What Gradio keeps on disk for a while: uploads, previews, and the copies of pictures that browsers are shown.

Gradio forgets the files that an update of a component brought, so they would stay for good. Here a folder of this
process's own is swept by age, and by size where it grows past its cap.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

logger: Final = logging.getLogger(__name__)

PREFIX: Final = "sd-demo-files-"
GRADIO_VARIABLE: Final = "GRADIO_TEMP_DIR"
MOST_BYTES: Final = 2**30
SWEEP_EVERY_S: Final = 60.0
IN_USE_S: Final = 60.0  # a file this young may be on its way to a browser or a job
ABANDONED_S: Final = 86_400.0  # a folder of a process that was killed


class TemporaryFiles:
    """One folder of files that nobody needs for long. Thread-safe."""

    def __init__(self, folder: Path, age_s: float, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self._age_s, self._most_bytes = folder, age_s, most_bytes
        self._lock = threading.Lock()
        self._held = 0  # bytes, as of the last sweep and what was announced since

    @classmethod
    def of_this_process(cls, age_s: float) -> TemporaryFiles:
        """A new folder, where Gradio puts its files from now on; those of processes long gone are removed.

        To be called before a page is built: Gradio's components note the folder when they are made.
        """
        base = Path(os.environ.get(GRADIO_VARIABLE) or tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        for left in base.glob(PREFIX + "*"):
            with suppress(OSError):
                if left.stat().st_mtime < time.time() - ABANDONED_S:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        os.environ[GRADIO_VARIABLE] = str(folder)
        return cls(folder, age_s)

    def has_room(self, coming: int) -> bool:
        """Whether `coming` bytes more fit under the cap, if need be after the oldest files are gone."""
        with self._lock:
            self._held += coming
            if self._held <= self._most_bytes:
                return True
            self._sweep(coming)
            if self._held <= self._most_bytes:
                return True
            self._held -= coming
            return False

    def sweep(self) -> None:
        """Remove what is too old, and the oldest of the rest while it is too much."""
        with self._lock:
            self._sweep(0)
        with suppress(OSError):
            os.utime(self.folder)  # in use, says its time to other processes

    def start(self) -> None:
        """Sweep every minute for as long as the process lives."""
        threading.Thread(target=self._keep_sweeping, name="temporary files", daemon=True).start()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_sweeping(self) -> None:
        while True:
            time.sleep(SWEEP_EVERY_S)
            try:
                self.sweep()
            except OSError as error:  # a disk that fails for a moment must not end the sweeping
                logger.warning("Temporary files could not be swept: %s", error.strerror)

    def _sweep(self, coming: int) -> None:
        now = time.time()
        files = sorted(self._files())
        held = sum(size for _, size, _ in files) + coming
        for modified, size, path in files:
            if modified < now - self._age_s or (held > self._most_bytes and modified < now - IN_USE_S):
                with suppress(OSError):
                    path.unlink()
                    held -= size
                with suppress(OSError):  # not empty yet
                    path.parent.rmdir()
        self._held = held

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder) / name
                with suppress(OSError):
                    told = path.stat()
                    yield told.st_mtime, told.st_size, path
