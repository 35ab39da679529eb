"""What keys a recipe has: read off the fields of its sections, so that a new field is all that a new key takes.

A field says everything about its key: name and type, default, and in ``Annotated[...]`` what no type says (``Range``,
``Was``, ``Implies``, ``Option``). Reading, ``--set``, ``recipes check`` and ``--json`` go by this list.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

MarkerT = TypeVar("MarkerT")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers a key takes; None is no bound on that side.

    pydantic, which checks the values, finds the bounds by the method; so this module need not import it.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the schema of the number with the bounds in it; called by pydantic."""
        return handler(source) | {name: bound for name, bound in asdict(self).items() if bound is not None}

    @property
    def words(self) -> str:
        """The range after the word "number": `` above 0``, ``, 0 to 1``."""
        high = f"at most {self.le:g}" if self.le is not None else f"below {self.lt:g}" if self.lt is not None else ""
        if self.ge is not None:
            return f", {self.ge:g} " + (f"to {high.removeprefix('at most ')}" if high else "or more")
        low = f" above {self.gt:g}" if self.gt is not None else ""
        return low + (f", {high}" if low and high else f" {high}" if high else "")


@dataclass(frozen=True)
class Was:
    """A name that the key had in an earlier version, which is still read."""

    name: str


@dataclass(frozen=True)
class Implies:
    """What another key of the section becomes where this one is given, not at its default, and that one is not.

    Attributes:
        name: The other key.
        value: What it becomes.
        unless: What it may be already, as this key counts there too.
    """

    name: str
    value: Any
    unless: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Option:
    """Options of ``vitctl finetune``, as fields, that go before the key, or before what the key is part of."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        section: Its section; empty for ``about``.
        name: Its name there.
        kind: Its type, with what ``Annotated`` adds.
        default: The value where it is not given.
    """

    section: str
    name: str
    kind: Any
    default: Any

    @property
    def path(self) -> str:
        """``SECTION.KEY``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then those it had."""
        return (self.name, *(was.name for was in self.marks(Was)))

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it takes; empty for other kinds of values."""
        kind = get_args(self.kind)[0] if get_origin(self.kind) is Annotated else self.kind
        return get_args(kind) if get_origin(kind) is Literal else ()

    @property
    def expected(self) -> str | None:
        """What can stand there, in words; None for types that have none here."""
        return _expected(self.kind)

    def marks(self, kind: type[MarkerT]) -> list[MarkerT]:
        """Return what its type is annotated with, of one kind."""
        return [mark for mark in getattr(self.kind, "__metadata__", ()) if isinstance(mark, kind)]


def sections_of(recipe_class: type[Any]) -> Mapping[str, Any]:
    """Return the class of each section."""
    hints = get_type_hints(recipe_class, include_extras=True)
    return {f.name: hints[f.name] for f in fields(recipe_class) if is_dataclass(hints[f.name])}


def keys_of(recipe_class: Any) -> Mapping[str, Key]:
    """Return every key by its path, in order."""
    return _keys_of(recipe_class)


@functools.cache  # reading asks for it at every value
def _keys_of(recipe_class: Any) -> Mapping[str, Key]:
    sections = sections_of(recipe_class)
    hints = get_type_hints(recipe_class, include_extras=True)
    keys = [
        Key("", f.name, hints[f.name], f.default)
        for f in fields(recipe_class)
        if f.name not in sections and f.name != "sources"
    ]
    for section, section_class in sections.items():
        hints = get_type_hints(section_class, include_extras=True)
        keys += [Key(section, f.name, hints[f.name], f.default) for f in fields(section_class)]
    return MappingProxyType({key.path: key for key in keys})


_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _expected(kind: Any) -> str | None:
    if get_origin(kind) is Annotated:
        base, *marks = get_args(kind)
        words = _expected(base)
        bounds = "".join(mark.words for mark in marks if isinstance(mark, Range))
        return words and words + bounds
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        each = _expected(get_args(kind)[0])
        return each and f"a list, each {each}"
    if get_origin(kind) is tuple and len(items := set(get_args(kind))) == 1:
        each = _expected(items.pop())
        return each and f"a list of {len(get_args(kind))}, each {each}"
    return _NOUNS.get(kind)
