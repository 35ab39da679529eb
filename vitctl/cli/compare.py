"""``vitctl compare`` on the command line."""

from collections.abc import Sequence
from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.primitives.formatting import cut_middle, format_setting
from vitctl.results.compare import ComparedPair, ComparedRow, CompareResult
from vitctl.settings.compare import CompareConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl compare runs/a runs/b                      on the validation images that both have
  vitctl compare sweeps/flowers                     all finished runs in a folder
  vitctl compare runs/a runs/b --on other/ --json   on other images
"""

MOST_ROWS_IN_PAIRS = 8
"""More rows have so many pairs that only those with the first are shown."""
LEVEL = 0.05
LONGEST_NAME = 32  # characters of a row in a table; files have all
FIGURES = (
    ("top-1", "difference", "ci95"),
    ("NLL", "nll_difference", "nll_ci95"),
    ("Brier", "brier_difference", "brier_ci95"),
    ("ECE", "ece_difference", "ece_ci95"),
)


@takes(CompareConfig)
def compare(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Compare runs on the same images: what differs, how good each is, and how sure that is.

    Runs that differ in the seed alone are one row. Writes compare.json, compare.csv,
    pairs.csv, disagreements.csv, and pictures: curves.png, disagreements.png.
    """
    result = run("compare", settings_of(CompareConfig, given))
    if as_json:
        print_json(result)
    else:
        _print_result(result)


def _print_result(result: CompareResult) -> None:
    _print_settings(result.rows)
    _print_rows(result)
    if len(result.rows) == 2:
        _print_one_pair(result.pairs[0])
    else:
        _print_pairs(result)
    print_line()
    odd = f"{result.num_disagreements:,} of {result.num_images:,} images on which not all rows say the same"
    print_pairs([("disagreements", odd), ("files", result.out)])


def _print_settings(rows: Sequence[ComparedRow]) -> None:
    """Print the settings that differ, where the names of the rows do not say them; the narrower way round."""
    names = list(rows[0].settings)
    if not names or all(row.name.startswith(f"{names[0]}=") for row in rows):
        return
    by_row = [["row", *names]]
    by_row += [[_short(row.name), *(format_setting(row.settings[name]) for name in names)] for row in rows]
    by_setting = [["setting", *by_row[0][1:]], *by_row[1:]]  # its corner names the other side
    by_setting = [list(column) for column in zip(*by_setting, strict=True)]
    table = min(by_row, by_setting, key=_width)
    print_line("settings that differ")
    print_columns(table[0], table[1:])
    print_line()


def _width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*table, strict=True))


def _print_rows(result: CompareResult) -> None:
    rows = [
        [
            _short(row.name),
            str(len(row.runs)),
            f"{row.top1:.2%}",
            f"{row.top1_ci95[0]:.2%} to {row.top1_ci95[1]:.2%}",
            *(f"{value:.4f} ({low:.4f} to {high:.4f})" for value, (low, high) in _losses(row)),
        ]
        for row in result.rows
    ]
    print_columns(["row", "runs", "top-1", "95 % interval", "NLL", "Brier", "ECE"], rows, together=(1, 1, 2, 1, 1, 1))
    several = any(len(row.runs) > 1 for row in result.rows)
    seeds = " and, of several runs, other seeds" if several else ""
    print_line(f"{result.num_images:,} images, {result.images}; 95 % intervals: other images{seeds}")
    print_line()


def _losses(row: ComparedRow) -> list[tuple[float, tuple[float, float]]]:
    return [(row.nll, row.nll_ci95), (row.brier, row.brier_ci95), (row.ece, row.ece_ci95)]


def _print_one_pair(pair: ComparedPair) -> None:
    print_line(f"difference: {pair.b} less {pair.a}")
    rows = []
    for name, mean, interval in FIGURES:
        value, (low, high) = getattr(pair, mean), getattr(pair, interval)
        form = "+.2%" if name == "top-1" else "+.4f"
        rows.append([name, format(value, form), f"{low:{form}} to {high:{form}}"])
    print_columns(["", "difference", "95 % interval"], rows)
    print_line()
    print_pairs([*_test(pair), ("verdict", f"{_verdict(pair, pair.a, pair.b)} (top-1, p {_p(pair.p)})")])


def _test(pair: ComparedPair) -> list[tuple[str, str]]:
    if pair.mcnemar_p is None:
        return []
    alone = f"{pair.num_a_only:,} images {pair.a} alone has right, {pair.num_b_only:,} {pair.b} alone"
    return [("McNemar", f"p {_p(pair.mcnemar_p)}, exact: {alone}")]


def _print_pairs(result: CompareResult) -> None:
    first, shown = result.rows[0].name, list(result.pairs)
    if len(result.rows) > MOST_ROWS_IN_PAIRS:
        shown = [pair for pair in shown if pair.a == first]
    print_line("differences, b less a")
    print_columns(
        ["a", "b", "top-1", "95 % interval", "p", "p (Holm)", "top-1 says", "NLL", "95 % interval"],
        [
            [
                _short(pair.a),
                _short(pair.b),
                f"{pair.difference:+.2%}",
                f"{pair.ci95[0]:+.2%} to {pair.ci95[1]:+.2%}",
                _p(pair.p),
                _p(pair.p_holm),
                _verdict(pair, "a", "b"),
                f"{pair.nll_difference:+.4f}",
                f"{pair.nll_ci95[0]:+.4f} to {pair.nll_ci95[1]:+.4f}",
            ]
            for pair in shown
        ],
        together=(2, 2, 3, 2),
    )
    how = "McNemar's exact test" if all(pair.mcnemar_p is not None for pair in result.pairs) else "the interval's"
    if any(pair.mcnemar_p is not None for pair in result.pairs) and how == "the interval's":
        how = "McNemar's exact test of two runs, else the interval's"
    print_line(f"p: {how}; Holm's correction is for all {len(result.pairs)} pairs")
    if len(shown) < len(result.pairs):
        print_line(f"... and {len(result.pairs) - len(shown)} more pairs in pairs.csv, and with --json")


def _p(p: float) -> str:
    return "< 1e-06" if p < 1e-6 else f"{p:.4f}" if p >= 1e-3 else f"{p:.1e}"


def _verdict(pair: ComparedPair, a: str, b: str) -> str:
    """Return which of the two, called ``a`` and ``b``, has the better top-1."""
    if pair.p_holm >= LEVEL:
        return "cannot tell"
    return f"{b if pair.difference > 0 else a} is better"


def _short(name: str) -> str:
    return cut_middle(name, LONGEST_NAME)
