"""The parts of README.md, CONTRIBUTING.md and the guides that are not written by hand, and the documents themselves.

Help pages and the map of the folders are printed by the tool; what README shows of the demo is taken from the guide
``finetune``. ``make readme`` rewrites them; ``test_readme.py`` fails when they are stale. A generated part stands
between ``<!-- NAME -->`` and ``<!-- end -->``.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
GUIDES = ROOT / "vitctl" / "guides"
PART = re.compile(r"(<!-- (?P<name>[a-z -]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)
FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
# commands of a group that are alike -> the one that is shown for all
ALIKE = {"inspect": "rollout"}
# the stretches of the demo's screen that README shows, from the first line of each to its last
DEMO = re.compile(r"^best  .*?^next  [^\n]*\n|^images +\d+ \(split.*?^ECE[^\n]*\n", re.DOTALL | re.MULTILINE)


def documents() -> list[Path]:
    """Return README, CONTRIBUTING and every guide in every language."""
    return [README, CONTRIBUTING, *sorted(GUIDES.glob("*.md"))]


@functools.cache
def root_command() -> Any:
    """Return the whole command line as one command."""
    import typer

    from vitctl.cli.app import app

    return typer.main.get_command(app)


def commands(command: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``command`` and every command below it with its path: "", "finetune", "recipes", "recipes ls"."""
    command = command or root_command()
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, f"{path} {name}".strip())


def help_page(path: str) -> str:
    """Return what ``vitctl PATH --help`` prints in a terminal of 80 columns, as a code block."""
    from typer.testing import CliRunner

    from vitctl.cli.app import app

    result = CliRunner().invoke(app, [*path.split(), "--help"], prog_name="vitctl")
    return f"```text\n$ vitctl {f'{path} ' if path else ''}--help\n{result.output.rstrip()}\n```\n"


def help_pages(path: str) -> str:
    """Return the help page of a command and of every command below it (of ``ALIKE`` one); of the root its own only."""
    wanted = [name for name, _ in commands() if name == path or (path and name.startswith(f"{path} "))]
    if path in ALIKE:
        wanted = [path, f"{path} {ALIKE[path]}"]
    assert wanted, f"there is no command {path!r}"
    return "\n".join(help_page(name) for name in wanted)


def folder_map() -> str:
    """Return every folder and module of the package with the first line of its docstring."""
    lines = []
    for path in sorted((ROOT / "vitctl").rglob("*.py"), key=lambda p: (p.parent != ROOT / "vitctl", p.as_posix())):
        relative = path.relative_to(ROOT)
        text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        name = f"{relative.parent.as_posix()}/" if path.name == "__init__.py" else relative.as_posix()
        lines.append(f"{name:<44} {text}")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def demo_figures() -> str:
    """Return the figures of the demo, cut from its screen in the guide ``finetune``."""
    stretches = DEMO.findall((GUIDES / "finetune.md").read_text(encoding="utf-8"))
    assert len(stretches) == 2, f"expected the screen of 'make demo' in the guide, found {len(stretches)} parts of it"
    return "```text\n" + "...\n".join(stretches) + "```\n"


def render(text: str) -> str:
    """Return a document's text with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "map":
            body = folder_map()
        elif name == "demo":
            body = demo_figures()
        elif name.split()[0] == "help":
            body = help_pages(name.removeprefix("help").strip())
        else:
            raise ValueError(f"<!-- {name} --> is none of map, demo, help COMMAND")
        return f"{match[1]}{body}{match[4]}"

    return PART.sub(part, text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for document in documents():
        document.write_text(render(document.read_text(encoding="utf-8")), encoding="utf-8")
