"""The parts of README.md that the tool prints itself: help pages and the map of the folders.

``make readme`` rewrites them; ``test_readme.py`` fails when they are stale. A generated part stands between
``<!-- NAME -->`` and ``<!-- end -->``.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PART = re.compile(r"(<!-- (?P<name>[a-z -]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)


def help_page(path: str) -> str:
    """Return what ``vitctl PATH --help`` prints in a terminal of 80 columns, as a code block."""
    from typer.testing import CliRunner

    from vitctl.cli.app import app

    result = CliRunner().invoke(app, [*path.split(), "--help"], prog_name="vitctl")
    return f"```text\n$ vitctl {f'{path} ' if path else ''}--help\n{result.output.rstrip()}\n```\n"


def folder_map() -> str:
    """Return every folder and module of the package with the first line of its docstring."""
    lines = []
    for path in sorted((ROOT / "vitctl").rglob("*.py"), key=lambda p: (p.parent != ROOT / "vitctl", p.as_posix())):
        relative = path.relative_to(ROOT)
        text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        name = f"{relative.parent.as_posix()}/" if path.name == "__init__.py" else relative.as_posix()
        lines.append(f"{name:<44} {text}")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def render(text: str) -> str:
    """Return the README's text with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "map":
            body = folder_map()
        elif name.startswith("help"):
            body = help_page(name.removeprefix("help").strip())
        else:
            body = match["text"]
        return f"{match[1]}{body}{match[4]}"

    return PART.sub(part, text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
