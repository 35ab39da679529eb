"""Tables and pairs on stdout: aligned as a terminal shows them."""

import pytest
from rich.cells import cell_len

from vitctl.cli.output import print_columns, print_pairs

NAMES = ("cat", "고양이 (흰색)", "กางเกง", "two\nlines", "é", "e\u0301")


def starts(text: str, word: str) -> set[int]:
    return {cell_len(line[: line.index(word)]) for line in text.splitlines() if word in line}


def test_columns_of_wide_letters_and_of_those_without_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns(("class", "images"), [(name, "12") for name in NAMES])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 + len(NAMES)
    assert starts(out, "12") == starts(out, "images") == {max(map(cell_len, NAMES)) + 2}


def test_pairs_of_wide_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([(name, "12") for name in NAMES])
    assert len(starts(capsys.readouterr().out, "12")) == 1


def test_columns__on_a_narrow_terminal__in_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, row = ("name", "top-1", "interval", "NLL"), ("lr=0.1", "50 %", "40 to 60 %", "1.2")
    print_columns(header, [row], together=(1, 2, 1))  # no terminal
    whole = capsys.readouterr().out
    assert len(whole.splitlines()) == 2
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "29")
    print_columns(header, [row], together=(1, 2, 1))
    parts = [
        ["name    top-1  interval", "lr=0.1  50 %   40 to 60 %"],
        ["name    NLL", "lr=0.1  1.2"],
    ]
    assert capsys.readouterr().out.split("\n\n") == ["\n".join(parts[0]), "\n".join(parts[1]) + "\n"]
    monkeypatch.setenv("COLUMNS", "30")
    print_columns(header, [row], together=(1, 2, 1))
    assert capsys.readouterr().out == whole
    monkeypatch.setattr("sys.stdout", None)  # closed by who started it
    print_columns(header, [row], together=(1, 2, 1))
