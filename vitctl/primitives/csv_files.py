"""CSV as people open it: in a terminal, in a spreadsheet. The only home of ``csv.writer``."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from vitctl.primitives.files import whole_file
from vitctl.shown import shown_cell


def write_rows(file: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the header among them; text is shown (``vitctl.shown``), numbers are as they are, None is empty."""
    csv.writer(file).writerows([shown_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a file of rows in UTF-8, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, rows)
