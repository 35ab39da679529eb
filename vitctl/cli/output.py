"""Results on stdout: one JSON document, or a few aligned lines."""

from collections.abc import Iterable, Sequence

import typer

from vitctl.primitives.files import json_text
from vitctl.results.result import Result
from vitctl.shown import shown


def print_json(result: Result) -> None:
    """Print a result as one JSON document; NaN and infinities are a bug and raise ValueError."""
    typer.echo(json_text(result.as_json()), nl=False)


def print_line(text: str = "") -> None:
    """Print one line. Names in it may be anyone's, so every line a person reads on stdout is printed here."""
    typer.echo(shown(text))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print one ``name  value`` line per pair, values aligned."""
    rows = [(shown(name), value) for name, value in pairs]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_line(f"{name:<{width}}  {value}")


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table: left-aligned columns, two spaces apart, no trailing blanks."""
    table = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print_line(line.rstrip())
