"""A table of images: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with an image and a label column.

Images are bytes in the table, or paths: relative to the table or to ``image_root``, out of which they may not
climb, or absolute. A column ``split`` with the values train, val and test divides the table.

Parquet is read with ``datasets``, which makes a memory-mapped Arrow copy in vitctl's cache folder, kept until the
table changes. Its readers of CSV and JSON guess: the class ``01`` becomes 1, ``NA`` missing, a date a point in time,
and a row with a comma too many shifts the columns. So those are read with the standard library, where every value
stays the text it is, but for labels that are all numbers (``vitctl.data.labels.typed``).
"""

import atexit
import contextlib
import csv
import glob
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitctl.data.columns import (
    ColumnImages,
    column_split,
    column_values,
    find_columns,
    label_names,
    quiet_datasets,
    resolve_image_path,
    root_cause,
    split_named,
    with_groups,
)
from vitctl.data.labels import class_names, typed
from vitctl.data.source import Source, SourceOptions, Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError, SettingError
from vitctl.primitives.cache import (
    alone,
    cache_folder,
    file_checksum,
    file_stamp,
    keep,
    make_private,
    recall,
    say_damaged,
)
from vitctl.primitives.csv_files import read_csv
from vitctl.primitives.documents import UnusableDocument, foreign, parse_document
from vitctl.primitives.files import short_hash, user_path

if TYPE_CHECKING:
    from datasets import Dataset

OPTIONS: tuple[str, ...] = ("image_root", "image_column", "label_column", "group_column")
_CHECKSUMS = "checksums"
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
    dataset, values = _read_table(path, kind)
    options = find_columns(dataset, options, where=str(path))
    label = str(options.label_column)
    names = None
    if values:  # as they stand in the file: in Arrow a column has one type
        given = values[label] if kind == "JSON lines" else typed(values[label])
        names = class_names(given, label, where=str(path))
    root = path.parent
    if options.image_root is not None:
        root = user_path(options.image_root).absolute()
        if not root.is_dir():
            raise DataError(
                f"--image-root {root} is not a folder; expected the one that the paths in {path} start from."
            )
        options = replace(options, image_root=str(root))
    split, num_absolute = _whole_split(dataset, names, options, path, root)
    splits, notes = _divide(split, dataset, path)
    absolute = f" ({num_absolute:,} of {len(split):,} paths absolute)" if num_absolute else ""
    columns = f"images in column {options.image_column!r}{absolute}, classes in {label!r}"
    return Source(
        spec=str(path),
        description=f"a {kind} table: {columns}",
        splits=splits,
        notes=notes,
        options=options,
    )


def _read_table(path: Path, kind: str) -> tuple["Dataset", dict[str, list[Any]]]:
    """Return the table, with at least one row, and of a text table its columns as they stand in the file."""
    from datasets import Dataset

    if kind == "Parquet":
        return _read_parquet(path), {}
    try:
        columns = _read_json_lines(path) if kind == "JSON lines" else read_csv(path, kind)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as {kind}: {error}. Save it as UTF-8.") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path} cannot be read as {kind}: {root_cause(error)}.") from error
    if not next(iter(columns.values()), []):
        raise DataError(f"{path} has no rows; expected one per image.")
    with foreign(path, DataError, expected="names and values that are text", kind=kind):
        return Dataset.from_dict({name: _of_one_type(values) for name, values in columns.items()}), columns


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a file with a JSON object per line; a field that a line lacks is None."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                rows.append(parse_document(line.strip(), dict[str, Any], is_strict=False))
            except UnusableDocument as error:
                raise DataError(
                    f"Line {number} of {path} cannot be read: {error}; expected an object, {{...}}, per line."
                ) from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _of_one_type(values: list[Any]) -> list[Any]:
    """Return ``values`` as Arrow can hold them: all integers, or all texts (of anything else its JSON)."""
    if all(value is None or (type(value) is int and abs(value) < 2**63) for value in values):
        return values
    return [None if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()  # JSON can name half of a surrogate pair, which no text can hold


def _read_parquet(path: Path) -> "Dataset":
    import pyarrow.parquet as pq

    expected = "a whole Parquet file; it may be truncated: copy it again"
    with foreign(path, DataError, expected=expected, kind="Parquet"):
        num_rows = pq.ParquetFile(path).metadata.num_rows
    if not num_rows:
        raise DataError(f"{path} has no rows; expected one per image.")
    folder = _place_of_copy(path)
    try:
        make_private(folder.parent)
        with alone(folder.parent.with_suffix(".lock")):  # or two that start together undo each other's
            return _mapped(path, folder)
    except OSError as error:
        raise SettingError(
            f"{path} cannot be copied to {folder.parent}: {error.strerror}. Set VITCTL_CACHE to a folder with room."
        ) from error


def _mapped(path: Path, folder: Path) -> "Dataset":
    """Return the table from its copy in ``folder``, which is made where it is not there whole."""
    from datasets import Dataset

    for old in folder.parent.glob(f"{short_hash(str(path))}-*"):  # of a table that has changed since
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    if not _is_whole(folder):
        say_damaged(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
    make_private(folder)
    link = folder / "table.parquet"  # a name without characters that datasets takes for a pattern
    with contextlib.suppress(FileExistsError):  # from before
        link.symlink_to(path)
    expected = f"a whole Parquet file, and room for a copy in {folder.parent}"
    with foreign(path, DataError, expected=expected, kind="Parquet"), quiet_datasets():
        dataset = Dataset.from_parquet(glob.escape(str(link)), cache_dir=str(folder))
    if not (folder / _CHECKSUMS).exists():
        keep(folder / _CHECKSUMS, json.dumps(_checksums(folder)))
        time.sleep(0.03)  # a copy as young as that would have a stamp that nothing is remembered by: see file_stamp
    return dataset


def _place_of_copy(path: Path) -> Path:
    """Return the folder for the copy of ``path`` that Arrow can map; without a cache, one for this process alone."""
    cache = cache_folder()
    if cache is not None:
        return cache / "parquet" / f"{short_hash(str(path))}-{file_stamp(path)}"
    folder = Path(tempfile.mkdtemp(prefix="vitctl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "parquet" / "copy"


def _checksums(folder: Path) -> dict[str, int]:
    """Return the checksums of the Arrow files in and below ``folder``, by relative path."""
    return {str(file.relative_to(folder)): file_checksum(file) for file in sorted(folder.rglob("*.arrow"))}


def _is_whole(folder: Path) -> bool:
    """Return whether the Arrow files in ``folder``, if there are any, are those that were written."""
    known = recall(folder / _CHECKSUMS)
    try:
        found = _checksums(folder)
        return not found if known is None else bool(found == parse_document(known, dict[str, int]))
    except (OSError, UnusableDocument):
        return False


def _whole_split(
    dataset: "Dataset", names: list[str] | None, options: SourceOptions, path: Path, root: Path
) -> tuple[Split, int]:
    """Return all rows as the split ``all``, and how many of its paths are absolute."""
    from datasets import Value

    image = str(options.image_column)
    is_text = isinstance(dataset.features[image], Value) and dataset.features[image].dtype in ("string", "large_string")
    if not is_text:
        split = column_split("all", dataset, options, where=str(path), prefix=str(path), root=root)
        return split, sum(not Path(name).is_relative_to(root) for name in _paths(split))
    if names is None:
        names = label_names(dataset, str(options.label_column), where=str(path))
    texts = column_values(dataset, image, where=str(path))
    paths = _resolved(texts, root, path)
    _check_one_label_each(paths, names, path)
    split = with_groups(split_from_names("all", FileImages(tuple(paths)), names), dataset, options, where=str(path))
    return split, sum(os.path.isabs(text) for text in texts)


def _paths(split: Split) -> list[str]:
    """Return the paths of the images that are not bytes in the table."""
    return list(split.images.paths.values()) if isinstance(split.images, ColumnImages) else []


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
    first: dict[str, int] = {}
    for row, (image, name) in enumerate(zip(paths, names, strict=True)):
        other = first.setdefault(image, row)
        if names[other] != name:
            raise DataError(
                f"{path} is multi-label, or wrong in one row: row {row + 1} calls {image} {name!r}, row {other + 1} "
                f"{names[other]!r}. vitctl needs exactly one class per image for now."
            )


def _divide(split: Split, dataset: "Dataset", path: Path) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the splits that a column ``split`` names, or the one split ``all``; and notes."""
    if "split" not in dataset.features:
        return {"all": split}, ()
    values = [str(value).strip().lower() for value in column_values(dataset, "split", where=str(path))]
    unknown = sorted(value for value in set(values) if split_named(value) is None)
    if len(unknown) == len(set(values)):  # the column means something else
        return {"all": split}, (
            f"Column 'split' of {path} is not used: it holds {unknown[0]!r}; expected train, val and test only.",
        )
    if unknown:
        raise DataError(
            f"Row {values.index(unknown[0]) + 1} of {path} has {unknown[0]!r} in column 'split'; expected train, val "
            "or test in every row."
        )
    wanted = np.array([split_named(value) for value in values], dtype=object)
    present = [name for name in ("train", "val", "test") if (wanted == name).any()]
    return {name: split.select(np.flatnonzero(wanted == name), name=name) for name in present}, ()
