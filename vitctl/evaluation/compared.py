"""Classifiers on the same images, side by side: four figures of each, and how far any two are apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypedDict

import numpy as np

from vitctl.evaluation.baseline import mcnemar_p
from vitctl.evaluation.comparison import Estimate, Interval, ece_estimate, estimate, holm, within
from vitctl.evaluation.matching import Matching, match_runs
from vitctl.evaluation.row_tables import RowTables
from vitctl.results.compare import ComparedPair


class RowFigures(TypedDict):
    """Four figures of a row with their intervals; ``ComparedRow`` says what each of these is."""

    top1: float
    top1_ci95: Interval
    top1_per_run: tuple[float, ...]
    nll: float
    nll_ci95: Interval
    brier: float
    brier_ci95: Interval
    ece: float
    ece_ci95: Interval


def row_figures(row: RowTables, *, seed: int) -> RowFigures:
    """Return how good a row is.

    Args:
        row: Of S >= 1 runs.
        seed: Of the bootstrap, >= 0.
    """
    top1 = estimate(row.correct)
    nll, brier = estimate(row.nll, is_loss=True), estimate(row.brier, is_loss=True)
    ece = ece_estimate(row.calibration(seed=seed), seed=seed)
    return {
        "top1": top1.mean,
        "top1_ci95": within(top1.ci95, 0.0, 1.0),
        "top1_per_run": tuple(row.correct.mean(axis=1).tolist()),
        "nll": nll.mean,
        "nll_ci95": within(nll.ci95, 0.0, np.inf),
        "brier": brier.mean,
        "brier_ci95": within(brier.ci95, 0.0, 2.0),
        "ece": ece.mean,
        "ece_ci95": within(ece.ci95, 0.0, 1.0),
    }


def compared_pairs(rows: Sequence[RowTables], *, seed: int) -> tuple[list[ComparedPair], list[str]]:
    """Return every two of the rows compared, with p values corrected for their number, and what to know about them.

    Args:
        rows: Two or more, of the same images.
        seed: Of the bootstrap, >= 0.
    """
    drafts, notes = [], []
    for a, b in combinations(rows, 2):
        matching = match_runs(a, b)
        drafts.append((a, b, matching, estimate(matching.table(a.correct, b.correct), is_difference=True)))
        if matching.note:
            notes.append(matching.note)
    tests = [_mcnemar(a, b) for a, b, *_ in drafts]
    p_values = [top1.p if test is None else test.p for test, (*_, top1) in zip(tests, drafts, strict=True)]
    pairs = [
        _pair(a, b, matching, top1, test, p, p_holm, seed=seed)
        for (a, b, matching, top1), test, p, p_holm in zip(drafts, tests, p_values, holm(p_values), strict=True)
    ]
    return pairs, list(dict.fromkeys(notes))


@dataclass(frozen=True)
class _McNemar:
    num_a_only: int
    num_b_only: int

    @property
    def p(self) -> float:
        return mcnemar_p(self.num_a_only, self.num_b_only)


def _mcnemar(a: RowTables, b: RowTables) -> _McNemar | None:
    """Return the test of two rows of a run each; None of more, whose images it would count several times."""
    if len(a.seeds) > 1 or len(b.seeds) > 1:
        return None
    is_right_a, is_right_b = a.correct[0] > 0, b.correct[0] > 0
    return _McNemar(int((is_right_a & ~is_right_b).sum()), int((~is_right_a & is_right_b).sum()))


def _pair(
    a: RowTables,
    b: RowTables,
    matching: Matching,
    top1: Estimate,
    test: _McNemar | None,
    p: float,
    p_holm: float,
    *,
    seed: int,
) -> ComparedPair:
    nll = estimate(matching.table(a.nll, b.nll), is_difference=True, is_loss=True)
    brier = estimate(matching.table(a.brier, b.brier), is_difference=True, is_loss=True)
    errors_a, errors_b = a.calibration(seed=seed), b.calibration(seed=seed)
    ece = ece_estimate(
        [errors_b[index] for index in matching.second], [errors_a[index] for index in matching.first], seed=seed
    )
    return ComparedPair(
        a=a.name,
        b=b.name,
        difference=top1.mean,
        ci95=top1.ci95,
        mcnemar_p=None if test is None else test.p,
        p=p,
        p_holm=p_holm,
        nll_difference=nll.mean,
        nll_ci95=nll.ci95,
        brier_difference=brier.mean,
        brier_ci95=brier.ci95,
        ece_difference=ece.mean,
        ece_ci95=ece.ci95,
        num_a_only=None if test is None else test.num_a_only,
        num_b_only=None if test is None else test.num_b_only,
    )
