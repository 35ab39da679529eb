"""``vitctl inspect ANALYSIS`` on the command line."""

from typing import Any

import typer

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_pairs
from vitctl.results.inspect_model import InspectAllResult, InspectResult
from vitctl.settings.inspect_model import InspectConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl inspect all runs/photos                         every analysis, and report.html
  vitctl inspect attention runs/photos --image cat.jpg --layer 11 --query 3,5
  vitctl inspect distance runs/photos --model demo
  vitctl inspect cka --model vit_small_patch16_224 --model resnet50 --data photos/
  vitctl inspect cka runs/photos --model vit_small_patch16_224 --diagonal
"""

MOST_ROWS_SHOWN = 40


@takes(InspectConfig)
def inspect(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Show how a ViT sees: the analyses of the ViT paper and of "Do ViTs see like CNNs?".

    Each writes its arrays, its figures and a picture, and says what to look for. 'all' runs
    those that fit the model, the main ones beside random weights, and writes report.html.
    """
    result = run("inspect_model", settings_of(InspectConfig, given))
    if as_json:
        print_json(result)
    elif isinstance(result, InspectAllResult):
        _print_all(result)
    else:
        _print_one(result)


def _print_one(result: InspectResult) -> None:
    for number, found in enumerate(result.results):
        if len(result.results) > 1:
            typer.echo(("\n" if number else "") + found.name)
        print_columns(found.header, found.rows[:MOST_ROWS_SHOWN])
        if len(found.rows) > MOST_ROWS_SHOWN:
            typer.echo(f"... and {len(found.rows) - MOST_ROWS_SHOWN} more in {result.analysis}.json")
    typer.echo("")
    print_pairs([("files", f"{result.out}: {', '.join(result.files)}")])
    typer.echo(f"{result.look_for} {result.random_weights}")


def _print_all(result: InspectAllResult) -> None:
    words = {True: "yes", False: "no", None: "cannot be said"}
    rows = []
    for one in result.verdicts:
        rows += [[one.analysis, words[one.holds], one.claim], ["", "", f"  {one.numbers}"]]
    if rows:
        print_columns(["analysis", "holds", "claim"], rows)
        typer.echo("")
    pairs = []
    for skipped in result.skipped:
        if skipped.model is None:
            pairs.append(("left out", f"{skipped.analysis}: {skipped.reason}"))
        else:  # others have it; the report says what to try
            pairs.append(("left out", f"{skipped.analysis} of {skipped.model}: {skipped.reason.split('; ')[0]}"))
    print_pairs([*pairs, ("report", result.report), ("files", result.out)])
    typer.echo(
        "Look at the report for the pictures. Random weights, shown beside the main ones, are what no training looks "
        "like."
    )
