"""The ``vitctl`` command: its sub-commands, and the boundary where errors become one sentence."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vitctl import __version__
from vitctl.cli.output import printable
from vitctl.cli.screen import is_first_process
from vitctl.errors import InterruptedRun, VitctlError


class _ErrorBoundary(TyperGroup):
    """Turns expected failures into one line on stderr and an exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # the reader ('| head') has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except InterruptedRun as error:
            _say(f"stopped: {error}")
            raise typer.Exit(error.exit_code) from error
        except VitctlError as error:
            _say(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _say("error: interrupted.")
            raise typer.Exit(130) from error


def _say(text: str) -> None:
    """Say ``text`` on stderr; a process of a distributed run that is not the first says which it is."""
    prefix = "" if is_first_process() else f"[process {os.environ.get('RANK')}] "
    typer.echo(printable(prefix + text), err=True)


app = typer.Typer(
    cls=_ErrorBoundary,
    help="Fine-tune a pretrained Vision Transformer at a higher resolution, evaluate it, look into it, use it.",
    epilog="'vitctl COMMAND --help' explains a command. First steps: vitctl finetune",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vitctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Fine-tune a pretrained Vision Transformer at a higher resolution, evaluate it, look into it, use it."""


def _add_commands() -> None:
    from vitctl.cli import (
        data,
        evaluate,
        export,
        fewshot_eval,
        finetune,
        guide,
        inspect_model,
        models,
        predict,
        recipes,
    )

    app.command("data", epilog=data.EXAMPLES)(data.data)
    app.command("finetune", epilog=finetune.EXAMPLES)(finetune.finetune)
    app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
    app.command("fewshot-eval", epilog=fewshot_eval.EXAMPLES)(fewshot_eval.fewshot_eval)
    app.command("inspect", epilog=inspect_model.EXAMPLES)(inspect_model.inspect)
    app.command("export", epilog=export.EXAMPLES)(export.export)
    app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
    app.command("models", epilog=models.EXAMPLES)(models.models)
    app.add_typer(recipes.app, name="recipes")
    app.command("guide", epilog=guide.EXAMPLES)(guide.guide)


_add_commands()


def main() -> None:
    """Run the command line; the entry point of ``vitctl`` and ``python -m vitctl``."""
    sys.exit(app())
