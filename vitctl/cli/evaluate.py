"""``vitctl evaluate RUN`` on the command line."""

from typing import Annotated

import typer

from vitctl.cli.options import (
    ClassifierModelOption,
    ClassifierWeightsOption,
    DeviceOption,
    ImageColumnOption,
    ImageRootOption,
    JsonOption,
    LabelColumnOption,
    NumThreadsOption,
    NumWorkersOption,
    OnBadImageOption,
    RunArgument,
)
from vitctl.cli.output import print_columns, print_json, print_pairs
from vitctl.cli.screen import Screen
from vitctl.config import EvaluateConfig
from vitctl.results.evaluate import ClassResult, EvaluateResult

EXAMPLES = """\
Examples:

\b
  vitctl evaluate runs/photos                       on its own validation images
  vitctl evaluate runs/photos --split test          on the test split of its data
  vitctl evaluate runs/photos --data other/ --json
"""

MOST_CLASSES_SHOWN = 40


def evaluate(
    run: RunArgument = EvaluateConfig.run,
    model: ClassifierModelOption = EvaluateConfig.model,
    weights: ClassifierWeightsOption = EvaluateConfig.weights,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Images to evaluate on; otherwise the run's own validation images.",
            show_default=False,
        ),
    ] = EvaluateConfig.data,
    image_root: ImageRootOption = EvaluateConfig.image_root,
    image_column: ImageColumnOption = EvaluateConfig.image_column,
    label_column: LabelColumnOption = EvaluateConfig.label_column,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="val, test, train or all; of --data the first of test, val, all that it has.",
            show_default=False,
        ),
    ] = EvaluateConfig.split,
    on_bad_image: OnBadImageOption = EvaluateConfig.on_bad_image,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Images at a time; the result does not depend on it.")
    ] = EvaluateConfig.batch_size,
    num_workers: NumWorkersOption = EvaluateConfig.num_workers,
    num_threads: NumThreadsOption = EvaluateConfig.num_threads,
    device: DeviceOption = EvaluateConfig.device,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where to write (default: RUN/evaluate-SPLIT).", show_default=False),
    ] = EvaluateConfig.out,
    as_json: JsonOption = False,
) -> None:
    """Say how good a classifier is: accuracy with its interval, calibration, every class.

    Writes evaluation.json, predictions.csv, confusion.csv, confusion.png and
    highest-loss.png: the images it gets most wrong.
    """
    config = EvaluateConfig(
        run=run,
        model=model,
        weights=weights,
        data=data,
        image_root=image_root,
        image_column=image_column,
        label_column=label_column,
        split=split,
        on_bad_image=on_bad_image,
        batch_size=batch_size,
        num_workers=num_workers,
        num_threads=num_threads,
        device=device,
        out=out,
    )
    screen = Screen()
    with screen.waiting("starting: loading torch and timm"):
        from vitctl.workflows import evaluate as workflow
    report = workflow.run(config, screen)
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: EvaluateResult) -> None:
    low, high = report.top1_ci95
    print_pairs(
        [
            ("images", f"{report.num_images:,} (split {report.split})"),
            ("top-1", f"{report.top1:.2%}   95 % interval {low:.2%} to {high:.2%} (Wilson)"),
            ("top-5", f"{report.top5:.2%}"),
            ("balanced accuracy", f"{report.balanced_accuracy:.2%}   mean recall of the classes present"),
            ("macro F1", f"{report.macro_f1:.4f}"),
            ("NLL", f"{report.nll:.4f}   nats per image"),
            ("ECE", f"{report.ece:.4f}   15 bins"),
        ]
    )
    typer.echo()
    rows = report.per_class
    header = ("class", "images", "precision", "recall", "F1")
    print_columns(header, [_row(row) for row in rows[:MOST_CLASSES_SHOWN]])
    if len(rows) > MOST_CLASSES_SHOWN:
        typer.echo(f"... and {len(rows) - MOST_CLASSES_SHOWN} more classes in evaluation.json")
    typer.echo()
    print_pairs([("files", report.out)])


def _row(row: ClassResult) -> tuple[str, ...]:
    figures = ("-" if value is None else f"{value:.3f}" for value in (row.precision, row.recall, row.f1))
    return (row.class_name, str(row.num_images), *figures)
