"""What ``vitctl recipes`` prints with ``--json``: the list of recipes, or one with the source of every value."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitctl.results.result import JsonObject, JsonValue, Result


@dataclass(frozen=True, repr=False)
class RecipeEntry(Result):
    """A recipe in the list."""

    name: str
    """For ``--recipe``."""
    about: str
    """What it is for, in a sentence."""


@dataclass(frozen=True, repr=False, kw_only=True)
class RecipesResult(Result):
    """The recipes of the package."""

    recipes: tuple[RecipeEntry, ...]
    """By name."""


@dataclass(frozen=True, repr=False)
class RecipeSetting(Result):
    """A setting of a recipe."""

    value: JsonValue
    """As the recipe has it."""
    source: str
    """Where it comes from; empty where the recipe does not say."""


@dataclass(frozen=True, repr=False, kw_only=True)
class RecipeResult(Result):
    """One recipe."""

    settings: Mapping[str, RecipeSetting]
    """By name: each is a key of the document."""

    def as_json(self) -> JsonObject:
        """Return the document: the settings themselves."""
        return {name: setting.as_json() for name, setting in self.settings.items()}


@dataclass(frozen=True, repr=False, kw_only=True)
class RecipeCheckResult(Result):
    """A recipe that can be used."""

    recipe: str
    """As it was named."""
    settings: int
    """Values it gives."""
    defaults: tuple[str, ...]
    """``SECTION.KEY`` of those it leaves at their defaults."""
    without_source: tuple[str, ...]
    """``SECTION.KEY`` of those that it gives without saying where from."""


@dataclass(frozen=True, repr=False, kw_only=True)
class RecipeCopyResult(Result):
    """A copy of a recipe."""

    recipe: str
    """What was copied."""
    file: str
    """The copy, absolute."""
