"""Public functions that take or return tensors say their shapes."""

import ast
import re
from pathlib import Path

import pytest

TENSOR = re.compile(r"\b(Tensor|ndarray)\b")
# a size: N, C2, 3H, N_val, D', h, 3; a dimension: sizes and what is made of them, "P + h*w"; or "..."
_SIZE = r"(?:\d*(?:[A-Z]{1,2}\d?(?:_[a-z]+)?'?|[a-z])|\d+)"
_DIMENSION = rf"(?:\.\.\.|{_SIZE}(?:(?: [-+*/] |[*/]){_SIZE})*)"
# one dimension has a comma behind it, and some size is a capital: a year, a pair of numbers and (i, j) are no shapes
SHAPE = re.compile(rf"\((?=[^()]*(?:[A-Z]|h, w))(?:{_DIMENSION},|{_DIMENSION}(?:(?:, | x ){_DIMENSION})+)\)")


def tensor_functions_without_shape(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = [*node.args.args, *node.args.kwonlyargs]
        annotations = [ast.unparse(a.annotation) for a in arguments if a.annotation] + (
            [ast.unparse(node.returns)] if node.returns else []
        )
        if any(TENSOR.search(text) for text in annotations) and not SHAPE.search(ast.get_docstring(node) or ""):
            found.append(f"{node.name} (line {node.lineno})")
    return found


def test_tensor_functions_state_shapes(package: dict[Path, ast.Module]) -> None:
    found = [f"{path}: {name}" for path, tree in package.items() for name in tensor_functions_without_shape(tree)]
    assert not found, "\n".join(found)


SHAPES = ["(N,)", "(N, D)", "(H, W, 3)", "(2, N)", "(..., D)", "(A, ...)", "(T + 1, M, D)", "(1, P + h*w, D)", "(h, w)"]
SHAPES += ["(B x h x w)", "(N_val,)", "(B, D')", "(3H, W/2)", "(B, 3, H, W)"]
PROSE = ["(by two)", "(Wilson)", "(1981)", "(Lee, 2001)", "(2001, 2004)", "(N)", "(None for one seed)", "(I think so)"]
PROSE += ["(i, j)", "(DeiT, section 5)", "(x)", "(3,)", "(B, features)", "(M D)"]


@pytest.mark.parametrize("words", [*SHAPES, *PROSE])
def test_tensor_functions_state_shapes__the_check_can_fail(words: str) -> None:
    planted = f'def scale(x: Tensor) -> Tensor:\n    """Return x, scaled {words}."""\n'
    assert bool(tensor_functions_without_shape(ast.parse(planted))) == (words in PROSE)
