"""Commands out of settings: the fields of a dataclass become Typer's parameters, and a workflow gets what was given."""

import functools
import gc
import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING
from importlib import import_module
from types import ModuleType, NoneType
from typing import Annotated, Any, get_args, get_origin

import typer

from vitctl.cli.launcher import start_if_asked
from vitctl.cli.screen import Screen
from vitctl.settings.option import Described, Settings, described

Body = Callable[..., None]


def takes(settings: type[Settings]) -> Callable[[Body], Body]:
    """Make ``body(given, **its own parameters)`` a command whose options are the fields of ``settings``.

    Args:
        settings: Each field with an ``Opt`` becomes an option or argument, in the order of ``described``.

    Returns:
        A decorator. ``given`` holds what stands on the command line, by field, whether or not it equals the default.
    """

    def decorate(body: Body) -> Body:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        parameters = [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(_parameter(one) for one in described(settings).values() if one.opt is not None),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
        ]

        @functools.wraps(body)
        def command(*, context: typer.Context, **values: Any) -> None:
            mine = {one.name: values.pop(one.name) for one in own}
            body({name: value for name, value in values.items() if _is_given(context, name)}, **mine)

        # Typer reads these two; following __wrapped__ to the body it would find the body's own
        del command.__wrapped__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(one: Described) -> inspect.Parameter:
    opt, default = one.opt, one.default
    if opt is None:
        raise AssertionError(f"{one.name} has no words")
    if opt.parse is not None and default is not None and default is not MISSING:
        default = opt.spell(default)
    words: dict[str, Any] = {"metavar": opt.metavar, "help": opt.help, "show_default": default not in (None, MISSING)}
    flags = opt.flags or ((f"--{one.name.replace('_', '-')}",) if one.kind is bool else ())
    info = typer.Argument(**words) if opt.is_argument else typer.Option(*flags, **words)
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[_typer_kind(one), info],
    )


def _typer_kind(one: Described) -> Any:
    """Return the type Typer gets: text for what is parsed; a repeated option is its ``list``, ours a tuple."""
    is_optional = NoneType in get_args(one.kind)
    kind = next(part for part in get_args(one.kind) if part is not NoneType) if is_optional else one.kind
    if one.opt is not None and one.opt.parse is not None:
        kind = str
    elif get_origin(kind) is tuple:
        kind = list[str]
    return kind | None if is_optional else kind


def run(workflow: str, config: Settings, screen: Screen | None = None, *, is_of_runs: bool = False) -> Any:
    """Run ``vitctl.workflows.WORKFLOW`` and return its result; torch is imported here, while a spinner turns.

    With ``num_processes`` the command is run in that many processes instead, and ends with them.

    Args:
        workflow: Its name.
        config: Its settings.
        screen: What it talks to; None makes one.
        is_of_runs: Whether it computes nothing itself, but looks at runs or starts other commands: these have the
            processes, and nobody waits for torch here.
    """
    if is_of_runs:
        return import_module(f"vitctl.workflows.{workflow}").run(config, screen or Screen())
    is_resumable = hasattr(config, "resume")
    asked, device = getattr(config, "num_processes", None), getattr(config, "device", "")
    if start_if_asked(asked, device=device, is_resumable=is_resumable):
        raise typer.Exit
    screen = screen or Screen()
    with screen.waiting("starting: loading torch and timm"):
        module = _loaded(f"vitctl.workflows.{workflow}")
        from vitctl.primitives.devices import enough_memory_on_cpu  # here, not above: they import torch
        from vitctl.primitives.process_group import lost_process_is_a_sentence
    with lost_process_is_a_sentence(), enough_memory_on_cpu(getattr(config, "batch_size", None)):
        return module.run(config, screen)


def _loaded(name: str) -> ModuleType:
    """Return the module ``name``; where it is yet to be imported, with the garbage collector out of the way.

    The 300,000 objects of torch and timm stay. To look through them again and again for what has become garbage takes
    a quarter of the time of importing: measured (2026-11, CPython 3.11). So nobody looks now, nor later (``freeze``).
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
