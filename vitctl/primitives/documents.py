"""The one door for files that others wrote: documents (JSON, TOML) by a schema, and a boundary for every other reader.

What comes through ``read_document`` or ``parse_document`` is of the types that its schema says, not nested deeply, and
holds no number or text that cannot be shown or computed with. A schema is any type that pydantic reads: a class below
``vitctl.primitives.schemas.Schema``, ``dict[str, Any]`` where each key is checked elsewhere. Importing this module
imports no pydantic: help pages need none.
"""

import functools
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from vitctl.errors import VitctlError
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.schema_mistakes import mistake_of, shortened

SchemaT = TypeVar("SchemaT")
Syntax = Literal["JSON", "TOML"]
Refusal = Callable[[str], VitctlError]
"""From a sentence to the error to raise: a class of ``vitctl.errors``, or one with its field filled in."""

MAX_BYTES = 16 * 2**20  # guess: the config.json of 21,843 described classes has 3 MB
_PIECE = 2**20
MAX_TOML_BYTES = 2**18  # guess: recipes have 5 kB
MAX_DEPTH = 64  # guess: no configuration we know is nested above 8
MAX_DIGITS = 300  # a longer whole number is larger than any float

# json.dumps writes a file name's bytes that are no UTF-8 as these halves (PEP 383); any other half is no text
_NO_TEXT = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class UnusableDocument(ValueError):
    """A document cannot be used; the text says what was found and what was expected, but not where."""


def read_document(
    path: Path,
    schema: type[SchemaT],
    *,
    error: Refusal,
    advice: str,
    where: str | None = None,
    syntax: Syntax = "JSON",
    most_bytes: int = MAX_BYTES,
    is_strict: bool = True,
) -> SchemaT:
    """Return the document in a file.

    Args:
        path: The file.
        schema: Its type; all values are of it when this returns.
        error: What to raise.
        advice: What to expect or try: the end of the sentence, without its full stop.
        where: What the sentence calls the file; None is its path.
        syntax: What it is written in.
        most_bytes: A larger file is refused unread.
        is_strict: See ``parse_document``.

    Raises:
        VitctlError: ``error``, with one sentence: where, what was found at which key, what was expected, ``advice``.
    """
    try:
        content = _content(path, MAX_TOML_BYTES if syntax == "TOML" else most_bytes)
        return parse_document(content, schema, syntax=syntax, is_strict=is_strict)
    except UnusableDocument as unusable:
        raise error(f"{where or path} cannot be read: {unusable}; {advice}.") from unusable
    except (OSError, ValueError) as cause:  # ValueError: a path with a null character
        found = getattr(cause, "strerror", None) or cause
        raise error(f"{where or path} cannot be read: {found}; {advice}.") from cause


def parse_document(
    content: bytes | str, schema: type[SchemaT], *, syntax: Syntax = "JSON", is_strict: bool = True
) -> SchemaT:
    """Return the document that ``content`` is, UTF-8 where it is bytes: a line of a table, a member of an archive.

    Args:
        content: The document.
        schema: Its type; see ``read_document``.
        syntax: What it is written in.
        is_strict: Whether to refuse NaN and infinities, which JSON does not have, and halves of characters, which
            captions cut to a length end in.

    Raises:
        UnusableDocument: It is not of the syntax or the schema, is nested too deeply, or holds what is no text.
    """
    document = _parsed(content, syntax)
    _check_values(document, is_strict=is_strict and syntax == "JSON")  # TOML has NaN, and no halves
    return _typed(document, schema)


def peek_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, to see by its keys what it is; an empty one where there is none."""
    try:
        return read_document(path, dict[str, Any], error=VitctlError, advice="")
    except VitctlError:
        return {}


def why_unreadable(path: Path) -> str | None:
    """Return why there is no JSON object in the file at ``path``, in a few words; None where there is no file."""
    if not os.path.lexists(path):
        return None
    try:
        read_document(path, dict[str, Any], error=VitctlError, advice="")
    except VitctlError as error:
        return str(error).partition(" cannot be read: ")[2].rstrip("; .")
    return None


def check_regular(path: Path) -> None:
    """Check that ``path`` is a file that ends: opening a pipe waits for ever, and reading a device never ends.

    Raises:
        OSError: There is nothing, or it may not be looked at.
        UnusableDocument: It is something else.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise UnusableDocument(f"it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")


@contextmanager
def foreign(where: Path | str, error: Refusal, *, expected: str, kind: str = "") -> Iterator[None]:
    """Turn whatever a library's reader raises inside the block into one sentence.

    Readers of archives, arrays and tensors raise what the bytes provoke, which has no common base class. Only calls
    that read belong inside: a mistake of ours there would be taken for one of the file.

    Args:
        where: What is read, for the sentence.
        error: What to raise.
        expected: What the file should have been, and what to try: the end of the sentence, without its full stop.
        kind: As what it is read, where its name leaves that open: ``.npz``.

    Raises:
        VitctlError: ``error``; those that the block raises itself pass unchanged, as do errors of a full memory.
    """
    try:
        yield
    except Exception as cause:
        if isinstance(cause, VitctlError) or is_out_of_memory(cause):
            raise
        reading = f"read as {kind}" if kind else "read"
        raise error(f"{where} cannot be {reading} ({reason_of(cause)}); expected {expected}.") from cause


def reason_of(error: BaseException) -> str:
    """Return the first line of what a library says, without its full stop; its class where it says nothing.

    Of a chain of exceptions it is the first, which lies at the bottom.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    lines = text.strip().splitlines() or [type(error).__name__]
    printable = lines[0].encode("utf-8", "backslashreplace").decode()
    return printable.rstrip(".")[:200]


def _content(path: Path, most_bytes: int) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(min(os.fstat(file.fileno()).st_size, most_bytes) + 1)  # as much memory is taken at once
        while len(content) <= most_bytes and (piece := file.read(_PIECE)):  # it has grown, or does not tell its size
            content += piece
    if len(content) > most_bytes:
        raise UnusableDocument(f"it is larger than {most_bytes:,} bytes")
    return content


def _parsed(content: bytes | str, syntax: Syntax) -> Any:
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        if syntax == "JSON":
            return json.loads(text)
        _check_dots(text)
        return tomllib.loads(text)
    except RecursionError as cause:
        raise UnusableDocument(_too_deep()) from cause
    except UnicodeDecodeError as cause:
        raise UnusableDocument(f"it is not UTF-8 text: {cause.reason} at byte {cause.start}") from cause
    except json.JSONDecodeError as cause:
        place = f"line {cause.lineno}, column {cause.colno}"
        raise UnusableDocument(f"it is not JSON: {cause.msg} ({place})") from cause
    except tomllib.TOMLDecodeError as cause:
        raise UnusableDocument(f"it is not TOML: {cause}") from cause
    except UnusableDocument:
        raise
    except ValueError as cause:  # all that is left: numbers that Python does not read
        raise UnusableDocument(_too_long()) from cause


def _check_dots(text: str) -> None:
    """Refuse keys of very many parts, ``a.a.a.a``: tomllib takes the square of their number in time and memory."""
    if any(line.count(".") > MAX_DEPTH and not line.lstrip().startswith("#") for line in text.splitlines()):
        raise UnusableDocument(f"a line has more than {MAX_DEPTH} dots")


def _check_values(document: Any, *, is_strict: bool) -> None:
    """Refuse what any code that shows or copies the document would fall over."""
    level, depth = [document], 0
    while level:  # not recursive, which is the point
        below: list[Any] = []
        for value in level:
            if depth == MAX_DEPTH and isinstance(value, (dict, list)):
                raise UnusableDocument(_too_deep())
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                if is_strict and not value.isascii() and _NO_TEXT.search(value):
                    raise UnusableDocument(f"{shortened(value)} is no text: it holds half of a character")
            elif isinstance(value, float):
                if is_strict and not math.isfinite(value):
                    raise UnusableDocument(f"it holds the number {value}")
            elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise UnusableDocument(_too_long())
        level, depth = below, depth + 1


def _too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} deep"


def _too_long() -> str:
    return f"it holds a whole number of more than {MAX_DIGITS} digits"


@functools.cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter  # here, not above: it takes longer to load than a help page does

    return TypeAdapter(schema)


def _typed(document: Any, schema: type[SchemaT]) -> SchemaT:
    from pydantic import ValidationError

    kind: Any = schema  # a type that is generic is no Hashable to mypy
    try:
        found: SchemaT = _adapter(kind).validate_python(document)
    except ValidationError as error:
        raise UnusableDocument(mistake_of(document, error.errors(include_url=False))) from error
    return found
