"""Means over runs and images by drawing both anew, for what is no mean itself, and Student's interval over runs.

Letters: S seeds (support draws, runs), M images, R bootstrap replicates. ``correct`` is (S, M): 1 where the classifier
of a seed names an image rightly, 0 where it does not, or a share of it (half of a tie, say).
"""

from functools import lru_cache

import numpy as np

from vitctl.primitives.seeds import random_generator

NUM_REPLICATES = 2000  # 50 of them lie beyond each end of a 95 % interval: guess
MIN_REPLICATES = 200  # however large the test set is: guess
MAX_COUNT_BYTES = 100_000_000  # 2,000 replicates of 50,000 images, ImageNet's validation set
BLOCK = 50  # replicates in float32 at a time; the fastest of 10-200 at 10,000 and 50,000 images: measured (2 cores)


def t_interval(values: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of a mean: mean +- t(S - 1) * sd / sqrt(S), sd with S - 1 in the denominator.

    Not clipped: with few seeds an end may lie outside the range of the values.

    Args:
        values: (S,) float, one per seed.
        confidence: 0-1.

    Returns:
        (low, high), or None for fewer than two seeds, which say nothing about their spread.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # what scipy.stats.t.ppf is; to import scipy.stats takes a second

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * deviation / len(values) ** 0.5
    return mean - half, mean + half


class PigeonholeBootstrap:
    """Percentile intervals of a mean over seeds and test images, both resampled with replacement.

    Source: Owen, The Pigeonhole Bootstrap (2007, doi 10.1214/07-AOAS122). A replicate draws S of the S seeds and,
    independently, M of the M images, and averages the cells where they cross. With one seed only the images vary.

    On a complete (S, M) table the variance over replicates is sum(a^2) / S^2 + sum(b^2) / M^2 + sum(e^2) / (S M)^2,
    with a and b the deviations of the seeds' and the images' means and e what both leave of a cell. Noise of single
    cells is in all three, so it counts up to three times: the interval is conservative. Two limits: the spread
    between seeds counts only (S - 1) / S, so where few seeds differ more than images do it is too narrow (88 % of
    95 % intervals of five seeds that alone vary cover the truth: measured; ``t_interval`` is right there), and a
    table of nothing but ones has an interval without width.

    The image draws are fixed when the object is made and the seed draws follow from S, so calls with the same S use
    the same replicates: differences of two models are paired. All is a function of (seed, M, S) alone.

    Attributes:
        image_counts: (R, M) uint8, how often a replicate draws an image; rows sum to M. R is 2,000, and above
            50,000 images what fits into 100 MB, but at least 200.
    """

    def __init__(self, num_images: int, *, seed: int) -> None:
        """Draw the images of every replicate.

        Args:
            num_images: M, >= 1.
            seed: >= 0.
        """
        num_replicates = max(MIN_REPLICATES, min(NUM_REPLICATES, MAX_COUNT_BYTES // num_images))
        self._seed = seed
        self.image_counts = np.empty((num_replicates, num_images), dtype=np.uint8)  # about Poisson(1), far below 256
        rng = random_generator(seed, "bootstrap", 1, num_images)
        for row in self.image_counts:
            row[:] = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)

    def seed_counts(self, num_seeds: int) -> np.ndarray:
        """Return how often each replicate draws each seed: (R, S) int64; rows sum to S."""
        rng = random_generator(self._seed, "bootstrap", 2, num_seeds)
        counts: np.ndarray = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=len(self.image_counts))
        return counts

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Return the sums over every replicate's images: (R, K) float64, to about seven digits.

        Args:
            columns: (M, K).

        Raises:
            ValueError: ``columns`` is not of M images.
        """
        values = columns.astype(np.float32)
        starts = range(0, len(self.image_counts), BLOCK)
        sums = np.concatenate([self.image_counts[i : i + BLOCK].astype(np.float32) @ values for i in starts])
        return sums.astype(np.float64)

    def means(self, correct: np.ndarray) -> np.ndarray:
        """Return the mean of every replicate: (R,) float64, to about seven digits (exact for zeros and ones).

        Args:
            correct: (S, M), or the difference of two such tables.

        Raises:
            ValueError: ``correct`` is not of M images.
        """
        num_seeds, num_images = correct.shape
        totals = (self.seed_counts(num_seeds) * self.sums(correct.T)).sum(axis=1)
        means: np.ndarray = totals / (num_seeds * num_images)
        return means

    def interval(self, correct: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
        """Return (low, high), the percentile interval of the mean of ``correct``.

        Args:
            correct: (S, M), or the difference of two such tables.
            confidence: 0-1.

        Raises:
            ValueError: ``correct`` is not of M images.
        """
        low, high = np.quantile(self.means(correct), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


@lru_cache(maxsize=1)
def drawn_bootstrap(num_images: int, *, seed: int) -> PigeonholeBootstrap:
    """Return the bootstrap of so many images, drawn once for all that are compared on them.

    Args:
        num_images: M, >= 1.
        seed: >= 0.
    """
    return PigeonholeBootstrap(num_images, seed=seed)
