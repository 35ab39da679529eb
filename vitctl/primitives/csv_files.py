"""CSV as people open it and save it: in a terminal, in a spreadsheet. The only home of ``csv.writer``."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from vitctl.errors import DataError
from vitctl.primitives.files import whole_file
from vitctl.shown import shown_cell


def write_rows(file: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the header among them; text is shown (``vitctl.shown``), numbers are as they are, None is empty."""
    csv.writer(file).writerows([as_written(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def as_written(text: str) -> str:
    """Return ``text`` as a file of rows has it."""
    return shown_cell(text)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a file of rows in UTF-8, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, rows)


def read_csv(path: Path, kind: str = "CSV") -> dict[str, list[str]]:
    """Return the columns of a CSV file, every value the text it is.

    What separates them is the first of comma, semicolon, tab in its first line.

    Args:
        path: In UTF-8.
        kind: ``CSV``, or ``TSV`` where tabs separate.

    Raises:
        DataError: It is empty, has two columns of one name, or a line of another length.
        UnicodeDecodeError: It is not UTF-8.
        csv.Error: It is no CSV.
        OSError: It cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        separator = "\t" if kind == "TSV" else next((mark for mark in ",;\t" if mark in first), ",")
        is_spaced = all(cell.startswith(" ") for cell in first.split(separator)[1:])  # "image, label": in every row
        reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=is_spaced)
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise DataError(f"{path} is empty; expected a first line with the names of the columns.")
        if len(set(header)) < len(header):
            raise DataError(f"{path} has two columns of one name in its first line: {', '.join(header)}. Rename one.")
        columns: dict[str, list[str]] = {name: [] for name in header}
        for row in reader:
            if not row:
                continue  # a blank line
            if len(row) != len(header):
                raise DataError(
                    f"Line {reader.line_num} of {path} has {len(row)} values; expected {len(header)}, as in its first "
                    "line. Quote values that hold the separator."
                )
            for name, value in zip(header, row, strict=True):
                columns[name].append(value)
    return columns
