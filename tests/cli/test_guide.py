"""``vitctl guide``: the list, a guide in a pipe and in a terminal, languages, near matches."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vitctl import guides

GUIDE = """\
# How to bake

Flour, [water](https://example.org) and `salt`, see [`vitctl guide data`](data.md).

![a loaf](../../.github/pictures/loaf.png)

<!-- help guide -->
```text
$ vitctl guide --help
<!-- part of the screen -->
```
<!-- end -->
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of guides: bread (English and Korean), data."""
    (tmp_path / "bread.md").write_text(GUIDE, encoding="utf-8")
    (tmp_path / "bread.ko.md").write_text("# 빵 굽기\n\n밀가루, 물, 소금.\n", encoding="utf-8")
    (tmp_path / "data.md").write_text("# Data\n", encoding="utf-8")
    monkeypatch.setattr(guides, "FOLDER", tmp_path)
    return tmp_path


def in_a_terminal(*args: str) -> str:
    """Return what ``vitctl ARGS`` shows in a terminal of 90 columns."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "90"}
    process = subprocess.Popen([sys.executable, "-m", "vitctl", *args], stdout=follower, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says so when the other end is closed
            piece = b""
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert process.wait() == 0
    return shown.decode("utf-8")


def test_list__one_line_each(run_cli) -> None:
    lines = run_cli("guide").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [guide.name for guide in guides.list_guides()]
    assert {"finetune", "data", "recipes", "export", "python"} <= {line.split()[0] for line in lines}
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines[1:])


def test_list__says_which_languages(run_cli, folder: Path) -> None:
    assert run_cli("guide").stdout == "guide  about\nbread  How to bake  en, ko\ndata   Data\n"
    assert run_cli("guide", "--json").json == {
        "guides": [
            {"name": "bread", "about": "How to bake", "languages": ["en", "ko"]},
            {"name": "data", "about": "Data", "languages": ["en"]},
        ]
    }


def test_guide__markdown_that_needs_no_other_file(run_cli, folder: Path) -> None:
    assert run_cli("guide", "bread").stdout == (
        "# How to bake\n\n"
        "Flour, [water](https://example.org) and `salt`, see `vitctl guide data`.\n\n"
        "*Picture: a loaf*\n\n"
        "```text\n$ vitctl guide --help\n<!-- part of the screen -->\n```\n"
    )


def test_guide__json(run_cli, folder: Path) -> None:
    document = run_cli("guide", "bread", "--json").json
    assert document == {"name": "bread", "lang": "en", "text": run_cli("guide", "bread").stdout}


def test_guide__in_another_language(run_cli, folder: Path) -> None:
    assert run_cli("guide", "bread", "--lang", "ko").stdout == "# 빵 굽기\n\n밀가루, 물, 소금.\n"
    assert run_cli("guide", "bread", "--lang", "ko", "--json").json["lang"] == "ko"


@pytest.mark.parametrize("name", [guide.name for guide in guides.list_guides()])
def test_every_guide__in_every_language_without_escapes_or_comments(run_cli, name: str) -> None:
    (languages,) = [guide.languages for guide in guides.list_guides() if guide.name == name]
    for language in languages:
        text = run_cli("guide", name, "--lang", language).stdout
        assert text.startswith("# ")
        assert "\x1b" not in text
        assert "<!--" not in text
        assert "](../" not in text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bred"], "TOPIC is 'bred'; it can be bread, data. Did you mean 'bread'?"),
        (["../secret"], "TOPIC is '../secret'; it can be bread, data."),
        (["bread.ko"], "it can be bread, data."),
        (["data", "--lang", "ko"], "--lang is 'ko'; of the guide 'data' there is en."),
        (["bread", "--lang", "de"], "--lang is 'de'; of the guide 'bread' there are en, ko."),
        (["--lang", "ko"], "--lang ko needs a TOPIC"),
    ],
)
def test_bad_input(run_cli, folder: Path, args: list[str], said: str) -> None:
    result = run_cli("guide", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_terminal__laid_out() -> None:
    shown = in_a_terminal("guide", "reproducibility")
    assert "\x1b[1" in shown  # titles are bold
    assert "##" not in shown
    assert "```" not in shown
    assert "Same in, same out" in shown


def test_pipe__bytes_are_utf_8_whatever_the_encoding_of_stdout(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from vitctl import guides; guides.FOLDER = pathlib.Path(sys.argv.pop(1));"
        "from vitctl.cli.app import main; sys.argv[0] = 'vitctl'; main()"
    )
    (tmp_path / "bread.md").write_text("# 빵\n", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "guide", "bread"],
        capture_output=True,
        env=environment,
        check=True,
    )
    assert done.stdout == "# 빵\n".encode()
