"""Results on stdout: one JSON document, or a few lines, aligned as a terminal shows them (Korean takes two places)."""

import itertools
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import rich
import typer
from rich.cells import cell_len, set_cell_size

from vitctl.errors import SettingError
from vitctl.primitives.files import json_text
from vitctl.results.result import Result
from vitctl.shown import shown


@contextmanager
def on_stdout() -> Iterator[None]:
    """Say in a sentence that what the block prints cannot be written (``> /dev/full``); a reader may leave early.

    Raises:
        SettingError: It cannot.
    """
    try:
        yield
        if sys.stdout is not None:  # closed before we began
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        leave_stdout()
        raise SettingError(
            f"The result cannot be written to standard output: {error.strerror or error}. Send it elsewhere."
        ) from error


def leave_stdout() -> None:
    """Let what was printed and not yet written go to nowhere, or Python would try again when it ends."""
    _leave(sys.stdout)


def _leave(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_of_printing(error: OSError) -> bool:
    """Return whether an error is one of writing to stdout or stderr: raised in one of the packages that print."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    packages = (str(Path(module.__file__ or "").parent) for module in (rich, typer))
    return bool(frames) and any(Path(frames[-1].filename).is_relative_to(package) for package in packages)


def has_lost_output() -> bool:
    """Return whether something that was printed waits to be written and cannot be; it is said, where it can be.

    A reader who left early does not count. The stream is left, so that Python does not try again when it ends.
    """
    lost = [stream for stream in (sys.stdout, sys.stderr) if not _takes_all(stream)]
    if sys.stdout in lost:
        say_lost_output()
    return bool(lost)


def say_lost_output() -> None:
    """Say on stderr that stdout cannot be written; where that cannot be written either, nothing can be said."""
    with suppress(OSError):
        typer.echo("error: Standard output cannot be written. Send it elsewhere.", err=True)


def _takes_all(stream: TextIO | None) -> bool:
    if stream is None:  # closed before we began
        return True
    try:
        stream.flush()
    except BrokenPipeError:
        _leave(stream)
    except OSError:
        _leave(stream)
        return False
    except ValueError:  # closed since
        pass
    return True


def is_terminal() -> bool:
    """Return whether a person reads stdout, and so its width counts; a stream that was closed before is None."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(result: Result) -> None:
    """Print a result as one JSON document; NaN and infinities are a bug and raise ValueError."""
    print_document(json_text(result.as_json()))


def print_document(text: str | bytes) -> None:
    """Print what is a file as it is, none of it a stranger's: JSON, a guide, a recipe."""
    with on_stdout():
        typer.echo(text, nl=False)


def print_line(text: str = "") -> None:
    """Print one line. Names in it may be anyone's, so every line a person reads on stdout is printed here."""
    with on_stdout():
        typer.echo(shown(text))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print one ``name  value`` line per pair, values aligned."""
    rows = [(shown(name), value) for name, value in pairs]
    width = max(cell_len(name) for name, _ in rows)
    for name, value in rows:
        print_line(f"{set_cell_size(name, width)}  {value}")


def print_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, together: Sequence[int] | None = None
) -> None:
    """Print a plain table: left-aligned columns, two spaces apart, no trailing blanks.

    Args:
        header: Names of the columns.
        rows: A cell for each column.
        together: How many columns stay together, one number for each group, the sum being that of the columns. On a
            terminal that is too narrow the table is printed in parts, each of which begins with the first group.
    """
    table = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(header))]
    parts = [list(range(len(header)))]
    if together is not None and is_terminal():
        parts = _parts(widths, together, shutil.get_terminal_size().columns)
    for number, columns in enumerate(parts):
        if number:
            print_line()
        for row in table:
            line = "  ".join(set_cell_size(row[column], widths[column]) for column in columns)
            print_line(line.rstrip())


def _parts(widths: Sequence[int], together: Sequence[int], most: int) -> list[list[int]]:
    """Return the columns of each part of a table, in parts of at most ``most`` characters where groups allow it."""
    ends = list(itertools.accumulate(together))
    first, *others = [list(range(end - size, end)) for end, size in zip(ends, together, strict=True)]
    parts = [list(first)]
    for group in others:
        is_wide = sum(widths[column] + 2 for column in (*parts[-1], *group)) - 2 > most
        if is_wide and len(parts[-1]) > len(first):
            parts.append([*first])
        parts[-1] += group
    return parts
