"""From what people write to values: lists of numbers or names, image sizes. Read once, where a setting is made.

Each maker returns a parser for ``Opt(parse=...)``: it takes text ("1,5"), one value or a sequence of values, and the
option's spelling for the sentence it raises. A parser takes its own results too.
"""

import ast
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from vitctl.errors import SettingError, check_choice
from vitctl.primitives.image_sizes import image_size_of
from vitctl.settings.words import AUTO, LEAVE_ONE_OUT, MAX_L2, MAX_LR, MAX_PROCESSES, MIN_L2

Parser = Callable[[Any, str], Any]


def _parts(given: Any) -> list[str]:
    """Return the entries of a list as people write it, each as text."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",")]
    if isinstance(given, Iterable):
        return [str(part).strip() for part in given]
    return [str(given)]


def listed(values: Any) -> str:
    """Return the text that the parsers below read: ``"1,5"``; floats without zeros at their end."""
    values = values if isinstance(values, tuple) else (values,)
    return ",".join(f"{value:.15g}" if isinstance(value, float) else str(value) for value in values)


def whole_numbers(*, least: int, words: tuple[str, ...] = ()) -> Parser:
    """Return the parser of whole numbers from ``least`` and of ``words``: each once, numbers ascending, words last."""

    def parse(given: Any, option: str) -> tuple[int | str, ...]:
        parts = _parts(given)
        for part in parts:
            if part not in words and not (part.isascii() and part.isdigit() and least <= int(part) < 10**9):
                also = "".join(f", or {word}" for word in words)
                example = ",".join(str(number) for number in (least, 5, 10))
                shown = given if isinstance(given, str) else ",".join(parts)
                raise SettingError(f"{option} is {shown!r}; expected whole numbers from {least} ({example}){also}.")
        numbers = sorted({int(part) for part in parts if part not in words})
        return (*numbers, *dict.fromkeys(part for part in parts if part in words))

    return parse


def penalties(given: Any, option: str) -> tuple[float, ...] | str:
    """Return different penalties above 0 in the order given, or ``loo``.

    Raises:
        SettingError: It is neither.
    """
    parts = _parts(given)
    if parts == [LEAVE_ONE_OUT]:
        return LEAVE_ONE_OUT
    shown = given if isinstance(given, str) else ",".join(parts)
    values = [_number(part) for part in parts]
    if not all(MIN_L2 <= value <= MAX_L2 for value in values):
        raise SettingError(
            f"{option} is {shown!r}; expected numbers from {MIN_L2:g} to {MAX_L2:g} (1,32,1024), or {LEAVE_ONE_OUT}."
        )
    # files name predictions by six digits of it
    if len({f"{value:g}" for value in values}) < len(values):
        raise SettingError(f"{option} is {shown!r}; expected different numbers.")
    return tuple(values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


GRID = "grid"
"""Stands for the rates that the recipe's source tried."""

Rates = float | tuple[float, ...] | str


def rates(given: Any, option: str) -> Rates:
    """Return one learning rate, several different ones in the order given to choose from, or ``grid``.

    Raises:
        SettingError: It is none of these, or a rate is 0, negative, above ``MAX_LR`` or given twice.
    """
    parts = _parts(given)
    if parts == [GRID]:
        return GRID
    shown = given if isinstance(given, str) else ",".join(parts)
    try:
        values = [float(part) for part in parts]
    except ValueError as error:
        raise SettingError(
            f"{option} is {shown!r}; expected a learning rate (1e-4), several to choose from (1e-4,3e-4,1e-3), or "
            f"{GRID}, the recipe's own."
        ) from error
    for value in values:
        if not 0 < value < math.inf:
            raise SettingError(f"{option} is {value}; expected a number above 0.")
        if value > MAX_LR:
            raise SettingError(f"{option} is {value}; expected at most {MAX_LR:g}. Usual rates are 1e-5 to 1e-1.")
    if len(set(values)) < len(values):
        raise SettingError(f"{option} is {shown!r}; expected different rates.")
    return values[0] if len(values) == 1 else tuple(values)


def rates_spelt(value: Rates) -> float | str:
    """Return what ``rates`` reads: one rate as a number, several as text."""
    return ",".join(f"{one!r}" for one in value) if isinstance(value, tuple) else value


def names(given: Any, option: str) -> tuple[str, ...]:
    """Return the names of a list in the order given, each once; the field's choices say which there are."""
    return tuple(dict.fromkeys(_parts(given)))


def ordered_names(choices: Sequence[str]) -> Parser:
    """Return the parser of names out of ``choices``: each once, in the order of ``choices``."""

    def parse(given: Any, option: str) -> tuple[str, ...]:
        parts = _parts(given)
        for part in parts:
            check_choice(part, choices, what=option)
        return tuple(name for name in choices if name in parts)

    return parse


def pixels(given: Any, option: str) -> tuple[int, int]:
    """Return (H, W) in px from ``"384"``, ``"256x320"``, ``384`` or ``(256, 320)``.

    Raises:
        SettingError: It is none of them.
    """
    return image_size_of(given, option=option)


def as_it_is(value: Any) -> Any:
    """Return a value whose text JSON need not hold: a number, a word."""
    return value


def white_value(given: Any, option: str) -> int | str:
    """Return a value of 16 bits above 0, or ``auto``.

    Raises:
        SettingError: It is neither.
    """
    text = str(given).strip()
    if text == AUTO:
        return AUTO
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 65_535 and len(text) < 9):
        raise SettingError(f"{option} is {text!r}; expected a value from 1 to 65535 (4095 for 12-bit data), or {AUTO}.")
    return int(text)


class Interval(NamedTuple):
    """How often something is done: every ``steps`` optimiser steps, or every ``seconds``; the other is None."""

    steps: int | None
    seconds: float | None


_SECONDS = {"s": 1, "min": 60, "h": 3600}
_INTERVAL = re.compile(rf"(\d{{1,9}})({'|'.join(_SECONDS)})?")
_FRACTION = re.compile(r"\d{1,9}\.\d{1,20}s")


def interval(given: Any, option: str) -> Interval:
    """Return an interval from a number of steps (``"500"``, 500), or a time (``"15min"``, ``"90s"``, ``"2h"``).

    Raises:
        SettingError: It is neither, or 0.
    """
    if isinstance(given, Interval):
        return given
    found = _INTERVAL.fullmatch(str(given).strip())
    if found is None or not int(found[1]):
        raise SettingError(f"{option} is {str(given)!r}; expected a number of steps (500), or a time: 90s, 15min, 2h.")
    return Interval(None, float(int(found[1]) * _SECONDS[found[2]])) if found[2] else Interval(int(found[1]), None)


def interval_text(value: Interval) -> str:
    """Return the text that ``interval`` reads: in the largest unit that divides it."""
    if value.seconds is None:
        return str(value.steps)
    seconds = int(value.seconds)
    unit = next(unit for unit in reversed(_SECONDS) if not seconds % _SECONDS[unit])
    return f"{seconds // _SECONDS[unit]}{unit}"


def seconds(given: Any, option: str) -> float:
    """Return the seconds of a time (``"90s"``, ``"15min"``, ``"2h"``), or of a number of seconds.

    Raises:
        SettingError: It is neither, or 0.
    """
    if isinstance(given, float) and 0 < given < math.inf:
        return given
    text = str(given).strip()
    if _FRACTION.fullmatch(text) and float(text[:-1]):
        return float(text[:-1])
    found = _INTERVAL.fullmatch(text)
    if found is None or not int(found[1]) or not found[2]:
        raise SettingError(f"{option} is {str(given)!r}; expected a time: 90s, 15min, 2h.")
    return float(int(found[1]) * _SECONDS[found[2]])


def seconds_text(value: float) -> str:
    """Return the text that ``seconds`` reads: in the largest unit that divides it."""
    return interval_text(Interval(None, value)) if value == int(value) else f"{value!r}s"


class Fold(NamedTuple):
    """Part ``part`` of ``parts``, from 1."""

    part: int
    parts: int

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"


_FOLD = re.compile(r"(\d{1,4})/(\d{1,4})")


def one_fold(given: Any, option: str) -> Fold:
    """Return a part of the images from ``"2/5"``: the second of five.

    Raises:
        SettingError: It is no such text, or there is no such part.
    """
    if isinstance(given, Fold):
        return given
    found = _FOLD.fullmatch(str(given).strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise SettingError(f"{option} is {str(given)!r}; expected a part of several, e.g. 2/5.")
    return Fold(int(found[1]), int(found[2]))


def share_or_auto(given: Any, option: str) -> float | str:
    """Return a share above 0 to below 1, or ``auto``.

    Raises:
        SettingError: It is neither.
    """
    text = str(given).strip()
    if text == AUTO:
        return AUTO
    if isinstance(given, bool) or not 0 < (share := _number(text)) < 1:
        raise SettingError(f"{option} is {text}; expected a share above 0 to below 1, e.g. 0.1, or {AUTO}.")
    return share


def process_count(given: Any, option: str) -> int | str:
    """Return a number of processes, or ``auto``.

    Raises:
        SettingError: It is neither.
    """
    text = str(given).strip()
    if text == AUTO:
        return AUTO
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_PROCESSES and len(text) < 9):
        raise SettingError(f"{option} is {text!r}; expected a number from 1 to {MAX_PROCESSES:,}, or {AUTO}.")
    return int(text)


def token(given: Any, option: str) -> str | tuple[int, int]:
    """Return ``cls``, or the patch (row, column) from ``"3,5"`` or ``(3, 5)``.

    Raises:
        SettingError: It is neither.
    """
    parts = _parts(given)
    if parts == ["cls"]:
        return "cls"
    if len(parts) != 2 or not all(map(_is_index, parts)):
        shown = given if isinstance(given, str) else ",".join(parts)
        raise SettingError(f"{option} is {shown!r}; expected cls, or a patch as ROW,COL from 0, e.g. 3,5.")
    return int(parts[0]), int(parts[1])


def patch(given: Any, option: str) -> tuple[int, int]:
    """Return the patch (row, column) from ``"3,5"`` or ``(3, 5)``.

    Raises:
        SettingError: It is none; the class token is not.
    """
    found = token(given, option)
    if isinstance(found, str):
        raise SettingError(f"{option} is {found}; it starts at a patch: expected ROW,COL, e.g. 3,5.")
    return found


def layer_name(given: Any, _option: str) -> int | str:
    """Return the number of a block as int, any other name as it is; the model knows which there are."""
    text = str(given)
    return int(text) if _is_index(text) else text


def block_number(given: Any, option: str) -> int:
    """Return the number of a block, from 0.

    Raises:
        SettingError: It is none.
    """
    if not _is_index(str(given)):
        raise SettingError(f"{option} is {str(given)!r}; expected the number of a block, from 0.")
    return int(given)


_WORDS = {"true": True, "false": False}
_MOST_LETTERS = 500  # guess: of one --model-arg


def model_arguments(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return the arguments of a model from ``KEY=VALUE`` texts, by name, as JSON could hold them.

    A value is a number, ``true`` or ``false``, a list of such in Python's or JSON's brackets, or else text.

    Raises:
        SettingError: One has another form, or is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not key.isidentifier() or not value or len(text) > _MOST_LETTERS:
            raise SettingError(f"{option} is {text[:80]!r}; expected KEY=VALUE, e.g. global_pool=avg.")
        if key in found:
            raise SettingError(f"{option} {key} is given twice; expected one value for it.")
        found[key] = _literal(value)
        if found[key] is None or not _is_plain(found[key]):
            raise SettingError(
                f"{option} {key} is {value[:80]!r}; expected a finite number, true, false, text, or a list of those "
                "(timm passes no None on: leave it out)."
            )
    return found


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval("None" if text.lower() == "none" else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9
