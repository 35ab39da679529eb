"""A run's ``config.json`` read back as settings, and what comes before what: command line, then file, then default."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vitctl.errors import SettingError
from vitctl.primitives.documents import read_document
from vitctl.recipes import check_given_once, options_behind
from vitctl.settings.finetune import FinetuneConfig, check_one_length
from vitctl.settings.option import described, settings_of
from vitctl.settings.reading import mistakes

NOT_SETTINGS = ("vitctl", "versions", "command")
"""What a config.json says besides."""


def config_from_file(path: Path) -> FinetuneConfig:
    """Return the settings in a run's ``config.json``; of an older version the settings it did not have are off.

    Raises:
        SettingError: The file cannot be read, or holds unknown or unusable settings; all of them are named.
    """
    document = read_document(
        path,
        dict[str, Any],
        error=partial(SettingError, field="config"),
        advice="expected the config.json of a run",
        where=f"--config {path}",
    )
    settings = {key: value for key, value in document.items() if key not in NOT_SETTINGS}
    found = mistakes(FinetuneConfig, settings, where=f"--config {path}")
    if found:
        raise SettingError(*found)
    return settings_of(FinetuneConfig, settings)


def merge(base: FinetuneConfig, given: Mapping[str, Any]) -> FinetuneConfig:
    """Return ``base`` with the values ``given`` on the command line, which come first.

    What the file decided for another recipe, data or model than the one given is decided anew, and so is
    what a given value contradicts (``--epochs`` against the file's ``steps``): ``Opt.outdates``. A key that is
    ``--set`` does so as its option would, and adds to what was set in the file, unless the recipe is another.

    Raises:
        SettingError: A value, or what they say together, cannot be used.
    """
    known = described(FinetuneConfig)
    check_given_once(given.get("set"), [name for name, value in given.items() if value is not None])
    check_one_length(given)
    behind = options_behind(given.get("set"))
    deciding = [*behind, *(name for name, value in given.items() if value != known[name].default)]
    outdated = {other for name in deciding if (opt := known[name].opt) is not None for other in opt.outdates}
    outdated |= behind.keys()
    kept = [text for text in base.set or () if "set" not in outdated and not given.keys() & options_behind([text])]
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    changes["set"] = (*kept, *(given.get("set") or ())) or None
    return replace(base, **{name: known[name].default for name in outdated - changes.keys()}, **changes)
