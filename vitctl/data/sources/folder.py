"""A folder of class folders, or of splits that hold class folders.

``pets/cat/1.jpg``: each sub-folder is a class, whatever lies below it. A folder is read as splits when it
holds ``train`` and, beside it, nothing but ``val`` (or ``valid``, ``validation``) and ``test``. Files are
listed with timm's reader; ``datasets``' imagefolder is not used because it sorts 1, 10, 2, merges the
classes of all splits, takes files named ``test_1.png`` for a split and drops the labels of a single class.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from vitctl.data.images import EXTENSIONS, read_rgb
from vitctl.data.source import Source, Split, split_from_names
from vitctl.errors import DataError, did_you_mean
from vitctl.primitives.files import user_path
from vitctl.primitives.natural_order import natural_key

VALIDATION_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True)
class FileImages:
    """Image files, by absolute path."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> Image.Image:
        """Return image ``row`` as RGB."""
        return read_rgb(Path(self.paths[row]))

    def name(self, row: int) -> str:
        """Return the path."""
        return self.paths[row]


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a folder."""
    return user_path(spec).is_dir()


def open_source(spec: str) -> Source:
    """Return the splits of the folder ``spec``: train, val, test as they are there, or ``all``.

    Raises:
        DataError: It is not a folder, holds no class folders, or a class folder of the training split
            holds no image.
    """
    folder = user_path(spec).absolute()
    if not folder.is_dir():
        raise DataError(_what_is_wrong(spec, folder))
    subfolders = _subfolders(folder)
    names = {path.name for path in subfolders}
    if "train" in names and names <= {"train", "test", *VALIDATION_NAMES}:
        validation = [path for path in subfolders if path.name in VALIDATION_NAMES]
        if len(validation) > 1:
            listed = " and ".join(path.name for path in validation)
            raise DataError(f"{folder} holds {listed}; expected one validation folder. Keep one of them.")
        order = [folder / "train", *validation, *(path for path in subfolders if path.name == "test")]
        splits = {("val" if path.name in VALIDATION_NAMES else path.name): _read_split(path) for path in order}
        description = f"a folder with {', '.join(path.name + '/' for path in order)}"
    else:
        splits = {"all": _read_split(folder)}
        description = "a folder of class folders"
    splits = {name: Split(name, s.images, s.rows, s.labels, s.class_names) for name, s in splits.items()}
    return Source(spec=str(folder), description=description, splits=splits)


def _subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    return sorted(found, key=lambda path: natural_key(path.name))


def _read_split(folder: Path) -> Split:
    classes = _subfolders(folder)
    paths: list[str] = []
    label_names: list[str] = []
    empty: list[str] = []
    for path in classes:
        found, _ = find_images_and_targets(str(path), types=EXTENSIONS, sort=False)
        listed = sorted((file for file, _ in found if not _is_hidden(Path(file), below=path)), key=natural_key)
        paths += listed
        label_names += [path.name] * len(listed)
        if not listed:
            empty.append(path.name)
    if not paths:
        raise DataError(_why_no_images(folder, classes))
    if empty and folder.name not in (*VALIDATION_NAMES, "test"):
        raise DataError(
            f"{folder} has class folders without an image: {', '.join(empty[:10])}; expected image files "
            f"({' '.join(EXTENSIONS)}). Fill or remove them."
        )
    return split_from_names(folder.name, FileImages(tuple(paths)), label_names)


def _is_hidden(path: Path, *, below: Path) -> bool:
    """Return whether a part of ``path`` below the class folder is hidden (``._1.jpg``, ``.ipynb_checkpoints``)."""
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _what_is_wrong(spec: str, folder: Path) -> str:
    expected = "expected 'digits', a folder of class folders, or a folder of IDX files"
    if folder.exists():
        return f"--data {spec} is a file; {expected}."
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
