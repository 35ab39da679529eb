"""What is imported is declared in pyproject.toml, and the other way round; what is declared is pinned for CI."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTS = ROOT / "tests"
PINS = ROOT / ".github" / "constraints.txt"

# declared, though no line of vitctl/ imports it
IMPORTED_BY_OTHERS = {"onnxscript"}  # by torch.onnx, when it exports

# declared, but no part of CI's environment: it is large, and a stand-in takes its place in the tests
NOT_IN_CI = {"wandb"}


def normal(name: str) -> str:
    """Return the name of a distribution as the index compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Return the distributions that the package, or with ``extras`` those of them, ask for."""
    optional = PROJECT["optional-dependencies"]
    wanted = [text for extra in extras for text in optional[extra]] if extras else PROJECT["dependencies"]
    return {normal(re.split(r"[^\w.-]", text)[0]) for text in wanted}


def imported(trees: Iterable[ast.Module]) -> set[str]:
    """Return the distributions of the third-party packages that ``trees`` import, anywhere in them."""
    modules = set[str]()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).partition(".")[0])
    homes = packages_distributions()
    return {normal(homes.get(name, [name])[0]) for name in modules - sys.stdlib_module_names - {"vitctl"}}


def test_what_vitctl_imports_is_what_it_declares(package: dict[Path, ast.Module]) -> None:
    extras = set(PROJECT["optional-dependencies"]) - {"dev"}
    assert imported(package.values()) == (declared() | declared(*extras)) - IMPORTED_BY_OTHERS


def test_what_the_tests_import_is_declared() -> None:
    everything = declared() | declared(*PROJECT["optional-dependencies"])
    beside = {normal(path.stem) for path in (TESTS / "benchmarks").glob("*.py")}  # scripts that import one another
    found = imported(ast.parse(path.read_text(encoding="utf-8")) for path in sorted(TESTS.rglob("*.py")))
    assert found - beside <= everything


def test_imports__the_check_can_fail() -> None:
    planted = "import os, PIL.Image\ndef f():\n    from sklearn.svm import SVC\n    from . import here"
    assert imported([ast.parse(planted)]) == {"pillow", "scikit-learn"}
    assert imported([ast.parse("import not_installed_anywhere.at_all")]) == {"not-installed-anywhere"}
    assert {"torch", "huggingface-hub", "pillow"} <= declared()
    assert "torch" not in declared("onnx")


def test_pins__are_plain_and_cover_what_is_declared() -> None:
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    names = [normal(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)
    assert (declared() | declared(*PROJECT["optional-dependencies"])) - set(names) == NOT_IN_CI
    assert "vitctl" not in names
