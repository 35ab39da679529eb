"""What the scan saw, remembered between runs, outside the data: one SQLite file in vitctl's cache folder.

An entry holds for an image's name and stamp (of a file: see ``vitctl.primitives.cache``) and for the version of Pillow
that decoded it, and has a checksum. A memory that cannot be read or written, or an entry that does not verify, costs
time and a warning, nothing else.
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
from vitctl.primitives.cache import cache_folder, checksum, clear_old, make_private

VERSION = 4  # of what is remembered; another one starts anew
OLD = r"scan-[123]\.sqlite(-journal)?"  # the names of earlier versions
_BLOCK = 500  # names per question
_FLUSH = 5_000  # entries kept before they are written
# of https://sqlite.org/rescode.html: a table of another shape, a damaged file, values that do not fit, no database
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_NOTADB)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS seen (what TEXT, name BLOB, stamp TEXT, text TEXT, checksum INTEGER, "
    "PRIMARY KEY (what, name)) WITHOUT ROWID"
)


class ScanMemory:
    """Recalls and keeps texts about images; a context, at whose end everything kept is written.

    The file is opened when an image first asks for it: images in memory never do.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        folder = cache_folder()
        self._path = (folder or Path()) / f"scan-{VERSION}.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._is_usable, self._is_damaged = folder is not None, False
        self._stamps: dict[bytes, str] = {}
        self._new: list[tuple[str, bytes, str, str, int | None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._close()

    def recall(self, what: str, split: Split, positions: Sequence[int]) -> dict[int, str]:
        """Return by position what was kept about those of ``positions`` that have not changed since.

        Notes the stamps of those that have none yet, so that what is kept later belongs to the images as they are now.
        """
        names = {position: name for position in positions if (name := self._noted(split, position))}
        wanted = sorted(set(names.values()))
        found: dict[bytes, str] = {}
        with self._forgiving():
            for start in range(0, len(wanted) if self._is_usable else 0, _BLOCK):
                block = wanted[start : start + _BLOCK]
                marks = ",".join("?" * len(block))
                question = f"SELECT name, stamp, text, checksum FROM seen WHERE what = ? AND name IN ({marks})"
                for name, stamp, text, digest in self._database().execute(question, (what, *block)):
                    if digest is None or digest != _checksum(what, name, stamp, text):
                        self._say_damaged()
                    elif self._stamps.get(name) == stamp:
                        found[name] = text
        return {position: found[name] for position, name in names.items() if name in found}

    def note(self, split: Split, positions: Sequence[int]) -> list[str]:
        """Return the stamps of images as they are now, "" for those without one; what is kept later belongs to them."""
        names = [self._noted(split, position, is_new=True) for position in positions]
        return ["" if name is None else self._stamps[name].rpartition(" ")[0] for name in names]

    def keep(self, what: str, split: Split, position: int, text: str) -> None:
        """Remember ``text`` about an image that ``recall`` was asked for."""
        name = _name(split, position)
        if name is not None and name in self._stamps:
            stamp = self._stamps[name]
            self._new.append((what, name, stamp, text, _checksum(what, name, stamp, text)))
        if len(self._new) >= _FLUSH:
            self._write()

    def _noted(self, split: Split, position: int, *, is_new: bool = False) -> bytes | None:
        """Return the image's name and note its stamp; None for an image not to be remembered."""
        name = _name(split, position)
        if name is None or (name in self._stamps and not is_new):
            return name
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
                    database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", self._new)
        self._new = []

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private(self._path.parent)
            clear_old(self._path.parent, OLD)
            self._connection = sqlite3.connect(self._path, timeout=10)
            self._connection.text_factory = lambda text: text.decode(errors="replace")  # else damage is another error
            self._connection.execute(_TABLE)
        return self._connection

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Go on without the memory where it fails, after one warning; one that is damaged is made anew."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._close()
            if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED:
                self._say_damaged()
                for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                    with contextlib.suppress(OSError):
                        path.unlink()
            elif self._is_usable:
                self._is_usable = False
                self._conversation.warn(
                    f"{self._path} cannot be used ({error}), so the next run checks all images again."
                )

    def _say_damaged(self) -> None:
        if not self._is_damaged:
            self._conversation.warn(f"{self._path} is damaged, so images are checked that it should know.")
        self._is_damaged = True

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _checksum(what: str, name: object, stamp: object, text: object) -> int | None:
    """Return the checksum of an entry; None where it is not of the types that we write."""
    if not (isinstance(name, bytes) and isinstance(stamp, str) and isinstance(text, str)):
        return None
    return checksum(b"\0".join((what.encode(), name, stamp.encode(), text.encode())))


def _name(split: Split, position: int) -> bytes | None:
    try:
        return os.fsencode(split.image_name(position))
    except UnicodeEncodeError:
        return None
