"""Which difference of two accuracies a comparison will tell, before it is made.

Letters: S runs, M images, K nodes of an integral.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vitctl.evaluation.crossed import LEVEL, reach_of, total_and_share

POWER = 0.8
NUM_NODES = 200  # chi-squared quantiles over which the chance is averaged
NUM_HALVINGS = 40


class VarianceParts(NamedTuple):
    """What the variance of a difference of two accuracies is made of; ``smallest_difference`` takes these by name.

    Attributes:
        disagreement: Share of images of which exactly one of two paired runs is right, 0-1.
        seed_sd: Standard deviation of the difference from seed to seed, apart from that of images, 0-1.
        shared: Share of the disagreement's variance that all seeds have in common, 0-1: about the same images.
    """

    disagreement: float
    seed_sd: float
    shared: float


def parts_of(differences: np.ndarray) -> VarianceParts:
    """Return the parts as a table of differences has them: analysis of variance, what is below 0 counts as 0.

    Args:
        differences: (S, M) of -1, 0 and 1. One run tells nothing of seeds: their part is 0, all is shared.
    """
    num_runs, num_images = differences.shape
    disagreement = float(np.abs(differences).mean())
    if num_runs == 1 or num_images == 1:
        return VarianceParts(disagreement, 0.0, 1.0)
    rows, columns = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    rest = differences - rows - columns + rows.mean()
    of_cells = float((rest**2).sum()) / ((num_runs - 1) * (num_images - 1))
    of_seeds = max(0.0, float(rows.var(ddof=1)) - of_cells / num_images)
    of_images = max(0.0, float(columns.var(ddof=1)) - of_cells / num_runs)
    both = of_images + of_cells
    return VarianceParts(disagreement, of_seeds**0.5, of_images / both if both > 0 else 1.0)


def chance_to_tell(difference: float, parts: VarianceParts, *, num_runs: int, num_images: int) -> float:
    """Return how often 0 is outside of the interval of ``estimate`` if the true difference is this one, 0-1.

    Args:
        difference: > 0.
        parts: With a disagreement of at least the difference.
        num_runs: S; of one, seeds do not count, as they do not in its interval.
        num_images: M.
    """
    from scipy.special import ndtr

    of_image = max(parts.disagreement - difference**2, 1e-12)
    of_images = of_image * parts.shared / num_images
    of_cells = of_image * (1 - parts.shared) / num_images / num_runs
    of_seeds = parts.seed_sd**2 / num_runs if num_runs > 1 else 0.0
    error = (of_seeds + of_images + of_cells) ** 0.5
    # as its interval sees it: were the difference 0, images would vary by all of their disagreement
    widening = (parts.disagreement / of_image) ** 0.5
    if num_runs == 1:
        return float(ndtr(difference / error - widening * reach_of(0.0, 0, np.inf, LEVEL)))
    seen = (of_seeds + of_cells) * _nodes(num_runs - 1)
    total, share = total_and_share(seen, of_cells, of_images, num_runs=num_runs)
    reach = widening * reach_of(share, num_runs - 1, np.inf, LEVEL) * np.sqrt(total)
    return float(ndtr((difference - reach) / error).mean())


@lru_cache(maxsize=8)
def _nodes(freedom: int) -> np.ndarray:
    """Return quantiles of chi-squared, each of the same share of it, divided by its mean: (K,)."""
    from scipy.special import chdtri

    nodes: np.ndarray = chdtri(freedom, (np.arange(NUM_NODES) + 0.5) / NUM_NODES) / freedom
    return nodes


def told_difference(parts: VarianceParts, *, num_runs: int, num_images: int) -> float:
    """Return the least difference whose chance is ``POWER``, at most 1; it makes the disagreement at least as large.

    Args:
        parts: Of the comparison.
        num_runs: S >= 1.
        num_images: M >= 1.
    """
    low, high = 0.0, 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        made = parts._replace(disagreement=max(parts.disagreement, middle))
        is_told = chance_to_tell(middle, made, num_runs=num_runs, num_images=num_images) >= POWER
        low, high = (low, middle) if is_told else (middle, high)
    return high
