"""A run that was stopped has no best/: every command that takes its last weights says so, once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SENTENCE = "{} was stopped before its end: these are the weights of its last/."


@pytest.mark.usefixtures("no_rendering", "no_findings_drawn")
@pytest.mark.parametrize(
    "command",
    [
        "predict {} image.png",
        "evaluate {} --split test",
        "inspect filters {}",
        "inspect pos-embed {} --image-size 32",  # opens it at that size and at its own
        "inspect probe {} --shots 1 --seeds 1 --num-workers 0",
        "export {} --to timm --out exports",
        "fewshot-eval --model {} --data data --shots 1 --seeds 1 --num-workers 0",
        "finetune --model {} --data data --steps 1 --batch-size 4 --num-workers 0 --dry-run",
    ],
)
def test_last_weights_with_a_warning(run_cli: Callable[..., Any], finished_run: Path, command: str) -> None:
    shutil.copytree(finished_run, "run")
    shutil.rmtree("run/best")
    shutil.copytree(finished_run.parent / "data", "data")
    shutil.copy(finished_run.parent / "data" / "test" / "red" / "0.png", "image.png")
    result = run_cli(*(part.format("run") for part in command.split()))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(SENTENCE.format("run")) == 1
    arguments = [*(part.format("run/last") for part in command.split())]
    if command.startswith("export"):
        shutil.rmtree("exports")
    if command.startswith("evaluate"):
        arguments += ["--data", str(finished_run.parent / "data")]
    result = run_cli(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "stopped" not in result.stderr
