"""A run that was stopped has no best/: every command that takes its last weights says so, once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SENTENCE = "{} was stopped before its end: these are the weights of its last/."


@pytest.mark.usefixtures("no_rendering", "no_findings_drawn")
@pytest.mark.parametrize("command", ["predict {} image.png", "evaluate {} --split test", "inspect filters {}"])
def test_last_weights_with_a_warning(run_cli: Callable[..., Any], finished_run: Path, command: str) -> None:
    shutil.copytree(finished_run, "run")
    shutil.rmtree("run/best")
    shutil.copy(finished_run.parent / "data" / "test" / "red" / "0.png", "image.png")
    result = run_cli(*(part.format("run") for part in command.split()))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(SENTENCE.format("run")) == 1
    arguments = [*(part.format("run/last") for part in command.split())]
    if command.startswith("evaluate"):
        arguments += ["--data", str(finished_run.parent / "data")]
    result = run_cli(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "stopped" not in result.stderr
