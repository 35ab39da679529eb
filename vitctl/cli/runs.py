"""``vitctl runs`` on the command line."""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import is_terminal, print_columns, print_json, print_line
from vitctl.primitives.formatting import cut_middle, format_age
from vitctl.primitives.image_sizes import format_size
from vitctl.results.runs import RunEntry
from vitctl.settings.option import settings_of
from vitctl.settings.runs import RunsConfig

EXAMPLES = """\
Examples:

\b
  vitctl runs                           what is in runs and sweeps, the newest first
  vitctl runs sweeps/photos --sort top1
  vitctl runs --json                    everything, for a program
"""
HEADER = ("run", "data", "model", "size", "state", "top-1", "95 % interval", "images", "age")
SHARED = [HEADER.index(name) for name in ("data", "model", "size", "images")]
CUT = ("model", "data", "run")
SHORTEST_NAME = 16  # characters, where a terminal is too narrow for all


@takes(RunsConfig)
def runs(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """List runs: data, model, state, score with its interval.

    Looks in all folders below DIR and changes nothing. A run is finished, running, stopped (it goes on from its last
    checkpoint, the step shown), diverged, or unreadable. The score is that of best/ on the run's validation images.
    """
    result = run("runs", settings_of(RunsConfig, given), is_of_runs=True)
    if as_json:
        print_json(result)
    elif result.runs:
        table, shared = [HEADER, *map(_row, result.runs)], None
        if is_terminal():
            table, shared = _fitted(table, shutil.get_terminal_size().columns)
        print_columns(table[0], table[1:])
        _print_notes(result.runs, shared)


def _fitted(table: list[tuple[str, ...]], width: int) -> tuple[list[tuple[str, ...]], str | None]:
    """Return a table, its header first, for a terminal of ``width`` characters, and a line to print below it.

    Where it is too wide, what all runs share is said in that line instead; then long names lose their middle, those of
    the runs last.
    """
    if _width(table) <= width:
        return table, None
    shared = {c for c in SHARED if len(table) > 2 and len({row[c] for row in table[1:]}) == 1}
    said = [f"{table[0][c]} {table[1][c]}" for c in sorted(shared)]
    if folder := _folder_of([row[0] for row in table[1:]]):
        table = [table[0], *((os.path.relpath(row[0], folder), *row[1:]) for row in table[1:])]
        said.insert(0, f"in {folder}")
    table = [tuple(cell for c, cell in enumerate(row) if c not in shared) for row in table]
    for c in (table[0].index(name) for name in CUT if name in table[0]):
        room = max(len(row[c]) for row in table) - max(0, _width(table) - width)
        table = [(*row[:c], cut_middle(row[c], max(SHORTEST_NAME, room)), *row[c + 1 :]) for row in table]
    return table, f"all: {', '.join(said)}" if said else None


def _folder_of(paths: Sequence[str]) -> str:
    """Return the folder that all of several paths are in; empty where there is none to tell."""
    if len(paths) < 2 or len(set(map(os.path.isabs, paths))) > 1:
        return ""
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _width(table: Sequence[Sequence[str]]) -> int:
    """Return how many characters the lines of a table have, two between columns."""
    return sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)) - 2


def _row(entry: RunEntry) -> tuple[str, ...]:
    low, high = entry.top1_ci95 or (0.0, 0.0)
    return (
        _from_here(entry.run),
        _last_parts(entry.data, 1),
        _last_parts(entry.model, 2),
        "-" if entry.image_size is None else format_size(entry.image_size),
        _state(entry),
        "-" if entry.top1 is None else f"{entry.top1:.2%}",
        "-" if entry.top1_ci95 is None else f"{low:.1%} to {high:.1%}",
        "-" if entry.num_val is None else f"{entry.num_val:,}",
        format_age(entry.age_s),
    )


def _state(entry: RunEntry) -> str:
    of = "" if entry.steps is None else f"/{entry.steps}"
    steps = {"running": f" {entry.step}{of}", "stopped": f" at {entry.step}{of}", "diverged": f" at {entry.step}"}
    return entry.state + steps.get(entry.state, "")


def _last_parts(name: str | None, count: int) -> str:
    """Return the last parts of a path; of what is none, such as a name of timm, all."""
    if name is None:
        return "-"
    return "/".join(re.findall("[^/]+", name)[-count:]) or name if name.startswith(("/", ".")) else name


def _from_here(path: str) -> str:
    """Return a path as one would type it: from the working folder on, where it is below that."""
    here = os.path.relpath(path)
    return path if here.startswith("..") else here


def _print_notes(entries: Sequence[RunEntry], shared: str | None) -> None:
    """Print what else there is to know, below the table: what all share, what is wrong, and how to go on."""
    told = [] if shared is None else [shared]
    told += [f"{_from_here(entry.run)}: {entry.why}" for entry in entries if entry.why is not None]
    stopped = next((entry for entry in entries if entry.state == "stopped"), None)
    if stopped is not None:
        told.append(f"to go on with a stopped one: vitctl finetune --resume {shlex.quote(_from_here(stopped.run))}")
    if told:
        print_line()
    for line in told:
        print_line(line)
