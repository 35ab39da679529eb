"""Who may import whom: the tables of style, held against every import statement; workflows are tables of contents."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# unit -> units of vitctl it may import from (itself always)
FLOORS = {
    "api": {
        "cli", "workflows", "classifier", "inspecting", "settings", "conversation", "primitives", "results", "errors",
        "",
    },  # cli: its screen alone, where asked for; inspecting: its catalogue
    "cli": {
        "workflows", "inspecting", "settings", "recipes", "guides", "conversation", "primitives", "results", "errors",
        "shown", "",
    },  # inspecting: its catalogue alone, which imports no torch
    "workflows": {
        "training", "sweeping", "run_folders", "evaluation", "exporting", "inspecting",
        "reporting", "models", "data", "primitives", "settings", "recipes", "conversation", "results", "errors", "",
    },
    "classifier": {"evaluation", "models", "data", "primitives", "conversation", "results", "errors"},
    "training": {
        "run_folders", "evaluation", "models", "data", "primitives", "settings", "recipes", "conversation", "results",
        "errors", "",
    },  # settings: a plan is what a person said, and what was decided beside it
    "evaluation": {"models", "data", "primitives", "conversation", "results", "errors"},
    "sweeping": {
        "run_folders", "evaluation", "models", "data", "primitives", "settings", "recipes", "conversation", "results",
        "errors", "",
    },  # no training: every run is a process of its own
    "run_folders": {
        "evaluation", "models", "data", "primitives", "settings", "recipes", "conversation", "results", "errors",
    },
    "exporting": {"models", "data", "primitives", "conversation", "results", "errors", "shown", ""},
    "inspecting": {
        "evaluation", "models", "data", "primitives", "settings", "conversation", "results", "errors",
    },  # evaluation: probes of layers are fewshot-eval's, or they would be others
    "reporting": {"primitives", "errors", "shown"},
    "models": {"primitives", "conversation", "results", "errors"},
    "data": {"primitives", "conversation", "results", "errors"},
    "primitives": {"errors", "shown"},
    "settings": {"recipes", "primitives", "errors"},
    "recipes": {"primitives", "errors"},  # primitives: the door for documents alone, which imports nothing heavy
    "guides": {"errors"},
    "conversation": set(),
    "results": set(),
    "errors": {"shown"},
    "shown": set(),
    "telemetry": set(),
    "__main__": {"cli"},
    "": {"api", "classifier", "results", "errors", "telemetry"},
}  # fmt: skip

# plain lists of choices: every unit above errors may import them, so that no list stands twice
WORDS = "settings.words"

# a table of contents; what is longer tells a story of its own
MOST_LINES_OF_A_WORKFLOW = 220

# third-party package -> units that may import it
HOMES = {
    "typer": {"cli"},
    "rich": {"cli"},
    "pydantic": {"settings", "recipes", "primitives", "models", "data"},  # in the last two: schemas of documents
    "accelerate": {"training"},
    "matplotlib": {"reporting"},
    "jinja2": {"reporting", "exporting"},
    "tensorboard": {"reporting"},
    "wandb": {"reporting"},
    "onnx": {"exporting"},
    "onnxscript": {"exporting"},
    "onnxruntime": {"exporting"},
    "transformers": {"exporting"},
    "safetensors": {"models", "evaluation", "exporting", "run_folders"},
    "huggingface_hub": {"primitives", "exporting"},
    "datasets": {"data"},
    "pyarrow": {"data"},
    "timm": {"models", "data", "training", "exporting"},
    "torchvision": {"data"},
    "PIL": {"data", "exporting"},
    "sklearn": {"evaluation", "data"},
    "scipy": {"evaluation", "reporting", "inspecting"},
    "torch": {
        "workflows", "classifier", "training", "sweeping", "run_folders", "evaluation", "exporting", "inspecting",
        "models", "data", "primitives",
    },
    "numpy": {
        "workflows", "classifier", "training", "sweeping", "run_folders", "evaluation", "exporting", "inspecting",
        "reporting", "models", "data", "primitives",
    },
}  # fmt: skip


def unit_of(path: Path) -> str:
    """Return the unit of a path below the package: its folder, or its name, or "" for the package itself."""
    parts = path.parts
    if len(parts) > 1:
        return parts[0]
    return "" if path.stem == "__init__" else path.stem


def imported_by(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that ``tree`` imports, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        yield from ((node.lineno, name) for name in sorted(names))


def violations(tree: ast.Module, unit: str, name: str) -> list[str]:
    """Return one sentence per import in ``tree`` that ``unit`` may not make."""
    found = []
    for line, module in imported_by(tree):
        top, _, rest = module.partition(".")
        if top == "vitctl":
            target = rest.partition(".")[0]
            target = "" if target == "__version__" else target
            if rest.startswith(WORDS) and unit != "errors":
                continue
            if target != unit and target not in FLOORS[unit]:
                found.append(f"{name}:{line}: {unit} may import {sorted(FLOORS[unit])}, not {target}")
        elif top in HOMES and unit not in HOMES[top]:
            found.append(f"{name}:{line}: {top} lives in {sorted(HOMES[top])}, not in {unit}")
    return found


def workflow_violations(tree: ast.Module, name: str) -> list[str]:
    """Return one sentence per import of a workflow that takes it away from being a table of contents of blocks."""
    found = []
    for line, module in imported_by(tree):
        if module.startswith("vitctl.workflows"):
            found.append(f"workflows/{name}:{line}: a workflow imports no workflow; what two of them need is a block")
        if module.startswith("vitctl.training") and name not in ("finetune.py", "recipes.py"):
            found.append(f"workflows/{name}:{line}: only finetune, and who checks its recipes, imports training")
    return found


def test_imports_go_down(package: dict[Path, ast.Module]) -> None:
    found = []
    for path, tree in package.items():
        unit = unit_of(path)
        assert unit in FLOORS, f"{path} is in a folder without a row in FLOORS"
        found += violations(tree, unit, str(path))
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def workflows(package: dict[Path, ast.Module]) -> dict[str, ast.Module]:
    """Every workflow by the name of its file."""
    found = {path.name: tree for path, tree in package.items() if path.parts[0] == "workflows"}
    assert {"finetune.py", "inspect_model.py"} <= set(found)
    return found


def test_workflows_are_made_of_blocks(workflows: dict[str, ast.Module]) -> None:
    found = [sentence for name, tree in workflows.items() for sentence in workflow_violations(tree, name)]
    assert not found, "\n".join(found)


def test_workflows_are_short(workflows: dict[str, ast.Module]) -> None:
    lengths = {name: max((node.end_lineno or 0 for node in tree.body), default=0) for name, tree in workflows.items()}
    assert lengths["inspect_model.py"] > 50
    too_long = {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_WORKFLOW}
    assert not too_long, (
        f"move parts of these workflows to blocks, as none may have more than {MOST_LINES_OF_A_WORKFLOW}"
    )


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("models", "from vitctl.workflows.finetune import run"),
        ("models", "from vitctl.settings.option import Opt"),
        ("errors", "from vitctl.settings.words import DEVICES"),
        ("primitives", "import vitctl.data.images"),
        ("classifier", "from vitctl.training.plan import decide_lr"),
        ("errors", "from vitctl import settings"),
        ("data", "from vitctl.models.build import load_model"),
        ("workflows", "import typer"),
        ("primitives", "from timm.data import create_transform"),
        ("evaluation", "import matplotlib.pyplot"),
    ],
)
def test_violation_is_caught(unit: str, line: str) -> None:
    assert violations(ast.parse(line), unit, "planted.py")


@pytest.mark.parametrize(
    "line",
    [
        "from vitctl.workflows.fewshot_eval import run",
        "from vitctl.workflows import fewshot_eval",
        "import vitctl.workflows.fewshot_eval",
        "from vitctl.training.plan import decide_lr",
        "from vitctl import training",
        "def run():\n    import vitctl.training.plan",
    ],
)
def test_violation_of_a_workflow_is_caught(line: str) -> None:
    assert workflow_violations(ast.parse(line), "inspect_model.py")
    assert bool(workflow_violations(ast.parse(line), "finetune.py")) == ("training" not in line)
