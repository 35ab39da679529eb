"""Runs become rows: those that differ in the seed alone are one, and no two rows have one name."""

from pathlib import Path
from typing import Any

from vitctl.run_folders.rows import rows_of

BASE: dict[str, Any] = {"data": "photos", "lr": 0.001, "tune": "full", "seed": 0}


def rows(**runs: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of runs that differ from BASE as is said, by the names of their folders."""
    made = rows_of([Path("/runs") / name for name in runs], [BASE | changes for changes in runs.values()])
    return [(row.name, [run.name for run in row.runs]) for row in made]


def test_seeds__are_one_row_in_their_order() -> None:
    found = rows(b={"seed": 1}, x={"lr": 0.01}, a={"seed": 0})
    assert found == [("lr=0.001", ["a", "b"]), ("lr=0.01", ["x"])]


def test_seeds_alone__are_rows_each() -> None:
    assert rows(b={"seed": 1}, a={}) == [("seed=1", ["b"]), ("seed=0", ["a"])]


def test_a_run_once_more__is_another_row_called_by_its_folder() -> None:
    assert rows(a={}, again={}) == [("a", ["a"]), ("again", ["again"])]
    assert rows(a={}, again={}, c={"seed": 1}) == [("a", ["a", "c"]), ("again", ["again"])]


def test_long_settings__leave_the_name_to_the_folder() -> None:
    found = rows(a={"data": "x" * 40}, b={"lr": 0.1})
    assert [name for name, _ in found] == ["a", "b"]


def test_settings__are_those_that_differ_between_rows() -> None:
    made = rows_of([Path("/a"), Path("/b"), Path("/c")], [BASE, BASE | {"lr": 0.1}, BASE | {"seed": 4}])
    assert [dict(row.settings) for row in made] == [{"lr": 0.001}, {"lr": 0.1}]
    assert [row.seeds for row in made] == [(0, 4), (0,)]
    assert all(row.is_named_by_settings for row in made)


def test_folders_of_one_name__are_told_apart_by_those_above() -> None:
    places = [Path("/one/run"), Path("/two/run")]
    assert [row.name for row in rows_of(places, [BASE, BASE])] == ["one/run", "two/run"]


def test_runs_of_a_sweep__are_called_by_their_cell() -> None:
    places = [Path(f"/sweep/{cell}/seed-{seed}") for cell in ("a", "b") for seed in (0, 1)]
    settings = [BASE | {"data": cell * 50, "seed": seed} for cell in ("a", "b") for seed in (0, 1)]
    assert [row.name for row in rows_of(places, settings)] == ["a", "b"]
