"""``import vitctl`` is instant and offers what it says: no heavy import, every name from its own home."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vitctl

HEAVY = ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy", "PIL", "sklearn", "scipy", "matplotlib")
HEAVY += ("onnx", "onnxscript", "onnxruntime", "typer", "rich")

# one fresh interpreter does what costs nothing, then tells which heavy modules it holds
SCRIPT = f"""
import json, sys
import vitctl
dir(vitctl)
vitctl.load
vitctl.DataError
if "--break" in sys.argv:
    import numpy
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def heavy_modules(*args: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *args], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_import_is_light() -> None:
    assert heavy_modules() == []


def test_import_is_light__the_check_can_fail() -> None:
    assert heavy_modules("--break") == ["numpy"]


def test_every_name_is_there() -> None:
    assert set(vitctl._HOMES) < set(vitctl.__all__) <= set(dir(vitctl))
    for name in vitctl.__all__:
        assert getattr(vitctl, name) is not None
    with pytest.raises(AttributeError, match="module 'vitctl' has no attribute 'lod'"):
        vitctl.lod  # noqa: B018


def test_type_checkers_see_the_same_homes() -> None:
    tree = ast.parse(Path(vitctl.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen == vitctl._HOMES


def test_no_name_hides_a_submodule() -> None:
    modules = {module.name for module in pkgutil.iter_modules(vitctl.__path__)}
    assert {"data", "models", "api"} <= modules
    assert not modules & set(vitctl.__all__)
