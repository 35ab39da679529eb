"""Results on stdout: one JSON document, or a few aligned lines."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer


def print_json(document: Any) -> None:
    """Print one JSON document; NaN and infinities are a bug and raise ValueError."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print one ``name  value`` line per pair, values aligned."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table: left-aligned columns, two spaces apart, no trailing blanks."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
