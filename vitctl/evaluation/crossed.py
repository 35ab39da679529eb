"""The variance of the mean of a table of runs by images, and how many of its square roots a 95 % interval reaches.

Letters: S runs (seeds), M images. A cell is a + b + e: what its run adds, what its image adds, and what both leave.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEVEL = 0.05  # of the intervals: 95 %
# Runs that differ by less than this share of what noise of cells alone would make of them count as alike; from a third
# more on they count in full. Two of them differ by little too often to say much. Both numbers and the slope between
# are the best of 60 by the coverage that ``Spread.reach`` states.
ALIKE_OF_TWO, ALIKE, SLOPE = 0.2, 0.7, 4.0
NUM_HALVINGS = 60  # of an interval that holds a solution: to the last bits of a float64


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

        Student's quantiles of both sources, weighted by their shares (Cochran and Cox, Experimental Designs, 1957,
        4.14). With the shares of ``share_of_runs``, coverage by numerical integration over normal effects in all
        proportions of runs, images and noise of cells is 93.1 to 98.2 % of two runs, 93.8 to 97.4 % of three, 95.0 to
        97.5 % of five and more; the most is where nothing but noise of cells varies. Satterthwaite's degrees of freedom
        give 87 to 98 % of two runs.
        """
        return float(reach_of(self.run_share, self.run_freedom, self.image_freedom, p))

    def p_of(self, distance: float) -> float:
        """Return the two-sided p of a mean ``distance`` standard errors from what is asked: ``reach`` turned round."""
        if np.isinf(distance):
            return 0.0
        low, high = -700.0, 0.0  # of the logarithm; exp(-700) is about the least float64
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            is_within = self.reach(float(np.exp(middle))) <= abs(distance)  # not so where it overflows
            low, high = (low, middle) if is_within else (middle, high)
        return float(np.exp(high))


def reach_of(run_share: np.ndarray | float, run_freedom: float, image_freedom: float, p: float) -> np.ndarray:
    """Return ``Spread.reach`` of such shares, in their shape."""
    from scipy.special import ndtri, stdtrit  # to import scipy.stats takes a second

    def quantile(freedom: float) -> float:
        if freedom == 0:
            return 0.0  # a source with no freedom has no share; its quantile would be nan
        # absolute, as what overflows has the wrong sign
        return abs(float(ndtri(p / 2) if np.isinf(freedom) else stdtrit(freedom, p / 2)))

    of_runs, of_images = quantile(run_freedom), quantile(image_freedom)
    share = np.asarray(run_share)
    reach: np.ndarray = share * of_runs + (1 - share) * of_images
    return reach


def share_of_runs(
    of_runs: np.ndarray | float, of_cells: float, total: np.ndarray | float, *, num_runs: int
) -> np.ndarray:
    """Return which share of a variance is known no better than few runs tell, 0-1.

    Args:
        of_runs: Mean square of runs, or any multiple of it, as of the others; any shape.
        of_cells: Mean square of what both leave of a cell.
        total: The variance, at least the larger of these; in that shape.
        num_runs: S >= 2.
    """
    alike = ALIKE_OF_TWO if num_runs == 2 else ALIKE
    of_few = np.minimum(of_runs, SLOPE * np.maximum(of_runs - alike * of_cells, 0.0))
    shares: np.ndarray = np.minimum(1.0, of_few / np.maximum(total, np.finfo(float).tiny))  # 1, whatever rounding says
    return shares


def spread_of(table: np.ndarray, *, image_freedom: float | None = None) -> Spread:
    """Return how far the mean of a table may be from that of other runs and other images.

    Two-way random effects: the variance of the mean is (MS_runs + MS_images - MS_cells) / (S M), mean squares as in an
    analysis of variance (Owen 2007, doi 10.1214/07-AOAS122, section 3; Cameron, Gelbach and Miller 2011, doi
    10.1198/jbes.2010.07136, for the same of clusters). Neither source is taken to be less than the noise of cells: then
    it is never negative, and never less than one of its parts. Of one run it is that of the mean of its images.

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
    total = max(of_runs, of_cells) + max(of_images, of_cells) - of_cells
    run_share = float(share_of_runs(of_runs, of_cells, total, num_runs=num_runs))
    return Spread(total / (num_runs * num_images), run_share, num_runs - 1, image_freedom, third_moment)
