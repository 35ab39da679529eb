"""Runs as rows of a table: those that differ in the seed alone are one, called by the settings that differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitctl.primitives.formatting import format_setting
from vitctl.results.result import JsonValue
from vitctl.run_folders.differing import SEED, differing, rows_by_seed

LONGEST_NAME = 40  # of settings; a longer one is the folder's name instead


@dataclass(frozen=True)
class RunRow:
    """A row.

    Attributes:
        name: By the settings that differ between rows, else by its folder; no two rows have the same.
        runs: Its run folders, by seed.
        seeds: Theirs.
        settings: What differs between rows, by name; of equal rows nothing.
        is_named_by_settings: Whether the name says all of them.
    """

    name: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, JsonValue]
    is_named_by_settings: bool = False


def rows_of(runs: Sequence[Path], settings: Sequence[Mapping[str, JsonValue]]) -> list[RunRow]:
    """Return two rows or more, in the order of their first runs.

    Runs are one row where their settings are equal but for the seed; a run of the same seed once more is another row.
    Where that would leave one row, every run is one.

    Args:
        runs: Two folders or more.
        settings: Of each, all by name, the seed among them.
    """
    groups = [part for group in rows_by_seed(settings) for part in _without_repeats(group, settings)]
    are_seeds_alone = len(groups) == 1
    if are_seeds_alone:
        groups = [[index] for index in range(len(runs))]
    names = [name for name in differing(settings) if name != SEED or are_seeds_alone]
    rows = [
        RunRow(
            "",
            tuple(runs[index] for index in group),
            tuple(_seed(settings[index]) for index in group),
            {name: settings[group[0]].get(name) for name in names},
        )
        for group in groups
    ]
    return _named(rows)


def _without_repeats(group: Sequence[int], settings: Sequence[Mapping[str, JsonValue]]) -> list[list[int]]:
    """Return ``group`` in parts of which each has a seed once: a run once more says nothing about other seeds."""
    parts: list[list[int]] = []
    for index in group:
        part = next((one for one in parts if _seed(settings[one[-1]]) != _seed(settings[index])), None)
        if part is None:
            parts.append([index])
        else:
            part.append(index)
    return parts


def _seed(settings: Mapping[str, JsonValue]) -> int:
    seed = settings.get(SEED)
    return seed if isinstance(seed, int) else 0


def _named(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return rows with a name each: all by their settings where these are short and tell them apart, else by folder."""
    by_settings = [", ".join(f"{name}={format_setting(value)}" for name, value in row.settings.items()) for row in rows]
    if len(set(by_settings)) == len(rows) and max(map(len, by_settings)) <= LONGEST_NAME:
        return [replace(row, name=name, is_named_by_settings=True) for row, name in zip(rows, by_settings, strict=True)]
    return [replace(row, name=name) for row, name in zip(rows, _folder_names(rows), strict=True)]


def _folder_names(rows: Sequence[RunRow]) -> list[str]:
    """Return the shortest ends of the folders' paths that tell all rows apart; of several runs what they share."""
    places = [row.runs[0] if len(row.runs) == 1 else _shared(row.runs) for row in rows]
    if len(set(places)) < len(places):
        places = [row.runs[0] for row in rows]
    most = max(len(place.parts) for place in places)
    for length in range(1, most + 1):
        ends = ["/".join(place.parts[-length:]) for place in places]
        if len(set(ends)) == len(ends):
            return ends
    return [str(place) for place in places]


def _shared(runs: Sequence[Path]) -> Path:
    """Return the folder that runs have for themselves (``lr=0.001`` of a sweep), else the first of them."""
    parents = {run.parent for run in runs}
    return runs[0].parent if len(parents) == 1 and runs[0].name.startswith(SEED) else runs[0]
