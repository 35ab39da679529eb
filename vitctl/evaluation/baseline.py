"""What it takes to be better than nothing: a classifier against always saying the class that most images are of.

Letters: N images, C classes.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class Baseline(TypedDict):
    """The share of the largest class, its name, and the test; ``EvaluateResult`` says what each of these is."""

    baseline_top1: float
    baseline_class: str
    baseline_p: float


def majority_baseline(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Baseline:
    """Return how well the most frequent true class does, said of every image, and whether a classifier differs from it.

    Args:
        predicted: (N,) int64, what the classifier says; N >= 1.
        labels: (N,) int64, true classes. Of classes of one size the first is taken.
        class_names: C names.
    """
    largest = int(np.bincount(labels).argmax())
    is_right, is_largest = predicted == labels, labels == largest
    return {
        "baseline_top1": float(is_largest.mean()),
        "baseline_class": class_names[largest],
        "baseline_p": mcnemar_p(int((is_right & ~is_largest).sum()), int((~is_right & is_largest).sum())),
    }


def mcnemar_p(num_first_only: int, num_second_only: int) -> float:
    """Return the two-sided p of McNemar's exact test of two classifiers on the same images.

    Of the images that one of them alone has right, either has half if they are equally good: a binomial test (McNemar
    1947, Psychometrika 12:153; exact as in Dietterich 1998, Neural Computation 10:1895). It is
    ``scipy.stats.binomtest(num_first_only, num_first_only + num_second_only).pvalue``, whose import takes a second.

    Args:
        num_first_only: Images that the first alone has right, >= 0.
        num_second_only: Images that the second alone has right, >= 0.
    """
    from scipy.special import bdtr

    fewer, both = min(num_first_only, num_second_only), num_first_only + num_second_only
    return min(1.0, 2.0 * float(bdtr(fewer, both, 0.5)))
