"""A table of images: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with an image and a label column.

Images are bytes in the table, or paths: relative to the table or to ``image_root``, out of which they may not
climb, or absolute. A column ``split`` with the values train, val and test divides the table. Read with
``datasets``, which keeps an Arrow copy in its own cache (``HF_DATASETS_CACHE``); every value of a CSV stays the
text it is, so the class ``01`` does not become 1 and ``NA`` is not missing.
"""

import csv
import glob
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitctl.data.columns import (
    SPLIT_NAMES,
    column_split,
    column_values,
    find_columns,
    label_names,
    quiet_datasets,
    resolve_image_path,
    root_cause,
    with_groups,
)
from vitctl.data.source import Source, SourceOptions, Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError
from vitctl.primitives.files import user_path

if TYPE_CHECKING:
    from datasets import Dataset

OPTIONS: tuple[str, ...] = ("image_root", "image_column", "label_column", "group_column")
KINDS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".parquet": "Parquet"}


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a file with the ending of a table."""
    path = user_path(spec)
    return path.suffix.lower() in KINDS and path.is_file()


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the images of the table ``spec``, in the order of its rows.

    Raises:
        DataError: The table cannot be read, lacks a column, has rows without a label, or paths that are
            addresses or climb out of its folder.
    """
    path = user_path(spec).absolute()
    kind = KINDS[path.suffix.lower()]
    dataset = _read_table(path, kind)
    options = find_columns(dataset, options, where=str(path))
    root = path.parent
    if options.image_root is not None:
        root = user_path(options.image_root).absolute()
        if not root.is_dir():
            raise DataError(
                f"--image-root {root} is not a folder; expected the one that the paths in {path} start from."
            )
        options = replace(options, image_root=str(root))
    split, num_absolute = _whole_split(dataset, options, path, root)
    splits, notes = _divide(split, dataset, path)
    absolute = f" ({num_absolute:,} of {len(split):,} paths absolute)" if num_absolute else ""
    columns = f"images in column {options.image_column!r}{absolute}, classes in {options.label_column!r}"
    return Source(
        spec=str(path),
        description=f"a {kind} table: {columns}",
        splits=splits,
        notes=notes,
        options=options,
    )


def _read_table(path: Path, kind: str) -> "Dataset":
    from datasets import Dataset, Features, Value

    name = glob.escape(str(path))
    try:
        with quiet_datasets():
            if kind == "Parquet":
                table = Dataset.from_parquet(name)
            elif kind == "JSON lines":
                table = Dataset.from_json(name)
            else:
                header, separator = _csv_header(path, kind)
                features = Features({column: Value("string") for column in header})
                table = Dataset.from_csv(name, features=features, sep=separator, keep_default_na=False)
    except DataError:
        raise
    except Exception as error:  # pyarrow, pandas and datasets have no common base class
        raise DataError(
            f"{path} cannot be read as {kind}: {root_cause(error)}. Expected a table with a row per image."
        ) from error
    return table


def _csv_header(path: Path, kind: str) -> tuple[list[str], str]:
    """Return the column names, and what separates them: a tab, a comma, or a semicolon if there is no comma."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        separator = "\t" if kind == "TSV" else ";" if ";" in first and "," not in first else ","
        header = next(csv.reader(file, delimiter=separator), [])
    if not any(header):
        raise DataError(f"{path} is empty; expected a first line with the names of the columns.")
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of one name in its first line: {', '.join(header)}. Rename one.")
    return header, separator


def _whole_split(dataset: "Dataset", options: SourceOptions, path: Path, root: Path) -> tuple[Split, int]:
    """Return all rows as the split ``all``, and how many of its paths are absolute."""
    from datasets import Value

    image, label = str(options.image_column), str(options.label_column)
    is_text = isinstance(dataset.features[image], Value) and dataset.features[image].dtype in ("string", "large_string")
    if not is_text:
        return column_split("all", dataset, options, where=str(path), prefix=str(path)), 0
    if not len(dataset):
        raise DataError(f"{path} has no rows; expected one per image.")
    names = label_names(dataset, label, where=str(path))
    texts = column_values(dataset, image)
    paths = _resolved(texts, root, path)
    _check_one_label_each(paths, names, path)
    split = with_groups(split_from_names("all", FileImages(tuple(paths)), names), dataset, options)
    return split, sum(os.path.isabs(text) for text in texts)


def _resolved(texts: list[Any], root: Path, path: Path) -> list[str]:
    paths = []
    for row, text in enumerate(texts, start=1):
        try:
            paths.append(resolve_image_path(text or "", root))
        except ValueError as error:
            raise DataError(
                f"Row {row} of {path} names the image {text!r}, which {error}; expected a path below {root}, or an "
                "absolute one. --image-root moves where paths start."
            ) from error
    return paths


def _check_one_label_each(paths: list[str], names: list[str], path: Path) -> None:
    label_of: dict[str, str] = {}
    for row, (image, name) in enumerate(zip(paths, names, strict=True), start=1):
        if label_of.setdefault(image, name) != name:
            raise DataError(
                f"{path} is multi-label: row {row} calls {image} {name!r}, an earlier row {label_of[image]!r}. vitctl "
                "needs exactly one class per image for now."
            )


def _divide(split: Split, dataset: "Dataset", path: Path) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the splits that a column ``split`` names, or the one split ``all``; and notes."""
    if "split" not in dataset.features:
        return {"all": split}, ()
    values = [str(value).strip().lower() for value in column_values(dataset, "split")]
    unknown = sorted(set(values) - set(SPLIT_NAMES))
    if unknown:
        return {"all": split}, (
            f"Column 'split' of {path} is not used: it holds {unknown[0]!r}; expected train, val and test only.",
        )
    wanted = np.array([SPLIT_NAMES[value] for value in values], dtype=object)
    present = [name for name in ("train", "val", "test") if (wanted == name).any()]
    return {name: split.select(np.flatnonzero(wanted == name), name=name) for name in present}, ()
