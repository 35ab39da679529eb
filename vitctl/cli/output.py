"""Results on stdout: one JSON document, or a few aligned lines."""

from collections.abc import Iterable, Sequence

import typer

from vitctl.primitives.files import json_text
from vitctl.results.result import Result


def print_json(result: Result) -> None:
    """Print a result as one JSON document; NaN and infinities are a bug and raise ValueError."""
    typer.echo(json_text(result.as_json()), nl=False)


def printable(text: str) -> str:
    """Return ``text`` with the bytes of a file name that are not UTF-8 replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print one ``name  value`` line per pair, values aligned."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(printable(f"{name:<{width}}  {value}"))


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table: left-aligned columns, two spaces apart, no trailing blanks."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        typer.echo(printable(line.rstrip()))
