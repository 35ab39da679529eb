"""What the scan saw, remembered between runs, outside the data: one SQLite file in vitctl's cache folder.

An entry holds for an image's name and stamp (of a file: path, size, time of the last change) and for the
version of Pillow that decoded it. A memory that cannot be read or written costs time and a warning, nothing
else.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import PIL

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.primitives.files import cache_folder

VERSION = 1  # of what is remembered; another one starts anew
_BLOCK = 500  # names per question
_FLUSH = 5_000  # entries kept before they are written
_TABLE = (
    "CREATE TABLE IF NOT EXISTS seen (what TEXT, name BLOB, stamp TEXT, text TEXT, PRIMARY KEY (what, name)) "
    "WITHOUT ROWID"
)


class ScanMemory:
    """Recalls and keeps texts about images; a context, at whose end everything kept is written.

    The file is opened when an image first asks for it: images in memory never do.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._path = cache_folder() / f"scan-{VERSION}.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._is_usable = True
        self._stamps: dict[bytes, str] = {}
        self._new: list[tuple[str, bytes, str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._close()

    def recall(self, what: str, split: Split, positions: Sequence[int]) -> dict[int, str]:
        """Return by position what was kept about those of ``positions`` that have not changed since.

        Notes the stamps of all of them, so that what is kept later belongs to the images as they are now.
        """
        names = {position: name for position in positions if (name := self._noted(split, position))}
        wanted = sorted(set(names.values()))
        found: dict[bytes, str] = {}
        with self._forgiving():
            for start in range(0, len(wanted) if self._is_usable else 0, _BLOCK):
                block = wanted[start : start + _BLOCK]
                marks = ",".join("?" * len(block))
                question = f"SELECT name, stamp, text FROM seen WHERE what = ? AND name IN ({marks})"
                for name, stamp, text in self._database().execute(question, (what, *block)):
                    if self._stamps.get(name) == stamp and isinstance(text, str):  # SQLite keeps no types
                        found[name] = text
        return {position: found[name] for position, name in names.items() if name in found}

    def keep(self, what: str, split: Split, position: int, text: str) -> None:
        """Remember ``text`` about an image that ``recall`` was asked for."""
        name = _name(split, position)
        if name is not None and name in self._stamps:
            self._new.append((what, name, self._stamps[name], text))
        if len(self._new) >= _FLUSH:
            self._write()

    def _noted(self, split: Split, position: int) -> bytes | None:
        """Return the image's name and note its stamp; None for an image not to be remembered."""
        name = _name(split, position)
        if name is None:
            return None
        try:
            stamp = split.images.stamp(int(split.rows[position]))
        except (OSError, ValueError):
            return None  # gone, or no name that a file can have: decoding will tell
        if not stamp:
            return None
        self._stamps[name] = f"{stamp} {PIL.__version__}"
        return name

    def _write(self) -> None:
        with self._forgiving():
            if self._new and self._is_usable:
                database = self._database()
                with database:
                    database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", self._new)
        self._new = []

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=10)
            self._connection.execute(_TABLE)
        return self._connection

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Go on without the memory where it fails, after one warning; one that is damaged is made anew."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._close()
            is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, (sqlite3.OperationalError, sqlite3.IntegrityError)
            )
            if is_damaged:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            elif self._is_usable:
                self._is_usable = False
                self._conversation.warn(
                    f"{self._path} cannot be used ({error}), so the next run checks all images again."
                )

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _name(split: Split, position: int) -> bytes | None:
    try:
        return os.fsencode(split.image_name(position))
    except UnicodeEncodeError:
        return None
