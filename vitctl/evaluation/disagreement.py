"""The images on which classifiers disagree, those first on which they are surest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.row_tables import RowTables


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
