"""Settings of runs by the names a person gives, which of them differ between runs, and which runs differ in the seed.

A name is a key of ``config.json`` (``lr``, ``image_size``), or SECTION.KEY of the recipe (``optimizer.betas``).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitctl.recipes import Recipe, keys_of, recipe_from_settings
from vitctl.recipes.keys import Option
from vitctl.results.result import JsonValue, plain
from vitctl.run_folders.layout import CONFIG
from vitctl.settings.files import config_from_file
from vitctl.settings.finetune import HOW_COMPUTED, NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.option import described

RECIPE, SEED = "recipe", "seed"
SAID_BY_VALUES = (RECIPE, "set")
"""Names of what ``recipe_settings`` holds."""


def settings_by_name(config: FinetuneConfig) -> dict[str, JsonValue]:
    """Return what is trained and how, by name; ``config`` is a run's, resolved.

    Left out is what says nothing about what is trained, such as the folder and the device; keys of the recipe for which
    an option stands, as that has what was used (``lr`` for ``rate.lr``); and the steps of a run that was given a time,
    as the machine decided them. A run of an older version has the settings it did not know as its recipe has them.

    Returns:
        Values as JSON has them, in the order of the help page, then of the recipe's sections; ``recipe``, its name.

    Raises:
        SettingError: The recipe's settings cannot be used.
    """
    found = dict(every_setting(config, without=(*NOT_OF_A_RUN, *HOW_COMPUTED, "set")))
    if found["time_limit"] is not None:
        found["steps"] = None
    return {name: value for name, value in found.items() if name != "about" and not _is_decided(name, found)}


def settings_of_run(run: Path) -> dict[str, JsonValue]:
    """Return ``settings_by_name`` of the run in a folder.

    Raises:
        SettingError: Its config.json cannot be read, or is of a later version.
    """
    return settings_by_name(config_from_file(run / CONFIG))


def differing(settings: Sequence[Mapping[str, JsonValue]]) -> list[str]:
    """Return the names of the settings that are not the same in all of ``settings``, in the order of the help page.

    A setting that one of them does not have is None there. The recipe's name counts where values of it differ too.

    Args:
        settings: Of each run, as ``settings_by_name`` has them.

    Example:
        >>> differing([{"lr": 0.001, "seed": 0}, {"lr": 0.003, "seed": 0}])
        ['lr']
    """
    names = dict.fromkeys(name for one in settings for name in one)
    found = [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]
    found.sort(key=_place)
    return found if any(_is_of_recipe(name) for name in found) else [name for name in found if name != RECIPE]


def rows_by_seed(settings: Sequence[Mapping[str, JsonValue]]) -> list[list[int]]:
    """Return groups of runs that differ in nothing but the seed.

    Args:
        settings: Of each run, as ``settings_by_name`` has them.

    Returns:
        Indices into ``settings``: groups in the order of their first runs, runs in the order of their seeds.

    Example:
        >>> rows_by_seed([{"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 0}, {"lr": 0.1, "seed": 0}])
        [[2, 0], [1]]
    """
    groups: dict[object, list[int]] = {}
    for index, one in enumerate(settings):
        # None is what a run of before the setting has not; a recipe by another name is the same one by its values
        same = {name: value for name, value in one.items() if value is not None and name not in (SEED, RECIPE)}
        groups.setdefault(_hashable(same), []).append(index)
    return [sorted(group, key=lambda index: _seed(settings[index])) for group in groups.values()]


def _hashable(value: JsonValue) -> object:
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(one)) for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_hashable(one) for one in value)
    return value


def _seed(settings: Mapping[str, JsonValue]) -> int:
    seed = settings.get(SEED)
    return seed if isinstance(seed, int) else 0


def every_setting(config: FinetuneConfig, *, without: tuple[str, ...]) -> Iterator[tuple[str, JsonValue]]:
    """Yield every setting but those ``without``, options and keys of the recipe alike, by name.

    Raises:
        SettingError: The recipe's settings cannot be used.
    """
    recipe = None
    if config.recipe_settings is not None:
        recipe = recipe_from_settings(config.recipe_settings, where="recipe_settings")
    for name, value in config.as_json(without=(*without, "recipe_settings")).items():
        yield name, _of_recipe(recipe, name) if value is None and recipe is not None else value
    if recipe is not None:
        for path, key in keys_of(Recipe).items():
            yield path, plain(_value(recipe, key))


def _of_recipe(recipe: Recipe, name: str) -> Any:
    """Return what stands for an option that a run of before the option has not: its key of the recipe, if it is one."""
    key = _keys_that_are_options().get(name)
    value = None if key is None else _value(recipe, key)
    return (list(value) or None) if isinstance(value, tuple) else value


@functools.cache
def _keys_that_are_options() -> Mapping[str, Any]:
    """Return the keys of a recipe that say what one option says, and that no other key says, by the option's field."""
    found: dict[str, list[Any]] = {}
    for key in keys_of(Recipe).values():
        for name in {name for option in key.marks(Option) for name in option.names}:
            found.setdefault(name, []).append(key)
    return {
        name: keys[0] for name, keys in found.items() if len(keys) == 1 and keys[0].marks(Option)[0].names == (name,)
    }


def _value(recipe: Recipe, key: Any) -> Any:
    return getattr(getattr(recipe, key.section) if key.section else recipe, key.name)


def _is_decided(name: str, settings: Mapping[str, JsonValue]) -> bool:
    """Return whether ``name`` is a key of the recipe for which an option stands, whose value is what was used."""
    key = keys_of(Recipe).get(name)
    options = [] if key is None else [one for mark in key.marks(Option) for one in mark.names]
    return len(options) == 1 or any(settings.get(option) is not None for option in options)


def _is_of_recipe(name: str) -> bool:
    return name in keys_of(Recipe)


def _place(name: str) -> tuple[int, int]:
    """Return where a setting stands: options in the order of the help page, then the recipe's keys."""
    options, keys = list(described(FinetuneConfig)), list(keys_of(Recipe))
    if name in options:
        return 0, options.index(name)
    return 1, keys.index(name) if name in keys else len(keys)
