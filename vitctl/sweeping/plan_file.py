"""The TOML file of a sweep: what the command line can say, and combinations that are no product."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vitctl.data.listed_images import read_listed_images
from vitctl.errors import SettingError, did_you_mean
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import user_path
from vitctl.settings.finetune import TrainingSettings
from vitctl.settings.grid import as_text, flat, grid_of, raise_all
from vitctl.settings.option import described, settings_of
from vitctl.settings.reading import mistakes
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.keys import key_named

_OF_THE_SWEEP = ("seeds", "folds", "select", "retrain", "soup", "jobs", "out")
_KEYS = ("name", *_OF_THE_SWEEP, "settings", "grid", "cells")
_NOT_SETTINGS = ("recipe_settings", "fold")


@dataclass(frozen=True)
class PlanFile:
    """What a file says.

    Attributes:
        values: Of the fields of ``SweepConfig``.
        grid: Values of each key, as texts.
        cells: Values of each key, as texts, of each of the combinations that are no product.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cells: tuple[Mapping[str, str], ...] = ()


def read_plan_file(path: Path) -> PlanFile:
    """Return what the TOML file of a sweep says.

    Raises:
        SettingError: It cannot be read, or has unknown keys or values of another type; all mistakes are named.
    """
    where = str(path)
    document = read_document(
        path,
        dict[str, Any],
        syntax="TOML",
        error=partial(SettingError, field="plan"),
        advice="expected the TOML file of a sweep ('vitctl guide sweep')",
        where=where,
    )
    found = [f"{where} has an unknown key {key!r}.{did_you_mean(key, _KEYS) or _listed()}" for key in document
             if key not in _KEYS]  # fmt: skip
    settings, grid, cells = (document.get(name, kind()) for name, kind in
                             (("settings", dict), ("grid", dict), ("cells", list)))  # fmt: skip
    for name, value, expected in (
        ("settings", isinstance(settings, dict), "a table of options"),
        ("grid", isinstance(grid, dict), "a table of lists"),
        ("cells", isinstance(cells, list) and all(isinstance(one, dict) for one in cells), "tables: [[cells]]"),
    ):
        if not value:
            found.append(f"{name} in {where} is {document[name]!r}; expected {expected}.")
    if any("\0" in text for text in _texts(document)):
        found.append(f"{where} has a text with a NUL character, which no name of a file and no option can have.")
    found += [
        f"[grid] of {where} has no values of {key!r}; expected a list of them."
        for key, several in flat(grid if isinstance(grid, dict) else {}).items()
        if several == []
    ]
    raise_all(found, field="plan")
    values = _settings(settings, where, found)
    own = {key: document[key] for key in _OF_THE_SWEEP if key in document}
    found += mistakes(SweepConfig, own, where=where)
    called = document.get("name")
    if called is not None and (
        not isinstance(called, str) or not called or Path(called).name != called or called in (".", "..")
    ):
        found.append(f"name in {where} is {called!r}; expected the name of a folder.")
    raise_all(found, field="plan")
    if called is not None and "out" not in own:
        own["out"] = str(Path("sweeps") / called)
    rows = {key: ",".join(map(as_text, one if isinstance(one, list) else [one])) for key, one in flat(grid).items()}
    return PlanFile(
        values | own,
        {_key(key, where): texts for key, texts in grid_of(f"{key}={row}" for key, row in rows.items()).items()},
        tuple({_key(key, where): as_text(value) for key, value in flat(one).items()} for one in cells),
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _listed() -> str:
    return f" It can have {', '.join(_KEYS)}."


def _key(text: str, where: str) -> str:
    return key_named(text, where=where)


def _settings(table: Mapping[str, Any], where: str, found: list[str]) -> dict[str, Any]:
    """Return the fields that ``[settings]`` gives, keys of the recipe as ``set``; add what is wrong to ``found``."""
    values: dict[str, Any] = {}
    known = {name for name, one in described(TrainingSettings).items() if one.opt is not None} - {*_NOT_SETTINGS}
    overrides = list[str]()
    for key, value in flat(table).items():
        if "." in key:
            overrides.append(f"{key}={as_text(value)}")
        elif (name := key.replace("-", "_")) not in known:
            found.append(f"[settings] of {where} has an unknown option {key!r}.{did_you_mean(name, known)}")
        else:
            values[name] = value
    own = values.get("set", [])
    if overrides and isinstance(own, list):  # else it is a mistake, which is named below
        values["set"] = [*own, *overrides]
    options = described(TrainingSettings)
    unparsed = {name: value for name, value in values.items() if (one := options[name].opt) and one.parse is None}
    # a TOML file has 1 where a number may be a fraction
    found += mistakes(TrainingSettings, unparsed, where=f"[settings] of {where}")
    return values


def plan_of(config: SweepConfig) -> PlanFile:
    """Return what the file that ``config`` names says; nothing where it names none."""
    return PlanFile() if config.plan is None else read_plan_file(user_path(config.plan))


def _check_said_once(plan: PlanFile, where: str) -> None:
    """Refuse a key that the file gives to all runs and to some besides, which would be passed over."""
    shared = {*plan.values, *(text.partition("=")[0].strip() for text in plan.values.get("set", ()))}
    for heading, keys in (("[grid]", plan.grid), ("[[cells]]", [key for cell in plan.cells for key in cell])):
        twice = next((key for key in keys if key in shared), None)
        if twice is not None:
            raise SettingError(f"{where} has {twice} in [settings] and in {heading}; keep one.", field="plan")


def settled(config: SweepConfig) -> SweepConfig:
    """Return ``config`` with what its file says besides; what was given on the command line comes first.

    Raises:
        SettingError: The file cannot be used, or says one thing twice.
    """
    plan = plan_of(config)
    _check_said_once(plan, str(config.plan))
    varied = {key_named(key, where="--grid") for key in grid_of(config.grid or ())}
    given = {name: getattr(config, name) for name in config.given}
    values = {name: value for name, value in plan.values.items() if name not in varied}
    if "set" in values:
        mine = given.get("set") or ()
        values["set"] = [text for text in values["set"] if text.partition("=")[0] not in varied and text not in mine]
        given["set"] = (*values["set"], *mine) or None
    values |= given
    if isinstance(values.get("clean"), str):  # with its content, so that a sweep does not go on with another list
        values["clean"] = read_listed_images(values["clean"]).spec
    return settings_of(SweepConfig, values)
