"""How sure a mean is, and a difference of two, over runs and images: the one home of comparisons.

Letters: S runs (seeds), M images, K pairs. A table is (S, M): what run s says of image m, e.g. 1 where it is right, a
loss, a Brier score. Tables of two classifiers are paired where row s of both is of the same seed and column m of the
same image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: Of all cells of the table.
        ci95: Its 95 % interval: other runs (where there are several) and other images.
        standard_error: Half the width of the interval would be about twice this; over runs and images alike.
        p: Two-sided, that the true mean is 0.
    """

    mean: float
    ci95: Interval
    standard_error: float
    p: float


def estimate(table: np.ndarray) -> Estimate:
    """Return the mean of a table with its uncertainty.

    Args:
        table: (S, M) float, S >= 1, M >= 1. For a paired difference: b - a.
    """
    raise NotImplementedError


def estimate_folds(values: Sequence[np.ndarray]) -> Estimate:
    """Return the mean over the parts of a cross-validation with its uncertainty.

    Args:
        values: One (S, M_k) table for each of K >= 2 parts: every image is in one part.
    """
    raise NotImplementedError


def ece_estimate(
    probabilities: Sequence[np.ndarray], labels: np.ndarray, others: Sequence[np.ndarray] = (), *, seed: int
) -> Estimate:
    """Return the expected calibration error of S runs, or with ``others`` by how much that is larger than theirs.

    Args:
        probabilities: S of (M, C), rows sum to 1.
        labels: (M,) int64.
        others: S of (M, C), of the same seeds.
        seed: Of the bootstrap, >= 0.
    """
    raise NotImplementedError


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down corrected p values, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    raise NotImplementedError


def smallest_difference(*, num_runs: int, num_images: int, disagreement: float, seed_sd: float) -> float:
    """Return the difference of two accuracies that is told from 0 in four of five comparisons (95 %, power 0.8).

    Args:
        num_runs: S of each of the two, paired by seed.
        num_images: M.
        disagreement: Share of images of which exactly one of two such runs is right, 0-1.
        seed_sd: Standard deviation of the difference from seed to seed, apart from that of images, 0-1.
    """
    raise NotImplementedError
