"""Public functions that take or return tensors say their shapes."""

import ast
import re
from pathlib import Path

import vitctl

PACKAGE = Path(vitctl.__file__).parent
TENSOR = re.compile(r"\b(Tensor|ndarray)\b")
SHAPE = re.compile(r"\((?:\d+, )*[A-Z0-9][A-Za-z0-9_+* ]*(?:,[^()]*)?\)")


def tensor_functions_without_shape(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = [*node.args.args, *node.args.kwonlyargs]
        annotations = [ast.unparse(a.annotation) for a in arguments if a.annotation] + (
            [ast.unparse(node.returns)] if node.returns else []
        )
        if any(TENSOR.search(text) for text in annotations) and not SHAPE.search(ast.get_docstring(node) or ""):
            found.append(f"{node.name} (line {node.lineno})")
    return found


def test_tensor_functions_state_shapes() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in tensor_functions_without_shape(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_tensor_functions_state_shapes__the_check_can_fail() -> None:
    planted = 'def scale(x: Tensor) -> Tensor:\n    """Return x, scaled (by two)."""\n'
    assert tensor_functions_without_shape(planted)
    assert not tensor_functions_without_shape(planted.replace("(by two)", "(N, D)"))
