"""The ``vitctl`` command: its sub-commands, and the boundary where errors become one sentence."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vitctl import __version__
from vitctl.cli.hints import hint
from vitctl.cli.output import has_lost_output, is_of_printing, leave_stdout, say_lost_output
from vitctl.cli.screen import is_first_process
from vitctl.errors import FailedElsewhere, InterruptedRun, SaidWarning, SettingError, VitctlError
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.launched import LOST, end_with_parent, is_launched, is_told_of_failure
from vitctl.shown import shown

# typer has its own copy of click's, which it does not export
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_TERMINATED = "terminated."


class _ErrorBoundary(TyperGroup):
    """Turns expected failures into one line on stderr and an exit code; anything else keeps its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the sub-command."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            raise _hinted(error) from error

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command."""
        try:
            with termination_as_error(_TERMINATED), _warnings_said():
                return super().invoke(ctx)
        except BrokenPipeError as error:  # the reader ('| head') has seen enough
            leave_stdout()
            raise typer.Exit(0) from error
        except InterruptedRun as error:
            if str(error) != _TERMINATED or not is_told_of_failure():  # who ended it says what of
                _say("stopped", error)
            raise typer.Exit(error.exit_code) from error
        except _UsageError as error:  # of the sub-command's name, options and arguments
            raise _hinted(error) from error
        except FailedElsewhere as error:
            raise typer.Exit(LOST if is_launched() else error.exit_code) from error
        except VitctlError as error:
            _say("error", error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _say("error", InterruptedRun("interrupted."))
            raise typer.Exit(130) from error


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say our own warnings as everything else is said, each once."""
    said = set[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("always", SaidWarning)
        shown = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, SaidWarning):
                shown(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                _say("warning", VitctlError(str(message)))

        warnings.showwarning = say
        yield


def _hinted(error: Exception) -> Exception:
    """Return ``error`` itself, which typer shows below its usage lines, or the end of the command if we know better."""
    sentence = hint(error)
    if sentence is None:
        error.message = shown(str(getattr(error, "message", "")))  # type: ignore[attr-defined]  # of click's errors
        return error
    _say("error", SettingError(sentence))
    return typer.Exit(2)


def _say(word: str, error: VitctlError) -> None:
    """Say on stderr what happened; one of several processes says which it is, or leaves it to the first."""
    if _is_said_elsewhere(error):
        return
    prefix = "" if is_first_process() else f"[process {os.environ.get('RANK')}] "
    typer.echo(f"{prefix}{word}: {error}", err=True)


def _is_said_elsewhere(error: VitctlError) -> bool:
    if "vitctl.primitives.process_group" not in sys.modules:
        return False
    from vitctl.primitives.process_group import is_said_by_first  # here, not above: it imports torch

    return is_said_by_first(error)


app = typer.Typer(
    cls=_ErrorBoundary,
    help="Fine-tune a pretrained Vision Transformer at a higher resolution, evaluate it, look into it, use it.",
    epilog="'vitctl COMMAND --help' explains a command. First steps: vitctl finetune",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vitctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune a pretrained Vision Transformer at a higher resolution, evaluate it, look into it, use it."""


def _add_commands() -> None:
    from vitctl.cli import (
        compare,
        data,
        evaluate,
        export,
        fewshot_eval,
        finetune,
        guide,
        inspect_model,
        log,
        models,
        predict,
        recipes,
        runs,
        sweep,
    )

    app.command("data", epilog=data.EXAMPLES)(data.data)
    app.command("finetune", epilog=finetune.EXAMPLES)(finetune.finetune)
    app.command("sweep", epilog=sweep.EXAMPLES)(sweep.sweep)
    app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
    app.command("fewshot-eval", epilog=fewshot_eval.EXAMPLES)(fewshot_eval.fewshot_eval)
    app.command(
        "inspect",
        cls=inspect_model.Analyses,  # type: ignore[arg-type]  # a group; add_typer would list it behind all commands
        epilog=inspect_model.EXAMPLES,
        no_args_is_help=True,
    )(inspect_model.inspect)
    app.command("export", epilog=export.EXAMPLES)(export.export)
    app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
    app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
    app.command("runs", epilog=runs.EXAMPLES)(runs.runs)
    app.command("log", epilog=log.EXAMPLES)(log.log)
    app.command("models", epilog=models.EXAMPLES)(models.models)
    app.add_typer(recipes.app, name="recipes")
    app.command("guide", epilog=guide.EXAMPLES)(guide.guide)


_add_commands()


def main() -> None:
    """Run the command line; the entry point of ``vitctl`` and ``python -m vitctl``."""
    code: Any = None
    end_with_parent()
    try:
        app(prog_name="vitctl")  # also of python -m vitctl, whose completion is then of that name too
    except SystemExit as end:
        code = end.code
    except OSError as error:  # of what was said: a help page, a line, or the sentence of an error
        if not is_of_printing(error):
            raise
        code = SettingError.exit_code
        if not has_lost_output():  # what is not buffered does not wait
            say_lost_output()
    sys.exit(SettingError.exit_code if has_lost_output() else code)
