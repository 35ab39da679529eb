"""Expected calibration errors of images and runs drawn anew.

Letters: S runs, M images, C classes, R replicates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitctl.evaluation.crossed import Spread
from vitctl.evaluation.metrics import NUM_ECE_BINS, calibration_gaps
from vitctl.evaluation.resampling import drawn_bootstrap

NORMAL_REACH = 1.959964  # standard errors of a normal 95 % interval


class RunCalibration(NamedTuple):
    """The calibration error of one run, of its images and of those drawn anew.

    Attributes:
        parts: (M,) float64, whose mean is the error: an image's gap, with the sign of its bin's.
        errors: (R,) float64, of every replicate.
        chances: (R,) float64, what replicates would have were the run calibrated: their gaps less those of the images.
    """

    parts: np.ndarray
    errors: np.ndarray
    chances: np.ndarray


def calibration_of(shares: np.ndarray, labels: np.ndarray, *, seed: int) -> RunCalibration:
    """Return the calibration error of a run; what takes long of a comparison, and is the same in all of them.

    Args:
        shares: (M, C), rows sum to 1.
        labels: (M,) int64.
        seed: Of the bootstrap; replicates of equal M draw the same images.
    """
    gaps, bins = calibration_gaps(shares, labels)
    columns = np.zeros((len(labels), NUM_ECE_BINS))
    columns[np.arange(len(labels)), bins] = gaps
    columns = columns[:, np.unique(bins)]  # empty bins stay empty
    signs = np.sign(np.bincount(bins, weights=gaps, minlength=NUM_ECE_BINS))
    drawn = drawn_bootstrap(len(labels), seed=seed).sums(columns) / len(labels)
    return RunCalibration(
        (gaps * signs[bins]).astype(np.float64),
        np.abs(drawn).sum(axis=1),
        np.abs(drawn - columns.mean(axis=0)).sum(axis=1),
    )


def calibration_errors(runs: Sequence[RunCalibration], *, seed: int) -> RunCalibration:
    """Return each image's part in the calibration error of its run, and of every replicate the mean error of its runs.

    Args:
        runs: S, of the same images and the same ``seed``.
        seed: Of the bootstrap; replicates of equal S and M draw the same.

    Returns:
        Parts as (S, M), errors and chances as (R,).
    """
    counts = drawn_bootstrap(len(runs[0].parts), seed=seed).seed_counts(len(runs))
    errors, chances = (
        (counts * np.stack(group, axis=1)).sum(axis=1) / counts.shape[1]
        for group in ([run.errors for run in runs], [run.chances for run in runs])
    )
    return RunCalibration(np.stack([run.parts for run in runs]), errors, chances)


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
