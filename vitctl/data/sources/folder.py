"""A folder of class folders, or of splits that hold class folders.

``pets/cat/1.jpg``: each sub-folder is a class, whatever lies below it. A folder is read as splits when it
holds ``train`` and, beside it, nothing but ``val`` (or ``valid``, ``validation``) and ``test``. ``datasets``'
imagefolder is not used because it sorts 1, 10, 2, merges the classes of all splits, takes files named
``test_1.png`` for a split and drops the labels of a single class; timm's reader is not because it walks
symbolic links that lead back forty times and passes over folders that may not be read.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from vitctl.data.images import EXTENSIONS, is_hidden, open_image
from vitctl.data.source import LazySplits, Source, SourceOptions, Split, split_from_names
from vitctl.errors import DataError, did_you_mean
from vitctl.primitives.cache import file_stamp
from vitctl.primitives.files import user_path
from vitctl.primitives.natural_order import natural_key

OPTIONS: tuple[str, ...] = ()
VALIDATION_NAMES = ("val", "valid", "validation")


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
        DataError: It is not a folder, or has two validation folders. A split that holds no image raises it
            when the split is asked for.
    """
    folder = user_path(spec).absolute()
    if not folder.is_dir():
        raise DataError(_what_is_wrong(folder))
    subfolders = _subfolders(folder)
    names = {path.name for path in subfolders}
    if "train" in names and names <= {"train", "test", *VALIDATION_NAMES}:
        validation = [path for path in subfolders if path.name in VALIDATION_NAMES]
        if len(validation) > 1:
            listed = " and ".join(path.name for path in validation)
            raise DataError(f"{folder} holds {listed}; expected one validation folder. Keep one of them.")
        order = [folder / "train", *validation, *(path for path in subfolders if path.name == "test")]
        names_of = {path: "val" if path.name in VALIDATION_NAMES else path.name for path in order}
        readers = {name: partial(_read_split, path, name) for path, name in names_of.items()}
        description = f"a folder with {', '.join(path.name + '/' for path in order)}"
    else:
        readers = {"all": partial(_read_split, folder, "all")}
        description = "a folder of class folders"
    return Source(spec=str(folder), description=description, splits=LazySplits(readers))


def _subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, below=folder)]
    return sorted(found, key=lambda path: natural_key(path.name))


def _read_split(folder: Path, name: str) -> Split:
    classes = _subfolders(folder)
    paths: list[str] = []
    label_names: list[str] = []
    empty: list[str] = []
    for path in classes:
        listed = sorted(_image_files(path), key=natural_key)
        paths += listed
        label_names += [path.name] * len(listed)
        if not listed:
            empty.append(path.name)
    if not paths:
        raise DataError(_why_no_images(folder, classes))
    split = split_from_names(name, FileImages(tuple(paths)), label_names)
    return replace(split, empty_classes=tuple(empty))


def _image_files(folder: Path) -> list[str]:
    """Return the image files in and below ``folder``, links followed.

    Raises:
        DataError: A link leads back to a folder above it, or a folder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; expected folders that you may read."
        ) from error

    found: list[str] = []
    for parent, subfolders, files in os.walk(folder, onerror=refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not is_hidden(Path(parent, name), below=folder)]
        for name in subfolders:
            path = os.path.join(parent, name)
            if os.path.islink(path) and _leads_back(Path(path), below=folder):
                raise DataError(
                    f"{path} is a link that leads back to {Path(path).resolve()}, a folder above it; its images would "
                    "count again and again. Remove the link."
                )
        found += [os.path.join(parent, name) for name in files if _is_image_name(name)]
    return found


def _leads_back(link: Path, *, below: Path) -> bool:
    """Return whether ``link`` leads to a folder on the way from ``below`` to it, or to one that holds such a folder."""
    target = link.resolve()
    way = [parent for parent in link.parents if parent == below or parent.is_relative_to(below)]
    return any(parent.resolve().is_relative_to(target) for parent in way)


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _what_is_wrong(folder: Path) -> str:
    expected = (
        "expected 'digits', a folder of class folders, a folder of IDX files, a table (.csv .tsv .jsonl .parquet), "
        "a folder written by datasets.save_to_disk, .tar shards, or hub:OWNER/NAME"
    )
    if folder.exists():
        return f"{folder} is {'a file' if folder.is_file() else 'no regular file'}; {expected}."
    siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return f"There is nothing at {folder}; {expected}.{did_you_mean(folder.name, ['digits', *siblings])}"


def _why_no_images(folder: Path, classes: list[Path]) -> str:
    if classes:
        return (
            f"{folder} has {len(classes)} sub-folder(s) but no image in them; expected image files "
            f"({' '.join(EXTENSIONS)}) in one folder per class."
        )
    loose = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    if loose:
        return (
            f"{folder} holds {len(loose)} image(s) but no class folders; expected one folder per class. Move the "
            f"images of each class into a folder named after it."
        )
    return f"{folder} is empty; expected one folder of images per class."
