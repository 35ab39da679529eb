"""Few-shot classifiers on frozen features: fit them on supports, predict the test images.

The draws come from ``vitctl.evaluation.supports``, the ridge arithmetic from ``vitctl.evaluation.ridge``.

Letters: N support or pool rows, D width, C classes, M test rows.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from vitctl.evaluation.ridge import (
    DEFAULT_L2,
    LeaveOneOut,
    LinearClassifier,
    RidgeStatistics,
    fit_ridge,
    leave_one_out,
    predict_classes,
    standardise_support,
)
from vitctl.evaluation.supports import SupportDraw
from vitctl.primitives.seeds import random_generator

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

KNN_TEMPERATURE = 0.07  # facebookresearch/dino eval_knn.py, after arXiv 1805.01978
LOGISTIC_C = tuple(float(10.0**power) for power in np.arange(-5, 2.5, 0.5))
"""Candidates for logistic regression; DINOv2's grid (1e-6 to 1e5) at half its density, without its far ends."""
LOGISTIC_ONE_SHOT_C = 0.01  # guess, for standardised features
HELD_OUT_FRACTION = 0.2  # of each class's support, at least one image, to choose C on
LOO_ROWS = 10_000  # rows left out in turn to choose the penalty by: accuracy to half a point
_KNN_BLOCK = 512


@dataclass(frozen=True)
class Probe:
    """How features are classified.

    Attributes:
        classifier: One of ``FEWSHOT_CLASSIFIERS``.
        l2: Penalties of ``ridge``; None chooses one by leave-one-out accuracy.
        balance: See ``standardise_support``; for ``ridge``.
        neighbours: Of ``knn``; more than there are support images count as all of them.
        has_own_std: Whether ``ridge`` and ``logistic`` scale features by the support's standard deviation; else they
            come scaled.
    """

    classifier: str
    l2: tuple[float, ...] | None = (DEFAULT_L2,)
    balance: str = "none"
    neighbours: tuple[int, ...] = (10, 20, 100, 200)
    has_own_std: bool = True


class Fitted(NamedTuple):
    """A classifier, and what was chosen for it.

    Attributes:
        linear: Its scores.
        setting: The position in ``Probe.l2``; 0 where the penalty is chosen.
        l2: Penalty (of ``logistic`` 1/C); None for ``centroid``.
    """

    linear: LinearClassifier
    setting: int
    l2: float | None


class Prediction(NamedTuple):
    """What one classifier says of the test images.

    Attributes:
        seed: Of the support.
        shots: Images per class; None is all.
        setting: Position in ``Probe.l2`` or ``Probe.neighbours``.
        l2: See ``Fitted``.
        num_support: Support images.
        predicted: (M,) int64 classes.
    """

    seed: int
    shots: int | None
    setting: int
    l2: float | None
    num_support: int
    predicted: np.ndarray


def linear_predictions(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    draws: Sequence[SupportDraw],
    *,
    shots: Sequence[int | None],
    probe: Probe,
    num_classes: int,
) -> Iterator[Prediction]:
    """Yield the predictions of every draw, number of shots and penalty (or number of neighbours).

    Args:
        features: (N, D) float of the pool, or of the part that the draws use.
        labels: (N,) int64, theirs.
        test_features: (M, D) float.
        draws: Their positions are rows of ``features``.
        shots: Images per class; None is all.
        probe: The classifier.
        num_classes: C.
    """
    ascending = sorted(shots, key=lambda count: np.inf if count is None else count)
    if probe.classifier == "knn":
        yield from _knn_predictions(features, labels, test_features, draws, ascending, probe, num_classes)
        return
    origin = features.mean(axis=0, dtype=np.float64)
    for draw in draws:
        if probe.classifier == "ridge" and probe.balance != "weighted":
            fits = _nested_ridge(features, labels, draw, ascending, probe, num_classes, origin)
        else:
            fits = [fit_probe(features[r], labels[r], probe, num_classes) for r in map(draw.rows, ascending)]
        flat = [(count, one) for count, group in zip(ascending, fits, strict=True) for one in group]
        predicted = predict_classes(test_features, [one.linear for _, one in flat])
        for (count, one), classes in zip(flat, predicted, strict=True):
            yield Prediction(draw.seed, count, one.setting, one.l2, len(draw.rows(count)), classes)


def _nested_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    draw: SupportDraw,
    ascending: Sequence[int | None],
    probe: Probe,
    num_classes: int,
    origin: np.ndarray,
) -> list[list[Fitted]]:
    """Fit ridge classifiers on nested supports; the sums over the smaller are part of those over the larger."""
    statistics, summed = RidgeStatistics(num_classes, origin), 0
    fits = []
    for count in ascending:
        rows = draw.rows(count)
        if len(rows) <= features.shape[1]:
            fits.append(fit_probe(features[rows], labels[rows], probe, num_classes))
            continue
        added = draw.rows(count, beyond=summed)
        statistics.add(features[added], labels[added])
        summed = len(rows) if count is None else count
        sample = _loo_rows(rows, draw.seed) if probe.l2 is None else rows[:0]
        fits.append(fit_statistics(statistics, features[sample], labels[sample], probe))
    return fits


def _loo_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= LOO_ROWS:
        return rows
    return random_generator(seed, "leave-one-out").choice(rows, LOO_ROWS, replace=False)


def fit_statistics(statistics: RidgeStatistics, features: np.ndarray, labels: np.ndarray, probe: Probe) -> list[Fitted]:
    """Return a ridge classifier per penalty of ``probe`` from sums over the support.

    Args:
        statistics: Of the whole support.
        features: (P, D) support rows to choose the penalty by, where ``probe`` chooses it.
        labels: (P,) int64, theirs.
        probe: Its ``balance`` is not ``weighted``.
    """
    has_intercept = probe.balance != "intercept"
    penalties = _penalties(
        probe, labels, lambda: statistics.leave_one_out(features, labels, has_intercept=has_intercept)
    )
    return [Fitted(statistics.solve(l2, has_intercept=has_intercept), index, l2) for index, l2 in enumerate(penalties)]


def _penalties(probe: Probe, labels: np.ndarray, left_out: Callable[[], LeaveOneOut]) -> tuple[float, ...]:
    if probe.l2 is not None:
        return probe.l2
    return (left_out().choose_l2()[0] if can_choose_l2(labels) else DEFAULT_L2,)


def can_choose_l2(labels: np.ndarray) -> bool:
    """Return whether leave-one-out says anything: some class of ``labels`` (N,) has two images or more."""
    return bool(len(labels) and np.bincount(labels).max() > 1)


def fit_probe(features: np.ndarray, labels: np.ndarray, probe: Probe, num_classes: int) -> list[Fitted]:
    """Return the linear classifiers of ``probe`` on one support: one per penalty.

    Args:
        features: (N, D) float.
        labels: (N,) int64, 0..C-1.
        probe: Not ``knn``.
        num_classes: C.
    """
    if probe.classifier == "centroid":
        return [Fitted(fit_centroid(features, labels, num_classes), 0, None)]
    if probe.classifier == "logistic":
        with threadpool_limits(1):  # its small products are several times slower on threads that others need
            linear, inverse = fit_logistic(features, labels, num_classes, has_own_std=probe.has_own_std)
        return [Fitted(linear, 0, 1.0 / inverse)]
    support = standardise_support(
        features, labels, num_classes=num_classes, balance=probe.balance, has_own_std=probe.has_own_std
    )
    penalties = _penalties(probe, labels, lambda: leave_one_out(support))
    return [Fitted(fit_ridge(support, l2), index, l2) for index, l2 in enumerate(penalties)]


def fit_centroid(features: np.ndarray, labels: np.ndarray, num_classes: int) -> LinearClassifier:
    """Return the classifier of the nearest class mean (squared Euclidean distance; arXiv 1703.05175, equation 2).

    Args:
        features: (N, D) float.
        labels: (N,) int64. A class without a row is never predicted.
        num_classes: C.
    """
    rows = features.astype(np.float64)
    counts = np.bincount(labels, minlength=num_classes)
    onehot = np.zeros((num_classes, len(labels)))
    onehot[labels, np.arange(len(labels))] = 1.0 / counts[labels]
    means = onehot @ rows
    bias = np.where(counts > 0, -(means**2).sum(axis=1), -np.inf)
    return LinearClassifier(2.0 * means.T, bias)


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, has_own_std: bool = True
) -> tuple[LinearClassifier, float]:
    """Return multinomial logistic regression on standardised features, and its C.

    scikit-learn's L-BFGS. The features are first rotated into the span of the support, which changes nothing
    (the solution lies in it) and leaves min(N, D) of them. C is the candidate with the best accuracy on a
    held-out part of each class's support, ties by the log loss; then the whole support is fitted. With one image
    per class there is nothing to hold out, and C is ``LOGISTIC_ONE_SHOT_C``.

    Args:
        features: (N, D) float.
        labels: (N,) int64, of two classes or more; others are never predicted.
        num_classes: C.
        has_own_std: See ``standardise_support``.
    """
    support = standardise_support(features, labels, num_classes=num_classes, has_own_std=has_own_std)
    _, _, directions = np.linalg.svd(support.rows, full_matrices=False)
    rotated = support.rows @ directions.T
    held_out = _held_out(labels)
    chosen = LOGISTIC_ONE_SHOT_C
    if held_out.any():
        kept = ~held_out
        path = [(c, _regression(rotated[kept], labels[kept], c)) for c in LOGISTIC_C]
        chosen = max((*_quality(model, rotated[held_out], labels[held_out]), -c) for c, model in path)[2] * -1
    model = _regression(rotated, labels, chosen)
    weights, bias = np.zeros((len(directions), num_classes)), np.full(num_classes, -np.inf)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row of coefficients: those of the second class against the first
        coefficients, intercepts = np.vstack([0 * coefficients, coefficients]), np.r_[0.0, intercepts]
    weights[:, model.classes_], bias[model.classes_] = coefficients.T, intercepts
    folded = (directions.T @ weights) * support.inverse_std[:, None]
    return LinearClassifier(folded, bias - support.mean @ folded), float(chosen)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Return which rows (N,) to choose C on: the last of each class, none of a class with one row."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            held_out[rows[-max(1, round(HELD_OUT_FRACTION * len(rows))) :]] = True
    return held_out


def _regression(features: np.ndarray, labels: np.ndarray, c: float) -> "LogisticRegression":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 iterations are near enough
        return LogisticRegression(C=c, max_iter=1000).fit(features, labels)


def _quality(model: "LogisticRegression", features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return accuracy and mean log-likelihood."""
    likelihoods = model.predict_log_proba(features)
    position = np.searchsorted(model.classes_, labels)
    return float(np.mean(likelihoods.argmax(axis=1) == position)), float(
        likelihoods[np.arange(len(labels)), position].mean()
    )


def _knn_predictions(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    draws: Sequence[SupportDraw],
    ascending: Sequence[int | None],
    probe: Probe,
    num_classes: int,
) -> Iterator[Prediction]:
    supports = [(draw.seed, count, draw.rows(count)) for draw in draws for count in ascending]
    results = predict_knn(
        features, labels, test_features, [rows for *_, rows in supports], neighbours=probe.neighbours,
        num_classes=num_classes,
    )  # fmt: skip
    for (seed, count, rows), predicted in zip(supports, results, strict=True):
        for index, classes in enumerate(predicted):
            yield Prediction(seed, count, index, None, len(rows), classes)


def predict_knn(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    supports: Sequence[np.ndarray],
    *,
    neighbours: Sequence[int],
    num_classes: int,
) -> list[np.ndarray]:
    """Return what the nearest neighbours vote for: per support an (K, M) int64 array, a row per number of them.

    Cosine similarity s, votes exp(s / 0.07) (facebookresearch/dino ``eval_knn.py``). One product of all test with
    all pool rows serves every support. Of equal similarities the row that comes first in the support is nearer,
    of equal votes the first class wins.

    Args:
        features: (N, D) float.
        labels: (N,) int64.
        test_features: (M, D) float.
        supports: Rows of ``features``, (N_s,) int64 each.
        neighbours: K numbers >= 1; those above N_s count as N_s.
        num_classes: C.
    """
    pool, test = _unit_rows(features), _unit_rows(test_features)
    predicted = [np.empty((len(neighbours), len(test)), dtype=np.int64) for _ in supports]
    for start in range(0, len(test), _KNN_BLOCK):
        similarities = test[start : start + _KNN_BLOCK] @ pool.T
        for rows, result in zip(supports, predicted, strict=True):
            of_support = similarities[:, rows]
            most = min(max(neighbours), len(rows))
            nearest = _nearest(of_support, most)
            votes = np.exp(np.take_along_axis(of_support, nearest, axis=1) / KNN_TEMPERATURE)
            voted = labels[rows][nearest] + num_classes * np.arange(len(nearest))[:, None]
            for index, count in enumerate(neighbours):
                sums = np.bincount(
                    voted[:, :count].ravel(), votes[:, :count].ravel(), minlength=num_classes * len(nearest)
                )
                result[index, start : start + len(nearest)] = sums.reshape(-1, num_classes).argmax(axis=1)
    return predicted


def _nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the ``count`` greatest of each row, greatest first, (B, count) int64.

    Of equal ones the first is nearer.
    """
    if similarities.shape[1] > count:
        least = -np.partition(-similarities, count - 1, axis=1)[:, count - 1 : count]
        is_nearer, is_equal = similarities > least, similarities == least
        room = count - is_nearer.sum(axis=1, keepdims=True)
        candidates = np.nonzero(is_nearer | (is_equal & (is_equal.cumsum(axis=1) <= room)))[1].reshape(-1, count)
    else:
        candidates = np.broadcast_to(np.arange(similarities.shape[1]), similarities.shape)
    order = np.argsort(-np.take_along_axis(similarities, candidates, axis=1), axis=1, kind="stable")
    result: np.ndarray = np.take_along_axis(candidates, order, axis=1)
    return result


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1 (N, D) float64; rows of zeros stay."""
    rows = features.astype(np.float64)
    lengths = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(lengths > 0, lengths, 1.0)
