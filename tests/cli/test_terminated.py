"""Every command answers SIGTERM: exit code 143 and a sentence, no traceback."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.primitives.launched import FAILED

COMMANDS = {
    "data": ("data", ["digits"]),
    "evaluate": ("evaluate", ["--model", "demo", "--data", "digits"]),
    "fewshot_eval": ("fewshot-eval", ["--model", "demo"]),
    "inspect_model": ("inspect", ["filters", "demo"]),
    "export": ("export", ["demo"]),
    "predict": ("predict", ["demo", "x.png"]),
    "models": ("models", []),
    "finetune": ("finetune", []),
}


@pytest.mark.parametrize("module", COMMANDS)
def test_sigterm__exit_143(module: str, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_given: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(f"vitctl.workflows.{module}.run", run)
    before = signal.getsignal(signal.SIGTERM)
    command, arguments = COMMANDS[module]
    result = run_cli(command, *arguments)
    assert result.exit_code == 143, result.stderr
    assert result.stderr.splitlines()[-1] == "stopped: terminated."
    assert signal.getsignal(signal.SIGTERM) == before


def test_ended_by_the_launcher_for_another_that_failed__silent(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*_given: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("vitctl.workflows.models.run", run)
    monkeypatch.setenv(FAILED, str(tmp_path / "failed"))
    assert "terminated" in run_cli("models").stderr
    (tmp_path / "failed").touch()
    result = run_cli("models")
    assert (result.exit_code, result.stderr) == (143, "")
