"""Recipes: how to train, as data files with a citation beside every value.

``NAME.toml`` in this folder; ``--recipe FILE`` reads one of your own. Each setting is ``KEY = VALUE`` or
``KEY = { value = ..., source = "where from" }``. Plain Python: help and listing need no torch.
"""

from pathlib import Path
from typing import Any

from vitctl.errors import SettingError, did_you_mean
from vitctl.primitives.documents import read_document
from vitctl.recipes.keys import keys_of, sections_of
from vitctl.recipes.reading import (
    SET,
    as_document,
    check_given_once,
    flat_settings,
    options_behind,
    override,
    recipe_from_settings,
)
from vitctl.recipes.sections import Recipe

__all__ = [
    "SET",
    "Recipe",
    "check_given_once",
    "as_document",
    "flat_settings",
    "keys_of",
    "list_recipes",
    "load_recipe",
    "options_behind",
    "override",
    "recipe_from_settings",
    "recipe_path",
    "sections_of",
]

FOLDER = Path(__file__).parent


def list_recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: one of the package by name, else a file by path.

    Raises:
        SettingError: There is neither.
    """
    if name in list_recipes():
        return FOLDER / f"{name}.toml"
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path.absolute()
    except (OSError, RuntimeError) as error:
        raise SettingError(f"Recipe {name} cannot be read: {error}.") from error
    known = list_recipes()
    raise SettingError(
        f"There is no recipe {name!r}, nor a file of that name.{did_you_mean(name, known)} The recipes are "
        f"{', '.join(known)}."
    )


def load_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``, or the one in the file ``name``.

    Raises:
        SettingError: There is none, it is not TOML, or keys or values of it are unusable; it lists all of them.
    """
    path = recipe_path(name)
    document = read_document(
        path,
        dict[str, Any],
        error=SettingError,
        advice="expected sections of settings, as 'vitctl recipes show' prints them",
        where=f"Recipe {path}",
        syntax="TOML",
    )
    return recipe_from_settings(document, where=f"Recipe {path}")
