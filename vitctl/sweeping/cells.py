"""The combinations of settings of a sweep: products of the grid, each checked before anything starts."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from vitctl.errors import SettingError
from vitctl.recipes import check_given_once, load_recipe, override
from vitctl.results.result import JsonValue
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.grid import grid_of, raise_all
from vitctl.settings.option import described, option_of, settings_of
from vitctl.settings.parsing import Fold
from vitctl.settings.sweep import OF_THE_SWEEP, SweepConfig
from vitctl.sweeping.keys import Value, key_named, value_of
from vitctl.sweeping.names import cell_names, value_text
from vitctl.sweeping.plan_file import plan_of

_MOST_CELLS, _MOST_RUNS = 10_000, 100_000  # guess: more is a slip of the keyboard, not a plan
_CHECKED_BY = "transfer"  # a recipe that --set is held against where none is given; any has the same keys


@dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes:
        name: Of its row and of its folder.
        settings: What differs between combinations, by key of the grid, as JSON holds it.
        given: What its runs are given, by field of ``FinetuneConfig``: the settings of all, and its own.
    """

    name: str
    settings: Mapping[str, JsonValue]
    given: Mapping[str, Any]


def base_of(config: SweepConfig) -> dict[str, Any]:
    """Return what all runs are given, by field of ``FinetuneConfig``; the seed is each run's own."""
    known = described(FinetuneConfig)
    return {
        name: getattr(config, name)
        for name in described(SweepConfig)
        if name in config.given and name in known and name not in (*OF_THE_SWEEP, "seed")
        and getattr(config, name) is not None
    }  # fmt: skip


def cells_of(config: SweepConfig) -> tuple[Cell, ...]:
    """Return the combinations of a sweep in the order of its grid: the last key changes fastest.

    Args:
        config: Settled (``plan_file.settled``). Each of the file's ``[[cells]]`` meets each combination of the grid.

    Raises:
        SettingError: A key or a value cannot be used, or values contradict each other; all mistakes are named.
    """
    base, rows = base_of(config), list(_rows(config))
    num_runs = len(rows) * (config.seeds or 1) * (config.folds or 1)
    if num_runs > _MOST_RUNS:
        raise SettingError(
            f"The sweep has {num_runs:,} runs; expected at most {_MOST_RUNS:,}. Give fewer --seeds, or fewer values.",
            field="seeds",
        )
    every = list(dict.fromkeys(key for row in rows for key in row))
    settings = [{key: row[key].setting for key in every if key in row} for row in rows]
    cells = [
        Cell(name, one, _with(base, row.values()))
        for name, one, row in zip(cell_names(settings), settings, rows, strict=True)
    ]
    _check_different(cells)
    _check_each(cells, config)
    return tuple(cells)


def _rows(config: SweepConfig) -> Iterator[dict[str, Value]]:
    """Yield the combinations as values by key."""
    plan, mistakes = plan_of(config), list[str]()
    mine = _keyed(grid_of(config.grid or ()), mistakes)
    given = {*base_of(config), *(text.partition("=")[0].strip() for text in config.set or ())}
    for key in mine:
        if key in given:
            spelt = option_of(key) if "." not in key else f"--set {key}"
            mistakes.append(f"{spelt} is given, and --grid varies it; keep one.")
    # the command line comes first
    listed = [{key: text for key, text in one.items() if key not in given} for one in plan.cells]
    grid = {key: texts for key, texts in plan.grid.items() if key not in mine and key not in given} | mine
    mistakes += [
        f"{config.plan} has {key} in [[cells]] and in the grid; keep one." for one in listed for key in one
        if key in grid
    ]  # fmt: skip
    values = {key: [one for text in texts for one in _value(key, text, mistakes)] for key, texts in grid.items()}
    own = [{key: one for key, text in row.items() for one in _value(key, text, mistakes)} for row in listed or [{}]]
    for key, several in values.items():
        told = [value_text(one.setting) for one in several]
        mistakes += [
            f"The grid has {key}={text} twice; keep one." for text in dict.fromkeys(told) if told.count(text) > 1
        ]
    raise_all(list(dict.fromkeys(mistakes)), field="grid")
    _check_few(len(own), values.values())
    for row in own:
        for product in itertools.product(*values.values()):
            yield {**row, **dict(zip(values, product, strict=True))}


def _check_few(num_rows: int, columns: Iterable[Sized]) -> None:
    """Refuse a grid of too many combinations, before they are made: a product of a few lists can fill any memory."""
    num_cells = num_rows * math.prod(map(len, columns))
    if num_cells > _MOST_CELLS:
        raise SettingError(f"The grid has {num_cells:,} combinations; expected at most {_MOST_CELLS:,}.", field="grid")


def _keyed(grid: Mapping[str, tuple[str, ...]], mistakes: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for text, values in grid.items():
        try:
            key = key_named(text, where="--grid")
        except SettingError as error:
            mistakes.append(str(error))
            continue
        if key in found:
            mistakes.append(f"--grid names {key} twice; give all of its values in one: {key}=V1,V2,...")
        found[key] = values
    return found


def _value(key: str, text: str, mistakes: list[str]) -> Iterator[Value]:
    try:
        yield value_of(key, text)
    except SettingError as error:
        mistakes.append(f"In the grid: {error}")


def _with(base: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """Return what is given to all with what one combination adds; keys of the recipe join those that are ``set``."""
    given = dict(base)
    for one in values:
        given[one.field] = (*(given.get("set") or ()), one.given) if one.field == "set" else one.given
    return {name: value for name, value in given.items() if value is not None}


def _check_different(cells: list[Cell]) -> None:
    """Refuse combinations that are one and the same."""
    seen: dict[str, str] = {}
    for cell in cells:
        told = repr(sorted(cell.given.items(), key=lambda item: item[0]))
        if told in seen:
            raise SettingError(
                f"The combinations {seen[told]} and {cell.name} have the same settings; keep one.", field="grid"
            )
        seen[told] = cell.name


def _check_each(cells: list[Cell], config: SweepConfig) -> None:
    """Make the settings of a run of each combination, which finds what contradicts what."""
    mistakes = dict[str, str]()
    fold = {} if config.folds is None else {"fold": Fold(1, config.folds)}
    for cell in cells:
        try:
            made = settings_of(FinetuneConfig, {**cell.given, **fold})
            _ = made.rate  # of several, as of --lr A,B or a value in quotes, each run would choose its own
            check_given_once(made.set, [name for name in cell.given if name != "set"])
            if made.recipe is not None or made.set:
                override(load_recipe(made.recipe or _CHECKED_BY), made.set or ())
        except SettingError as error:
            mistakes.setdefault(str(error), cell.name)
    if mistakes and len(cells) == 1 and len(mistakes) == 1:
        raise SettingError(next(iter(mistakes)))
    raise_all([f"{name}: {sentence}" for sentence, name in mistakes.items()], field="grid")
