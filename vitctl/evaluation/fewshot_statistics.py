"""How sure a few-shot accuracy is: intervals over support draws and test images, differences, feature similarity.

Letters: S seeds (support draws), M test images, C classes, D width, R bootstrap replicates, E episodes.
Accuracies are fractions 0-1. ``correct`` is (S, M): 1 where the classifier of a seed names an image rightly,
0 where it does not, or a share of it (half of a tie, say).
"""

from typing import TypedDict

import numpy as np

from vitctl.evaluation.resampling import PigeonholeBootstrap, t_interval

NUM_PUBLISHED_SEEDS = 3  # google-research/big_vision, evaluators/fewshot_lsr.py: num_seeds=3, seeds 0, 1 and 2


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
