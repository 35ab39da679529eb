"""Images that belong together, told by a column or by their paths: a patient's, a video's, a camera's.

A pattern such as ``{group}/*`` or ``*/patient-{group}_*.png`` is laid against the end of each path. ``*`` stands
for anything within a folder or file name, ``?`` for one character; ``{group}``, which occurs once, is the part
that names the group, as short as the rest of the pattern allows.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vitctl.data.source import Split
from vitctl.errors import DataError, SettingError

_PARTS = {"*": "[^/]*", "?": "[^/]", "{group}": "(?P<group>[^/]+?)"}


def group_names(values: Sequence[Any], column: str, *, where: str, rows: Sequence[str] | None = None) -> np.ndarray:
    """Return the group that each of ``values`` names, (N,) str.

    Args:
        values: N, one per image.
        column: Which column or field of ``where`` holds them.
        where: What to call the data in messages.
        rows: N, what to call the images in messages; None: their numbers.

    Raises:
        DataError: An image has none.
    """
    missing = [index for index, value in enumerate(values) if value is None or value == ""]
    if missing:
        first = f"row {missing[0] + 1}" if rows is None else rows[missing[0]]
        raise DataError(
            f"{where} has {len(missing)} of {len(values)} rows without a group in column {column!r}, {first} first; "
            "expected one in every row. Give each of them a group of its own."
        )
    return np.array([str(value) for value in values], dtype=object)


def group_expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a group pattern; it matches whole paths.

    Raises:
        SettingError: ``{group}`` does not occur exactly once.

    Example:
        >>> group_expression("{group}/*").fullmatch("photos/cat/p12/3.png")["group"]
        'p12'
    """
    if pattern.count("{group}") != 1:
        raise SettingError(
            f"--group-pattern is {pattern!r}; expected a path with {{group}} in it once, e.g. '{{group}}/*' for one "
            "folder per group.",
            field="group_pattern",
        )
    pieces = re.split(r"(\*|\?|\{group\})", pattern.lstrip("/"))
    return re.compile("(.*/)?" + "".join(_PARTS.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def with_pattern_groups(split: Split, pattern: str | None) -> Split:
    """Return ``split`` with the group that ``pattern`` finds in each image's name; None changes nothing.

    Raises:
        SettingError: The pattern is malformed.
        DataError: It does not match an image's name.
    """
    if pattern is None:
        return split
    expression = group_expression(pattern)
    matches = [(name, expression.fullmatch(name)) for name in split.image_names()]
    missed = [name for name, match in matches if match is None]
    if missed:
        raise DataError(
            f"--group-pattern {pattern!r} does not match {len(missed)} of {len(matches)} images, "
            f"{missed[0]} first; expected to find the group of each. '*' stays within one folder or file name."
        )
    return replace(split, groups=np.array([match["group"] for _, match in matches if match], dtype=object))
