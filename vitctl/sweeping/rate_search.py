"""``vitctl finetune --lr A,B,C``: a sweep over rates beside the run, and the run with the one that was chosen."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitctl.conversation import Conversation, Setting
from vitctl.errors import SettingError
from vitctl.models.run_folders import is_run_folder
from vitctl.primitives.atomic import own_folder
from vitctl.primitives.outputs import check_writable, writing
from vitctl.recipes import Recipe
from vitctl.results.result import JsonValue
from vitctl.run_folders.selection import KeptSelection, read_selection
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.option import described, settings_of
from vitctl.settings.parsing import GRID, rates_spelt
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import cells_of
from vitctl.sweeping.choosing import RunAll, check_choice, choose_among, for_choosing, own_rates
from vitctl.sweeping.planning import check_place, planned_runs, write_plan
from vitctl.sweeping.running import run_all

_OF_THE_RUN = ("lr", "out", "overwrite", "dry_run", "resume")


def choose_rate(
    config: FinetuneConfig,
    out: Path,
    recipe: Recipe,
    conversation: Conversation,
    *,
    run_these: RunAll | None = None,
) -> tuple[FinetuneConfig, KeptSelection | None]:
    """Return the settings of the run with one rate, and how it was chosen; with ``dry_run`` the first, not chosen.

    The sweep grows in ``OUT-rates``; what is finished there, or said in ``OUT``, is not done again.

    Args:
        config: With several rates.
        out: The run folder, absolute.
        recipe: The run's.
        conversation: Hears of it.
        run_these: Trains runs; None is ``run_all``.

    Raises:
        VitctlError: The rates cannot be tried, a run failed, or another run is in the way.
        InterruptedRun: A signal came; the same command goes on.
    """
    sweep = for_choosing(search_settings(config, out, recipe))
    cells = cells_of(sweep)
    check_choice(sweep, cells)
    if config.dry_run:
        conversation.line(
            f"to choose the rate would take {len(cells)} runs more, each as long as this one, on the training images "
            "without a tenth of them (from 5,000 on without 2 %)"
        )
        return _with_rate(config, cells[0].settings), None
    if (before := chosen_before(out, config)) is not None:
        return _with_rate(config, before.selected.settings), before
    place, runs = Path(sweep.out or ""), planned_runs(cells, sweep, Path(sweep.out or ""))
    rates = Setting("rates", ", ".join(cell.name for cell in cells), "the recipe's" if config.lr == GRID else "given")
    by = Setting("chosen by", "NLL on development images", "cut from the training images")
    where = Setting("runs", str(place), "kept; the same command trains none of them again")
    train = run_these or (lambda more: run_all(more, jobs=1, conversation=conversation))
    with ExitStack() as stack:
        with writing(place):
            check_writable(place)
            check_place(place, sweep)
            place.mkdir(parents=True, exist_ok=True)
            is_own = stack.enter_context(own_folder(place))
        if not is_own:
            raise SettingError(
                f"{place} is a sweep that another vitctl works on. Wait for it, or give another --out.", field="out"
            )
        conversation.header("choosing the learning rate", [rates, by, where])
        with writing(place):
            write_plan(place, sweep, cells, runs)
        train(runs)
        selected = choose_among(cells, runs, sweep, place, conversation, run_these=train).selected
    if selected is None:
        raise AssertionError("a sweep with --select chooses")
    return _with_rate(config, selected.settings), KeptSelection(_spelt(config), selected)


def search_settings(config: FinetuneConfig, out: Path, recipe: Recipe) -> SweepConfig:
    """Return the settings of the sweep that chooses among the rates of ``config``.

    Raises:
        SettingError: They cannot be tried with these settings.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise SettingError(
            "--lr names several rates in one of several processes; choose one in a single process first.", field="lr"
        )
    known = described(SweepConfig)
    given = {
        name: getattr(config, name)
        for name in sorted(config.given)
        if name in known and name not in _OF_THE_RUN and getattr(config, name) is not None
    }
    place = out.with_name(f"{out.name}-rates")
    grid = f"rate.lr={','.join(map(repr, own_rates(recipe)))}" if config.lr == GRID else f"lr={_spelt(config)}"
    return settings_of(SweepConfig, given | {"grid": (grid,), "select": "nll", "out": str(place)})


def _spelt(config: FinetuneConfig) -> str:
    return str(rates_spelt(config.lr or ()))


def _with_rate(config: FinetuneConfig, settings: Mapping[str, JsonValue]) -> FinetuneConfig:
    """Return the settings of the run with the rate that was chosen, on all training images."""
    ((key, rate),) = settings.items()
    how: dict[str, Any] = {"lr": rate} if key == "lr" else {"lr": None, "set": (*(config.set or ()), f"{key}={rate!r}")}
    return replace(config, **how, dev_fraction=None)


def chosen_before(out: Path, config: FinetuneConfig) -> KeptSelection | None:
    """Return what was chosen among these rates for the run that stands at ``out``; None where none does.

    Raises:
        SettingError: A run stands there that was not made by such a choice.
    """
    if config.overwrite or not is_run_folder(out):
        return None
    found = read_selection(out)
    if found is None or found.lr != _spelt(config):
        raise SettingError(
            f"{out} is a run that was not made by --lr {_spelt(config)}. Replace it with --overwrite, or give another "
            "folder with --out.",
            field="out",
        )
    return found
