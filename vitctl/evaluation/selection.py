"""Which of several settings to take: the lowest rate that cannot be told from the best.

Letters: S seeds, M images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.crossed import spread_of


@dataclass(frozen=True)
class Choice:
    """One of several candidates.

    Attributes:
        index: The one that is taken.
        best: The one with the lowest mean loss.
        standard_error: Paired, of the difference between the two; 0 where they are one.
    """

    index: int
    best: int
    standard_error: float


def choose(losses: Sequence[np.ndarray], preference: Sequence[float]) -> Choice:
    """Return the candidate of lowest ``preference`` (a rate) that is within one paired standard error of the best.

    The rule of one standard error is that of Breiman et al. (1984, Classification and Regression Trees, 3.4.3), here on
    paired differences, whose variance is that of ``crossed.spread_of``, over seeds and images.

    Args:
        losses: One (S, M) table for each candidate, of the same seeds and images; lower is better. One with a cell that
            is not finite diverged: it is not chosen unless all did, and then it is the one of lowest preference.
        preference: One number for each; of equal ones that of the lower loss comes first, then the first.
    """
    tables = [np.atleast_2d(table).astype(np.float64) for table in losses]
    finite = [index for index, table in enumerate(tables) if np.isfinite(table).all()]
    if not finite:
        first = min(range(len(tables)), key=lambda index: preference[index])
        return Choice(first, first, 0.0)
    best = min(finite, key=lambda index: (float(tables[index].mean()), preference[index]))
    differences = {index: tables[index] - tables[best] for index in finite}
    errors = {index: spread_of(difference).variance ** 0.5 for index, difference in differences.items()}
    near = [index for index in finite if float(differences[index].mean()) <= errors[index]]  # the best is among them
    chosen = min(near, key=lambda index: (preference[index], float(tables[index].mean())))
    return Choice(chosen, best, errors[chosen])
