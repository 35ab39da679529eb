"""What a grid says: ``KEY=V1,V2,...`` taken apart, and values of a file or of Python as the same words."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from vitctl.errors import SettingError

_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


def grid_of(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each key, as texts, from ``KEY=V1,V2,...`` texts.

    Commas within brackets or quotes part nothing: ``lr_scale="blocks=0.1,head=2",none``.

    Raises:
        SettingError: One has another form, or a key stands there twice; all mistakes are named.
    """
    found: dict[str, tuple[str, ...]] = {}
    mistakes: list[str] = []
    for text in texts:
        key, sign, values = text.partition("=")
        key = key.strip()
        parts = split_values(values) if sign else []
        if not key or not parts or "" in parts:
            mistakes.append(f"--grid is {text!r}; expected KEY=V1,V2,..., e.g. lr=1e-4,3e-4.")
        elif key in found:
            mistakes.append(f"--grid names {key} twice; give all of its values in one: {key}=V1,V2,...")
        else:
            found[key] = tuple(parts)
    raise_all(mistakes, field="grid")
    return found


def split_values(text: str) -> list[str]:
    """Return the parts of ``text`` between commas, but for those within brackets or quotes, blanks around them gone."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def unquoted(text: str) -> str:
    """Return a value without the quotes around it, where there are any."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES and text[0] not in text[1:-1]:
        return text[1:-1]
    return text


def as_text(value: Any) -> str:
    """Return a value of a TOML file or of Python as the command line has it.

    Example:
        >>> as_text(0.0001), as_text(True), as_text([0.9, 0.95]), as_text(None)
        ('0.0001', 'true', '[0.9, 0.95]', 'none')
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None:
        return "none"
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        is_plain = split_values(text) == [text] and unquoted(text) == text
        return text if is_plain else f'"{text}"' if '"' not in text else f"'{text}'"
    if isinstance(value, list | tuple):
        # TOML has dates, which no setting takes, and Python has paths
        return json.dumps([one.item() if hasattr(one, "item") else one for one in value], default=str)
    return json.dumps(value) if isinstance(value, bool | int) else repr(value)


def grid_texts(grid: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """Return a grid as the command line has it, from a mapping of lists, or from texts that are so already.

    Raises:
        SettingError: The values of a key are none.
    """
    if not isinstance(grid, Mapping):
        return (grid,) if isinstance(grid, str) else tuple(grid)
    texts = []
    for key, values in grid.items():
        several = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
        if not several:
            raise SettingError(f"The grid has no values of {key}; expected a list of them.", field="grid")
        words = values if isinstance(values, str) else ",".join(map(as_text, several))
        texts.append(f"{key}={words}")
    return tuple(texts)


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the values of a TOML table by key, those of tables within it as ``SECTION.KEY``."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def raise_all(mistakes: list[str], *, field: str | None = None) -> None:
    """Raise what is wrong, all of it at once; nothing where nothing is.

    Raises:
        SettingError: Something is.
    """
    if len(mistakes) == 1:
        raise SettingError(mistakes[0], field=field)
    if mistakes:
        raise SettingError(f"The sweep has {len(mistakes)} mistakes:", *(f"  {one}" for one in mistakes), field=field)
