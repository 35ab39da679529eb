"""What a grid can vary: options of a training, keys of its recipe; each value is checked as the option itself is."""

from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from vitctl.data.listed_images import read_listed_images
from vitctl.errors import SettingError, did_you_mean
from vitctl.primitives.documents import UnusableDocument, parse_document
from vitctl.recipes import Recipe, keys_of, override
from vitctl.results.result import JsonValue
from vitctl.settings.finetune import TrainingSettings
from vitctl.settings.grid import unquoted
from vitctl.settings.option import Described, described, option_of
from vitctl.settings.sweep import OF_THE_SWEEP

_OF_ALL_RUNS = "all runs share it, so that their differences are paired"
_REFUSED = {
    "seed": "the runs of a combination differ in it: use --seeds",
    "fold": "use --folds",
    "split_seed": _OF_ALL_RUNS,
    "dev_fraction": _OF_ALL_RUNS,
    "out": "every run has its own folder",
    "resume": "give the command again, and it goes on",
    "overwrite": "give another --out to begin anew",
    "dry_run": "it is one of the whole sweep",
    "set": "name the recipe's key itself, e.g. optimizer.weight_decay=0,0.1",
    "config": "a sweep takes no file of a run; its settings go into the options, or a sweep's TOML file",
    **{name: "it is one of the whole sweep" for name in OF_THE_SWEEP if name not in ("out", "dry_run")},
}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Value:
    """One value of one key.

    Attributes:
        setting: As JSON holds it, for tables.
        field: The field of ``FinetuneConfig`` that it goes into; ``set`` of a key of the recipe.
        given: What goes there.
    """

    setting: JsonValue
    field: str
    given: Any


def key_named(text: str, *, where: str) -> str:
    """Return the key that ``text`` names: the field of an option, or SECTION.KEY as the recipe spells it today.

    Raises:
        SettingError: There is none, or a sweep cannot vary it.
    """
    name = text.strip().removeprefix("--").replace("-", "_")
    if name in _REFUSED:
        raise SettingError(
            f"{where} names {text.strip()}, which a sweep does not vary: {_REFUSED[name]}.", field="grid"
        )
    options, keys = _options(), keys_of(Recipe)
    if name in options:
        return name
    for path, key in keys.items():
        if key.section and text.strip() in {f"{key.section}.{one}" for one in key.names}:
            return path
    by_name = {path.partition(".")[2]: path for path in keys if "." in path}
    known = [*options, *(path for path in keys if "." in path)]
    near = f" Did you mean {by_name[name]!r}?" if name in by_name else did_you_mean(name, known)
    raise SettingError(
        f"{where} names {text.strip()!r}; expected an option of finetune without its dashes, or SECTION.KEY of the "
        f"recipe.{near}",
        field="grid",
    )


def value_of(key: str, text: str) -> Value:
    """Return the value of ``key`` that ``text`` says, checked as the option or the recipe would.

    Raises:
        SettingError: It cannot be used.
        DataError: It is a list of images that cannot be read.
    """
    one = _options().get(key)
    if one is None:
        word = unquoted(text)
        section, _, name = key.partition(".")
        found = getattr(getattr(override(Recipe(), [f"{key}={word}"]), section), name)
        return Value(_plain(found), "set", f"{key}={word}")
    value = _typed(one, text)
    # of a list of images its content, so that runs with what it was before are not taken for runs with what it is
    given = read_listed_images(value).spec if key == "clean" and value is not None else value
    return Value(one.as_json(value), key, given)


def _options() -> dict[str, Described]:
    return {name: one for name, one in described(TrainingSettings).items() if one.opt is not None}


def _plain(value: Any) -> JsonValue:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _typed(one: Described, text: str) -> Any:
    opt, kinds = one.opt, get_args(one.kind) if NoneType in get_args(one.kind) else (one.kind,)
    if opt is None:
        raise AssertionError(f"{one.name} has no words")
    word = unquoted(text)
    if word == "none" and NoneType in kinds:
        return None
    if opt.parse is not None:
        value: Any = opt.parse(word, option_of(one.name))
    elif any(get_origin(kind) is tuple for kind in kinds):
        value = _several(word)
    else:
        value = _number(word, kinds, option_of(one.name))
    opt.check(value, one.name)
    return value


def _several(word: str) -> tuple[str, ...]:
    """Return the entries of a list in brackets; what is none is its only entry."""
    try:
        return tuple(parse_document(word, list[str])) if word.startswith("[") else (word,)
    except UnusableDocument:  # a regular expression may begin so, too
        return (word,)


def _number(word: str, kinds: tuple[Any, ...], option: str) -> Any:
    for kind, read, expected in (
        (bool, _TRUTHS.__getitem__, "true or false"),
        (int, int, "a whole number"),
        (float, float, "a number"),
    ):
        if kind in kinds:
            try:
                return read(word.lower())
            except (KeyError, ValueError):
                raise SettingError(f"{option} is {word!r}; expected {expected}.") from None
    return word
