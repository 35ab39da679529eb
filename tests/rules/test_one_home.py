"""Facts have one home: choices stand in ``settings/words.py``, and code that keys a table by them has every one."""

import ast
from collections.abc import Iterator
from pathlib import Path

from vitctl.exporting.verification import TOLERANCES
from vitctl.primitives.position_embeddings import METHODS
from vitctl.settings import words

HOME = Path("settings/words.py")
LISTS = {value: name for name, value in vars(words).items() if isinstance(value, tuple) and len(value) > 1}


def lists_said_again(tree: ast.Module, name: str) -> Iterator[str]:
    """Yield the tuples and lists that are a list of ``words`` written again (another order is a preference)."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) > 2:
            values = tuple(one.value for one in node.elts if isinstance(one, ast.Constant))
            home = LISTS.get(values) if len(values) == len(node.elts) else None
            if home is not None:
                yield f"{name}:{node.lineno}: {values} is words.{home}"


def test_choices_stand_once(package: dict[Path, ast.Module]) -> None:
    assert HOME in package
    found = [
        sentence for path, tree in package.items() if path != HOME for sentence in lists_said_again(tree, str(path))
    ]
    assert not found, "\n".join(found)


def test_choices_stand_once__the_check_can_fail() -> None:
    assert list(lists_said_again(ast.parse('FUSIONS = ("mean", "max", "min")'), "planted.py"))
    assert not list(lists_said_again(ast.parse('FUSIONS = ("mean", "max", "sum")'), "planted.py"))


def test_tables_have_every_choice() -> None:
    assert tuple(METHODS) == words.INTERPOLATIONS
    assert tuple(TOLERANCES) == words.PRECISIONS
