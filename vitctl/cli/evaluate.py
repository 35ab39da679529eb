"""``vitctl evaluate RUN`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.cli.screen import is_first_process
from vitctl.results.baseline import against_baseline
from vitctl.results.evaluate import ClassResult, EvaluateResult
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl evaluate runs/photos                       on its own validation images
  vitctl evaluate runs/photos --split test          on the test split of its data
  vitctl evaluate runs/photos --data other/ --json
"""

MOST_CLASSES_SHOWN = 40


@takes(EvaluateConfig)
def evaluate(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Say how good a classifier is: accuracy with its interval, calibration, every class.

    Writes evaluation.json, predictions.csv, confusion.csv, confusion.png and
    highest-loss.png: the images it gets most wrong.
    """
    report = run("evaluate", settings_of(EvaluateConfig, given))
    if not is_first_process():
        return
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: EvaluateResult) -> None:
    print_pairs(
        [
            ("images", f"{report.num_images:,} (split {report.split})"),
            *_accuracies(report),
            ("baseline", _baseline(report)),
            ("top-5", f"{report.top5:.2%}"),
            ("balanced accuracy", f"{report.balanced_accuracy:.2%}   mean recall of the classes present"),
            ("macro F1", f"{report.macro_f1:.4f}"),
            ("NLL", f"{report.nll:.4f}   nats per image"),
            ("ECE", f"{report.ece:.4f}   15 bins"),
        ]
    )
    print_line()
    rows = report.per_class
    header = ("class", "images", "precision", "recall", "F1")
    print_columns(header, [_row(row) for row in rows[:MOST_CLASSES_SHOWN]])
    if len(rows) > MOST_CLASSES_SHOWN:
        print_line(f"... and {len(rows) - MOST_CLASSES_SHOWN} more classes in evaluation.json")
    print_line()
    print_pairs([("files", report.out)])


def _accuracies(report: EvaluateResult) -> list[tuple[str, str]]:
    """Return the accuracy; first that on images that were not in the training, where some were."""
    everything = _accuracy(report.top1, report.top1_ci95)
    if not report.num_seen_in_training:
        return [("top-1", everything)]
    num_seen, num_unseen = report.num_seen_in_training, report.num_images - report.num_seen_in_training
    unseen = f"{_accuracy(report.top1_unseen, report.top1_unseen_ci95)}, {num_unseen:,} images"
    return [
        ("top-1, unseen", unseen if num_unseen else "-   all images were in the training"),
        ("top-1, seen", f"{_accuracy(report.top1_seen, report.top1_seen_ci95)}, {num_seen:,} images"),
        ("top-1 of all", everything),
    ]


def _accuracy(top1: float | None, interval: tuple[float, float] | None) -> str:
    if top1 is None or interval is None:
        return "-"
    return f"{top1:.2%}   95 % interval {interval[0]:.2%} to {interval[1]:.2%} (Wilson)"


def _baseline(report: EvaluateResult) -> str:
    return against_baseline(
        report.top1,
        baseline_top1=report.baseline_top1,
        baseline_class=report.baseline_class,
        baseline_p=report.baseline_p,
    )


def _row(row: ClassResult) -> tuple[str, ...]:
    figures = ("-" if value is None else f"{value:.3f}" for value in (row.precision, row.recall, row.f1))
    return (row.class_name, str(row.num_images), *figures)
