"""What all results share: a JSON document made of their fields, and a repr that fits a few lines.

A field is a key of the document, in this order and by this name. The exceptions stand in the field's metadata:
``key("class")`` gives it another name (one that Python cannot have), ``left_out_if_none()`` no key where it is None.
To add a key, add a field with a default and a docstring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

JsonValue: TypeAlias = "None | bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue]"
JsonObject: TypeAlias = dict[str, JsonValue]

_KEY, _LEFT_OUT = "json_key", "left_out_where_none"
MOST_TEXT, MOST_ITEMS, MOST_OF_PART = 60, 4, 100  # characters of a text, items, characters of a part in a repr


def key(name: str) -> Mapping[str, str]:
    """Return the metadata of a field whose key is ``name``."""
    return {_KEY: name}


def left_out_if_none(other: str = "") -> Mapping[str, str]:
    """Return the metadata of a field without a key where it is None, or where the field ``other`` is."""
    return {_LEFT_OUT: other}


@dataclass(frozen=True, repr=False)
class Result:
    """A result, or a part of one."""

    def as_json(self) -> JsonObject:
        """Return the document: this as plain lists, dicts, texts and numbers."""
        document: JsonObject = {}
        for field in fields(self):
            decisive = field.metadata.get(_LEFT_OUT)
            if decisive is None or getattr(self, decisive or field.name) is not None:
                document[field.metadata.get(_KEY, field.name)] = plain(getattr(self, field.name))
        return document

    def __repr__(self) -> str:
        shown = (f"{field.name}={_brief(getattr(self, field.name))}" for field in fields(self) if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


def plain(value: "JsonValue | Result") -> JsonValue:
    """Return ``value`` with results as dicts and every sequence as a list, all the way down."""
    if isinstance(value, Result):
        return value.as_json()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value


def _brief(value: object) -> str:
    """Return a repr of a field: long texts are cut, of many items the number is said, numbers have five digits."""
    if isinstance(value, float):
        return repr(float(f"{value:.5g}"))
    if isinstance(value, Result):
        return repr(value) if len(repr(value)) <= MOST_OF_PART else f"<{type(value).__name__}>"
    if isinstance(value, str):
        return repr(value if len(value) <= MOST_TEXT else f"{value[: MOST_TEXT - 3]}...")
    if isinstance(value, Mapping):
        return f"<{len(value)} keys>"
    if isinstance(value, tuple | list):
        if len(value) > MOST_ITEMS or any(isinstance(one, Result | Mapping | tuple | list) for one in value):
            return f"<{len(value)} {type(value[0]).__name__}>"
        return f"({', '.join(map(_brief, value))})"
    return repr(value)
