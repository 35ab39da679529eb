"""What the scan saw, remembered between runs, outside the data: one SQLite file in vitctl's cache folder.

An entry holds for an image's name and stamp (of a file: path, size, time of the last change) and for the
version of Pillow that decoded it. A memory that cannot be read or written costs time and a warning, nothing
else.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import PIL

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.primitives.files import cache_folder

VERSION = 1  # of what is remembered; another one starts anew
_BLOCK = 500  # names per question
_FLUSH = 5_000  # entries kept before they are written


class ScanMemory:
    """Recalls and keeps texts about images; a context, at whose end everything kept is written."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._path = cache_folder() / f"scan-{VERSION}.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._new: list[tuple[str, bytes, str, str]] = []

    def __enter__(self) -> Self:
        with self._forgiving():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = _opened(self._path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, read-only, full
                    raise
                self._path.unlink(missing_ok=True)  # not a database any more; it is ours, and can be made again
                self._connection = _opened(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        if self._connection is not None:
            self._connection.close()

    def recall(self, what: str, split: Split, positions: Sequence[int]) -> dict[int, str]:
        """Return by position what was kept about those of ``positions`` that have not changed since."""
        stamps = {position: stamp for position in positions if (stamp := _stamp(split, position))}
        by_name = {os.fsencode(split.image_name(position)): position for position in stamps}
        names: list[bytes] = list(by_name)
        found: dict[int, str] = {}
        with self._forgiving():
            for start in range(0, len(names), _BLOCK):
                if self._connection is None:
                    break
                block = names[start : start + _BLOCK]
                marks = ",".join("?" * len(block))
                question = f"SELECT name, stamp, text FROM seen WHERE what = ? AND name IN ({marks})"
                for name, stamp, text in self._connection.execute(question, (what, *block)):
                    if stamps[by_name[name]] == stamp:
                        found[by_name[name]] = text
        return found

    def keep(self, what: str, split: Split, position: int, text: str) -> None:
        """Remember ``text`` about an image."""
        stamp = _stamp(split, position)
        if stamp:
            self._new.append((what, os.fsencode(split.image_name(position)), stamp, text))
        if len(self._new) >= _FLUSH:
            self._write()

    def _write(self) -> None:
        with self._forgiving():
            if self._connection is not None and self._new:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", self._new)
        self._new = []

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._conversation.warn(f"{self._path} cannot be used ({error}), so the next run checks all images again.")
            self._connection = None


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS seen (what TEXT, name BLOB, stamp TEXT, text TEXT, PRIMARY KEY (what, name)) "
        "WITHOUT ROWID"
    )
    return connection


def _stamp(split: Split, position: int) -> str:
    """Return the image's stamp and Pillow's version, or "" for an image not to be remembered."""
    try:
        stamp = split.images.stamp(int(split.rows[position]))
    except OSError:
        return ""  # gone; decoding it will tell
    return f"{stamp} {PIL.__version__}" if stamp else ""
