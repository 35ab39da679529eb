"""What a person reads is printed in few places, which show foreign text as it is safe to see (``vitctl.shown``)."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# file -> how many calls that print text as it is: what they print is ours, or shown already
PRINTERS = {
    Path("cli/output.py"): 3,  # a JSON document; a line, shown; that stdout is lost
    Path("cli/app.py"): 2,  # an error, which shows itself; the version
    Path("cli/guide.py"): 1,  # guides of the package
    Path("cli/screen.py"): 5,
}
WRITERS = {Path("primitives/csv_files.py"): 1}


def calls(tree: ast.Module, *names: str) -> Iterator[ast.Call]:
    """Yield the calls of functions and methods of these names that have arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (node.args or node.keywords):
            called = ast.unparse(node.func)
            if called in names or called.endswith(tuple(f".{name}" for name in names)):
                yield node


def test_only_printers_print(package: dict[Path, ast.Module]) -> None:
    found = Counter(path for path, tree in package.items() for _ in calls(tree, "print", "echo", "secho"))
    assert found == Counter(PRINTERS)


def test_only_one_writes_csv(package: dict[Path, ast.Module]) -> None:
    found = Counter(path for path, tree in package.items() for _ in calls(tree, "writer", "DictWriter"))
    assert found == Counter(WRITERS)


def test_the_check_can_fail() -> None:
    planted = "typer.echo(name)\nprint(name)\nconsole.print(name)\ncsv.writer(file)\necho()\nfingerprint(name)"
    assert len(list(calls(ast.parse(planted), "print", "echo", "secho"))) == 3
    assert len(list(calls(ast.parse(planted), "writer", "DictWriter"))) == 1
