"""A folder of class folders, or of splits that hold class folders.

``pets/cat/1.jpg``: each sub-folder is a class, whatever lies below it. ``vitctl.data.layouts`` tells classes from
splits. ``datasets``' imagefolder is not used because it sorts 1, 10, 2, merges the classes of all splits, takes files
named ``test_1.png`` for a split and drops the labels of a single class; timm's reader is not because it walks symbolic
links that lead back forty times and passes over folders that may not be read.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vitctl.data.class_folders import source_of_tree
from vitctl.data.endings import is_hidden_name
from vitctl.data.images import open_image
from vitctl.data.source import Source, SourceOptions
from vitctl.errors import DataError, did_you_mean
from vitctl.primitives.cache import file_stamp
from vitctl.primitives.files import user_path
from vitctl.primitives.natural_order import natural_key

OPTIONS: tuple[str, ...] = ("class_depth",)


@dataclass(frozen=True)
class FileImages:
    """Image files, by absolute path."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> Image.Image:
        """Return image ``row``, whatever its name says."""
        return open_image(self.paths[row])

    def name(self, row: int) -> str:
        """Return the path."""
        return self.paths[row]

    def stamp(self, row: int) -> str:
        """Return a text that changes with the file."""
        return file_stamp(self.paths[row])


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a folder."""
    return user_path(spec).is_dir()


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the splits of the folder ``spec``: train, val, test as they are there, or ``all``.

    Raises:
        DataError: It is not a folder, or nobody can tell its splits. A split that holds no image raises it when it is
            asked for.
    """
    folder = user_path(spec).absolute()
    if not folder.is_dir():
        raise DataError(_what_is_wrong(folder))
    return source_of_tree(FolderTree(folder), options, spec=str(folder), kind="a folder")


@dataclass(frozen=True)
class FolderTree:
    """A folder as ``vitctl.data.layouts.Tree``."""

    root: Path

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders in one; links to folders are folders."""
        _, found, _ = next(os.walk(self.root / place, onerror=_refuse))
        return sorted((name for name in found if not is_hidden_name(name)), key=natural_key)

    def files(self, place: str) -> list[str]:
        """Return the names of the files in a folder."""
        _, _, found = next(os.walk(self.root / place, onerror=_refuse))
        return [name for name in found if not is_hidden_name(name)]

    def walk(self, place: str) -> Iterator[str]:
        """Yield the paths, from a folder on, of the files in and below it.

        Raises:
            DataError: A link leads back to a folder above it, or a folder may not be read.
        """
        top = self.root / place
        start = len(os.path.join(top, ""))
        for parent, folders, names in os.walk(top, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if not is_hidden_name(name)]
            _check_links(parent, folders, top)
            below = os.path.join(parent[start:], "")
            yield from (below + name for name in names if not is_hidden_name(name))

    def where(self, place: str) -> str:
        """Return the path."""
        return str(self.root / place)

    def images(self, places: Sequence[str]) -> FileImages:
        """Return files as images."""
        top = os.path.join(self.root, "")
        return FileImages(tuple(top + place for place in places))


def _refuse(error: OSError) -> None:
    raise _closed(error) from error


def _closed(error: OSError) -> DataError:
    return DataError(f"{error.filename} cannot be read: {error.strerror}; expected folders that you may read.")


def _check_links(parent: str, names: Iterable[str], top: Path) -> None:
    for name in names:
        path = os.path.join(parent, name)
        if os.path.islink(path) and _leads_back(Path(path), below=top):
            raise DataError(
                f"{path} is a link that leads back to {Path(path).resolve()}, a folder above it; its images would "
                "count again and again. Remove the link."
            )


def _leads_back(link: Path, *, below: Path) -> bool:
    """Return whether ``link`` leads to a folder on the way from ``below`` to it, or to one that holds such a folder."""
    target = link.resolve()
    way = [parent for parent in link.parents if parent == below or parent.is_relative_to(below)]
    return any(parent.resolve().is_relative_to(target) for parent in way)


def _what_is_wrong(folder: Path) -> str:
    expected = (
        "expected 'digits', a folder of class folders, a folder of IDX files, a .zip of class folders, "
        "a table (.csv .tsv .jsonl .parquet), a folder written by datasets.save_to_disk, .tar shards, or hub:OWNER/NAME"
    )
    if folder.exists():
        return f"{folder} is {'a file' if folder.is_file() else 'no regular file'}; {expected}."
    siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return f"There is nothing at {folder}; {expected}.{did_you_mean(folder.name, ['digits', *siblings])}"
