"""How sure a few-shot accuracy is: intervals over support draws and test images, differences, feature similarity.

Letters: S seeds (support draws), M test images, C classes, D width, R bootstrap replicates, E episodes.
Accuracies are fractions 0-1. ``correct`` is (S, M): 1 where the classifier of a seed names an image rightly,
0 where it does not, or a share of it (half of a tie, say).
"""

from typing import TypedDict

import numpy as np

from vitctl.primitives.seeds import random_generator

NUM_REPLICATES = 2000  # 50 of them lie beyond each end of a 95 % interval: guess
MIN_REPLICATES = 200  # however large the test set is: guess
MAX_COUNT_BYTES = 100_000_000  # 2,000 replicates of 50,000 images, ImageNet's validation set
BLOCK = 50  # replicates in float32 at a time; the fastest of 10-200 at 10,000 and 50,000 images: measured (2 cores)
NUM_PUBLISHED_SEEDS = 3  # google-research/big_vision, evaluators/fewshot_lsr.py: num_seeds=3, seeds 0, 1 and 2


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

    def means(self, correct: np.ndarray) -> np.ndarray:
        """Return the mean of every replicate: (R,) float64, to about seven digits (exact for zeros and ones).

        Args:
            correct: (S, M), or the difference of two such tables.

        Raises:
            ValueError: ``correct`` is not of M images.
        """
        num_seeds, num_images = correct.shape
        columns = correct.T.astype(np.float32)
        starts = range(0, len(self.image_counts), BLOCK)
        sums = np.concatenate([self.image_counts[i : i + BLOCK].astype(np.float32) @ columns for i in starts])
        totals = (self.seed_counts(num_seeds) * sums.astype(np.float64)).sum(axis=1)
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


class Summary(TypedDict):
    """The accuracy of one classifier, with its uncertainty; ``FewshotRow`` says what each of these is."""

    top1_mean: float
    top1_std: float | None
    top1_ci95_support: tuple[float, float] | None
    top1_ci95: tuple[float, float]
    top1_per_seed: tuple[float, ...]
    top1_mean_first3: float | None


class Difference(TypedDict):
    """By how much a classifier is better than another; ``PairedDifference`` says what each of these is."""

    difference: float
    ci95: tuple[float, float]
    ci95_support: tuple[float, float] | None


def summarise(correct: np.ndarray, bootstrap: PigeonholeBootstrap) -> Summary:
    """Return the accuracy of one classifier, with its uncertainty.

    Args:
        correct: (S, M), S >= 1.
        bootstrap: Drawn for the M test images.

    Returns:
        ``top1_mean``; ``top1_std`` over the seeds (S - 1 in the denominator; None for one seed);
        ``top1_ci95_support``, the t interval over the seeds, clipped to 0-1 (None for one seed): other support
        images, the same test images; ``top1_ci95``, the bootstrap interval: other support and other test images;
        ``top1_per_seed``; ``top1_mean_first3``, the mean of the first three seeds, as many as big_vision's few-shot
        evaluator draws (None for fewer).

    Raises:
        ValueError: ``correct`` is not of the images ``bootstrap`` was drawn for.
    """
    per_seed = correct.mean(axis=1, dtype=np.float64)
    support = t_interval(per_seed)
    return {
        "top1_mean": float(per_seed.mean()),
        "top1_std": None if len(per_seed) < 2 else float(per_seed.std(ddof=1)),
        "top1_ci95_support": None if support is None else (max(0.0, support[0]), min(1.0, support[1])),
        "top1_ci95": bootstrap.interval(correct),
        "top1_per_seed": tuple(per_seed.tolist()),
        "top1_mean_first3": _mean_of_published_seeds(per_seed),
    }


def _mean_of_published_seeds(per_seed: np.ndarray) -> float | None:
    return float(per_seed[:NUM_PUBLISHED_SEEDS].mean()) if len(per_seed) >= NUM_PUBLISHED_SEEDS else None


def paired_difference(correct_a: np.ndarray, correct_b: np.ndarray, bootstrap: PigeonholeBootstrap) -> Difference:
    """Return by how much classifier a is better than b, on the same supports and the same test images.

    Args:
        correct_a: (S, M); row s of both was fitted to the same support.
        correct_b: (S, M).
        bootstrap: Drawn for the M test images.

    Returns:
        ``difference``, the mean of a - b, -1 to 1; ``ci95``, its bootstrap interval; ``ci95_support``, the t interval
        over the seeds' differences, not clipped (None for one seed).

    Raises:
        ValueError: The shapes differ, or are not of the images ``bootstrap`` was drawn for.
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"tables of {correct_a.shape} and {correct_b.shape} cells cannot be paired")
    difference = correct_a.astype(np.float64) - correct_b.astype(np.float64)
    per_seed = difference.mean(axis=1)
    support = t_interval(per_seed)
    return {
        "difference": float(per_seed.mean()),
        "ci95": bootstrap.interval(difference),
        "ci95_support": support,
    }


def episode_interval(accuracies: np.ndarray) -> tuple[float, float]:
    """Return the mean accuracy of episodes and the half width of its 95 % interval, 1.96 * sd / sqrt(E).

    Source: Meta-Dataset (arXiv 1903.03096), google-research/meta-dataset ``meta_dataset/trainer.py`` (``evaluate``):
    a normal interval, sd with E in the denominator. One episode has a half width of 0.

    Args:
        accuracies: (E,) float, E >= 1.
    """
    return float(np.mean(accuracies)), float(1.96 * np.std(accuracies) / len(accuracies) ** 0.5)


def cosine_similarities(features: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Return the mean cosine similarity of two images of one class, and of two images of different classes.

    The squared length of a sum of unit vectors is the sum of all their products, so sums per class suffice: O(M D).
    Summed in float64.

    Args:
        features: (M, D) float, finite. A vector of zeros has similarity 0 with every image.
        labels: (M,) integer.

    Returns:
        (within, between), each -1 to 1 and over pairs of different images; None where there is no such pair.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    class_sums = np.zeros((len(counts), features.shape[1]))
    num_nonzero = 0
    for index, members in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        vectors = features[members].astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        class_sums[index] = (vectors / np.where(lengths > 0, lengths, 1.0)).sum(axis=0)
        num_nonzero += int((lengths > 0).sum())
    products_within = float((class_sums**2).sum())
    products = float((class_sums.sum(axis=0) ** 2).sum())
    pairs_within = int((counts**2).sum())
    return (
        _cosine(products_within - num_nonzero, pairs_within - len(labels)),
        _cosine(products - products_within, len(labels) ** 2 - pairs_within),
    )


def _cosine(total: float, num_pairs: int) -> float | None:
    """Return the mean of ``num_pairs`` cosines; the last bits of ``total`` must not lead out of -1..1."""
    return min(1.0, max(-1.0, total / num_pairs)) if num_pairs else None
