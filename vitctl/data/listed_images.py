"""Images that a file lists, to be left out of training: the labels that somebody looked at and found wrong.

The file is ``suspicious.csv`` of ``vitctl data --model``, or any CSV with a column ``image``. A run remembers it by its
path and content, ``FILE#sha256=...``, so that it does not go on with another list than it began with.
"""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.data.image_names import names_below_root
from vitctl.data.source import Source, Split, composed_name
from vitctl.errors import DataError, SettingError
from vitctl.primitives.csv_files import as_written, read_csv, write_csv
from vitctl.primitives.documents import UnusableDocument, check_regular, peek_document
from vitctl.primitives.files import sha256_of, user_path
from vitctl.results.data import SuspiciousLabel

IMAGE, FLAGGED = "image", "flagged"
_HEADER = (IMAGE, "class", "probability", "suggested", "suggested_probability", FLAGGED)
_WORDS = (IMAGE, "class", "suggested")  # columns that are as JSON has them; a spreadsheet writes numbers anew
_MARK = "#sha256="
_DIGITS = 16  # of the hash, in hexadecimal: 64 bits
_YES, _NO = ("yes", "true", "1", "y"), ("no", "false", "0", "n", "")


@dataclass(frozen=True)
class ListedImages:
    """The images that a file lists.

    Attributes:
        spec: The file's absolute path and its hash, as a run remembers it.
        path: The file.
        names: As they stand there, each once.
    """

    spec: str
    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """What became of a list of images.

    Attributes:
        spec: As ``ListedImages`` has it.
        positions: (N_out,) int64, the images that were.
        told: How many these are, in words.
        notes: Sentences that the user should see.
    """

    spec: str
    positions: np.ndarray
    told: str
    notes: tuple[str, ...]


def read_listed_images(spec: str) -> ListedImages:
    """Return what ``FILE.csv`` lists, or ``FILE.csv#sha256=...``, which has to have that content.

    Raises:
        SettingError: The content is another.
        DataError: The file cannot be read, has no column ``image``, or lists nothing.
    """
    text, mark, expected = spec.rpartition(_MARK)
    path = user_path(text if mark else spec).absolute()
    try:
        check_regular(path)
        found = sha256_of(path)[:_DIGITS]
        columns = read_csv(path)
    except (OSError, UnusableDocument) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"--clean {path} cannot be read: {why}; expected a CSV file with a column {IMAGE!r}."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"--clean {path} cannot be read as CSV: {error}. Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"--clean {path} cannot be read as CSV: {error}.") from error
    if mark and found != expected:
        raise SettingError(
            f"--clean {path} is no longer the list that the run was made with (sha256 {found}, expected {expected}). "
            "Bring that back, or train anew with the list as it is now, in another folder or with --overwrite.",
            field="clean",
        )
    names = tuple(dict.fromkeys(_flagged(columns, path)))
    if not names:
        raise DataError(f"--clean {path} lists no image to leave out; leave --clean out.")
    return ListedImages(f"{path}{_MARK}{found}", path, names)


def _flagged(columns: dict[str, list[str]], path: Path) -> list[str]:
    """Return the names to leave out."""
    if IMAGE not in columns:
        raise DataError(
            f"--clean {path} has the columns {', '.join(columns)}; expected one called {IMAGE!r}, as suspicious.csv of "
            "'vitctl data --model' has."
        )
    names = columns[IMAGE]
    if FLAGGED not in columns:
        return [name for name in names if name]
    marks = [mark.strip().lower() for mark in columns[FLAGGED]]
    odd = next((row for row, mark in enumerate(marks) if mark not in (*_YES, *_NO)), None)
    if odd is not None:
        raise DataError(
            f"--clean {path} has {columns[FLAGGED][odd]!r} in column {FLAGGED!r} of {names[odd]!r}; expected yes or no."
        )
    return [name for name, mark in zip(names, marks, strict=True) if name and mark in _YES]


def write_suspicious(path: Path, listed: Sequence[SuspiciousLabel]) -> None:
    """Write the labels that look wrong as a list that ``read_listed_images`` reads.

    Raises:
        OSError: It cannot be written.
    """
    rows = [
        (
            one.image,
            one.class_name,
            one.probability,
            one.suggested,
            one.suggested_probability,
            _mark(one.is_flagged),
        )
        for one in listed
    ]
    write_csv(path, [_HEADER, *rows])


def check_not_edited(path: Path, report: Path) -> None:
    """Check that the list at ``path``, where there is one, may be replaced: people are told to write into it.

    Args:
        path: As ``write_suspicious`` wrote it.
        report: The JSON file that was written with it.

    Raises:
        SettingError: It is not what the report has.
    """
    if not os.path.lexists(path):
        return
    try:
        written = peek_document(report)["suspicious"]
        is_as_written = _words_of(read_csv(path)) == _as_columns(written)
    except (OSError, ValueError, csv.Error, DataError, KeyError, TypeError):  # neither need be one
        is_as_written = False
    if not is_as_written:
        raise SettingError(
            f"{path} is not the list that {report.name} beside it has: it was edited, or is of another report. It is "
            "not replaced; move it away, or give another folder with --out.",
            field="out",
        )


def _words_of(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what people read in a list, and may have changed; further columns too."""
    numbers = set(_HEADER) - {*_WORDS, FLAGGED}
    return {name: column for name, column in columns.items() if name not in numbers}


def _as_columns(written: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the same of what a report has."""
    words = {name: [as_written(one[name]) for one in written] for name in _WORDS}
    return words | {FLAGGED: [_mark(one["is_flagged"]) for one in written]}


def _mark(is_flagged: bool) -> str:
    return _YES[0] if is_flagged else _NO[0]


def leave_out(
    listed: ListedImages, train: np.ndarray, images: Split, everything: Split, source: Source
) -> tuple[np.ndarray, LeftOut]:
    """Return the positions to train on that are not listed, and what is to be said of it.

    A name is that of an image as ``vitctl data`` says it, or a path relative to the data's folder. Where there is no
    such image, another way to write the path will do: ``./a.png``, ``x/../a.png``, a backslash between folders.

    Args:
        listed: The list.
        train: (N_train,) int64, positions in ``images``; the others are for validation, and stay.
        images: The training images that can be read, those held out among them.
        everything: All training images.
        source: Theirs.

    Raises:
        DataError: None of the names is that of an image, or nothing is left to train on.
    """
    named = _positions(listed.names, images, source)
    missing = [name for name, found in named.items() if not found]
    unread = _positions(missing, everything, source) if missing and len(everything) > len(images) else {}
    unknown = [name for name in missing if not unread.get(name)]
    if len(unknown) == len(named):
        raise DataError(
            f"--clean {listed.path} lists {len(named):,} image{'s' * (len(named) > 1)}, {unknown[0]!r} first, and none "
            f"is a training image of {source.spec}; expected names as 'vitctl data' says them, such as "
            f"{images.image_name(0)!r}."
        )
    positions = np.array([position for found in named.values() for position in found], dtype=np.int64)
    kept = np.setdiff1d(train, positions)
    if not len(kept):
        raise DataError(f"--clean {listed.path} lists every image that there is to train on; expected some to be left.")
    num_out = len(train) - len(kept)
    num_stay = len(np.unique(positions)) - num_out
    told = f"left out: {num_out:,} of {len(named):,} listed in {listed.path}"
    if num_stay:
        verbs = ("are", "stay") if num_stay > 1 else ("is", "stays")
        told += f"; {num_stay:,} of them {verbs[0]} held out and {verbs[1]}"
    notes = []
    if unknown:
        what = f"{len(unknown):,} images that are" if len(unknown) > 1 else "an image that is"
        notes.append(
            f"--clean {listed.path} lists {what} not among the training images of {source.spec}, {unknown[0]!r} first."
        )
    return kept, LeftOut(listed.spec, np.intersect1d(train, positions), told, tuple(notes))


def _positions(names: Iterable[str], images: Split, source: Source) -> dict[str, list[int]]:
    """Return the positions of the images that each of ``names`` stands for."""
    places = _places(images, source)
    found = {name: places.get(name, []) for name in names}
    if not all(found.values()):
        alike: dict[str, set[int]] = defaultdict(set)
        for known, positions in places.items():
            alike[_plain(known)].update(positions)
        found = {name: one or sorted(alike.get(_plain(name), ())) for name, one in found.items()}
    return found


def _plain(name: str) -> str:
    """Return the one way to write a path of ``name``: whoever wrote the list may have used another."""
    return os.path.normpath(composed_name(name).strip().replace("\\", "/"))


def _places(images: Split, source: Source) -> dict[str, list[int]]:
    """Return the positions of images by every name that a list may have for them."""
    places: dict[str, list[int]] = defaultdict(list)
    names = images.image_names()
    below_root = names_below_root(names, source.spec, image_root=source.options.image_root)
    for position, both in enumerate(zip(names, below_root, strict=True)):
        for known in {*both, *map(as_written, both)}:  # as they are, and as a CSV file shows them
            places[known].append(position)
    return places
