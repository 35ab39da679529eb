"""The table of a sweep: of each combination the mean over its runs and how far it is from the first, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitctl.errors import DataError
from vitctl.evaluation.comparison import Estimate, estimate, estimate_folds, holm, within
from vitctl.results.sweep import SweepCell
from vitctl.run_folders.seen import DIVERGED, FINISHED
from vitctl.sweeping.cells import Cell
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.scores import CellScores, Tables, paired_scores
from vitctl.sweeping.states import is_diverged


@dataclass(frozen=True)
class SweepTable:
    """What the runs of a sweep come to.

    Attributes:
        cells: One row for each combination.
        num_val: Images that the first combination with a score was validated on; of a cross-validation, all its parts.
        notes: What to know about it.
    """

    cells: tuple[SweepCell, ...]
    num_val: int
    notes: tuple[str, ...]


def table_of(cells: Sequence[Cell], runs: Sequence[PlannedRun]) -> SweepTable:
    """Return what finished and diverged runs come to.

    Args:
        cells: The combinations; differences are from the first.
        runs: All of their runs, done.

    Raises:
        DataError: What a run says of its images cannot be read.
    """
    by_cell = {cell.name: list[PlannedRun]() for cell in cells}
    for run in runs:
        by_cell[run.cell].append(run)
    scores: dict[str, CellScores | None] = {}
    unpaired, notes = list[str](), list[str]()
    lost = [cell.name for cell in cells if any(map(is_diverged, by_cell[cell.name]))]
    for cell in cells:
        if cell.name in lost:
            scores[cell.name] = None
            continue
        first = scores.get(cells[0].name)
        try:
            scores[cell.name], is_paired = paired_scores(by_cell[cell.name], first)
        except DataError as error:
            scores[cell.name], is_paired = None, True
            notes.append(f"{cell.name} has no score: {error}")
        if not is_paired:
            unpaired.append(cell.name)
    rows = [
        _row(
            cell,
            by_cell[cell.name],
            scores[cell.name],
            first=None if cell is cells[0] or cell.name in unpaired else scores[cells[0].name],
            is_lost=cell.name in lost,
        )
        for cell in cells
    ]
    told = [one for one in scores.values() if one is not None]
    if scores and scores[cells[0].name] is None and cells[0].name not in lost and told:
        notes.append(f"no differences: {cells[0].name}, which they would be from, has no score")
    notes += _notes(cells, runs, lost, unpaired, has_scores=bool(told))
    return SweepTable(_corrected(rows), told[0].num_images if told else 0, tuple(notes))


def _row(
    cell: Cell, runs: Sequence[PlannedRun], scores: CellScores | None, *, first: CellScores | None, is_lost: bool
) -> SweepCell:
    top1 = nll = difference = None
    if scores is not None:
        top1, nll = _estimate(scores.correct), _estimate(scores.nll, is_loss=True)
        if first is not None:
            pairs = [mine - theirs for mine, theirs in zip(scores.correct, first.correct, strict=True)]
            difference = _estimate(pairs, is_difference=True)
    in_order = sorted(runs, key=lambda run: (run.seed, run.fold or 0))
    return SweepCell(
        name=cell.name,
        settings=cell.settings,
        runs=tuple(str(run.out) for run in in_order),
        state=DIVERGED if is_lost else FINISHED,
        top1_mean=None if top1 is None else top1.mean,
        top1_ci95=None if top1 is None else within(top1.ci95, 0.0, 1.0),
        top1_per_run=() if scores is None else scores.per_run,
        nll_mean=None if nll is None else nll.mean,
        nll_ci95=None if nll is None else within(nll.ci95, 0.0, np.inf),
        difference=None if difference is None else difference.mean,
        difference_ci95=None if difference is None else within(difference.ci95, -1.0, 1.0),
        p=None if difference is None else difference.p,
        p_holm=None,
    )


def _estimate(tables: Tables, *, is_difference: bool = False, is_loss: bool = False) -> Estimate:
    if len(tables) == 1:
        return estimate(tables[0], is_difference=is_difference, is_loss=is_loss)
    return estimate_folds(tables, is_difference=is_difference, is_loss=is_loss)


def _corrected(rows: Sequence[SweepCell]) -> tuple[SweepCell, ...]:
    """Return the rows with their p values corrected for their number."""
    p_values = [row.p for row in rows if row.p is not None]
    corrected = iter(holm(p_values))
    return tuple(row if row.p is None else replace(row, p_holm=next(corrected)) for row in rows)


def _notes(
    cells: Sequence[Cell], runs: Sequence[PlannedRun], lost: Sequence[str], unpaired: Sequence[str], *, has_scores: bool
) -> list[str]:
    notes = []
    num_seeds, num_folds = len({run.seed for run in runs}), len({run.fold for run in runs})
    if lost:
        notes.append(f"diverged, the loss is no longer finite: {'; '.join(lost)}")
    if unpaired:
        notes.append(
            f"no difference from {cells[0].name}, as the validation images are not the same: {'; '.join(unpaired)}"
        )
    if cells and cells[0].name in lost and len(cells) > 1:
        notes.append(f"no differences: {cells[0].name}, which they would be from, diverged")
    if not has_scores and not lost:
        notes.append("no run was validated, so that there is nothing to compare")
    if has_scores and num_folds > 1:
        notes.append(
            f"cross-validation: {num_folds} parts, each validated on once; intervals are over parts, which share most "
            "of their training images, so that they may be somewhat too narrow"
        )
    elif has_scores:
        notes.append(
            "intervals are of 95 %: other images"
            + (f" and other seeds; {num_seeds} seeds each" if num_seeds > 1 else "; with one seed, of these weights")
        )
    return notes
