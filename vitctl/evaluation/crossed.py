"""The variance of the mean of a table of runs by images, and how many of its square roots a 95 % interval reaches.

Letters: S runs (seeds), M images, K values at once. A cell is a + b + e: what its run adds, what its image adds, and
what both leave.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEVEL = 0.05  # of the intervals: 95 %
# What runs add is not taken to be less than this share of the noise of cells. Runs that differ by less than the second
# share of what that noise alone would make of them count as alike, from a third more on in full: of two, three and four
# or more. The best of 500 such rules by the coverage that ``Spread.reach`` states.
LEAST_NOISE, SLOPE = 0.5, 4.0
ALIKE = {2: 0.1, 3: 0.3}
ALIKE_OF_MORE = 0.5
LARGEST = 1e150
NUM_POINTS, NUM_ROUNDS = 64, 7  # of a search for p, each between two points of the last: to ten digits


@dataclass(frozen=True)
class Spread:
    """How far a mean may be from the truth.

    Attributes:
        variance: Of the mean, >= 0.
        run_share: Which share of it is from runs, 0-1.
        run_freedom: Degrees of freedom of that share, S - 1; 0 where the share is 0.
        image_freedom: Of the rest; ``inf`` where the rest is a proportion's, whose variance its mean tells.
        third_moment: Third central moment of the mean, so far as it comes from images.
    """

    variance: float
    run_share: float
    run_freedom: float
    image_freedom: float
    third_moment: float = 0.0

    @cached_property
    def skewness(self) -> float:
        """Of the mean's distribution; 0 where nothing varies."""
        return self.third_moment / self.variance**1.5 if self.variance > 0 else 0.0

    def reach(self, p: float = LEVEL) -> float:
        """Return how many standard errors an interval reaches to either side that misses the truth with chance ``p``.

        Student's quantiles of both sources weighted by their shares, as by Cochran and Cox (Experimental Designs,
        1957), but their square roots. With the shares of ``total_and_share``, coverage by numerical integration over
        normal effects in all proportions of runs, images and noise of cells is 92.7 to 97.6 % of two runs, 94.3 to
        96.9 % of three, 93.6 to 96.5 % of four, 94.2 to 96.3 % of five, 94.8 to 95.7 % of ten. Satterthwaite's degrees
        of freedom give 87 to 98 % of two runs.
        """
        return float(reach_of(self.run_share, self.run_freedom, self.image_freedom, p))

    def p_of(self, distance: float) -> float:
        """Return the two-sided p of a mean ``distance`` standard errors from what is asked: ``reach`` turned round."""
        low, high = -700.0, 0.0  # of the logarithm; exp(-700) is about the least float64
        for _ in range(NUM_ROUNDS):
            points = np.linspace(low, high, NUM_POINTS)
            reaches = reach_of(self.run_share, self.run_freedom, self.image_freedom, np.exp(points))
            above = min(max(int((reaches > abs(distance)).sum()), 1), NUM_POINTS - 1)  # it falls with p
            low, high = float(points[above - 1]), float(points[above])
        return math.exp(high)


def reach_of(
    run_share: np.ndarray | float, run_freedom: float, image_freedom: float, p: np.ndarray | float
) -> np.ndarray:
    """Return ``Spread.reach``: a number, or (K,) of K shares or of K p."""
    from scipy.special import ndtri, stdtrit  # to import scipy.stats takes a second

    def quantile(freedom: float) -> np.ndarray:
        """Return Student's, positive: a number, or (K,)."""
        values = ndtri(p / 2) if np.isinf(freedom) else stdtrit(freedom, p / 2)
        # a source with no freedom has no share, but nan; what overflows is infinite, of either sign
        found: np.ndarray = np.minimum(np.abs(np.nan_to_num(values)), LARGEST)
        return found

    of_runs, of_images = quantile(run_freedom), quantile(image_freedom)
    share = np.asarray(run_share)
    reach: np.ndarray = (share * of_runs**0.5 + (1 - share) * of_images**0.5) ** 2
    return reach


def total_and_share(
    of_runs: np.ndarray | float, of_cells: float, of_images: float, *, num_runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a variance, and which share of it is known no better than few runs tell.

    Args:
        of_runs: Mean square of runs, which noise of cells is part of, or any multiple of it: a number, or (K,).
        of_cells: Mean square of what runs and images leave of a cell, in the same multiple.
        of_images: What images add to that, in the same multiple.
        num_runs: S >= 2.

    Returns:
        The variance in the same multiple, and the share, 0-1: numbers, or (K,) of each.
    """
    total: np.ndarray = np.maximum(of_runs, LEAST_NOISE * of_cells) + of_images
    alike = ALIKE.get(num_runs, ALIKE_OF_MORE)
    of_few = np.minimum(of_runs, SLOPE * np.maximum(of_runs - alike * of_cells, 0.0))
    # at most 1, whatever rounding makes of it
    return total, np.minimum(1.0, of_few / np.maximum(total, np.finfo(np.float64).tiny))


def spread_of(table: np.ndarray, *, image_freedom: float | None = None) -> Spread:
    """Return how far the mean of a table may be from that of other runs and other images.

    Two-way random effects: the variance of the mean is (MS_runs + MS_images - MS_cells) / (S M), mean squares as in an
    analysis of variance (Owen 2007, doi 10.1214/07-AOAS122; Cameron, Gelbach and Miller 2011, doi
    10.1198/jbes.2010.07136, for the same of clusters). Images are not taken to add less than nothing, nor runs less
    than half of the noise of cells: then it is never negative. Of one run it is that of the mean of its images.

    Args:
        table: (S, M) float, finite, S >= 1, M >= 1.
        image_freedom: Degrees of freedom of the variance of images; None is M - 1.
    """
    num_runs, num_images = table.shape
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    mean = float(rows.mean())
    image_freedom = float(num_images - 1) if image_freedom is None else image_freedom
    third_moment = float(((columns - mean) ** 3).mean()) / num_images**2
    if num_images == 1:
        variance = float(rows.var(ddof=1)) / num_runs if num_runs > 1 else 0.0
        return Spread(variance, float(num_runs > 1), num_runs - 1, image_freedom)
    if num_runs == 1:
        return Spread(float(columns.var(ddof=1)) / num_images, 0.0, 0, image_freedom, third_moment)
    of_cells = float(((table - rows - columns + mean) ** 2).sum()) / ((num_runs - 1) * (num_images - 1))
    of_runs, of_images = num_images * float(rows.var(ddof=1)), num_runs * float(columns.var(ddof=1))
    total, share = total_and_share(of_runs, of_cells, max(of_images - of_cells, 0.0), num_runs=num_runs)
    variance = float(total) / (num_runs * num_images)
    return Spread(variance, float(share), num_runs - 1, image_freedom, third_moment)
