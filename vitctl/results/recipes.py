"""What ``vitctl recipes`` prints with ``--json``: the list of recipes, or one with the source of every value."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitctl.results.result import JsonObject, JsonValue, Result


@dataclass(frozen=True, repr=False, kw_only=True)
class PublishedResult(Result):
    """A result that the source of a recipe published."""

    variant: str
    """The variant of the recipe it was got with; empty is the recipe as it is."""
    model: str
    """Which."""
    pretrained: str
    """On what; empty where it was trained from random weights."""
    data: str
    """Whose test images."""
    image_size: int
    """px of the square it was trained at."""
    metric: str
    """Of what, e.g. top-1."""
    percent: float
    """The result, 0-100."""
    source: str
    """Where it is published."""


@dataclass(frozen=True, repr=False)
class RecipeVariant(Result):
    """A variant of a recipe, for other data or another model."""

    name: str
    """For ``--recipe``, with the recipe before the colon."""
    about: str
    """What it is for; the recipe's own sentence where it has none."""


@dataclass(frozen=True, repr=False)
class RecipeEntry(Result):
    """A recipe in the list."""

    name: str
    """For ``--recipe``."""
    about: str
    """What it is for, in a sentence."""
    variants: tuple[RecipeVariant, ...] = ()
    """Those of its file, in order."""
    published: tuple[PublishedResult, ...] = ()
    """Results of it and its variants."""


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
    variants: tuple[str, ...] = ()
    """The variants its file has, by name; left out where there are none."""
    published: tuple[PublishedResult, ...] = ()
    """Results of it, or of the variant that was asked for; left out where there are none."""

    def as_json(self) -> JsonObject:
        """Return the document: the settings themselves, then what else its file says."""
        document: dict[str, JsonValue] = {name: setting.as_json() for name, setting in self.settings.items()}
        if self.variants:
            document["variants"] = list(self.variants)
        if self.published:
            document["published"] = [one.as_json() for one in self.published]
        return document


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
    variants: tuple[str, ...]
    """Names of its variants, which can be used too."""


@dataclass(frozen=True, repr=False, kw_only=True)
class RecipeCopyResult(Result):
    """A copy of a recipe."""

    recipe: str
    """What was copied."""
    file: str
    """The copy, absolute."""
