"""What a setting is: its words, choices, limits, and how text becomes a value, said once as a field's annotation.

A command's settings are a frozen dataclass below ``Settings``::

    shots: Annotated[tuple[Shot, ...], Opt("Support images per class; or all.", "LIST", parse=shot_list)] = (1, 5)

The field, its command-line option (``--shots``) and its key in JSON are the same word. Whatever makes the object, the
command line, Python or a file, gets the same checks and the same sentences.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import Field, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from vitctl.errors import SettingError, check_choice


@dataclass(frozen=True)
class Limit:
    """What must hold of a number, and what the sentence says was expected."""

    holds: Callable[[Any], bool]
    expected: str


def at_least(least: int) -> Limit:
    """Return the limit ``least`` or more."""
    return Limit(lambda value: value >= least, f"{least} or more.")


def at_most(most: float, expected: str) -> Limit:
    """Return the limit ``most`` or less; ``expected`` ends the sentence."""
    return Limit(lambda value: value <= most, expected)


def between(least: float, most: float, expected: str = "") -> Limit:
    """Return the limits ``least`` to ``most``, both included."""
    return Limit(lambda value: least <= value <= most, expected or f"a number from {least:g} to {most:g}.")


POSITIVE = Limit(lambda value: 0 < value < math.inf, "a number above 0.")
FRACTION = Limit(lambda value: 0 <= value < 1, "a fraction, 0 to below 1.")
SHARE = Limit(lambda value: 0 <= value <= 1, "a fraction, 0 to 1.")
SEED = (at_least(0), Limit(lambda value: value < 2**63, "less than 2^63."))


@dataclass(frozen=True)
class Opt:
    """One setting in words and limits.

    Attributes:
        help: What the help page says.
        metavar: What stands for its value there.
        flags: Another spelling than the name with dashes, e.g. of a switch that has an opposite.
        is_argument: Whether it stands on the command line without a name.
        choices: Every value that can be used; none allows any. Of a list each entry is held against them.
        limits: Of a number, in the order they are checked.
        parse: From what was given (text, a number, a list) and the option's spelling to the value; raises
            SettingError. It takes its own results, too.
        spell: From a value to the text (or number) that ``parse`` reads: how the help page, JSON and ``config.json``
            say it.
        outdates: Settings of a ``--config`` file that this one, given, contradicts or decides anew.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    is_argument: bool = False
    choices: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    parse: Callable[[Any, str], Any] | None = None
    spell: Callable[[Any], Any] = str
    outdates: tuple[str, ...] = ()

    def check(self, value: Any, name: str) -> None:
        """Hold a value that is not None against the choices and limits of the setting ``name``.

        Raises:
            SettingError: It is not among them.
        """
        option = option_of(name)
        if self.choices:
            for one in value if isinstance(value, tuple) else (value,):
                check_choice(one, self.choices, what=option, field=name)
        for limit in self.limits:
            if not limit.holds(value):
                raise SettingError(f"{option} is {value}; expected {limit.expected}", field=name)
        if isinstance(value, int) and abs(value) >= 2**63:  # of steps, images and bytes alike
            raise SettingError(f"{option} is {value}; expected less than 2^63.", field=name)


ARGUMENTS = ("analysis", "run", "runs", "folder", "plan", "pattern", "images")
"""Settings that stand on the command line without a name; messages write them in capitals."""


def option_of(name: str) -> str:
    """Return the command line's spelling of a setting: ``image_size`` is ``--image-size``, the argument ``run`` RUN."""
    return name.upper() if name in ARGUMENTS else "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Described:
    """A field of settings.

    Attributes:
        name: In Python, in JSON, and with dashes on the command line.
        kind: Its type, without the annotation.
        opt: Its words; None of a field that no option sets.
        default: ``dataclasses.MISSING`` where it must be given.
    """

    name: str
    kind: Any
    opt: Opt | None
    default: Any

    def as_json(self, value: Any) -> Any:
        """Return a value of it as JSON holds it, a list as the command line writes it."""
        if self.opt is not None and self.opt.parse is not None and value is not None:
            value = self.opt.spell(value)
        return list(value) if isinstance(value, tuple) else value


def described(settings: type["Settings"]) -> Mapping[str, Described]:
    """Return the fields of ``settings`` by name, in the order its help page shows them.

    That is the order a person reads the class in: its bases from left to right, then its own fields, but for those that
    are ``last``. (The order of ``dataclasses.fields`` is from right to left.)
    """
    return _described(cast(Hashable, settings))  # mypy does not take a class for hashable


@cache
def _described(settings: Any) -> Mapping[str, Described]:
    hints = get_type_hints(settings, include_extras=True)
    by_name: dict[str, Field[Any]] = {field.name: field for field in fields(settings)}
    found: dict[str, Described] = {}
    for name in (name for name in _in_order(settings) if name in by_name):
        hint = hints[name]
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        opt = next((extra for extra in extras if isinstance(extra, Opt)), None)
        found[name] = Described(name, kind, opt, by_name[name].default)
    return found


def _in_order(settings: type) -> list[str]:
    names = {name: None for base in settings.__bases__ if base is not object for name in _in_order(base)}
    last = getattr(settings, "last", ())
    return sorted(
        names | dict.fromkeys(settings.__dict__.get("__annotations__", {})),
        key=lambda name: last.index(name) + 1 if name in last else 0,
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every command's settings: what was given, and the checks that the fields' words imply.

    Attributes:
        given: The settings that were named when it was made. A copy names all of them (``dataclasses.replace``); then
            those that differ from their defaults.
        last: Settings that stand behind all others on the help page, those of classes below this one too.
    """

    given: ClassVar[frozenset[str]] = frozenset()
    last: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, **values: Any) -> Self:
        """Remember what was given, which a field's default cannot tell."""
        self = super().__new__(cls)
        known = described(cls)
        given = set(values)
        if given == set(known):
            given = {name for name, value in values.items() if value != known[name].default}
        object.__setattr__(self, "given", frozenset(given))
        return self

    def __post_init__(self) -> None:
        """Read text, then check each value, then what the settings say together."""
        for name, one in described(type(self)).items():
            value = getattr(self, name)
            if value is None:
                continue
            _check_not_empty(value, one)
            if one.opt is None:
                continue
            if one.opt.parse is not None:
                value = _parsed(one.opt.parse, value, name)
                object.__setattr__(self, name, value)
            one.opt.check(value, name)
        self.check_together()

    def check_together(self) -> None:
        """Check what settings say together; a command's own."""

    def refuse(self, *names: str, why: str) -> None:
        """Refuse the first of the settings ``names`` that was given.

        Raises:
            SettingError: One was; the sentence says why it is of no use.
        """
        for name in names:
            if name in self.given and getattr(self, name) is not None:
                raise SettingError(f"{option_of(name)} is given {why}; leave it out.", field=name)

    def as_json(self, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the settings as JSON holds them, lists as the command line writes them."""
        every = described(type(self)).items()
        return {name: one.as_json(getattr(self, name)) for name, one in every if name not in without}


def _check_not_empty(value: Any, one: Described) -> None:
    # an entry of a list that is parsed is for the parser, or for whoever knows what there is, to refuse
    is_parsed = one.opt is not None and one.opt.parse is not None
    is_empty = isinstance(value, (str, tuple, list)) and not value and value != one.default
    if is_empty or (isinstance(value, tuple) and "" in value and not is_parsed):
        raise SettingError(f"{option_of(one.name)} is empty; give it a value, or leave it out.", field=one.name)


def _parsed(parse: Callable[[Any, str], Any], value: Any, name: str) -> Any:
    try:
        return parse(value, option_of(name))
    except SettingError as error:  # a parser knows the option's spelling, not the setting
        error.field = name
        raise


SettingsT = TypeVar("SettingsT", bound=Settings)


def settings_of(settings: type[SettingsT], given: Mapping[str, Any]) -> SettingsT:
    """Return ``settings`` made of what was ``given``, by field; lists become tuples.

    Raises:
        SettingError: A value, or what they say together, cannot be used.
    """
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in given.items()}
    return settings(**values)
