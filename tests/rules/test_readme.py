"""README, CONTRIBUTING and the guides are true: generated parts, links, pictures, tests, commands and Python."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import vitctl

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("readme", Path(__file__).parent / "readme.py")
assert spec is not None
assert spec.loader is not None
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in readme.documents()}
GUIDES = {name: text for name, text in DOCUMENTS.items() if name.startswith("vitctl/guides/")}
ENGLISH = {name: text for name, text in GUIDES.items() if name.count(".") == 1}  # NAME.LANG.md has two
LONGEST_README = 250  # lines: a front page, not a manual

# beginnings of command lines that cost nothing, and so are run
CHEAP = ("vitctl guide", "vitctl models '", "vitctl recipes ls", "vitctl recipes show")

LINE = re.compile(r"^ *(?:\$ )?(?:\S*/bin/)?(vitctl .*)$", re.MULTILINE)
INLINE = re.compile(r"`(vitctl [^`]+)`")


def code_blocks(text: str, *languages: str) -> list[str]:
    return [match["code"] for match in readme.FENCED.finditer(text) if match["language"] in languages]


def command_lines(text: str) -> list[str]:
    """Every ``vitctl ...`` line of the code blocks and every such span of the prose, without what explains it."""
    found = LINE.findall("\n".join(code_blocks(text, "", "text", "bash", "console")))
    prose = readme.FENCED.sub("", text)
    spans = INLINE.findall(" ".join(prose.split()))
    found += [span for span in spans if not re.search(r"COMMAND|ANALYSIS|\.\.\.", span)]
    return [re.split(r" +# | {3,}", line)[0].strip() for line in found]


def words_of(line: str) -> list[str]:
    """The words of a command line up to a pipe or a redirection."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|&;")
    lexer.whitespace_split = True
    for word in lexer:
        if set(word) <= set("<>|&;"):
            break
        words.append(word)
    return words


def mistake(line: str) -> str | None:
    """What is wrong with a command line: an unknown command or option, a value too few or an argument too many."""
    command, context, words = readme.root_command(), None, words_of(line)[1:]
    while True:
        context = command.context_class(command, info_name=command.name, parent=context)
        try:
            _, words, _ = command.make_parser(context).parse_args(words)
        except Exception as error:  # click's, of which typer carries its own copy
            return f"{line}: {getattr(error, 'message', error)}"
        children = getattr(command, "commands", {})
        if not words:
            return None
        if words[0] not in children:
            return f"{line}: there is no {words[0]!r}"
        command, words = children[words[0]], words[1:]


LINES = sorted({(name, line) for name, text in DOCUMENTS.items() for line in command_lines(text)})
RUN = sorted({line for _, line in LINES if line.startswith(CHEAP) and not re.search(r"\b(NAME|TOPIC)\b", line)})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_fresh(name: str) -> None:
    assert DOCUMENTS[name] == readme.render(DOCUMENTS[name]), f"{name} is stale: run 'make readme'"


def test_readme_is_a_front_page() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= LONGEST_README


def test_every_command_has_its_help_page_in_one_guide() -> None:
    paths = [path for path, _ in readme.commands()]
    assert {"", "finetune", "recipes ls"} <= set(paths)
    for path in paths:
        group, _, name = path.partition(" ")
        if group in readme.ALIKE and name not in ("", readme.ALIKE[group]):
            path = f"{group} ANALYSIS"
        title = f"$ {' '.join(['vitctl', *path.split(), '--help'])}\n"
        titles = (title, f"`vitctl {path} --help`") if "ANALYSIS" in path else (title,)
        homes = [name for name, text in ENGLISH.items() for one in titles for _ in range(text.count(one))]
        assert len(homes) == 1, f"the help of 'vitctl {path}' stands in {homes or 'no guide'}"


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_begins_with_its_title(name: str) -> None:
    assert re.match(r"# \S", GUIDES[name])


@pytest.mark.parametrize("name", ENGLISH)
def test_readme_links_to_every_guide(name: str) -> None:
    assert f"]({name})" in DOCUMENTS["README.md"], f"README.md has no row for {name}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_pictures_exist(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", readme.FENCED.sub("", DOCUMENTS[name])):
        there = target.startswith("https://") or ((ROOT / name).parent / target).exists()
        assert there, f"{name} links to {target}"


def test_pictures_are_shown() -> None:
    shown = {Path(target).name for text in DOCUMENTS.values() for target in re.findall(r"\]\(([^)]+\.png)\)", text)}
    assert shown == {path.name for path in (ROOT / ".github/pictures").iterdir()}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"(?:^|`)make\s([a-z][a-z-]*)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name} names 'make {target}'"


def test_tests_that_are_named_exist() -> None:
    named = [
        (name, *match)
        for name, text in DOCUMENTS.items()
        for match in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text)
    ]
    assert len(named) > 10
    for name, path, function in named:
        if "/test_NAME" in path:  # CONTRIBUTING says where a new one goes
            continue
        assert (ROOT / path).is_file(), f"{name} names {path}"
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), f"{name} names {path}::{function}"


@pytest.mark.parametrize(("name", "line"), LINES)
def test_command_lines_parse(name: str, line: str) -> None:
    assert mistake(line) is None, name


@pytest.mark.parametrize(
    "line",
    [
        "vitctl finetun",
        "vitctl finetune --image-sizes 384",
        "vitctl finetune --data",
        "vitctl finetune photos/",
        "vitctl finetune --dry-run=yes",
        "vitctl recipes list",
        "vitctl models a b > names.txt",
    ],
)
def test_command_lines_parse__the_check_can_fail(line: str) -> None:
    assert mistake(line)


def test_command_lines_are_found() -> None:
    text = (
        "`vitctl\nguide data`\n\n```text\n$ vitctl models 'vit_*' | head   # some\n  vitctl predict  a b   says\n```\n"
    )
    assert command_lines(text) == ["vitctl models 'vit_*' | head", "vitctl predict  a b", "vitctl guide data"]
    assert words_of("vitctl models 'vit_*' | head") == ["vitctl", "models", "vit_*"]
    assert len(LINES) > 50


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[pytest.mark.slow] if "--long" in line else []) for line in RUN],  # builds models
)
def test_cheap_command_lines_run(line: str, run_cli: Any) -> None:
    result = run_cli(*words_of(line)[1:])
    assert result.exit_code == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if code_blocks(text, "python")])
def test_python_compiles(name: str) -> None:
    for number, code in enumerate(code_blocks(DOCUMENTS[name], "python")):
        compile(code, f"{name}, block {number}", "exec")


@pytest.mark.skipif(not hasattr(vitctl, "load"), reason="vitctl has no functions yet, commands only")
@pytest.mark.usefixtures("no_rendering")
def test_python_of_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands but for its number of steps: two, and so two validations, for twenty and ten."""
    from PIL import Image

    names: dict[str, Any] = {"images": [Image.new("L", (8, 8), 120), Image.new("RGB", (40, 30), "red")]}
    code = "\n".join(code_blocks(DOCUMENTS["README.md"], "python"))
    assert "steps=20," in code
    exec(compile(code.replace("steps=20,", "steps=2,"), "README.md", "exec"), names)
    probabilities = names["model"].predict_proba(names["images"])
    assert probabilities.shape == (2, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert "runs/python" in capsys.readouterr().out
