"""The files of a sweep that say what it came to: ``sweep.json``, ``sweep.csv``, ``runs.csv``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vitctl.primitives.csv_files import write_csv
from vitctl.primitives.files import write_json
from vitctl.results.sweep import SweepCell, SweepResult
from vitctl.sweeping.names import value_text
from vitctl.sweeping.planning import PlannedRun

DOCUMENT, TABLE, RUN_TABLE, PICTURE = "sweep.json", "sweep.csv", "runs.csv", "sweep.png"


def write_tables(out: Path, result: SweepResult, runs: Sequence[PlannedRun]) -> None:
    """Write the result as JSON, and a row for each combination and for each run.

    Raises:
        OSError: They cannot be written.
    """
    write_json(out / DOCUMENT, result.as_json())
    write_csv(out / TABLE, _cell_rows(result.cells))
    write_csv(out / RUN_TABLE, _run_rows(result.cells, runs))


def _keys(cells: Sequence[SweepCell]) -> list[str]:
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _settings(cell: SweepCell, keys: Sequence[str]) -> list[str]:
    return [value_text(cell.settings[key]) if key in cell.settings else "" for key in keys]


def _cell_rows(cells: Sequence[SweepCell]) -> Iterator[Sequence[object]]:
    keys = _keys(cells)
    intervals = [f"{name}{end}" for name in ("top1_ci95", "nll_ci95", "difference_ci95") for end in ("_low", "_high")]
    yield [
        "name", *keys, "state", "runs", "top1_mean", *intervals[:2], "nll_mean", *intervals[2:4], "difference",
        *intervals[4:], "p", "p_holm",
    ]  # fmt: skip
    for cell in cells:
        yield [
            cell.name, *_settings(cell, keys), cell.state, len(cell.runs),
            cell.top1_mean, *(cell.top1_ci95 or (None, None)), cell.nll_mean, *(cell.nll_ci95 or (None, None)),
            cell.difference, *(cell.difference_ci95 or (None, None)), cell.p, cell.p_holm,
        ]  # fmt: skip


def _run_rows(cells: Sequence[SweepCell], runs: Sequence[PlannedRun]) -> Iterator[Sequence[object]]:
    keys, by_place = _keys(cells), {str(run.out): run for run in runs}
    yield ["name", *keys, "seed", "fold", "top1", "run", "log"]
    for cell in cells:
        scores = cell.top1_per_run or [None] * len(cell.runs)
        for place, top1 in zip(cell.runs, scores, strict=True):
            run = by_place[place]
            yield [cell.name, *_settings(cell, keys), run.seed, run.fold, top1, place, str(run.log)]
