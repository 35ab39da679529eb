"""Every option that a text of vitctl names is one that some command takes: no advice leads nowhere."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from vitctl.cli.app import app

NAMED = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

# options of other programs that a text may name
OTHER_PROGRAMS = {"--nproc-per-node": "torchrun", "--upgrade": "pip", "--logdir": "tensorboard"}


def options_of(command: Any) -> set[str]:
    """Return every ``--option`` of a command and of those below it."""
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for child in getattr(command, "commands", {}).values():
        found |= options_of(child)
    return {name for name in found if name.startswith("--")}


def named_options(tree: ast.Module) -> list[tuple[int, str]]:
    """Return line and name of every option in the texts of a module: f-strings and docstrings are among them."""
    return [
        (node.lineno, name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in NAMED.findall(node.value)
    ]


def unknown_options(tree: ast.Module, known: set[str]) -> list[str]:
    return [f"{name} (line {line})" for line, name in named_options(tree) if name not in known]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return options_of(typer.main.get_command(app)) | {"--help"} | set(OTHER_PROGRAMS)


def test_named_options_are_there(known: set[str], package: dict[Path, ast.Module]) -> None:
    assert sum(len(named_options(tree)) for tree in package.values()) > 100
    found = [f"{path}: {name}" for path, tree in package.items() for name in unknown_options(tree, known)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "planted",
    [
        'raise SettingError("Try --learning-rate 0.1.")',
        'raise SettingError(f"{name} is too large; try --image-sise {size}.")',
        'def f():\n    """As ``--dry`` says."""',
        'HELP = ("what --lr is, "\n"with --epoch")',
    ],
)
def test_named_options_are_there__the_check_can_fail(planted: str, known: set[str]) -> None:
    assert len(unknown_options(ast.parse(planted), known)) == 1


@pytest.mark.parametrize("text", ["--lr", "(--steps)", "'--no-flip'", "--image-size=24", "a -- b", "x--y", "--%s"])
def test_named_options__of_every_spelling_are_found(text: str, known: set[str]) -> None:
    assert unknown_options(ast.parse(f"TEXT = {text!r}"), known) == []
