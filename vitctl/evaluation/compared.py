"""Classifiers on the same images, side by side: four figures of each, and how far any two are apart.

Letters: S runs (seeds) of a row, M images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypedDict

import numpy as np

from vitctl.evaluation.baseline import mcnemar_p
from vitctl.evaluation.classify import probabilities
from vitctl.evaluation.comparison import Estimate, Interval, ece_estimate, estimate, holm
from vitctl.evaluation.metrics import brier_per_image, nll_per_image
from vitctl.results.compare import ComparedPair


@dataclass(frozen=True, eq=False)
class RowTables:
    """What the runs of a row say of M images.

    Attributes:
        name: What the row is called.
        seeds: S, of its runs.
        labels: (M,) int64, the true classes.
        shares: S of (M, C) float32, probabilities.
        correct: (S, M) float64, 1 where a run is right.
        nll: (S, M) float64, nats.
        brier: (S, M) float64, 0-2.
    """

    name: str
    seeds: tuple[int, ...]
    labels: np.ndarray
    shares: list[np.ndarray]
    correct: np.ndarray
    nll: np.ndarray
    brier: np.ndarray

    @classmethod
    def of(cls, name: str, seeds: Sequence[int], logits: Sequence[np.ndarray], labels: np.ndarray) -> "RowTables":
        """Return the tables of runs that say ``logits``, S of (M, C), finite."""
        shares = [probabilities(one) for one in logits]
        return cls(
            name,
            tuple(seeds),
            labels,
            [one.astype(np.float32) for one in shares],
            np.stack([one.argmax(axis=1) == labels for one in logits]).astype(np.float64),
            np.stack([nll_per_image(one, labels) for one in logits]),
            np.stack([brier_per_image(one, labels) for one in shares]),
        )

    def mean_shares(self) -> np.ndarray:
        """Return the mean of the runs' probabilities: (M, C) float64, what the row says as one."""
        total = self.shares[0].astype(np.float64)
        for share in self.shares[1:]:
            total += share
        return total / len(self.shares)


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
    ece = ece_estimate(row.shares, row.labels, seed=seed)
    return {
        "top1": top1.mean,
        "top1_ci95": _within(top1.ci95, 0.0, 1.0),
        "top1_per_run": tuple(row.correct.mean(axis=1).tolist()),
        "nll": nll.mean,
        "nll_ci95": _within(nll.ci95, 0.0, np.inf),
        "brier": brier.mean,
        "brier_ci95": _within(brier.ci95, 0.0, 2.0),
        "ece": ece.mean,
        "ece_ci95": _within(ece.ci95, 0.0, 1.0),
    }


def _within(interval: Interval, least: float, most: float) -> Interval:
    return max(least, interval[0]), min(most, interval[1])


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


_ONE_RUN = (
    "Intervals of differences between one run and a row of several cover other images and other seeds of the several, "
    "not of the one."
)


@dataclass(frozen=True)
class Matching:
    """Which run of a row is compared with which of another.

    Attributes:
        first: Positions of runs of the first.
        second: As many, of the second.
        note: What to know where not every run has its own counterpart; empty where it has.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    note: str = ""

    def table(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return second - first, run by run, of two tables (S, M) each."""
        difference: np.ndarray = second[list(self.second)] - first[list(self.first)]
        return difference


def match_runs(a: RowTables, b: RowTables) -> Matching:
    """Return which runs of two rows are compared with each other.

    Runs of the same seeds by seed. Seeds of one row that the other lacks make no pair, so a row of a single run is
    compared with every run of the other, as these weights and no others; of rows of several runs those are taken
    whose seeds both have, or, where there are not two, as many as both have, in their order: runs of other seeds are
    independent, and which of them meet does not matter.
    """
    all_a, all_b = tuple(range(len(a.seeds))), tuple(range(len(b.seeds)))
    if len(a.seeds) == 1 or len(b.seeds) == 1:
        most = max(len(a.seeds), len(b.seeds))
        first, second = (one if len(one) == most else one * most for one in (all_a, all_b))
        return Matching(first, second, _ONE_RUN if most > 1 else "")
    shared = [seed for seed in a.seeds if seed in b.seeds]
    if len(shared) >= 2:
        first, second = (tuple(row.seeds.index(seed) for seed in shared) for row in (a, b))
        is_whole = len(shared) == len(all_a) == len(all_b)
        listed = ", ".join(map(str, shared))
        note = "" if is_whole else f"{a.name} and {b.name} are compared by the seeds that both have: {listed}."
        return Matching(first, second, note)
    number = min(len(all_a), len(all_b))
    note = f"{a.name} and {b.name} have other seeds: their first {number} runs are compared in order."
    return Matching(all_a[:number], all_b[:number], note)


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
    shares_a, shares_b = [a.shares[index] for index in matching.first], [b.shares[index] for index in matching.second]
    ece = ece_estimate(shares_b, a.labels, shares_a, seed=seed)
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


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Images of which not all rows say the same, those first on which two rows that differ are both sure.

    Attributes:
        positions: (D,) int64, of the images.
        predicted: (R, M) int64, what each row says of every image: of several runs by their mean probability.
        confidence: (R, M) float64, the probability of that.
    """

    positions: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def disagreement(rows: Sequence[RowTables]) -> Disagreement:
    """Return the images on which rows disagree."""
    means = [row.mean_shares() for row in rows]
    predicted = np.stack([mean.argmax(axis=1) for mean in means])
    confidence = np.stack([mean.max(axis=1) for mean in means])
    images = np.arange(predicted.shape[1])
    surest = predicted[confidence.argmax(axis=0), images]
    # how sure the surest row is of those that contradict the surest of all; -1 where none does
    against = np.where(predicted == surest, -1.0, confidence).max(axis=0)
    order = np.argsort(-against, kind="stable")
    return Disagreement(order[against[order] >= 0], predicted, confidence)
