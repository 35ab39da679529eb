"""CSV and TSV as people save them: every value stays the text it is."""

import csv
from pathlib import Path

from vitctl.errors import DataError


def read_csv(path: Path, kind: str = "CSV") -> dict[str, list[str]]:
    """Return the columns of a CSV file; what separates them is the first of comma, semicolon, tab in its first line.

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
