"""Choose a cell on development images, as the ViT paper chose its rates: the lowest that cannot be told from the best.

Letters: S seeds, M images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitctl.conversation import Conversation
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.selection import Choice, choose
from vitctl.primitives.formatting import format_rounded
from vitctl.results.sweep import Selected
from vitctl.settings.grid import as_text
from vitctl.settings.sweep import SweepConfig
from vitctl.settings.words import AUTO, SELECT_BY_CALLED
from vitctl.sweeping.cells import Cell, cells_of
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.rates import beyond, preferences, rate_of
from vitctl.sweeping.scores import CellScores, cell_scores
from vitctl.sweeping.states import is_diverged

FEW_DEV = 100  # guess: with fewer the interval of an accuracy of 0.9 is wider than 0.12


def with_dev(config: SweepConfig) -> SweepConfig:
    """Return ``config`` with development images, where they are needed and not said; a cross-validation has none.

    Raises:
        SettingError: A choice, or a soup, is asked for beside something that it cannot be made with.
    """
    if config.retrain and config.select is None:
        raise SettingError(
            "--retrain is given without --select; expected --select nll, or top1, to choose what to train again.",
            field="retrain",
        )
    asked = "--select" if config.select is not None else "--soup" if config.soup else None
    if asked is None:
        return config
    if config.folds is not None:
        raise SettingError(
            f"{asked} and --folds are both given; {asked} cuts development images, --folds validates on each part in "
            "turn. Keep one.",
            field="folds",
        )
    return config if config.dev_fraction is not None else replace(config, dev_fraction=AUTO)


def losses_of(scores: CellScores, by: str) -> np.ndarray:
    """Return the losses of the runs of a cell, (S, M) float64: NLL in nats, or 1 where an answer is wrong."""
    (table,) = scores.nll if by == "nll" else scores.correct  # one part: there are no folds
    return table if by == "nll" else 1 - table


@dataclass(frozen=True)
class Selection:
    """A choice.

    Attributes:
        selected: For the result.
        cell: The one that was chosen.
        cells: All, those that were added beyond an edge last.
    """

    selected: Selected
    cell: Cell
    cells: tuple[Cell, ...]


def select(
    cells: Sequence[Cell],
    config: SweepConfig,
    *,
    runs_of: Callable[[Cell], Sequence[PlannedRun]],
    train: Callable[[Cell], None],
    conversation: Conversation,
) -> Selection:
    """Choose one of ``cells``, which are trained; where one at an edge of the rates wins, train one beyond it.

    Args:
        cells: Combinations of settings.
        config: Settled; says by what to choose.
        runs_of: The runs of a cell.
        train: Trains the runs of one more cell.
        conversation: Hears of an edge, and of too few images.

    Raises:
        SettingError: All diverged.
        DataError: They were not judged on the same images.
    """
    by, every, extended = config.select or "nll", tuple(cells), tuple[Cell, ...]()
    while True:
        tables = _tables([runs_of(cell) for cell in every], by)
        settings = [cell.settings for cell in every]
        choice = choose(tables, preferences(settings))
        winner = every[choice.index]
        further = beyond(settings, winner.settings)
        if further is None:
            break
        told, why = f"{winner.name} was chosen, at the edge of the grid", _why_beyond(every[choice.best], winner)
        if extended:
            conversation.warn(f"{told}, which was extended once: {why}. Give a wider grid to go on looking.")
            break
        extra = one_cell(config, further)
        conversation.warn(f"{told}: {why}. The grid is extended by {extra.name}.")
        train(extra)
        extended, every = (extra,), (*every, extra)
    selected = _told(every, tables, choice, by, is_at_edge=further is not None, extended=extended)
    if selected.num_dev < FEW_DEV:
        conversation.warn(
            f"the choice rests on {selected.num_dev} development images: what these leave uncertain is more than the "
            "difference that settings usually make. More images, or a larger --dev-fraction, tell more."
        )
    return Selection(selected, winner, every)


def _why_beyond(best: Cell, winner: Cell) -> str:
    """Return why to look beyond the edge: the loss falls towards it, or is about as low there as anywhere."""
    rates = rate_of(winner.settings), rate_of(best.settings)
    if rates[0] is None or rates[1] is None or rates[0] >= rates[1]:
        return "better rates may lie beyond it"
    return (
        f"{best.name} did better, but by no more than one standard error, and of such rates the lowest is taken; "
        "still lower ones may do as well"
    )


def one_cell(config: SweepConfig, settings: dict[str, object]) -> Cell:
    """Return the cell of these settings, by key of the grid, as ``cells_of`` would make it."""
    (cell,) = cells_of(replace(config, plan=None, grid=tuple(f"{key}={as_text(one)}" for key, one in settings.items())))
    return cell


def _tables(runs: Sequence[Sequence[PlannedRun]], by: str) -> list[np.ndarray]:
    """Return one (S, M) table of losses for each cell, on the same images; all infinite where a run diverged."""
    found, first = list[np.ndarray | None](), None
    for of_cell in runs:
        if any(map(is_diverged, of_cell)):
            found.append(None)
            continue
        scores = cell_scores(of_cell, like=first)
        if scores is None:
            raise DataError(
                f"{of_cell[0].out} keeps nothing of development images; --select has nothing to choose by. Remove the "
                "folder, and give the command again."
            )
        first = first or scores
        losses = losses_of(scores, by)
        found.append(losses if np.isfinite(losses).all() else None)
    shape = next((one.shape for one in found if one is not None), None)
    if shape is None:
        raise SettingError(
            f"None of the {len(runs)} combinations came to a finite loss; there is nothing to choose. Try lower rates."
        )
    return [np.full(shape, np.inf) if one is None else one for one in found]


def _told(
    cells: Sequence[Cell],
    tables: Sequence[np.ndarray],
    choice: Choice,
    by: str,
    *,
    is_at_edge: bool,
    extended: Sequence[Cell],
) -> Selected:
    winner, best = cells[choice.index], cells[choice.best]
    mean, num_dev = float(tables[choice.index].mean()), tables[choice.index].shape[1]
    images = f"{num_dev:,} development images"
    if choice.index == choice.best:
        how = f"the best of {len(cells)}"
    else:
        first = "the lowest rate" if all(rate_of(cell.settings) is not None for cell in cells) else "the first"
        how = (
            f"{first} within one standard error ({format_rounded(choice.standard_error)}) of the best of {len(cells)}, "
            f"{best.name},"
        )
    return Selected(
        cell=winner.name,
        settings=winner.settings,
        by=by,
        score=mean if by == "nll" else 1 - mean,
        best=best.name,
        standard_error=choice.standard_error,
        is_at_edge=is_at_edge,
        extended=tuple(cell.name for cell in extended),
        num_dev=num_dev,
        why=f"{how} by {SELECT_BY_CALLED[by]} on {images}; optimistic there, as it was chosen by them",
    )
