"""Settings from outside: are these names and types those of a command? For files and for Python, which check nothing.

The command line needs none of it: Typer knows the types.
"""

import json
import os
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from vitctl.errors import SettingError, did_you_mean
from vitctl.settings.option import Described, Settings, SettingsT, described, settings_of


def mistakes(settings: type[Settings], values: Mapping[str, Any], *, where: str, otherwise: str = "") -> list[str]:
    """Return a sentence for every name that ``settings`` does not have, and every value of another type.

    Args:
        settings: The settings of a command.
        values: By field, as JSON gives them.
        where: What the sentences call their place, e.g. ``--config runs/a/config.json``.
        otherwise: What a name that is near none is told.
    """
    known = described(settings)
    found = []
    for name, value in values.items():
        if name not in known:
            found.append(f"{where} has an unknown setting {name!r}.{did_you_mean(name, known) or otherwise}")
        elif not _fits(value, known[name]):
            listed = " or ".join(_word(kind) for kind in _kinds(known[name]))
            found.append(f"{name} in {where} is {value!r}; expected {listed}.")
    return found


def _word(kind: Any) -> str:
    words = {NoneType: "None", tuple: "list of texts", Mapping: "table"}
    return words.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind)))


def _kinds(one: Described) -> tuple[Any, ...]:
    """Return the types that may stand for a setting; what is parsed stands there as text or as a number."""
    kinds = get_args(one.kind) if NoneType in get_args(one.kind) else (one.kind,)
    if one.opt is not None and one.opt.parse is not None:
        return (str, float if float in kinds else int, *(kind for kind in kinds if kind is NoneType))
    return kinds


def _fits(value: Any, one: Described) -> bool:
    # here, not above: no help page needs it, and it takes longer to load than they do
    from pydantic import TypeAdapter, ValidationError

    for kind in _kinds(one):
        try:
            TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError, ValueError):
            continue
        return True
    return False


def values_from_python(settings: type[Settings], values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return what a caller in Python means, by field.

    Paths are text, numbers of numpy are numbers, one name is a list of one name, and what the command line writes as a
    list may be a tuple or a list.

    Raises:
        SettingError: There is no such setting, or a value is of another type; all of them are named at once.
    """
    known = described(settings)
    plain = {name: _plain(value, known.get(name)) for name, value in values.items()}
    # a parser reads whatever Python has but None
    typed = {name: value for name, value in plain.items() if value is None or not _is_parsed(known.get(name))}
    found = mistakes(settings, typed, where=where, otherwise=f" help({where}) lists those it has.")
    if found:
        raise SettingError(*found)
    return plain


def settings_from_python(settings: type[SettingsT], values: Mapping[str, Any], *, where: str) -> SettingsT:
    """Return the settings that a caller in Python means; see ``values_from_python``.

    Raises:
        SettingError: A name or a value cannot be used.
    """
    return settings_of(settings, values_from_python(settings, values, where=where))


def _is_parsed(one: Described | None) -> bool:
    return one is not None and one.opt is not None and one.opt.parse is not None


def _plain(value: Any, one: Described | None) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(_plain(entry, None) for entry in value)
    if isinstance(value, str) and one is not None and not _is_parsed(one) and _is_list(one):
        return (value,)
    return value


def _is_list(one: Described) -> bool:
    return any(get_origin(kind) is tuple for kind in (one.kind, *get_args(one.kind)))
