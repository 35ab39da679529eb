"""From what a person wrote to a recipe: files, ``recipe_settings`` of a config.json, ``--set``; all mistakes at once.

Types and ranges are pydantic's to check, strictly: 1 will do where a number is expected; true, "1" and nan will not.
"""

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vitctl.errors import SettingError, check_choice, did_you_mean
from vitctl.primitives.documents import UnusableDocument, parse_document
from vitctl.recipes.keys import Implies, Key, Option, keys_of, sections_of
from vitctl.recipes.sections import Recipe

RecipeT = TypeVar("RecipeT", bound=Recipe)

SET = "--set"

# where the settings of vitctl 0.1.0 stand now: it took any heading, or none, so its names must stay theirs
SECTIONS_OF_0_1_0 = {
    "optimizer": ("optimizer", "betas", "momentum", "weight_decay", "clip_norm", "layer_decay"),
    "rate": ("lr", "lr_at_batch", "lr_scaling", "final_lr", "warmup_fraction"),
    "length": ("batch_size", "batch_rule", "steps", "steps_rule"),
    "images": ("crop", "crop_area", "flip", "evaluation_crop", "pos_embed_interp"),
    "head": ("head",),
    "evaluation": ("validations", "select_best_from"),
}
_FLAT = {name: section for section, names in SECTIONS_OF_0_1_0.items() for name in names}


@dataclass(frozen=True)
class Given:
    """A value that someone wrote, and where it is from."""

    value: Any
    source: str


def recipe_from_settings(settings: Mapping[str, Any], *, where: str, recipe_class: type[Recipe] = Recipe) -> Recipe:
    """Return the recipe with these settings; a key that is not among them has its default.

    Args:
        settings: ``{SECTION: {KEY: VALUE}}``, where VALUE may be ``{"value": VALUE, "source": TEXT}``. A key that
            stands alone or under another heading, as vitctl 0.1.0 allowed, is found if only one section has it.
        where: What they stand in, for messages.
        recipe_class: Whose sections and keys to go by.

    Raises:
        SettingError: Keys are unknown, or values of the wrong type or out of range; it lists all of them.
    """
    return changed(recipe_class(), settings, where=where)


def changed(recipe: RecipeT, settings: Mapping[str, Any], *, where: str) -> RecipeT:
    """Return ``recipe`` with these settings, given as for ``recipe_from_settings``, in place of its own.

    Raises:
        SettingError: Keys are unknown, or values of the wrong type or out of range; it lists all of them.
    """
    given: dict[str, Given] = {}
    mistakes: list[str] = []
    for heading, name, entry in _entries(settings):
        try:
            key, found = _find(heading, name, type(recipe)), _value(heading, name, entry)
            if key.path in given:
                raise SettingError(f"{key.path} stands there twice; keep one.")
        except SettingError as error:
            mistakes.append(str(error))
        else:
            given[key.path] = found
    return _rebuilt(recipe, given, mistakes, where=where)


def override(recipe: RecipeT, overrides: Iterable[str]) -> RecipeT:
    """Return ``recipe`` with some of its values replaced; their source is then ``--set``.

    Args:
        recipe: Left as it is.
        overrides: Of the form ``SECTION.KEY=VALUE``, VALUE as in TOML or a word without quotes; the last of a key
            counts.

    Raises:
        SettingError: One does not have that form, or names an unknown key or an unusable value; it lists all mistakes.
    """
    given: dict[str, Given] = {}
    mistakes: list[str] = []
    for text in overrides:
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise SettingError(f"{text!r} gives no value; expected SECTION.KEY=VALUE, e.g. rate.lr=1e-3.")
            given[_named(name.strip(), type(recipe)).path] = Given(_toml_value(value.strip()), SET)
        except SettingError as error:
            mistakes.append(str(error))
    return _rebuilt(recipe, given, mistakes, where=SET)


def options_behind(overrides: Iterable[str] | None) -> dict[str, str]:
    """Return the options that go before the overridden keys, each with the key.

    Unusable overrides are left to ``override``.
    """
    found: dict[str, str] = {}
    for text in overrides or ():
        try:
            key = _named(text.partition("=")[0].strip(), Recipe)
        except SettingError:
            continue
        found |= {name: key.path for option in key.marks(Option) for name in option.names}
    return found


def check_given_once(overrides: Iterable[str] | None, options: Iterable[str]) -> None:
    """Check that no value of a recipe is given in two ways.

    Args:
        overrides: Those of ``--set``.
        options: The fields whose options are given too.

    Raises:
        SettingError: One of them goes before an overridden key.
    """
    behind = options_behind(overrides)
    for name in options:
        if name in behind:
            option = f"--{name.replace('_', '-')}"
            raise SettingError(
                f"{option} and --set {behind[name]} are both given; {option} would go before the recipe. Keep one.",
                field=name,
            )


def flat_settings(recipe: Recipe) -> dict[str, Given]:
    """Return every value with its source, under the name it had in 0.1.0; keys that are newer under SECTION.KEY."""
    flat = {}
    for path, key in keys_of(type(recipe)).items():
        old = [name for name in key.names if _FLAT.get(name) == key.section]
        value = getattr(getattr(recipe, key.section), key.name) if key.section else getattr(recipe, key.name)
        flat[old[0] if old else path] = Given(value, recipe.sources.get(path, ""))
    return flat


def as_document(recipe: Recipe) -> dict[str, Any]:
    """Return every value by the names of ``flat_settings``, as JSON can hold it: what a run's config.json keeps.

    It stays flat so that whoever reads the ``recipe_settings`` of a run finds the keys of 0.1.0 where they were.
    """
    return {name: _plain(one.value) for name, one in flat_settings(recipe).items()}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


# --- finding the key -----------------------------------------------------------------------------------------


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (heading, name, entry); a table without a value is a heading."""
    for name, entry in settings.items():
        if isinstance(entry, Mapping) and "value" not in entry:
            yield from ((name, inner, value) for inner, value in entry.items())
        else:  # SECTION.KEY, as ``as_document`` writes a key that is newer than 0.1.0, or a key alone
            heading, _, inner = name.rpartition(".")
            yield heading, inner, entry


def _value(heading: str, name: str, entry: Any) -> Given:
    if not isinstance(entry, Mapping):
        return Given(entry, "")
    if "value" not in entry:
        found = f"{heading}.{name} is {dict(entry)!r}"
        raise SettingError(f'{found}; expected a value, or {{ value = ..., source = "..." }}.')
    return Given(entry["value"], str(entry.get("source", "")))


def _find(heading: str, name: str, recipe_class: Any) -> Key:
    """Return the key that is meant: the heading's own, else the one of 0.1.0, else the only one of that name."""
    named = _keys_by_name(recipe_class).get(name, ())
    for section in (heading, _FLAT.get(name)):
        for key in named:
            if key.section == section:
                return key
    if len(named) == 1:
        return named[0]
    if named:
        raise SettingError(f"{name!r} can be {' or '.join(key.path for key in named)}; put it into its section.")
    if not heading:
        raise SettingError(f"unknown setting {name!r}.{_near(name, recipe_class)}")
    sections = sections_of(recipe_class)
    if heading in sections:
        raise SettingError(f"unknown setting {name!r} in [{heading}].{_near(name, recipe_class, heading)}")
    near = did_you_mean(heading, sections) or _near(name, recipe_class)
    raise SettingError(f"unknown section [{heading}], with an unknown setting {name!r}.{near}")


@functools.cache  # reading asks for it at every value
def _keys_by_name(recipe_class: Any) -> Mapping[str, Sequence[Key]]:
    """Return the keys of each name, those they had included, in order."""
    found: dict[str, list[Key]] = {}
    for key in keys_of(recipe_class).values():
        for name in dict.fromkeys(key.names):
            found.setdefault(name, []).append(key)
    return found


def _named(path: str, recipe_class: type[Recipe]) -> Key:
    """Return the key ``SECTION.KEY``, which must stand under its own section."""
    sections = sections_of(recipe_class)
    section, dot, name = path.partition(".")
    if path in keys_of(recipe_class) and not dot:
        raise SettingError(f"{path!r} is not a setting of training; change it in a recipe file.")
    if not dot:
        raise SettingError(f"{path!r} names no section; expected SECTION.KEY=VALUE.{_near(path, recipe_class)}")
    if section not in sections:
        near = did_you_mean(section, sections)
        raise SettingError(f"unknown section {section!r}.{near} The sections are {', '.join(sections)}.")
    for key in keys_of(recipe_class).values():
        if key.section == section and name in key.names:
            return key
    raise SettingError(f"unknown setting {name!r} in [{section}].{_near(name, recipe_class, section)}")


def _near(name: str, recipe_class: type[Recipe], section: str = "") -> str:
    """Return the question whether a near name of this section was meant, else one of any other, with its section.

    Where no name is near, the names of the section.
    """
    keys = list(keys_of(recipe_class).values())
    names = [key.name for key in keys if section and key.section == section]
    own = did_you_mean(name, names)
    paths = {name: key.path for key in reversed(keys) for name in key.names}
    near = dict.fromkeys(paths[close] for close in difflib.get_close_matches(name, paths, n=3, cutoff=0.6))
    other = f" Did you mean {' or '.join(repr(path) for path in near)}?" if near else ""
    return own or other or (f" It has {', '.join(names)}." if names else "")


def _toml_value(text: str) -> Any:
    try:
        document = parse_document(f"value = {text}", dict[str, Any], syntax="TOML")
    except UnusableDocument:
        return text
    return document["value"] if list(document) == ["value"] else text


# --- checking the values -------------------------------------------------------------------------------------


def _rebuilt(base: RecipeT, given: Mapping[str, Given], mistakes: list[str], *, where: str) -> RecipeT:
    """Return ``base`` with the given values, each checked, and their sources.

    Raises:
        SettingError: There are mistakes, those found before included.
    """
    keys = keys_of(type(base))
    given = _with_implied(given, keys, base, mistakes)
    values: dict[str, dict[str, Any]] = {}
    wrong = set()
    for path, found in given.items():
        try:
            values.setdefault(keys[path].section, {})[keys[path].name] = _checked(keys[path], found.value)
        except SettingError as error:
            mistakes.append(str(error))
            wrong.add(keys[path].section)
    changes = values.pop("", {})
    for section, of_section in values.items():
        try:
            if section not in wrong:
                changes[section] = replace(getattr(base, section), **of_section)
        except SettingError as error:
            mistakes.append(str(error))
    if len(mistakes) == 1:
        raise SettingError(f"{where}: {mistakes[0]}")
    if mistakes:
        raise SettingError(f"{where} has {len(mistakes)} mistakes:", *(f"  {one}" for one in mistakes))
    sources = {**base.sources, **{path: found.source for path, found in given.items()}}
    return replace(base, **changes, sources=sources)


def _with_implied(
    given: Mapping[str, Given], keys: Mapping[str, Key], base: Recipe, mistakes: list[str]
) -> dict[str, Given]:
    """Return what is given with what it implies; two that imply different things are a mistake."""
    all_given = dict(given)
    by: dict[str, str] = {}
    for path, found in given.items():
        for implied in keys[path].marks(Implies):
            other = f"{keys[path].section}.{implied.name}"
            is_needed = getattr(getattr(base, keys[path].section), implied.name) not in implied.unless
            if other in given or found.value == keys[path].default or not is_needed:
                continue
            if other in by and all_given[other].value != implied.value:
                mistakes.append(f"{by[other]} and {path} are both given; keep one, or say which counts with {other}.")
            by[other] = path
            all_given[other] = Given(implied.value, found.source)
    return all_given


def _checked(key: Key, value: Any) -> Any:
    """Return ``value`` as the key's type has it: a list as a tuple, 1 as 1.0.

    Raises:
        SettingError: It is of another type or out of range.
    """
    from pydantic import ValidationError

    if key.choices and isinstance(value, str):
        return check_choice(value, key.choices, what=key.path)
    try:
        return _adapter(key.kind).validate_python(_with_tuples(value))
    except ValidationError as error:
        details = error.errors()[0]
        expected = ", ".join(key.choices) or key.expected
        if expected is None:
            expected = details["msg"].removeprefix("Input should be ")
        if details["type"] == "finite_number":
            expected += ", finite"
        raise SettingError(f"{key.path} is {value!r}; expected {expected}.") from error


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter  # here, as help pages need no pydantic

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _with_tuples(value: Any) -> Any:
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value
