"""Recipe files: the settings, the variants of them for other data or models, and what was published.

``[variants.NAME]`` holds keys as the file itself has them, ``SECTION.KEY = VALUE``: the recipe with those is
``--recipe FILE:NAME``. ``[[published]]`` are results; see ``vitctl.recipes.published``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitctl.errors import SettingError, did_you_mean
from vitctl.primitives.documents import read_document
from vitctl.recipes.published import Published
from vitctl.recipes.reading import changed
from vitctl.recipes.sections import Recipe

if TYPE_CHECKING:
    from vitctl.recipes.file_schema import PublishedEntry


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """All that a recipe file says.

    Attributes:
        recipe: The recipe as it is.
        variants: Each variant by its name, whole: the recipe with the variant's own values.
        published: Results of all of them.
    """

    recipe: Recipe
    variants: Mapping[str, Recipe]
    published: tuple[Published, ...]

    def variant(self, name: str, *, of: str) -> Recipe:
        """Return the variant called ``name``, or the recipe as it is where that is empty.

        Args:
            name: Its name.
            of: What the recipe is called, for the message.

        Raises:
            SettingError: There is none of that name.
        """
        if not name:
            return self.recipe
        if name in self.variants:
            return self.variants[name]
        if not self.variants:
            raise SettingError(f"Recipe {of} has no variants, so no {name!r}; use --recipe {of}.", field="recipe")
        near = did_you_mean(name, self.variants)
        known = ", ".join(self.variants)
        raise SettingError(f"Recipe {of} has no variant {name!r}.{near} Its variants are {known}.", field="recipe")

    def published_of(self, variant: str) -> tuple[Published, ...]:
        """Return the results of a variant, or of the recipe as it is where that is empty."""
        return tuple(one for one in self.published if one.variant == variant)


def read_recipe_file(path: Path) -> RecipeFile:
    """Return what the recipe file at ``path`` says.

    Raises:
        SettingError: It is not TOML, or keys or values of it are unusable; all mistakes are listed.
    """
    from vitctl.recipes.file_schema import FileDocument  # here, as help pages need no pydantic

    where = f"Recipe {path}"
    document = read_document(
        path,
        FileDocument,
        error=SettingError,
        advice="expected sections of settings, as 'vitctl recipes show' prints them",
        where=where,
        syntax="TOML",
    )
    settings = document.model_extra or {}
    mistakes: list[str] = []
    recipe = _collected(Recipe(), settings, mistakes, where=where)
    variants = {
        name: _collected(recipe, own, mistakes, where=f"{where}, variant {name}")
        for name, own in document.variants.items()
    }
    mistakes += _unknown_variants(document.published, variants, where=where)
    if mistakes:
        raise SettingError(*mistakes)
    return RecipeFile(
        recipe=recipe,
        variants=variants,
        published=tuple(Published(**one.model_dump()) for one in document.published),
    )


def _collected(base: Recipe, settings: Mapping[str, Any], mistakes: list[str], *, where: str) -> Recipe:
    """Return ``base`` with these settings; where they are unusable, ``base``, and the lines that say why."""
    try:
        return changed(base, settings, where=where)
    except SettingError as error:
        mistakes += error.args
        return base


def _unknown_variants(published: list["PublishedEntry"], variants: Mapping[str, Recipe], *, where: str) -> list[str]:
    known = f"its variants are {', '.join(variants)}" if variants else "it has none"
    return [
        f"{where}: a published result is of the variant {one.variant!r}; {known}."
        for one in published
        if one.variant and one.variant not in variants
    ]
