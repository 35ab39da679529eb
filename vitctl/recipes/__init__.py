"""Recipes: how to train, as data files with a citation beside every value.

``NAME.toml`` in this folder; ``--recipe FILE`` reads one of your own, ``--recipe NAME:VARIANT`` a variant that it has.
Each setting is ``KEY = VALUE`` or ``KEY = { value = ..., source = "where from" }``. Plain Python: help and listing need
no torch.
"""

from pathlib import Path

from vitctl.errors import SettingError, did_you_mean
from vitctl.recipes.files import RecipeFile, read_recipe_file
from vitctl.recipes.keys import keys_of, sections_of
from vitctl.recipes.published import Published, told_briefly, told_together
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
    "Published",
    "Recipe",
    "RecipeFile",
    "as_document",
    "check_given_once",
    "flat_settings",
    "keys_of",
    "lasting_name",
    "list_recipes",
    "load_recipe",
    "options_behind",
    "override",
    "published_results",
    "recipe_file",
    "recipe_from_settings",
    "recipe_path",
    "sections_of",
    "split_variant",
    "told_briefly",
    "told_together",
]

FOLDER = Path(__file__).parent


def list_recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def split_variant(name: str) -> tuple[str, str]:
    """Return the name or path of a recipe and the variant behind its last colon, empty where there is none.

    A file may have a colon in its name: one that is there goes before a variant.

    Raises:
        SettingError: Nothing stands behind the colon.
    """
    whole, colon, variant = name.rpartition(":")
    if not colon or _own_file(name) is not None:
        return name, ""
    if not variant:
        raise SettingError(f"Recipe {name} names no variant behind its colon; expected {whole}, or {whole}:VARIANT.")
    return whole, variant


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: one of the package by name, else a file by path; a variant has its recipe's.

    Raises:
        SettingError: There is neither.
    """
    name, _ = split_variant(name)
    if name in list_recipes():
        return FOLDER / f"{name}.toml"
    path = _own_file(name)
    if path is not None:
        return path
    known = list_recipes()
    raise SettingError(
        f"There is no recipe {name!r}, nor a file of that name.{did_you_mean(name, known)} The recipes are "
        f"{', '.join(known)}."
    )


def lasting_name(name: str) -> str:
    """Return ``name`` as it means the same from every folder: a file's path absolute.

    Raises:
        SettingError: There is no such recipe.
    """
    recipe, variant = split_variant(name)
    if recipe in list_recipes():
        return name
    return f"{recipe_path(recipe)}:{variant}" if variant else str(recipe_path(recipe))


def recipe_file(name: str) -> RecipeFile:
    """Return all that the file of a recipe says, variants and published results too.

    Raises:
        SettingError: There is none, it is not TOML, or keys or values of it are unusable; it lists all of them.
    """
    return read_recipe_file(recipe_path(name))


def load_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``, or the one in the file ``name``; with ``:VARIANT``, that variant of it.

    Raises:
        SettingError: There is none, it is not TOML, or keys or values of it are unusable; it lists all of them.
    """
    recipe, variant = split_variant(name)
    return recipe_file(recipe).variant(variant, of=recipe)


def published_results(name: str) -> tuple[Published, ...]:
    """Return what was published of the recipe called ``name``, of its variant where it names one.

    Nothing where the recipe is gone: a run's configuration holds its values without it.
    """
    try:
        recipe, variant = split_variant(name)
        return recipe_file(recipe).published_of(variant)
    except SettingError:
        return ()


def _own_file(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path.absolute() if path.is_file() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, no such ~user, a null character
        raise SettingError(f"Recipe {name} cannot be read: {error}.") from error
