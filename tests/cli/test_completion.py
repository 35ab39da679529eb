"""Completion by the shell: every press of the tab key starts vitctl, so it must be right and import nothing heavy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# what the installed command runs; at its end it tells which heavy modules were imported
COMMAND = """
import atexit, sys
heavy = ("torch", "torchvision", "timm", "numpy", "PIL", "datasets", "sklearn", "scipy", "matplotlib", "onnxruntime")
atexit.register(lambda: print("heavy:", *(name for name in heavy if name in sys.modules), file=sys.stderr))
sys.argv[0] = "vitctl"
if "BREAK" in __import__("os").environ:
    import numpy
from vitctl.cli.app import main
main()
"""


def completed(line: str, **environment: str) -> tuple[list[str], str]:
    """Return what bash offers behind ``line``, and what the process said on stderr."""
    words = line.split(" ")
    protocol = {"_VITCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    env = os.environ | protocol | environment
    done = subprocess.run([sys.executable, "-c", COMMAND], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vitctl f", ["finetune", "fewshot-eval"]),
        pytest.param("vitctl recipes ", ["ls", "show", "check", "cp"], marks=pytest.mark.slow),
        pytest.param("vitctl inspect r", ["rollout", "receptive-field"], marks=pytest.mark.slow),
        ("vitctl inspect rollout --f", ["--fusion"]),
        pytest.param(
            "vitctl finetune --num-", ["--num-workers", "--num-threads", "--num-processes"], marks=pytest.mark.slow
        ),
        pytest.param(
            "vitctl finetune --data photos --group", ["--group-column", "--group-pattern"], marks=pytest.mark.slow
        ),
        ("vitctl finetune --data ", []),  # bash offers files
    ],
)
def test_completion__of_commands_and_options(line: str, expected: list[str]) -> None:
    assert completed(line) == (expected, "heavy:\n")


def test_completion__of_commands_and_options__the_check_can_fail() -> None:
    assert completed("vitctl f", BREAK="1") == (["finetune", "fewshot-eval"], "heavy: numpy\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion__the_script_for_bash_works_there() -> None:
    Path("vitctl").write_text(f"#!{sys.executable}\n{COMMAND}")
    Path("vitctl").chmod(0o755)
    script = """
        PATH="$PWD:$PATH"
        eval "$(vitctl --show-completion bash)"
        COMP_WORDS=(vitctl export run --op) COMP_CWORD=3
        _vitctl_completion vitctl
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--opset"]


def test_completion__of_a_module_that_is_run_is_that_of_vitctl() -> None:
    command = [sys.executable, "-m", "vitctl", "--show-completion", "bash"]
    # typer asks for the shell by name, as here, only where it may not look for one among the processes above it
    named = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=named)
    assert "complete -o default -F _vitctl_completion vitctl" in done.stdout
