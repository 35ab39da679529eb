"""Files and folders that land whole: written beside their place, then renamed into it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitctl.primitives.atomic import partial_beside, put_in_place, recover, sync, sync_names
from vitctl.shown import shown_json


def user_path(text: str) -> Path:
    """Return the path a user wrote, with ``~`` and ``~name`` expanded where there is such a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def path_exists(text: str) -> bool:
    """Return whether there is anything at the path a user wrote; False where the system cannot tell."""
    try:
        return user_path(text).exists()
    except OSError:
        return False


def lies_inside(path: Path, folder: str) -> bool:
    """Return whether ``path`` is, or would be, in ``folder`` (a data spec that may be no path), links followed."""
    return os.path.isabs(folder) and path.resolve().is_relative_to(Path(folder).resolve())


def short_hash(text: str) -> str:
    """Return 16 hexadecimal digits that stand for ``text``, a path for example."""
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside ``path`` to write to; rename it to ``path``, on disk, if the block succeeds.

    If the block fails the partial file is removed and an existing ``path`` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_beside(path, is_folder=False) as partial:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync_names(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` to fill; put it in the place of ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    recover(path)
    with partial_beside(path, is_folder=True) as partial:
        yield partial
        sync(partial)
        put_in_place(partial, path)


def linked_copy(path: Path, copy: Path) -> None:
    """Make ``copy``, which is not there, a file or folder equal to ``path``: of hard links where the disk can.

    What is renamed into the place of a file of ``path`` later leaves the copy as it is.
    """
    if path.is_dir():
        shutil.copytree(path, copy, copy_function=_linked)
    else:
        _linked(path, copy)


def _linked(path: str | Path, copy: str | Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # FAT has no links, and some file systems have them for owners only
        shutil.copy2(path, copy)


@contextmanager
def whole_folders(parent: Path) -> Iterator[Path]:
    """Yield an empty folder to fill with folders; move them all into ``parent`` if the block succeeds.

    If it fails nothing is left, not even a ``parent`` (or a parent of it) that had to be made.

    Raises:
        OSError: A folder that is to be moved stands in ``parent`` already, and is not empty; or writing failed.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    moved: list[Path] = []
    is_done = False
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(parent / "export", is_folder=True) as staging:
            yield staging
            sync(staging)
            for folder in sorted(staging.iterdir()):
                os.rename(folder, parent / folder.name)
                moved.append(parent / folder.name)
            sync_names(parent)
            is_done = True
    finally:
        if not is_done:
            for folder in moved:
                shutil.rmtree(folder, ignore_errors=True)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; bytes of a file name that are none are escaped."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def json_text(document: Any) -> str:
    """Return one JSON document, ending in a newline.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON cannot say.
    """
    # a file name that is not UTF-8, escaped, survives the round trip
    return shown_json(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(path: Path, document: Any) -> None:
    """Write one JSON document, whole or not at all; NaN is an error."""
    write_text(path, json_text(document))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
