"""Text that strangers wrote, as a person can see it: what a terminal, a page or a spreadsheet would obey is escaped.

A file, a folder or a class may be called anything: a name can set a window's title, write to the clipboard (OSC 52), go
back and write over its line, or turn round what follows it. git and GNU ls show such letters as escapes, and so does
all that vitctl prints. A backslash stays as it is: an escape is there to be seen, not to be read back.
"""

import re

# C0 with newline and tab, DEL, C1; bidi controls; line and paragraph separators; halves of surrogate pairs
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def shown(text: str) -> str:
    r"""Return ``text`` on one line, each letter that would act instead of being seen as its escape.

    ``\x1b`` is a letter below 128 or a byte of a file name that is not UTF-8; ``\u202e`` any other. Of text that has
    been shown already nothing changes.
    """
    return _UNSEEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    letter, code = match[0], ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # as os.fsdecode says a byte that is no text
        code -= 0xDC00
    elif code >= 0x80:
        return f"\\u{code:04x}"
    return _NAMED.get(letter, f"\\x{code:02x}")


def shown_json(text: str) -> str:
    """Return a JSON document that says the same, with escapes for those letters that JSON could do without."""
    return _UNSEEN_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shown_cell(text: str) -> str:
    """Return ``text`` as a cell that a spreadsheet shows instead of computing it.

    What begins with ``=``, ``+``, ``-`` or ``@`` and is no number gets an apostrophe before it: a spreadsheet's own
    mark of text (OWASP, "CSV Injection").
    """
    seen = shown(text)
    return f"'{seen}" if seen.startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(seen) else seen
