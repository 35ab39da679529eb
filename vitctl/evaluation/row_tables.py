"""What classifiers say of the same images, a row for those that differ in the seed alone.

Letters: S runs (seeds) of a row, M images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vitctl.evaluation.calibration_bootstrap import RunCalibration, calibration_of
from vitctl.evaluation.classify import probabilities
from vitctl.evaluation.metrics import brier_per_image, nll_per_image


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
        calibrations: S by seed of a bootstrap, computed when they are asked for.
    """

    name: str
    seeds: tuple[int, ...]
    labels: np.ndarray
    shares: list[np.ndarray]
    correct: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    calibrations: dict[int, list[RunCalibration]] = field(default_factory=dict)

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

    def calibration(self, *, seed: int) -> list[RunCalibration]:
        """Return the calibration error of each run by the bootstrap of a seed; computed once for all comparisons."""
        if seed not in self.calibrations:
            self.calibrations[seed] = [calibration_of(one, self.labels, seed=seed) for one in self.shares]
        return self.calibrations[seed]

    def mean_shares(self) -> np.ndarray:
        """Return the mean of the runs' probabilities: (M, C) float64, what the row says as one."""
        total = self.shares[0].astype(np.float64)
        for share in self.shares[1:]:
            total += share
        return total / len(self.shares)
