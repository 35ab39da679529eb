"""Expected calibration errors of images and runs drawn anew.

Letters: S runs, M images, C classes, R replicates.
"""

from collections.abc import Sequence

import numpy as np

from vitctl.evaluation.crossed import Spread
from vitctl.evaluation.metrics import NUM_ECE_BINS, calibration_gaps
from vitctl.evaluation.resampling import drawn_bootstrap

NORMAL_REACH = 1.959964  # standard errors of a normal 95 % interval


def calibration_errors(
    probabilities: Sequence[np.ndarray], labels: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each image's part in the calibration error of its run, and the mean error of every replicate.

    Args:
        probabilities: S of (M, C), rows sum to 1.
        labels: (M,) int64.
        seed: Of the bootstrap; replicates of equal S and M draw the same.

    Returns:
        (S, M) float64, whose rows have the errors for means: an image's gap, with the sign of its bin's; (R,) float64;
        (R,) float64, what replicates would have were the runs calibrated: their gaps less those of the images.
    """
    bootstrap = drawn_bootstrap(len(labels), seed=seed)
    parts, errors, chances = [], [], []
    for shares in probabilities:
        gaps, bins = calibration_gaps(shares, labels)
        columns = np.zeros((len(labels), NUM_ECE_BINS))
        columns[np.arange(len(labels)), bins] = gaps
        columns = columns[:, np.unique(bins)]  # empty bins stay empty
        signs = np.sign(np.bincount(bins, weights=gaps, minlength=NUM_ECE_BINS))
        parts.append(gaps * signs[bins])
        drawn = bootstrap.sums(columns) / len(labels)
        errors.append(np.abs(drawn).sum(axis=1))
        chances.append(np.abs(drawn - columns.mean(axis=0)).sum(axis=1))
    counts = bootstrap.seed_counts(len(errors))
    means = [(counts * np.stack(group, axis=1)).sum(axis=1) / counts.shape[1] for group in (errors, chances)]
    return np.stack(parts).astype(np.float64), means[0], means[1]


def adjusted_replicates(mean: float, replicates: np.ndarray, parts: np.ndarray, spread: Spread) -> np.ndarray:
    """Return replicates of the right mean and spread: (R,).

    Args:
        mean: The estimate.
        replicates: (R,) as drawn.
        parts: (S, M) whose mean is the estimate, so nearly that its variance is the estimate's.
        spread: Of that mean. What drawing overstates or understates of it, by the closed form of the pigeonhole
            bootstrap's variance, is put right in the same proportion, and few runs reach further.
    """
    rows, columns = parts.mean(axis=1, keepdims=True), parts.mean(axis=0, keepdims=True)
    rest = parts - rows - columns + parts.mean()
    drawn = rows.var() / len(rows) + columns.var() / parts.shape[1] + rest.var() / parts.size
    wider = (spread.variance / float(drawn)) ** 0.5 * spread.reach() / NORMAL_REACH if drawn > 0 else 1.0
    centre = float(replicates.mean())
    adjusted: np.ndarray = 2 * mean - centre + (replicates - centre) * wider
    return adjusted
