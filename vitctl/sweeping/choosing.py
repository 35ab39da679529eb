"""What a sweep does with its runs besides a table: choose a cell, train it again on everything, average weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.evaluation.comparison import estimate
from vitctl.primitives.formatting import format_number
from vitctl.primitives.outputs import writing
from vitctl.recipes import Recipe, load_recipe, override
from vitctl.results.sweep import Retrained, Selected, Soup
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import Cell, base_of
from vitctl.sweeping.ingredients import check_may_be_averaged
from vitctl.sweeping.plan_file import plan_of
from vitctl.sweeping.planning import LOGS, PlannedRun, planned_runs, seeds_of, write_plan
from vitctl.sweeping.running import run_all
from vitctl.sweeping.scores import cell_scores
from vitctl.sweeping.selecting import select, with_dev
from vitctl.sweeping.states import is_diverged

RETRAINED, SOUP = "retrained", "soup"
"""Folders of a sweep."""

_DIVIDING = ("data", "val_fraction", "group_column", "group_pattern")
_BEST_FROM = "evaluation.select_best_from"
_NEVER = 1_000_000_000  # validation images from which best/ is chosen by them: more than there are anywhere

RunAll = Callable[[Sequence[PlannedRun]], None]


def for_choosing(config: SweepConfig) -> SweepConfig:
    """Return ``config``, settled, with what a choice needs: development images, a grid where it has none.

    Raises:
        SettingError: It is asked for what does not go together.
    """
    config = with_dev(config)
    plan = plan_of(config)
    if config.select is None or config.grid or plan.grid or plan.cells:
        return config
    if config.lr is not None:
        raise SettingError(
            "--select is given, and --lr for all runs; expected several settings to choose from: --grid "
            "lr=1e-4,3e-4,1e-3; the recipe's own rates are tried without either.",
            field="select",
        )
    recipe = None if config.recipe is None else override(load_recipe(config.recipe), config.set or ())
    return replace(config, grid=(f"rate.lr={','.join(map(repr, own_rates(recipe)))}",))


def own_rates(recipe: Recipe | None) -> tuple[float, ...]:
    """Return the rates that a recipe's source tried; None is the default recipe, of which nobody has said any.

    Raises:
        SettingError: It names none.
    """
    if recipe is None or not recipe.rate.grid:
        raise SettingError(
            f"The {'default ' * (recipe is None)}recipe names no rates to try (rate.grid); give some: --grid "
            "lr=1e-4,3e-4,1e-3 of 'vitctl sweep', --lr 1e-4,3e-4,1e-3 of 'vitctl finetune'. vit-paper and its variants "
            "(vit-paper:pets) name some.",
            field="lr",
        )
    return recipe.rate.grid


def check_choice(config: SweepConfig, cells: Sequence[Cell]) -> None:
    """Check that there is something to choose from, and that a soup can be made; before anything is trained.

    Raises:
        SettingError: It is not so.
    """
    if config.select is not None and len(cells) < 2:
        raise SettingError(
            "--select is given, and there is one combination of settings; expected several to choose from: --grid "
            "lr=1e-4,3e-4,1e-3.",
            field="select",
        )
    varied = next((key for cell in cells for key in cell.settings if key in _DIVIDING), None)
    if config.select is not None and varied is not None:
        raise SettingError(
            f"--select is given, and the grid has {varied}, so that combinations would be judged on different "
            "development images; expected the same for all. Give it one value, or leave out --select.",
            field="select",
        )
    if config.retrain and any(cell.given.get("patience") is not None for cell in cells):
        raise SettingError(
            "--retrain and --patience are both given; --patience would end what is trained again by its validation "
            "images, which are to choose nothing. Keep one.",
            field="retrain",
        )
    if config.soup:
        check_may_be_averaged(base_of(config), [cell.settings for cell in cells], num_seeds=len(seeds_of(config)))


def tell_what_is_added(config: SweepConfig, conversation: Conversation) -> None:
    """Say what a choice trains beside the combinations, which a price of these has not in it."""
    if config.select is not None:
        again = ", and for the chosen one again on all training images" * config.retrain
        more = format_number(len(seeds_of(config)), "run")
        conversation.line(f"not in this: {more} more, where an edge of the rates is chosen{again}")


@dataclass(frozen=True)
class Chosen:
    """What it came to.

    Attributes:
        cells: All, those added beyond an edge last.
        runs: Theirs, likewise.
        selected: The choice; None without ``--select``.
        retrained: Of the chosen one; None without ``--retrain``.
        soup: None without ``--soup``.
    """

    cells: tuple[Cell, ...]
    runs: tuple[PlannedRun, ...]
    selected: Selected | None = None
    retrained: Retrained | None = None
    soup: Soup | None = None


def choose_among(
    cells: tuple[Cell, ...],
    runs: tuple[PlannedRun, ...],
    config: SweepConfig,
    out: Path,
    conversation: Conversation,
    *,
    run_these: RunAll | None = None,
) -> Chosen:
    """Do what ``--select``, ``--retrain`` and ``--soup`` ask for with runs that have ended.

    Args:
        cells: Combinations of settings.
        runs: Theirs.
        config: Settled, ``for_choosing``.
        out: Folder of the sweep, absolute.
        conversation: Hears of it.
        run_these: Trains runs; None is ``run_all``.

    Raises:
        VitctlError: A run failed, or the runs cannot be compared.
        InterruptedRun: A signal came.
    """
    run_these = run_these or (lambda more: run_all(more, jobs=config.jobs, conversation=conversation))
    found, winner = Chosen(cells, runs), None
    if config.select is not None:
        every = list(runs)

        def train(cell: Cell) -> None:
            every.extend(planned_runs([cell], config, out))
            with writing(out):
                write_plan(out, config, (*cells, cell), every)
            run_these(every[len(runs) :])

        selection = select(
            cells,
            config,
            runs_of=lambda cell: [run for run in every if run.cell == cell.name],
            train=train,
            conversation=conversation,
        )
        found = replace(found, cells=selection.cells, runs=tuple(every), selected=selection.selected)
        winner = selection.cell
    if config.soup:
        from vitctl.sweeping.soup import cook  # here, not above: it opens models

        soup = cook([run.out for run in found.runs], config, out / SOUP, conversation)
        found = replace(found, soup=soup)
    if config.retrain and winner is not None:
        again = [retrained_run(run, out) for run in found.runs if run.cell == winner.name]
        with writing(out):
            write_plan(out, config, found.cells, (*found.runs, *again))
        conversation.line(f"training {winner.name} again, on all training images")
        run_these(again)
        found = replace(found, retrained=score_retrained(again))
    return found


def retrained_run(run: PlannedRun, out: Path) -> PlannedRun:
    """Return the run that trains on all training images as ``run`` did on those that were no development images.

    Its best/ is what the last step leaves.
    """
    place = out / RETRAINED / f"seed-{run.seed}"
    given = {name: value for name, value in run.given.items() if name != "dev_fraction"} | {"out": str(place)}
    # that the validation images choose nothing, not even which weights are the best
    set_before = [text for text in run.given.get("set") or () if text.partition("=")[0].strip() != _BEST_FROM]
    given["set"] = (*set_before, f"{_BEST_FROM}={_NEVER}")
    return replace(run, out=place, given=given, log=out / LOGS / f"{RETRAINED}-seed-{run.seed}.txt")


def score_retrained(runs: Sequence[PlannedRun]) -> Retrained:
    """Return what the runs come to on the validation images; nothing where one diverged, or there are none."""
    paths = tuple(str(run.out) for run in runs)
    scores = None if any(map(is_diverged, runs)) else cell_scores(runs)
    if scores is None:
        return Retrained(runs=paths, top1_mean=None, top1_ci95=None, num_val=0)
    found = estimate(scores.correct[0])
    return Retrained(runs=paths, top1_mean=found.mean, top1_ci95=found.ci95, num_val=scores.num_images)
