"""What a command imports: heavy packages where they are used, and so only by the commands that use them.

``tests/benchmarks/start.py`` measures what that is worth.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# imported within functions alone, wherever they are used: each takes about as long as a small command
LATE = ("sklearn", "scipy.stats", "pandas", "pyarrow", "datasets", "transformers", "torch._dynamo")
LATE += ("vitctl.reporting.figures",)  # the commands that always draw import other pictures at the top

# what a process may hold; the rest of the heavy packages comes with these
WATCHED = (
    "torch", "torch._dynamo", "timm", "timm.optim", "accelerate", "scipy.linalg", "scipy.optimize", "scipy.stats",
    "sklearn", "pandas", "pyarrow", "datasets", "matplotlib", "onnx", "onnxruntime", "transformers",
)  # fmt: skip

SCRIPT = f"""
import json, sys
from vitctl.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {WATCHED!r} if name in sys.modules]), file=sys.stderr)
"""
ALL_WORKFLOWS = f"""
import gc; gc.disable()
import importlib, json, pkgutil, sys
import vitctl.workflows
for module in pkgutil.iter_modules(vitctl.workflows.__path__):
    importlib.import_module("vitctl.workflows." + module.name)
if "--break" in sys.argv:
    sys.modules["sklearn"] = sys
print(json.dumps([name for name in {WATCHED!r} if name in sys.modules]), file=sys.stderr)
"""

# command -> what it imports of WATCHED beside torch and timm, by the time it is done
USES = {
    ("models",): "",
    ("predict", "RUN", "IMAGE"): "",
    ("data", "DATA", "--out", "OUT"): "matplotlib",
    # the closed-form head is fitted by scipy
    ("finetune", "--data", "DATA", "--model", "RUN", "--steps", "1", "--out", "OUT"):
        "timm.optim accelerate matplotlib",
    ("finetune", "--data", "DATA", "--model", "demo", "--steps", "1", "--out", "OUT"):
        "timm.optim accelerate scipy.linalg scipy.optimize matplotlib",
    ("inspect", "filters", "RUN", "--out", "OUT"): "matplotlib",
    # figures of scikit-learn, which imports pandas where there is one
    ("evaluate", "RUN", "--data", "DATA", "--out", "OUT"):
        "scipy.linalg scipy.optimize scipy.stats sklearn pandas pyarrow matplotlib",
    ("export", "RUN", "--to", "npz", "--out", "OUT"): "",
}  # fmt: skip


def late_imports(tree: ast.Module) -> Iterator[str]:
    """Yield the imports of LATE in ``tree`` that run when the module is imported."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if any(f"{name}.".startswith(f"{late}.") for late in LATE))
        waiting += ast.iter_child_nodes(node)


def heavy(script: str, *args: object) -> list[str]:
    """Return what of WATCHED a fresh interpreter holds after ``script``."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return names


def test_late_imports_stand_in_functions(package: dict[Path, ast.Module]) -> None:
    found = [
        f"{path}: {name} is imported at the top; import it in the function that uses it"
        for path, tree in package.items()
        if path.parts[0] != "reporting"  # whose modules import each other
        for name in late_imports(tree)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_late"),
    [
        ("from sklearn.svm import SVC", False),
        ("import scipy.stats", False),
        ("from scipy import stats", False),
        ("class A:\n    import pandas", False),
        ("if True:\n    from vitctl.reporting.figures import save", False),
        ("def f():\n    import sklearn", True),
        ("if TYPE_CHECKING:\n    from datasets import Dataset", True),
        ("from scipy.special import ndtri", True),
    ],
)
def test_late_imports__the_check_can_fail(line: str, is_late: bool) -> None:
    assert (list(late_imports(ast.parse(line))) == []) == is_late


@pytest.mark.slow
def test_importing_every_workflow_imports_what_all_use() -> None:
    assert set(heavy(ALL_WORKFLOWS)) <= {"torch", "timm", "timm.optim", "accelerate", "scipy.linalg", "matplotlib"}


@pytest.mark.slow
def test_importing_every_workflow__the_check_can_fail() -> None:
    assert "sklearn" in heavy(ALL_WORKFLOWS, "--break")


@pytest.mark.slow
@pytest.mark.parametrize("command", USES, ids=" ".join)
def test_a_command_imports_what_it_uses(
    command: tuple[str, ...], finished_run: Path, whole_folder: Path, tmp_path: Path
) -> None:
    image = next(whole_folder.glob("*/*.png"))
    places = {"RUN": finished_run, "DATA": whole_folder, "IMAGE": image, "OUT": tmp_path / "out"}
    found = heavy(SCRIPT, *(places.get(word, word) for word in command))
    assert set(found) - {"torch", "timm"} == set(USES[command].split())


@pytest.mark.slow
def test_runs_imports_no_torch(finished_run: Path) -> None:
    assert heavy(SCRIPT, "runs", finished_run.parent) == []
