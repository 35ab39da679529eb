"""``vitctl fewshot-eval`` on the command line."""

from collections.abc import Sequence
from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.cli.screen import is_first_process
from vitctl.primitives.formatting import format_seconds
from vitctl.results.fewshot_eval import FewshotResult, FewshotRow, PairedDifference
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl fewshot-eval                                   the demo model on digits
  vitctl fewshot-eval --model runs/a --model runs/b --data photos/
  vitctl fewshot-eval --data photos/ --layers all --pool cls,mean --shots 10
  vitctl fewshot-eval --data photos/ --shots all --l2 loo
  vitctl fewshot-eval --data photos/ --protocol episodes --ways 2,5 --shots 1,5
"""

MOST_ROWS_SHOWN = 60


@takes(FewshotEvalConfig)
def fewshot_eval(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Say how good frozen features are: linear few-shot evaluation, with intervals.

    Fits a linear classifier in closed form on a few images per class, for
    several draws of them, and scores the test images. Writes results.json,
    results.csv, supports.json and pictures. Nothing is trained.
    """
    result = run("fewshot_eval", settings_of(FewshotEvalConfig, given))
    if not is_first_process():
        return
    if as_json:
        print_json(result)
    else:
        _print_results(result)


def _several(given: list[str] | None) -> tuple[str, ...] | None:
    return tuple(given) if given else None


def _print_results(result: FewshotResult) -> None:
    rows = result.results
    shown = rows[:MOST_ROWS_SHOWN]
    varying = [
        name for name in ("data", "model", "layer", "pool") if len({str(getattr(row, name)) for row in rows}) > 1
    ]
    columns = [
        name
        for name in ("ways", "shots", "l2", "neighbours")
        if any(getattr(row, name) is not None or _is_by_seed(row, name) for row in rows)
    ]
    names = {"l2": "1/C" if rows[0].classifier == "logistic" else "l2"}
    header = [*varying, *(names.get(name, name) for name in columns), "top-1", "sd", *_interval_names(rows)]
    print_columns(
        header,
        [
            [
                *(str(getattr(row, name)) for name in varying),
                *("by seed" if _is_by_seed(row, name) else _number(getattr(row, name)) for name in columns),
                f"{row.top1_mean:.2%}",
                "" if row.top1_std is None else f"{row.top1_std:.2%}",
                *_intervals(row),
            ]
            for row in shown
        ],
    )
    if len(rows) > len(shown):
        print_line(f"... and {len(rows) - len(shown)} more rows in results.csv")
    _print_cosines(rows)
    _print_pairs_of_models(result.paired)
    cost = result.cost
    print_line()
    print_pairs(
        [
            (
                "cost",
                f"{cost.images_embedded:,} images embedded in {format_seconds(cost.embed_s)}, "
                f"{cost.images_skipped:,} not needed or cached; classifiers {format_seconds(cost.solve_s)}",
            ),
            ("files", result.out),
        ]
    )


def _is_by_seed(row: FewshotRow, name: str) -> bool:
    return name == "l2" and row.l2 is None and any(row.l2_per_seed or ())


def _interval_names(rows: Sequence[FewshotRow]) -> list[str]:
    if rows[0].ways is not None:
        return ["95 % interval", "episodes"]
    return ["95 % over supports", "and test images", "seeds 0-2"]


def _intervals(row: FewshotRow) -> list[str]:
    if row.ways is not None:
        return [f"+-{row.top1_ci95_half_width:.2%}", f"{row.episodes:,}"]
    first = row.top1_mean_first3
    return [_interval(row.top1_ci95_support), _interval(row.top1_ci95), "" if first is None else f"{first:.2%}"]


def _interval(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.2%} to {pair[1]:.2%}"


def _number(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _print_cosines(rows: Sequence[FewshotRow]) -> None:
    """Say how similar test images are within and between classes, once per features."""
    seen: dict[tuple[str, ...], tuple[float | None, float | None]] = {}
    for row in rows:
        key = (row.data, str(row.model), str(row.layer), row.pool)
        seen[key] = (row.cosine_within, row.cosine_between)
    print_line()
    if len(seen) > 1:
        print_line("cosine similarities within and between classes are in results.csv")
        return
    within, between = next(iter(seen.values()))
    print_pairs(
        [("cosine similarity", f"{_decimals(within)} within a class, {_decimals(between)} between classes (test)")]
    )


def _decimals(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _print_pairs_of_models(paired: Sequence[PairedDifference]) -> None:
    if not paired:
        return
    print_line()
    print_line("differences on the same supports and test images")
    names = ("data", "layer", "pool", "l2", "neighbours")
    varying = [name for name in names if len({str(getattr(row, name)) for row in paired}) > 1]
    print_columns(
        ["model", "less model", *varying, "shots", "difference", "95 % over supports", "and test images"],
        [
            [
                row.model_a,
                row.model_b,
                *(str(getattr(row, name)) for name in varying),
                str(row.shots),
                f"{row.difference:+.2%}",
                _interval(row.ci95_support),
                _interval(row.ci95),
            ]
            for row in paired[:MOST_ROWS_SHOWN]
        ],
    )
