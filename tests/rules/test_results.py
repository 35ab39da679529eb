"""Every workflow returns a result of its own, a dataclass whose JSON is the ``--json`` document."""

import pkgutil
from importlib import import_module
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest

import vitctl.workflows
from vitctl.results.result import Result

WORKFLOWS = [
    module
    for info in pkgutil.iter_modules(vitctl.workflows.__path__)
    if hasattr(module := import_module(f"vitctl.workflows.{info.name}"), "run")
]


def is_result(kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return all(is_result(one) for one in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, Result)


def test_there_are_workflows() -> None:
    assert len(WORKFLOWS) >= 8


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda module: module.__name__)
def test_workflows_return_results(workflow: Any) -> None:
    assert is_result(get_type_hints(workflow.run)["return"])


def test_workflows_return_results__the_check_can_fail() -> None:
    assert not is_result(dict[str, Any])
    assert not is_result(Result | dict[str, Any])
