"""A closed-form head for a classifier: the ridge solution on frozen features, as weights of a linear layer.

Starting fine-tuning from such a head instead of zeros is "linear probing, then fine-tuning" (arXiv 2202.10054).

Letters: N images, P of them left out in turn, D width, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.fewshot import LOO_ROWS, can_choose_l2
from vitctl.evaluation.ridge import (
    DEFAULT_L2,
    LeaveOneOut,
    LinearClassifier,
    RidgeStatistics,
    fit_ridge,
    leave_one_out,
    standardise_support,
)
from vitctl.primitives.processes import ALONE, Processes
from vitctl.primitives.seeds import random_generator

_SCALES = (0.1, 1000.0)  # least-squares scores lie within about -1 to 1: too small for a softmax, rarely too large


_FACTS = ("l2", "loo_accuracy", "scale")


@dataclass(frozen=True)
class RidgeHead:
    """A linear classifier and how it was chosen.

    Attributes:
        linear: (D, C) weights and (C,) bias; the scores are logits, scaled by ``scale``.
        l2: Penalty.
        loo_accuracy: Share of images, 0-1, that are right when left out; None where that says nothing.
        scale: One factor on all scores, of the best log-likelihood on images left out.
    """

    linear: LinearClassifier
    l2: float
    loo_accuracy: float | None
    scale: float


def fit_ridge_head(
    batches: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    num_classes: int,
    has_intercept: bool,
    seed: int,
    processes: Processes = ALONE,
) -> RidgeHead:
    """Return the head for features that come in batches; they are not held, but for a sample.

    Of several processes the first has the features and fits; in the others ``batches`` is what they do for it, and is
    gone through. All return the same.

    The penalty has the best leave-one-out accuracy, over all images or ``LOO_ROWS`` of them. One temperature
    turns the scores into logits: that of the least negative log-likelihood of the same left-out scores.

    Args:
        batches: (B, D) float32 each, together N rows.
        labels: (N,) int64, 0..C-1.
        num_classes: C.
        has_intercept: Whether frequent classes score higher.
        seed: Of the sample.
        processes: Who returns it.
    """
    fitted = _fit(batches, labels, num_classes, has_intercept, seed) if processes.is_first else None
    if fitted is None:
        for _ in batches:
            pass
    facts = processes.document(lambda: {} if fitted is None else {name: getattr(fitted, name) for name in _FACTS})
    parts = processes.arrays(lambda: {} if fitted is None else vars(fitted.linear))
    return fitted or RidgeHead(LinearClassifier(**parts), **facts)


def _fit(
    batches: Iterable[np.ndarray], labels: np.ndarray, num_classes: int, has_intercept: bool, seed: int
) -> RidgeHead:
    kept = np.arange(len(labels))
    if len(labels) > LOO_ROWS:
        kept = np.sort(random_generator(seed, "leave-one-out").choice(len(labels), LOO_ROWS, replace=False))
    sample: list[np.ndarray] = []
    statistics: RidgeStatistics | None = None
    done = 0
    for batch in batches:
        if statistics is None:
            statistics = RidgeStatistics(num_classes, batch.mean(axis=0, dtype=np.float64))
        statistics.add(batch, labels[done : done + len(batch)])
        first, last = np.searchsorted(kept, (done, done + len(batch)))
        sample.append(batch[kept[first:last] - done])
        done += len(batch)
    if statistics is None:
        raise ValueError("there are no features; expected at least one batch")
    features = np.concatenate(sample)
    if len(labels) <= features.shape[1]:  # then the sample is everything
        balance = "none" if has_intercept else "intercept"
        support = standardise_support(features, labels, num_classes=num_classes, balance=balance)
        left_out = leave_one_out(support)
        l2, accuracy = _choose(left_out, labels)
        linear = fit_ridge(support, l2)
    else:
        left_out = statistics.leave_one_out(features, labels[kept], has_intercept=has_intercept)
        l2, accuracy = _choose(left_out, labels)
        linear = statistics.solve(l2, has_intercept=has_intercept)
    scale = best_scale(left_out.decisions(l2), labels[kept]) if accuracy is not None else 1.0
    return RidgeHead(LinearClassifier(linear.weights * scale, linear.bias * scale), l2, accuracy, scale)


def _choose(left_out: LeaveOneOut, labels: np.ndarray) -> tuple[float, float | None]:
    return left_out.choose_l2() if can_choose_l2(labels) else (DEFAULT_L2, None)


def best_scale(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor on ``scores`` with the least negative log-likelihood (arXiv 1706.04599, section 4.2).

    Differs in that one image's worth of doubt is spread over all classes, as in the rule of succession: else scores
    without an error would be scaled without end.

    Args:
        scores: (P, C) float, of images that the classifier was not fitted on.
        labels: (P,) int64.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    doubt = 1.0 / (len(labels) + 1)

    def loss(log_scale: float) -> float:
        likelihoods = log_softmax(np.exp(log_scale) * scores, axis=1)
        of_true = likelihoods[np.arange(len(labels)), labels].mean()
        return -float((1 - doubt) * of_true + doubt * likelihoods.mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_SCALES)), method="bounded")
    return float(np.exp(found.x))
