"""Foreign text as a person sees it."""

import itertools
import json
import sys
import unicodedata

import pytest

from vitctl.errors import DataError, SettingError
from vitctl.primitives.files import json_text
from vitctl.shown import shown, shown_cell

# Unicode's own list, of which unicodedata has no table: PropList.txt, Bidi_Control
BIDI_CONTROLS = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def acts(code: int) -> bool:
    """Return whether Unicode says that the letter is a control, half a pair, or ends a line, or turns the text."""
    return unicodedata.category(chr(code)) in {"Cc", "Cs", "Zl", "Zp"} or code in BIDI_CONTROLS


def test_every_letter_of_unicode__is_itself_or_an_escape_that_can_be_seen() -> None:
    for code in range(sys.maxunicode + 1):
        seen = shown(chr(code))
        if acts(code):
            assert seen.isascii()
            assert seen.isprintable()
            assert seen.startswith("\\")
        else:
            assert seen == chr(code)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\r\tand more", r"two\nlines\r\tand more"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x7f\x9b31m", r"\x7f\u009b31m"),
        ("gpj.\u202epng", r"gpj.\u202epng"),
        ("caf\udce9 \ud800", r"caf\xe9 \ud800"),  # a byte of a file name; half of a pair, which JSON can say
        (r"C:\new", r"C:\new"),
        ("花 🐈 [bold]x[/bold] :dog:", "花 🐈 [bold]x[/bold] :dog:"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected
    assert shown(expected) == expected


@pytest.mark.parametrize("text", ["-1", "+1", "-.5", "-1.", "+1.5e-3", "-1E6", "cat", "a=b", "", "1-2", "'-x"])
def test_cell__a_number_or_a_word_stays(text: str) -> None:
    assert shown_cell(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|'/C calc'!A0", "-1+1", "@SUM(1)", "-", "--1", "-1_000", "-inf", "-१"])
def test_cell__what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    assert shown_cell(text) == f"'{text}"


def test_cell__has_no_controls() -> None:
    assert shown_cell("\t=1+1\r\n") == r"\t=1+1\r\n"


def test_json__says_the_same_without_a_letter_that_acts() -> None:
    names = [chr(code) for code in range(sys.maxunicode + 1) if acts(code)]
    text = json_text({"names": names, "café\x9b": "花"})
    assert json.loads(text) == {"names": names, "café\x9b": "花"}
    assert not [letter for letter in text if letter != "\n" and acts(ord(letter))]
    assert "花" in text
    assert text.encode()


def test_error__its_lines_are_those_that_were_meant() -> None:
    error = DataError("two\nnames:", "  a\r\nb", "  \x1b[2J")
    assert str(error) == "two\\nnames:\n  a\\r\\nb\n  \\x1b[2J"
    assert error.args[0] == "two\nnames:"  # what a program can still ask for


def test_error__travels_between_processes() -> None:
    import pickle

    for error in (DataError("a\nb", "c"), SettingError("a", "b", field="data")):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_acts__the_check_can_fail() -> None:
    assert len([code for code in range(sys.maxunicode + 1) if acts(code)]) == 65 + 2048 + 2 + len(BIDI_CONTROLS)
    assert not any(acts(ord(letter)) for letter in itertools.chain("aé花🐈 ​"))
