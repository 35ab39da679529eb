"""``vitctl predict RUN IMAGE...`` on the command line."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vitctl.cli.command import run as run_workflow
from vitctl.cli.command import takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import on_stdout, print_columns, print_json
from vitctl.cli.screen import Screen
from vitctl.errors import DataError, SettingError
from vitctl.primitives.csv_files import write_rows
from vitctl.results.predict import Prediction
from vitctl.settings.option import settings_of
from vitctl.settings.predict import PredictConfig

EXAMPLES = """\
Examples:

\b
  vitctl predict runs/photos cat.jpg dog.png
  vitctl predict runs/photos holiday/ --top-k 1 --csv > answers.csv
  vitctl predict --model vit_base_patch16_224.augreg2_in21k_ft_in1k cat.jpg
"""


@takes(PredictConfig)
def predict(
    given: dict[str, Any],
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Run folder, or a folder of timm or transformers; with --model the first image."
        ),
    ],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Image files and folders.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print image, rank, class, probability as CSV.")] = False,
) -> None:
    """Say what images show: the most probable classes of each, in the order given.

    Folders are walked. Files that cannot be read are named on stderr, the others are done, and the exit
    code is 3.
    """
    if as_json and as_csv:
        raise SettingError("--json and --csv are both given; expected one of them.", field="json")
    listed = tuple(images or ())
    where = {"images": (run, *listed)} if "model" in given else {"run": run, "images": listed}
    screen = Screen()
    result = run_workflow("predict", settings_of(PredictConfig, given | where), screen)
    if as_json:
        print_json(result)
    elif as_csv:
        _print_csv(result.predictions)
    elif result.predictions:
        rows = [
            (entry.image, "   ".join(f"{top.class_name} {top.probability:.1%}" for top in entry.top))
            for entry in result.predictions
        ]
        print_columns(("image", "classes, most probable first"), rows)
    for skipped in result.skipped:
        screen.warn(f"skipped {skipped.image}: {skipped.reason}")
    if result.skipped:
        total = len(result.skipped) + len(result.predictions)
        rest = "; the others are done" if result.predictions else ""
        raise DataError(f"{len(result.skipped)} of {total} images could not be read{rest}.")


def _print_csv(predictions: Sequence[Prediction]) -> None:
    rows = (
        (entry.image, rank, top.class_name, f"{top.probability:.6f}")
        for entry in predictions
        for rank, top in enumerate(entry.top, start=1)
    )
    with on_stdout():
        write_rows(sys.stdout, [("image", "rank", "class", "probability"), *rows])
