"""Which of several settings to take: the lowest rate that cannot be told from the best.

Letters: S seeds, M images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    paired differences.

    Args:
        losses: One (S, M) table for each candidate, of the same seeds and images; lower is better.
        preference: One number for each; of equal ones the first comes first.
    """
    raise NotImplementedError
