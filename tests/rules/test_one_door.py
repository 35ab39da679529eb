"""Documents that others wrote come in through one door, where their size, nesting and types are checked."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

DOOR = Path("primitives/documents.py")


def other_doors(tree: ast.Module, name: str) -> Iterator[str]:
    """Yield a sentence for each use of a parser of JSON or TOML, or of a decoder of pickles."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            used = " ".join(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            used = " ".join(alias.name for alias in node.names)
        else:
            continue
        found = [word for word in used.split() if word in ("json.load", "json.loads", "json.JSONDecoder")]
        found += [word for word in used.split() if word.partition(".")[0] in ("tomllib", "pickle", "yaml", "marshal")]
        yield from (f"{name}:{node.lineno}: {word}; read_document and parse_document read documents" for word in found)


def test_documents_have_one_door(package: dict[Path, ast.Module]) -> None:
    assert list(other_doors(package[DOOR], str(DOOR)))
    found = [sentence for path, tree in package.items() if path != DOOR for sentence in other_doors(tree, str(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    ["json.loads(text)", "json.load(file)", "import tomllib", "from json import dumps, loads", "tomllib.load(file)"],
)
def test_documents_have_one_door__the_check_can_fail(line: str) -> None:
    assert list(other_doors(ast.parse(line), "planted.py"))
    assert not list(other_doors(ast.parse("import json\nfrom json import dumps\njson.dumps(1)"), "planted.py"))
