"""Choose a cell on development images, as the ViT paper chose its rates: the lowest that cannot be told from the best.

Letters: S seeds, M images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitctl.conversation import Conversation
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.selection import Choice, choose
from vitctl.primitives.formatting import format_rounded
from vitctl.results.sweep import Selected
from vitctl.run_folders.kept_logits import read_logits
from vitctl.settings.sweep import SweepConfig
from vitctl.settings.words import AUTO
from vitctl.sweeping.cells import Cell, cells_of
from vitctl.sweeping.grid import as_text
from vitctl.sweeping.rates import beyond, preferences, rate_of

FEW_DEV = 100  # guess: with fewer the interval of an accuracy of 0.9 is wider than 0.12
METRICS = {"nll": "NLL", "top1": "top-1"}


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


@dataclass(frozen=True)
class Judged:
    """What the runs of a cell say of the development images.

    Attributes:
        losses: (S, M) per run and image: NLL in nats, or 1 where it is wrong; infinite where a run diverged.
        hashes: M, of the images' content.
    """

    losses: np.ndarray
    hashes: tuple[str, ...]


def judge(runs: Sequence[Path], by: str) -> Judged | None:
    """Return what the runs of a cell say of their images; None where one of them diverged, and says nothing.

    Raises:
        DataError: The runs of a cell were judged on different images.
    """
    kept = [read_logits(run) for run in runs]
    there = [one for one in kept if one is not None]
    if len(there) < len(kept):
        return None
    if any(one.hashes != there[0].hashes for one in there):
        raise DataError(f"{runs[0]} and its other seeds were judged on different images; expected the same.")
    losses = np.stack([_losses(one.logits, one.labels, by) for one in there])
    return Judged(np.where(np.isfinite(losses), losses, np.inf), there[0].hashes)


def _losses(logits: np.ndarray, labels: np.ndarray, by: str) -> np.ndarray:
    """Return the loss of each image, (M,) float64."""
    if by == "nll":
        from scipy.special import logsumexp

        values = logits.astype(np.float64)
        nll: np.ndarray = logsumexp(values, axis=1) - values[np.arange(len(labels)), labels]
        return nll
    return (logits.argmax(axis=1) != labels).astype(np.float64)


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
    runs_of: Callable[[Cell], Sequence[Path]],
    train: Callable[[Cell], None],
    conversation: Conversation,
) -> Selection:
    """Choose one of ``cells``, which are trained; where one at an edge of the rates wins, train one beyond it.

    Args:
        cells: Combinations of settings.
        config: Settled; says by what to choose.
        runs_of: The run folders of a cell, by seed.
        train: Trains the runs of one more cell.
        conversation: Hears of an edge, and of too few images.

    Raises:
        SettingError: All diverged.
        DataError: They were not judged on the same images.
    """
    by, every, extended = config.select or "nll", tuple(cells), tuple[Cell, ...]()
    judged = [judge(runs_of(cell), by) for cell in every]
    while True:
        tables = _tables(every, judged)
        choice = choose(tables, preferences([cell.settings for cell in every]))
        winner = every[choice.index]
        further = beyond([cell.settings for cell in every], winner.settings)
        if further is None:
            break
        told = f"{winner.name} was chosen, at the edge of the grid: better rates may lie beyond it"
        if extended:
            conversation.warn(f"{told}, also after it was extended by {extended[0].name}.")
            break
        extra = one_cell(config, further)
        conversation.warn(f"{told}. The grid is extended by {extra.name}.")
        train(extra)
        extended, every = (extra,), (*every, extra)
        judged.append(judge(runs_of(extra), by))
    selected = _told(every, tables, choice, by, is_at_edge=further is not None, extended=extended)
    if selected.num_dev < FEW_DEV:
        conversation.warn(
            f"the choice rests on {selected.num_dev} development images: its uncertainty is larger than what settings "
            "usually make a difference. More images, or --dev-fraction, or --folds instead, tell more."
        )
    return Selection(selected, winner, every)


def one_cell(config: SweepConfig, settings: dict[str, object]) -> Cell:
    """Return the cell of these settings, by key of the grid, as ``cells_of`` would make it."""
    (cell,) = cells_of(replace(config, plan=None, grid=tuple(f"{key}={as_text(one)}" for key, one in settings.items())))
    return cell


def _tables(cells: Sequence[Cell], judged: Sequence[Judged | None]) -> list[np.ndarray]:
    """Return one (S, M) table of losses for each cell; all infinite where it diverged."""
    there = [one for one in judged if one is not None and np.isfinite(one.losses.mean())]
    if not there:
        raise SettingError(
            f"None of the {len(cells)} combinations came to a finite loss; there is nothing to choose. Try lower rates."
        )
    first = there[0]
    for cell, one in zip(cells, judged, strict=True):
        if one is not None and one.hashes != first.hashes:
            raise DataError(
                f"{cell.name} was judged on other images than other combinations; --select needs the same images for "
                "all. Leave out of the grid what changes them."
            )
    lost = np.full_like(first.losses, np.inf)
    return [lost if one is None or not np.isfinite(one.losses.mean()) else one.losses for one in judged]


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
        why=f"{how} by {METRICS[by]} on {images}; optimistic there, as it was chosen by them",
    )
