"""What is wrong with a document, in words: from pydantic's report to a key, its value, and what was expected there."""

import functools
from collections.abc import Sequence
from typing import Any

MAX_SHOWN = 60  # characters of a value in a sentence

_WORDS = {
    "string_type": "text",
    "string_unicode": "text",
    "is_instance_of": "text",  # of vitctl.primitives.schemas.Name
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object of keys and values",
    "model_type": "an object of keys and values",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number, {ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number, {le:g} or less",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "literal_error": "{expected}",
}
"""pydantic's name of a mistake -> what was expected, in words."""


def mistake_of(document: Any, mistakes: Sequence[Any]) -> str:
    """Return what pydantic found first: a key, its value, and what was expected there."""
    first = _way(document, mistakes[0]["loc"])
    if mistakes[0]["type"] == "missing":
        return f"{f'{_key(first)} has' if first else 'it has'} no {mistakes[0]['loc'][-1]!r}"
    # of a key that takes text or a list there are two mistakes or more; that in the list is nearer to what was meant
    ways = [_way(document, one["loc"]) for one in mistakes]
    way = max((one for one in ways if one[: len(first)] == first), key=len)
    words = dict.fromkeys(_words(one) for one, its_way in zip(mistakes, ways, strict=True) if its_way == way)
    value = functools.reduce(lambda inner, step: inner[step], way, document)
    return f"{f'{_key(way)} is' if way else 'it holds'} {shortened(value)}, not {' or '.join(words)}"


def _way(document: Any, steps: Sequence[str | int]) -> list[str | int]:
    """Return those of the steps of pydantic's ``loc`` that are keys; the others name a type."""
    way = []
    for step in steps:
        is_key = isinstance(document, dict) and step in document
        if is_key or (isinstance(document, list) and isinstance(step, int) and step < len(document)):
            document = document[step]
            way.append(step)
    return way


def _key(way: Sequence[str | int]) -> str:
    return ".".join(map(str, way))


def _words(mistake: Any) -> str:
    found: str = _WORDS.get(mistake["type"], mistake["msg"].removeprefix("Input should be "))
    return found.format(**mistake.get("ctx", {})) if mistake["type"] in _WORDS else found


def shortened(value: Any) -> str:
    """Return a value as Python writes it, of a long one the beginning."""
    text = repr(value[: 2 * MAX_SHOWN] if isinstance(value, (str, list)) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
