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
