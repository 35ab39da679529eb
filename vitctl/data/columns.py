"""Images and labels in the columns of a Hugging Face ``datasets.Dataset``.

What tables, saved data sets and the hub have in common: which column holds the images, which the classes,
and how an image is opened from bytes or a path.
"""

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitctl.data.source import SourceOptions, Split, split_from_names
from vitctl.errors import DataError, did_you_mean
from vitctl.primitives.files import file_stamp

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


@dataclass(frozen=True)
class ColumnImages:
    """Images in a column of a data set, as encoded bytes or paths; decoded only when asked for.

    Attributes:
        dataset: Holds the column; memory-mapped, so it travels to worker processes by reference.
        column: Cast to ``datasets.Image(decode=False)``: ``{"bytes", "path"}``.
        prefix: Names are ``prefix/row``.
        version: Stamp of every image.
    """

    dataset: "Dataset"
    column: str
    prefix: str
    version: str

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` from its bytes, or from the file at its path."""
        value = self.dataset[row][self.column]
        if value is None:
            raise ValueError("the row holds no image")
        if value.get("bytes") is not None:
            return Image.open(io.BytesIO(value["bytes"]))
        path = value.get("path") or ""
        if is_address(path) or not os.path.isabs(path):
            raise ValueError(f"the row has no bytes, only {path!r}; expected bytes or an absolute path")
        return Image.open(path)

    def name(self, row: int) -> str:
        """Return ``prefix/row``."""
        return f"{self.prefix}/{row}"

    def stamp(self, row: int) -> str:
        """Return a text that changes with the files of the data set."""
        return self.version


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep ``datasets`` from logging, and without a terminal from drawing its bars, inside the block."""
    import sys

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


def column_values(dataset: "Dataset", column: str) -> list[Any]:
    """Return the values of one column, without reading the others."""
    values: list[Any] = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def label_names(dataset: "Dataset", column: str, *, where: str) -> list[str]:
    """Return the class name of every row: of integers their digits, of ``ClassLabel`` its names.

    Raises:
        DataError: The labels are neither, or a row has none, or several (multi-label).
    """
    from datasets import ClassLabel

    kind, values = dataset.features[column], column_values(dataset, column)
    several = next((row for row, value in enumerate(values) if isinstance(value, (list, dict))), None)
    if several is not None:
        raise DataError(
            f"{where} is multi-label: column {column!r} of row {several + 1} holds {str(values[several])[:60]}. vitctl "
            "needs exactly one class per image for now."
        )
    is_missing = [value is None or value == "" or (isinstance(kind, ClassLabel) and value < 0) for value in values]
    if any(is_missing):
        raise DataError(
            f"{where} has {sum(is_missing)} of {len(values)} rows without a label in column {column!r}, row "
            f"{is_missing.index(True) + 1} first; expected a class in every row. Fill or remove them."
        )
    wrong = next((value for value in values if not isinstance(value, (int, str)) or isinstance(value, bool)), None)
    if wrong is not None:
        raise DataError(
            f"{where} holds {type(wrong).__name__} values in column {column!r}, {wrong!r} first; expected class names "
            "or integers. Name another with --label-column."
        )
    if isinstance(kind, ClassLabel):
        return [kind.names[value] for value in values]
    return [str(value) for value in values]


def column_split(name: str, dataset: "Dataset", options: SourceOptions, *, where: str, prefix: str) -> Split:
    """Return the images and labels of ``dataset`` as a split called ``name``.

    Args:
        name: ``train``, ``val``, ``test`` or ``all``.
        dataset: Its image column holds bytes, or paths that are absolute.
        options: As ``find_columns`` returned them.
        where: What to call it in messages.
        prefix: Images are called ``prefix/row``.

    Raises:
        DataError: There are no rows, the image column holds no images, or labels are missing.
    """
    from datasets import Image as ImageFeature

    image, label = str(options.image_column), str(options.label_column)
    if not len(dataset):
        raise DataError(f"{where} has no rows; expected one per image.")
    names = label_names(dataset, label, where=where)
    try:
        encoded = dataset.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    except Exception as error:  # what Arrow raises for a cast it cannot do has no common base class
        raise DataError(
            f"{where} holds {dataset.features[image]} in column {image!r}; expected images (bytes or paths). Name "
            "another with --image-column."
        ) from error
    version = ",".join(file_stamp(file["filename"]) for file in dataset.cache_files)
    split = split_from_names(name, ColumnImages(encoded, image, prefix, version), names)
    return with_groups(split, dataset, options)


def with_groups(split: Split, dataset: "Dataset", options: SourceOptions) -> Split:
    """Return ``split`` with the groups that its group column names, if there is one."""
    if options.group_column is None:
        return split
    groups = [str(value) for value in column_values(dataset, options.group_column)]
    return replace(split, groups=np.array(groups, dtype=object))


def is_address(text: str) -> bool:
    """Return whether ``text`` is a URL rather than a path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.isalnum()


def resolve_image_path(text: str, root: Path) -> str:
    """Return the absolute path that ``text`` in a table stands for.

    Args:
        text: As the table has it.
        root: Folder that relative paths start from.

    Raises:
        ValueError: It is empty, an address, or climbs out of ``root``; the text says which.
    """
    if not text:
        raise ValueError("is empty")
    if is_address(text):
        raise ValueError("is an address, and vitctl downloads nothing")
    if "\0" in text:
        raise ValueError("holds a null character")
    if os.path.isabs(text):
        return os.path.normpath(text)
    if os.path.normpath(text).split(os.sep)[0] == os.pardir:
        raise ValueError(f"climbs out of {root}")
    return os.path.normpath(root / text)
