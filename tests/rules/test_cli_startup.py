"""``--help`` is instant: no heavy import behind the help of any command."""

import json
import subprocess
import sys

HEAVY = ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy", "PIL", "sklearn", "scipy", "matplotlib")
HEAVY += ("onnx", "onnxscript", "onnxruntime", "transformers")

# one fresh interpreter shows every help page, then tells which heavy modules it holds and which pages it saw
SCRIPT = f"""
import json, sys
import typer
from typer.testing import CliRunner
from vitctl.cli.app import app

def pages(command, path):
    yield path
    for name, child in getattr(command, "commands", {{}}).items():
        yield from pages(child, [*path, name])

seen = []
for path in pages(typer.main.get_command(app), []):
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0, (path, result.output)
    seen.append(" ".join(path))
if "--break" in sys.argv:
    import numpy
print(json.dumps({{"heavy": [name for name in {HEAVY!r} if name in sys.modules], "seen": seen}}))
"""


def run_script(*args: str) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *args], capture_output=True, text=True, check=True)
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def test_help_imports_nothing_heavy() -> None:
    answer = run_script()
    assert answer["heavy"] == []
    assert {"", "finetune", "evaluate", "predict", "models", "recipes", "recipes ls", "recipes show"} <= set(
        answer["seen"]
    )


def test_help_imports_nothing_heavy__the_check_can_fail() -> None:
    assert run_script("--break")["heavy"] == ["numpy"]
