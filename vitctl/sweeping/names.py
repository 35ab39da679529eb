"""Names of combinations, which are names of folders, too: readable, safe, and the same every time."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from vitctl.primitives.files import short_hash
from vitctl.results.result import JsonValue

ALONE = "base"
"""The name of the combination that changes nothing."""
_MOST_OF_VALUE, _MOST = 32, 120  # letters of a value, of a name; a file system takes 255 bytes
# a colon is a host to rsync and a drive elsewhere
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]+")


def cell_names(cells: Sequence[Mapping[str, JsonValue]]) -> list[str]:
    """Return a name for each combination of settings, e.g. ``lr=0.0001,tune=lora-8``; no two are alike.

    A name follows from its own settings alone, so that adding combinations leaves the others' folders where they are.
    """
    names = [",".join(f"{key}={_value(value)}" for key, value in settings.items()) or ALONE for settings in cells]
    names = [name if len(name) <= _MOST else f"{name[: _MOST - 9]}-{short_hash(name)[:8]}" for name in names]
    folded = [name.casefold() for name in names]  # some file systems do not tell A from a
    times = Counter(folded)
    return [
        name if times[one] == 1 else f"{name}-{short_hash(repr(dict(settings)))[:8]}"
        for name, one, settings in zip(names, folded, cells, strict=True)
    ]


def _value(value: JsonValue) -> str:
    text = value_text(value)
    safe = _UNSAFE.sub("-", text)
    if "/" in text or len(safe) > _MOST_OF_VALUE or not safe.strip("-."):
        last = _UNSAFE.sub("-", PurePath(text).name)[-_MOST_OF_VALUE + 9 :]
        return f"{last}-{short_hash(text)[:8]}"
    return safe


def value_text(value: JsonValue) -> str:
    """Return a setting as a person writes it: ``0.0001``, ``none``, ``true``.

    Example:
        >>> value_text(3e-4), value_text(None), value_text([0.9, 0.999])
        ('0.0003', 'none', '0.9,0.999')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list | tuple):
        return ",".join(map(value_text, value))
    return str(value)
