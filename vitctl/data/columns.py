"""Images and labels in the columns of a Hugging Face ``datasets.Dataset``.

What tables, saved data sets and the hub have in common: which column holds the images, which the classes,
and how an image is opened from bytes or a path.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitctl.data.groups import group_names
from vitctl.data.images import open_image
from vitctl.data.labels import class_names, is_text
from vitctl.data.source import SourceOptions, Split, split_from_names
from vitctl.errors import DataError, did_you_mean
from vitctl.primitives.cache import file_stamp
from vitctl.primitives.documents import foreign
from vitctl.primitives.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = (
    "image", "img", "file_name", "filename", "file", "image_path", "img_path", "filepath", "path", "image_file",
    "images",
)  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "label_name", "category", "target", "cls", "y")
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SET = re.compile(r"[ _-]?set$")


@dataclass(frozen=True)
class ColumnImages:
    """Images in a column of a data set, as encoded bytes or paths; decoded only when asked for.

    Attributes:
        dataset: Holds the column; memory-mapped, so it travels to worker processes by reference.
        column: Cast to ``datasets.Image(decode=False)``: ``{"bytes", "path"}``.
        prefix: Images of bytes are called ``prefix/row``.
        version: Stamp of those images.
        paths: Absolute path by row, for the rows without bytes.
    """

    dataset: "Dataset"
    column: str
    prefix: str
    version: str
    paths: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` from its bytes, or from the file at its path."""
        if row in self.paths:
            return open_image(self.paths[row])
        value = self.dataset[row][self.column]
        if value is None or value.get("bytes") is None:
            raise ValueError("the row holds no image")
        return open_image(io.BytesIO(value["bytes"]))

    def name(self, row: int) -> str:
        """Return the path, or ``prefix/row``."""
        return self.paths.get(row, f"{self.prefix}/{row}")

    def stamp(self, row: int) -> str:
        """Return a text that changes with the file at the path, or with those of the data set."""
        return file_stamp(self.paths[row]) if row in self.paths else self.version


def split_named(text: str) -> str | None:
    """Return the split that somebody calls ``text``, in any case, with or without "set"; None where it is another."""
    return SPLIT_NAMES.get(_SET.sub("", text.strip().lower()))


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep ``datasets`` from logging, and without a terminal from drawing its bars, inside the block."""
    import datasets

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # errors are raised as well
    hide = not sys.stderr.isatty() and datasets.is_progress_bar_enabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if hide:
            datasets.enable_progress_bars()


def root_cause(error: BaseException) -> str:
    """Return in one line what lies at the bottom of ``datasets``' chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")


def find_columns(dataset: "Dataset", options: SourceOptions, *, where: str) -> SourceOptions:
    """Return ``options`` with the image and label column found where they are not given.

    The image column is the one of type ``Image``, else one of ``IMAGE_COLUMNS``; the label column the one of
    type ``ClassLabel``, else one of ``LABEL_COLUMNS``.

    Raises:
        DataError: A column that is given is not there, or none or several could be meant.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    features = dataset.features
    check_columns(dataset, options, where=where)
    image = options.image_column or _only(
        [name for name, kind in features.items() if isinstance(kind, ImageFeature)],
        [name for name in features if name.lower() in IMAGE_COLUMNS],
        what="image", features=features, where=where,
    )  # fmt: skip
    label = options.label_column or _only(
        [name for name, kind in features.items() if isinstance(kind, ClassLabel)],
        [name for name in features if name.lower() in LABEL_COLUMNS and name != image],
        what="label", features=features, where=where,
    )  # fmt: skip
    return replace(options, image_column=image, label_column=label)


def check_columns(dataset: "Dataset", options: SourceOptions, *, where: str) -> None:
    """Check that the columns named in ``options`` are there.

    Raises:
        DataError: One is not; the sentence lists those there are, and the nearest.
    """
    for option, column in options.given().items():
        if option.endswith("_column") and column not in dataset.features:
            flag = "--" + option.replace("_", "-")
            raise DataError(
                f"{where} has no column {column!r} ({flag}); it has {_listed(dataset.features)}."
                f"{did_you_mean(column, dataset.features)}"
            )


def _only(typed: Sequence[str], named: Sequence[str], *, what: str, features: Any, where: str) -> str:
    found = typed or named
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{where} has more than one {what} column: {_listed(found)}. Choose with --{what}-column.")
    raise DataError(
        f"{where} has no column known to hold {what}s; its columns are {_listed(features)}. Name it with "
        f"--{what}-column."
    )


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def column_values(dataset: "Dataset", column: str, *, where: str) -> list[Any]:
    """Return the values of one column, without reading the others.

    Raises:
        DataError: They cannot be read.
    """
    with foreign(
        f"Column {column!r} of {where}", DataError, expected="values that can be read; the file may be damaged"
    ):
        values: list[Any] = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def label_names(dataset: "Dataset", column: str, *, where: str) -> list[str]:
    """Return the class name of every row: of ``ClassLabel`` its names, of others what ``class_names`` makes of them.

    Raises:
        DataError: A row has no label, or several (multi-label), or what is no class name.
    """
    from datasets import ClassLabel

    kind, values = dataset.features[column], column_values(dataset, column, where=where)
    if isinstance(kind, ClassLabel):
        values = [None if value is None or value < 0 else value for value in values]
    written = class_names(values, column, where=where)
    if isinstance(kind, ClassLabel):
        wrong = [name for name in kind.names if not isinstance(name, str) or not is_text(name)]
        if wrong:
            raise DataError(f"{where} names a class of column {column!r} {wrong[0]!r}; expected text.")
        beyond = next((row for row, value in enumerate(values) if value >= len(kind.names)), None)
        if beyond is not None:
            raise DataError(
                f"{where} holds class {values[beyond]} in column {column!r} of row {beyond + 1}, and names for "
                f"{len(kind.names)} classes; expected numbers from 0 to {len(kind.names) - 1}."
            )
        return [kind.names[value] for value in values]
    return written


def column_split(
    name: str,
    dataset: "Dataset",
    options: SourceOptions,
    *,
    where: str,
    prefix: str,
    root: Path | None = None,
    inside: Sequence[Path] | None = None,
) -> Split:
    """Return the images and labels of ``dataset`` as a split called ``name``.

    Args:
        name: ``train``, ``val``, ``test`` or ``all``.
        dataset: Its image column holds bytes or paths.
        options: As ``find_columns`` returned them.
        where: What to call it in messages.
        prefix: Images are called ``prefix/row``.
        root: Folder that relative paths start from; None refuses them.
        inside: Folders in one of which every path must lie; None allows any.

    Raises:
        DataError: There are no rows, the image column holds no images, a path may not be opened, or labels are
            missing.
    """
    from datasets import Image as ImageFeature

    image, label = str(options.image_column), str(options.label_column)
    if not len(dataset):
        raise DataError(f"{where} has no rows; expected one per image.")
    names = label_names(dataset, label, where=where)
    try:
        encoded = dataset.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    except Exception as error:  # what Arrow raises for a cast it cannot do has no common base class
        if is_out_of_memory(error):
            raise
        raise DataError(
            f"{where} holds {dataset.features[image]} in column {image!r}; expected images (bytes or paths). Name "
            "another with --image-column."
        ) from error
    version = ",".join(file_stamp(file["filename"]) for file in dataset.cache_files) or dataset._fingerprint
    paths = _paths(encoded, image, where=where, root=root, inside=inside)
    split = split_from_names(name, ColumnImages(encoded, image, prefix, version, paths), names)
    return with_groups(split, dataset, options, where=where)


def _paths(
    encoded: "Dataset", column: str, *, where: str, root: Path | None, inside: Sequence[Path] | None
) -> dict[int, str]:
    """Return the absolute path by row of the images without bytes; looks at no bytes."""
    paths: dict[int, str] = {}
    row = 0
    for batch in encoded.with_format("arrow").iter(batch_size=1000):
        for chunk in batch[column].chunks:
            if chunk.field("bytes").null_count:
                texts = chunk.field("path").to_pylist()
                without = zip(chunk.field("bytes").is_null().to_pylist(), texts, strict=True)
                for index, (is_missing, text) in enumerate(without, start=row):
                    if is_missing and text:
                        paths[index] = _allowed(text, index, where=where, root=root, inside=inside)
            row += len(chunk)
    return paths


def _allowed(text: str, row: int, *, where: str, root: Path | None, inside: Sequence[Path] | None) -> str:
    try:
        if root is None and not os.path.isabs(text):
            raise ValueError("is relative, to no known folder")
        path = resolve_image_path(text, root or Path("/"))
        if inside is not None and not any(Path(path).resolve().is_relative_to(one.resolve()) for one in inside):
            raise ValueError("lies elsewhere on this machine")
    except ValueError as error:
        raise DataError(
            f"Row {row + 1} of {where} names the image {text!r}, which {error}; expected image bytes or a path that "
            "may be opened."
        ) from error
    return path


def with_groups(split: Split, dataset: "Dataset", options: SourceOptions, *, where: str) -> Split:
    """Return ``split`` with the groups that its group column names, if there is one.

    Raises:
        DataError: A row names none.
    """
    if options.group_column is None:
        return split
    values = column_values(dataset, options.group_column, where=where)
    return replace(split, groups=group_names(values, options.group_column, where=where))


def is_address(text: str) -> bool:
    """Return whether ``text`` is a URL rather than a path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.isalnum()


def resolve_image_path(text: str, root: Path) -> str:
    """Return the absolute path that ``text`` in a table stands for.

    Args:
        text: As the table has it.
        root: Folder that relative paths start from.

    Backslashes separate folders where no file has them in its name.

    Raises:
        ValueError: It is empty, an address, or climbs out of ``root``; the text says which.
    """
    if not text:
        raise ValueError("is empty")
    if is_address(text):
        raise ValueError("is an address, and vitctl downloads nothing")
    if "\0" in text:
        raise ValueError("holds a null character")
    if "\\" in text and not (root / text).exists():
        text = text.replace("\\", "/")  # written on Windows
    if os.path.isabs(text):
        return os.path.normpath(text)
    if os.path.normpath(text).split(os.sep)[0] == os.pardir:
        raise ValueError(f"climbs out of {root}")
    return os.path.normpath(root / text)
