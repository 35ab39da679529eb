"""What class a label of a table, a saved data set or a shard names: one rule for every source.

A text is the name itself and an integer its digits. A whole number in a type for fractions (pandas makes one of a
column with a gap) is that integer. A list of one label is that label. All else is refused.
"""

import re
from collections.abc import Sequence
from typing import Any

from vitctl.errors import DataError

_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,300})(?:\.([0-9]{1,300}))?\s*")

_FRACTIONS = "Name the classes with text, or bin the numbers. "


def class_names(values: Sequence[Any], column: str, *, where: str, rows: Sequence[str] | None = None) -> list[str]:
    """Return the class that each of ``values`` names.

    Args:
        values: One per image.
        column: Which column or field of ``where`` holds them.
        where: What to call the data in messages.
        rows: What to call the images in messages; None: their numbers.

    Raises:
        DataError: A row has no label, or several (multi-label), or one that is no class name; the sentence names it.
    """
    singles = [_single(value) for value in values]
    several = next((row for row, value in enumerate(singles) if isinstance(value, list | dict)), None)
    if several is not None:
        raise DataError(
            f"{where} is multi-label: column {column!r} of {_row(several, rows)} holds {str(values[several])[:60]}. "
            "vitctl needs exactly one class per image for now."
        )
    is_missing = [value is None or value == "" or value != value for value in singles]
    if any(is_missing):
        raise DataError(
            f"{where} has {sum(is_missing)} of {len(values)} rows without a label in column {column!r}, "
            f"{_row(is_missing.index(True), rows)} first; expected a class in every row. Fill or remove them."
        )
    half = next((value for value in singles if isinstance(value, str) and not is_text(value)), None)
    if half is not None:
        raise DataError(f"{where} holds {half!r} in column {column!r}, which is no text; expected class names.")
    wrong = next((value for value in singles if isinstance(value, bool) or not isinstance(value, int | str)), None)
    if wrong is not None:
        raise DataError(
            f"{where} holds {type(wrong).__name__} values in column {column!r}, {wrong!r} first; expected class names "
            f"or integers. {_FRACTIONS * isinstance(wrong, float)}Name another with --label-column."
        )
    return [str(value) for value in singles]


def _single(value: Any) -> Any:
    """Return the one label that ``value`` is or holds, None where it holds none; a list or dict of several as it is."""
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _row(number: int, rows: Sequence[str] | None) -> str:
    return f"row {number + 1}" if rows is None else rows[number]


def typed(texts: list[str]) -> list[Any]:
    """Return the values of a column of CSV, where all is text: numbers, if all are and some are written as fractions.

    ``1`` and ``01`` stay what they are; ``1.0`` is a number as it would be in any other file, and ``1e2`` a name: of a
    cell or a well, say. Empty cells are missing.
    """
    found = [_NUMBER.fullmatch(text) for text in texts if text]
    if not all(found) or not any(match and match[2] for match in found):
        return texts
    return [_number(text) if text else None for text in texts]


def _number(text: str) -> float:
    whole, _, fraction = text.strip().partition(".")
    return float(text) if fraction.strip("0") else int(whole)  # of many digits a float has not all


def is_text(value: str) -> bool:
    """Return whether ``value`` can be written; JSON can name half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
