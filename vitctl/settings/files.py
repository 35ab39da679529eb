"""A run's ``config.json`` read back as settings, and what comes before what: command line, then file, then default."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from vitctl.errors import SettingError, did_you_mean
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.option import Described, described, settings_of

NOT_SETTINGS = ("vitctl", "versions", "command")
"""What a config.json says besides."""


def config_from_file(path: Path) -> FinetuneConfig:
    """Return the settings in a run's ``config.json``; of an older version the settings it did not have are off.

    Raises:
        SettingError: The file cannot be read, or holds unknown or unusable settings; all of them are named.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"--config {path} cannot be read ({error}); expected the config.json of a run.") from error
    if not isinstance(document, dict):
        raise SettingError(f"--config {path} holds no settings; expected the config.json of a run.")
    settings = {key: value for key, value in document.items() if key not in NOT_SETTINGS}
    known = described(FinetuneConfig)
    mistakes = [
        _mistake(key, value, known, f"--config {path}")
        for key, value in settings.items()
        if key not in known or not _fits(value, known[key])
    ]
    if mistakes:
        raise SettingError("\n".join(mistakes))
    return settings_of(FinetuneConfig, settings)


def _mistake(key: str, value: Any, known: Mapping[str, Described], where: str) -> str:
    if key not in known:
        return f"{where} has an unknown setting {key!r}.{did_you_mean(key, known)}"
    names = [getattr(kind, "__name__", str(kind)).replace("NoneType", "None") for kind in _kinds(known[key])]
    return f"{key} in {where} is {value!r}; expected {' or '.join(names)}."


def _kinds(one: Described) -> tuple[Any, ...]:
    """Return the types that JSON may give a setting; what is parsed stands there as text."""
    kinds = get_args(one.kind) if NoneType in get_args(one.kind) else (one.kind,)
    if one.opt is not None and one.opt.parse is not None:
        return (str, int, *(kind for kind in kinds if kind is NoneType))
    return kinds


def _fits(value: Any, one: Described) -> bool:
    # imported here: the help page needs no pydantic of ours, and reading a file happens once
    from pydantic import TypeAdapter, ValidationError

    for kind in _kinds(one):
        try:
            TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
            return True
        except ValidationError:
            continue
    return False


def merge(base: FinetuneConfig, given: Mapping[str, Any]) -> FinetuneConfig:
    """Return ``base`` with the values ``given`` on the command line, which come first.

    What the file decided for another recipe, data or model than the one given is decided anew, and so is
    what a given value contradicts (``--epochs`` against the file's ``steps``): ``Opt.outdates``.
    """
    known = described(FinetuneConfig)
    outdated = {
        other
        for name, value in given.items()
        if (opt := known[name].opt) is not None and value != known[name].default
        for other in opt.outdates
    }
    return replace(base, **{name: known[name].default for name in outdated - set(given)}, **given)
