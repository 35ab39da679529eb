"""The package as the rules read it: every module parsed, once for all of them."""

import ast
from pathlib import Path

import pytest

import vitctl


@pytest.fixture(scope="session")
def package() -> dict[Path, ast.Module]:
    """Every module of vitctl by its path below the package, in order. Not to be changed."""
    folder = Path(vitctl.__file__).parent
    paths = sorted(folder.rglob("*.py"))
    return {path.relative_to(folder): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
