"""``vitctl inspect ANALYSIS`` on the command line: a sub-command for each analysis, made of its settings and words."""

from collections.abc import MutableMapping
from typing import Any

import typer
from typer.core import TyperGroup

from vitctl.cli.command import Body, run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.inspecting.catalogue import Analysis, catalogue
from vitctl.results.inspect_model import InspectAllResult, InspectResult
from vitctl.settings.inspect_model import InspectAllConfig, InspectConfig
from vitctl.settings.option import settings_of
from vitctl.settings.words import ALL

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


class Analyses(TyperGroup):
    """A group whose commands are made when one of them is first looked at: other commands read no analysis."""

    _made: MutableMapping[str, Any] | None = None

    def __init__(self, **words: Any) -> None:
        super().__init__(**words | {"options_metavar": None, "subcommand_metavar": "ANALYSIS [RUN] [OPTIONS]"})

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """Every analysis, and all of them."""
        if self._made is None:
            self._made = typer.main.get_command(_every_command()).commands  # type: ignore[attr-defined]
        return self._made

    @commands.setter
    def commands(self, _none: Any) -> None:
        pass

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the analysis also behind its options, where it may stand on every command line of old."""
        if args and args[0].startswith("-"):
            switches = {
                name
                for command in self.commands.values()
                for one in command.params
                if getattr(one, "is_flag", False)
                for name in one.opts
            }
            for place, word in enumerate(args):
                before = args[place - 1] if place else ""
                is_value = before.startswith("-") and "=" not in before and before not in switches
                if word in self.commands and not is_value:
                    args = [word, *args[:place], *args[place + 1 :]]
                    break
        return super().parse_args(ctx, args)


def inspect() -> None:
    """Show how a ViT sees: the analyses of the ViT paper and of "Do ViTs see like CNNs?".

    Each writes its arrays, its figures and a picture, and says what to look for. 'all' runs
    those that fit the model, the judged ones beside random weights, and writes report.html.
    """


def _every_command() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None)
    for name, one in catalogue().items():
        example = f"Example:\n\n\b\n  vitctl inspect {name} {one.words.example}"
        made.command(name, help=_help(one), short_help=one.words.title, epilog=example)(_command(one.options))
    made.command(
        ALL,
        help="""Run every analysis that fits the models, and write report.html.

        Those that are judged are also made of random weights: what the papers claim is held against both.""",
        short_help="Every analysis that fits, judged, in one report",
        epilog="Example:\n\n\b\n  vitctl inspect all runs/photos",
    )(_command(InspectAllConfig))
    return made


def _help(one: Analysis) -> str:
    words = one.words
    return f"{words.title} ({words.source}). {words.question}\n\n{words.method}\n\n{words.look_for}"


def _command(options: type[InspectConfig]) -> Body:
    def command(given: dict[str, Any], as_json: JsonOption = False) -> None:
        result = run("inspect_model", settings_of(options, given))
        if as_json:
            print_json(result)
        elif isinstance(result, InspectAllResult):
            _print_all(result)
        else:
            _print_one(result)

    return takes(options)(command)


def _print_one(result: InspectResult) -> None:
    for number, found in enumerate(result.results):
        if len(result.results) > 1:
            if number:
                print_line()
            print_line(found.name)
        print_columns(found.header, found.rows[:MOST_ROWS_SHOWN])
        if len(found.rows) > MOST_ROWS_SHOWN:
            print_line(f"... and {len(found.rows) - MOST_ROWS_SHOWN} more in {result.analysis}.json")
    print_line()
    print_pairs([("files", f"{result.out}: {', '.join(result.files)}")])
    print_line(f"{result.look_for} {result.random_weights}")


def _print_all(result: InspectAllResult) -> None:
    rows = []
    for one in result.verdicts:
        rows += [[one.analysis, one.verdict, one.claim], ["", "", f"  {one.numbers}"]]
    if rows:
        print_columns(["analysis", "holds", "claim"], rows)
        print_line()
    pairs = []
    for skipped in result.skipped:
        if skipped.model is None:
            pairs.append(("left out", f"{skipped.analysis}: {skipped.reason}"))
        else:  # others have it; the report says what to try
            pairs.append(("left out", f"{skipped.analysis} of {skipped.model}: {skipped.reason.split('; ')[0]}"))
    print_pairs([*pairs, ("report", result.report), ("files", result.out)])
    print_line(
        "Look at the report for the pictures. Random weights, shown beside the main ones, are what no training looks "
        "like."
    )
