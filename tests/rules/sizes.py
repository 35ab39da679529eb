"""``make sizes``: the ten longest files and functions of the package, for a person to look at."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print both lists, longest first."""
    files, functions = [], []
    for path in (ROOT / "vitctl").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        files.append((len(source.splitlines()), str(path.relative_to(ROOT))))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"))
    for title, items in (("files", files), ("functions", functions)):
        print(f"longest {title} (lines)")
        for length, name in sorted(items, reverse=True)[:10]:
            print(f"  {length:5d}  {name}")


if __name__ == "__main__":
    main()
