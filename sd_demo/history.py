"""What one visitor has made: an index in SQLite beside the pictures, searched by words, and rebuilt whenever it lags.

The files are the truth. Before each answer the folder is compared with the index by name and time, so that an index
that is missing, damaged, or behind after a crash mends itself, and nothing has to be told to it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from sd_demo.errors import InvalidImage
from sd_demo.outputs import SHEET_KEY, TEMPORARY_PREFIX, Outputs
from sd_demo.receipt import Receipt, read_receipt_file

INDEX: Final = ".history.sqlite"
VERSION: Final = 1  # of the table below; an index of another one is made anew
_TABLE: Final = """CREATE TABLE pictures (
    name TEXT PRIMARY KEY, modified_ns INTEGER NOT NULL,
    task TEXT,  -- NULL: a file without a receipt of ours, remembered so that it is read once only
    prompt TEXT, words TEXT, model TEXT, seed INTEGER, width INTEGER, height INTEGER
) STRICT"""
_OURS: Final = re.compile(r"\d{8}-\d{6}-\d{6}-.*\.png")  # as Outputs names files; others are never deleted


@dataclass(frozen=True)
class Picture:
    """One finished picture. `made_at` is in seconds since 1970."""

    path: Path
    task: str
    prompt: str
    model: str
    seed: int
    width: int
    height: int
    made_at: float


class History:
    """The pictures of an output folder, visitor by visitor. Thread-safe: every call opens the index for itself."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def find(self, visitor: str, search: str = "", *, limit: int = 60, offset: int = 0) -> list[Picture]:
        """This visitor's pictures whose prompts hold all words of `search`, in any case and order; the newest first."""
        folder = self._outputs.visitor_folder(visitor)
        words = _words(search)
        query = "SELECT name, task, prompt, model, seed, width, height, modified_ns / 1e9 FROM pictures"
        query += _where(words) + " ORDER BY modified_ns DESC, name DESC LIMIT ? OFFSET ?"
        with self._index(folder) as index:
            rows: list[Any] = index.execute(query, (*words, limit, offset)).fetchall()
        return [Picture(folder / row[0], *row[1:]) for row in rows]

    def count(self, visitor: str, search: str = "") -> int:
        """How many pictures this visitor has that `find` would find without a limit."""
        words, query = _words(search), "SELECT count(*) FROM pictures"
        query += _where(words)
        with self._index(self._outputs.visitor_folder(visitor)) as index:
            return int(index.execute(query, words).fetchone()[0])

    def delete(self, visitor: str, names: Iterable[str]) -> int:
        """Delete this visitor's pictures of these file names, and return how many there were."""
        folder = self._outputs.visitor_folder(visitor)
        return sum(_unlink(folder / name) for name in names if Path(name).name == name and name.endswith(".png"))

    def sheets_with(self, visitor: str, names: Iterable[str]) -> list[Path]:
        """This visitor's sheets of several pictures that one of these file names stands on; no page lists them."""
        folder = self._outputs.visitor_folder(visitor)
        receipts = []
        for name in names:
            with suppress(InvalidImage):
                receipts.append(read_receipt_file(folder / Path(name).name).model_dump(mode="json"))
        sheets = sorted(folder.glob("*-sheet*.png")) if receipts else []
        return [path for path in sheets if any(one in receipts for one in _receipts_on(path))]

    def expire(self, age_s: float, *, since: float = 0.0) -> int:
        """Delete all visitors' pictures older than `age_s` seconds, and folders that are empty then.

        Only files with names of this program's are touched, and only those made after `since` (seconds since 1970).
        Returns how many pictures are gone.
        """
        before = time.time() - age_s
        gone = 0
        for folder in [self._outputs.folder, *self._outputs.folder.glob("*/")]:
            for path in [*folder.glob("*.png"), *folder.glob(f"{TEMPORARY_PREFIX}*")]:
                is_ours = _OURS.fullmatch(path.name) or path.name.startswith(TEMPORARY_PREFIX)
                with suppress(OSError):
                    if is_ours and since <= path.stat().st_mtime < before:
                        gone += _unlink(path)
            with suppress(OSError):
                # Untouched for as long, so that nobody is about to write there.
                is_left = folder.stat().st_mtime < before and all(file.name == INDEX for file in folder.iterdir())
                if is_left and folder != self._outputs.folder:
                    (folder / INDEX).unlink(missing_ok=True)
                    folder.rmdir()
        return gone

    def keep_expiring(self, age_s: float, stop: threading.Event, *, since: float = 0.0, every_s: float = 60.0) -> None:
        """`expire` every `every_s` seconds until `stop` is set; for a thread of its own."""
        while not stop.wait(every_s):
            self.expire(age_s, since=since)

    @contextmanager
    def _index(self, folder: Path) -> Iterator[sqlite3.Connection]:
        """The index of `folder`, equal to its files; in memory alone where the folder cannot be written."""
        for place in (folder / INDEX, folder / INDEX, ":memory:"):
            try:
                connection = sqlite3.connect(place, timeout=10, isolation_level=None)
            except sqlite3.Error:
                continue
            with closing(connection):
                try:
                    _bring_up_to_date(connection, folder)
                except sqlite3.OperationalError:  # locked for long, or the folder is gone or read-only
                    continue
                except sqlite3.DatabaseError:  # damaged: the files tell all that it held
                    with suppress(OSError):
                        (folder / INDEX).unlink()
                    continue
                yield connection
                return
        raise AssertionError("an index in memory can always be made")


def _words(search: str) -> list[str]:
    return _storable(search.casefold()).split()[:20]


def _where(words: list[str]) -> str:
    """The condition, with one ? for each of `words`."""
    return " WHERE task NOT NULL" + " AND instr(words, ?)" * len(words)


def _bring_up_to_date(index: sqlite3.Connection, folder: Path) -> None:
    there = _files(folder)
    index.execute("BEGIN IMMEDIATE")  # one at a time, and a kill in the middle leaves the index as it was
    with index:
        if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            index.execute("DROP TABLE IF EXISTS pictures")
            index.execute(_TABLE)
            index.execute(f"PRAGMA user_version = {VERSION}")
        known = dict(index.execute("SELECT name, modified_ns FROM pictures"))
        index.executemany("DELETE FROM pictures WHERE name = ?", [(name,) for name in known if name not in there])
        new = [(name, modified) for name, modified in there.items() if known.get(name) != modified]
        rows = [(name, modified, *_told(folder / name)) for name, modified in new]
        index.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _files(folder: Path) -> dict[str, int]:
    """{name: time of modification in ns} of the PNG files in `folder`."""
    found = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # deleted just now
                if entry.name.endswith(".png") and entry.is_file():
                    found[entry.name] = entry.stat().st_mtime_ns
    return found


def _told(path: Path) -> tuple[Any, ...]:
    """The columns after the name and time: what the file's receipt says."""
    try:
        receipt = read_receipt_file(path)
    except InvalidImage:
        return (None,) * 7
    prompt, negative = receipt.prompt, str(receipt.asked.get("negative_prompt") or "")
    done = receipt.done
    numbers = done.seed, done.width, done.height
    if not all(-(2**63) <= number < 2**63 for number in numbers):  # SQLite holds no others, and we make none
        return (None,) * 7
    words = f"{prompt}\n{negative}".casefold()
    return (receipt.task, _storable(prompt), _storable(words), done.model, *numbers)


def _storable(text: str) -> str:
    """`text` as SQLite takes it: without lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _receipts_on(sheet: Path) -> list[Any]:
    """The receipts of the pictures that stand on a sheet; none where the file is no sheet or cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # no pixel is decoded here
            with Image.open(sheet, formats=("PNG",)) as image:
                found = json.loads(image.info.get(SHEET_KEY, "[]"))
    except Exception:  # on a damaged file a decoder raises whatever its author did not foresee
        return []
    receipts = []
    for one in found if isinstance(found, list) else []:
        with suppress(ValueError, TypeError):
            receipts.append(Receipt(**one).model_dump(mode="json"))  # of an earlier version too, with today's names
    return receipts
