"""``vitctl sweep`` on the command line."""

import shlex
from collections.abc import Sequence
from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.cli.sweep_choice import choice_rows
from vitctl.primitives.formatting import cut_middle, format_bytes, format_number, format_seconds
from vitctl.results.sweep import SweepCell, SweepDryRunResult, SweepResult
from vitctl.settings.option import settings_of
from vitctl.settings.sweep import SweepConfig

EXAMPLES = """\
Examples:

\b
  vitctl sweep --grid lr=1e-4,3e-4,1e-3 --seeds 3                 which rate, on handwritten digits
  vitctl sweep --data photos/ --grid tune=full,lora:8 --seeds 5 --jobs 2
  vitctl sweep --data photos/ --grid lr=1e-4,3e-4 --grid optimizer.weight_decay=0,0.1 --dry-run
  vitctl sweep --data photos/ --folds 5                           5-fold cross-validation of one setting
  vitctl sweep plan.toml --jobs 2
"""

MOST_ROWS_SHOWN = 60
_LONGEST_NAME = 60


@takes(SweepConfig)
def sweep(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Train every combination of settings, with several seeds or folds, and say what differs.

    Every run is a run folder below --out, on the same split. Stopped or
    killed, the same command goes on; more values or seeds may be added.
    Writes sweep.json, sweep.csv, runs.csv and sweep.png.
    """
    result = run("sweep", settings_of(SweepConfig, given), is_of_runs=True)
    if as_json:
        print_json(result)
    elif isinstance(result, SweepDryRunResult):
        _print_cost(result)
    else:
        _print_table(result)


def _print_table(result: SweepResult) -> None:
    shown = result.cells[:MOST_ROWS_SHOWN]
    has_differences = any(cell.difference is not None for cell in shown)
    header = ["combination", "runs", "top-1", "95 % interval", "NLL"]
    header += ["difference", "95 % interval", "p (Holm)"] if has_differences else []
    together = (1, 1, 2, 1, 2, 1) if has_differences else (1, 1, 2, 1)
    rows = [_row(cell, is_first=cell is shown[0], has_differences=has_differences) for cell in shown]
    print_columns(header, rows, together=together)
    if len(result.cells) > len(shown):
        print_line(f"... and {len(result.cells) - len(shown)} more in sweep.csv")
    print_line()
    images = {"val": "validation images", "dev": "development images", "folds": "images, each validated on once"}
    print_pairs(
        [
            *([("validated on", f"{result.num_val:,} {images[result.validated_on]}")] if result.num_val else []),
            *(("note", note) for note in result.notes),
            *choice_rows(result),
            ("files", result.out),
            *([("next", f"vitctl compare {shlex.quote(result.out)}")] if _can_be_compared(result) else []),
        ]
    )


def _can_be_compared(result: SweepResult) -> bool:
    """Return whether there are two runs or more of the same images."""
    return result.folds is None and bool(result.num_val) and sum(len(cell.runs) for cell in result.cells) > 1


def _row(cell: SweepCell, *, is_first: bool, has_differences: bool) -> Sequence[str]:
    top1 = cell.state if cell.top1_mean is None and cell.state != "finished" else _percent(cell.top1_mean)
    row = [
        cut_middle(cell.name, _LONGEST_NAME),
        str(len(cell.runs)),
        top1,
        _interval(cell.top1_ci95),
        _decimals(cell.nll_mean),
    ]
    if not has_differences:
        return row
    difference = "the first" if is_first else "" if cell.difference is None else f"{100 * cell.difference:+.2f} points"
    return [*row, difference, _points(cell.difference_ci95), _p(cell.p_holm)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.2%} to {pair[1]:.2%}"


def _points(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{100 * pair[0]:+.2f} to {100 * pair[1]:+.2f}"


def _print_cost(cost: SweepDryRunResult) -> None:
    shown = cost.cells[:MOST_ROWS_SHOWN]
    print_columns(
        ["combination", "runs left", "steps", "time each", "memory each"],
        [
            [
                cut_middle(cell.name, _LONGEST_NAME),
                str(cell.num_runs),
                f"{cell.steps:,}",
                format_seconds(cell.training_s),
                format_bytes(cell.memory_bytes),
            ]
            for cell in shown
        ],
    )
    if len(cost.cells) > len(shown):
        print_line(f"... and {len(cost.cells) - len(shown)} more")
    print_line()
    rows = [
        ("runs left", f"{cost.num_runs:,}"),
        (
            "training",
            f"{format_seconds(cost.training_s)} one after the other, estimated, without validation{_shared(cost)}",
        ),
        ("memory", f"{format_bytes(cost.memory_at_a_time_bytes)}, {cost.jobs} at a time, estimated"),
    ]
    if cost.smallest_difference is not None:
        rows.append(("can tell", _told(cost)))
    print_pairs(rows)


def _shared(cost: SweepDryRunResult) -> str:
    return f"; {cost.jobs} at a time share this machine" if cost.jobs > 1 else ""


def _told(cost: SweepDryRunResult) -> str:
    points = float(f"{100 * cost.assumed['seed_sd']:.2g}")
    whence = "as finished runs here do" if cost.is_assumed_from_runs else "guesses"
    return (
        f"a difference of {100 * (cost.smallest_difference or 0):.2g} points of top-1 in four of five sweeps, with "
        f"{format_number(cost.num_seeds, 'seed')} and {format_number(cost.num_val, 'image')}, if two combinations "
        f"differ in {cost.assumed['disagreement']:.1%} of the images and seeds move a difference by "
        f"{format_number(points, 'point')} ({whence})"
    )
