"""A folder written by ``datasets.save_to_disk``: a ``Dataset``, or a ``DatasetDict`` of splits.

It is memory-mapped where it lies; nothing is copied.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitctl.data.columns import check_columns, column_split, find_columns, quiet_datasets, split_named
from vitctl.data.source import LazySplits, Source, SourceOptions, Split
from vitctl.errors import DataError
from vitctl.primitives.documents import check_regular, foreign, read_document
from vitctl.primitives.files import user_path

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

OPTIONS: tuple[str, ...] = ("image_column", "label_column", "group_column")
MARKS = ("dataset_dict.json", "state.json")
DOCUMENTS = (*MARKS, "dataset_info.json")


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a folder with the files that ``save_to_disk`` writes."""
    folder = user_path(spec)
    return any((folder / mark).is_file() for mark in MARKS)


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the splits of the saved data set ``spec``; a single ``Dataset`` is the split ``all``.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    from datasets import load_from_disk

    folder = user_path(spec).absolute()
    expected = "what save_to_disk writes; write it again"
    for path in _named(folder, DOCUMENTS):  # datasets believes every word of them
        read_document(path, dict[str, Any], error=DataError, advice=f"expected {expected}")
    for path in _named(folder, ("*.arrow",)):
        with foreign(path, DataError, expected=expected):
            check_regular(path)
    with foreign(folder, DataError, expected=expected, kind="a saved data set"):
        with quiet_datasets():
            loaded = load_from_disk(str(folder))
    description = "a folder written by datasets.save_to_disk"
    return source_of(loaded, options, spec=str(folder), description=description, root=folder, inside=None)


def _named(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files in ``folder``, and in the folders of its splits, whose names fit."""
    return [path for pattern in patterns for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))]


def source_of(
    loaded: "Dataset | DatasetDict",
    options: SourceOptions,
    *,
    spec: str,
    description: str,
    root: Path | None,
    inside: Sequence[Path] | None,
) -> Source:
    """Return a loaded data set as a source; splits keep their names, ``validation`` and its like are ``val``.

    Args:
        loaded: One data set, the split ``all``, or several by name.
        options: As given.
        spec: What it was loaded from.
        description: A few words for the header.
        root: As for ``column_split``.
        inside: Likewise.

    Raises:
        DataError: A column is missing, or two splits would have one name.
    """
    parts = dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
    if not parts:
        raise DataError(f"{spec} holds no split; expected train at least.")
    options = find_columns(next(iter(parts.values())), options, where=spec)
    readers = {}
    for given, dataset in parts.items():
        name = split_named(given) or given
        if name in readers:
            raise DataError(f"{spec} holds two splits for {name}: {', '.join(parts)}. Keep one of them.")
        readers[name] = partial(_read_split, name, dataset, options, spec, given, root, inside)
    columns = f"images in column {options.image_column!r}, classes in {options.label_column!r}"
    return Source(spec, f"{description}: {columns}", LazySplits(readers), options=options)


def _read_split(
    name: str,
    dataset: "Dataset",
    options: SourceOptions,
    spec: str,
    given: str,
    root: Path | None,
    inside: Sequence[Path] | None,
) -> Split:
    where = spec if name == "all" else f"split {given} of {spec}"
    prefix = spec if name == "all" else f"{spec}/{given}"
    check_columns(dataset, options, where=where)
    return column_split(name, dataset, options, where=where, prefix=prefix, root=root, inside=inside)
