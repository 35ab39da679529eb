"""Ridge classifiers in closed form: regularised least squares from standardised features to {-1, +1}.

This is the linear few-shot evaluation of the ViT paper (arXiv 2010.11929, section 4.1) with the constants of
google-research/big_vision ``evaluators/fewshot_lsr.py``: features are standardised with the support's mean and
standard deviation (+ 1e-5), a constant column of 100 is the bias, targets are 2 * onehot - 1, l2 is 2^10.
What differs is only how it is computed; the arithmetic is float64, and the predictions are big_vision's own
run in float64:

* The constant column is orthogonal to standardised features, so the bias has a closed form of its own.
* Right-hand sides are sums per class, never an N x C matrix.
* Standardisation acts inside the D x D system, so that sums over rows can be shared between nested supports
  and streamed: O(D^2 + C D) memory for any number of rows.
* One Cholesky factorisation per solution, of D x D or of N x N, whichever is smaller, instead of ``eigh``.
* Test rows are multiplied in float32, and again in float64 where the two best classes are too close to call.

Letters: N support rows, D width, C classes, M test rows, L penalties, F classifiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, cho_factor, cho_solve, eigh

DEFAULT_L2 = 1024.0
"""big_vision ``evaluators/fewshot_lsr.py``: fixed since 2022; earlier versions chose it on the test set."""
BIAS_CONSTANT = 100.0  # big_vision: "the bias is almost unregularised"
STD_EPSILON = 1e-5  # big_vision
LOO_L2 = tuple(2.0**power for power in range(-10, 20))
"""Candidates for a penalty by leave-one-out: the 30 values of scenic's ``fewshot_utils.py``."""
_UNIT = 2.0**-24  # unit roundoff of float32
_SET_NUMBERS = 2**24  # of the rows of sets that are left out together at a time: 128 MiB
_ROW_BLOCK, _COLUMN_BLOCK = 8192, 4096  # scores in flight: 128 MiB of float32


@dataclass(frozen=True)
class LinearClassifier:
    """Class scores ``x @ weights + bias`` of features as they are; standardisation is folded in.

    Attributes:
        weights: (D, C) float64.
        bias: (C,) float64.
    """

    weights: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the (M, C) float64 scores of ``features`` (M, D)."""
        result: np.ndarray = features.astype(np.float64) @ self.weights + self.bias
        return result


class RidgeStatistics:
    """Sums over support rows, from which ridge classifiers follow for any penalty.

    Rows may come in any number of pieces, and sums of disjoint rows add up, so supports that are nested
    (1 shot within 5 shots) share their work. Memory is O(D^2 + C D), whatever N is.

    Args:
        num_classes: C; classes without a row get targets of -1 only, as in big_vision.
        origin: (D,) a point near the features' mean, subtracted first so that nothing cancels; the result does
            not depend on it.
    """

    def __init__(self, num_classes: int, origin: np.ndarray) -> None:
        self.num_rows = 0
        self._origin = np.asarray(origin, dtype=np.float64)
        width = len(self._origin)
        self._counts = np.zeros(num_classes)
        self._class_sums = np.zeros((num_classes, width))
        self._products = np.zeros((width, width), order="F")  # lower triangle of the sum of x x'
        self._least, self._greatest = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Add rows.

        Args:
            features: (N, D) float, finite.
            labels: (N,) int64, 0..C-1.
        """
        if not len(labels):
            return
        centred = np.subtract(features, self._origin, dtype=np.float64)
        blas.dsyrk(1.0, centred.T, beta=1.0, c=self._products, lower=1, overwrite_c=1)
        present, sums = class_sums(centred, labels)
        self._class_sums[present] += sums
        self._counts += np.bincount(labels, minlength=len(self._counts))
        np.minimum(self._least, centred.min(axis=0), out=self._least)
        np.maximum(self._greatest, centred.max(axis=0), out=self._greatest)
        self.num_rows += len(labels)

    def solve(self, l2: float, *, has_intercept: bool = True) -> LinearClassifier:
        """Return the classifier that minimises the squared error plus ``l2`` times the squared norm.

        Solves the D x D system, so it suits N >= D; see ``solve_dual`` for fewer rows.

        Args:
            l2: Penalty in units of standardised features, > 0.
            has_intercept: Whether frequent classes score higher, as in big_vision; without it the classifier is
                that of balanced classes.

        Returns:
            A (D, C) classifier.
        """
        system, sums, mean, inverse = self._standardised()
        system[np.diag_indices_from(system)] += l2
        weights = _solve_positive(system, np.asfortranarray(2.0 * sums.T), l2=l2) * inverse[:, None]
        return _folded(weights, self._counts, self._origin + mean, l2=l2, has_intercept=has_intercept)

    def leave_one_out(self, features: np.ndarray, labels: np.ndarray, *, has_intercept: bool = True) -> "LeaveOneOut":
        """Return what is said of some of the rows when each is left out in turn.

        Args:
            features: (P, D) rows that were added before; all, or a sample where all are too many to hold.
            labels: (P,) int64, theirs.
            has_intercept: See ``solve``.
        """
        system, sums, mean, inverse = self._standardised()
        values, vectors = eigh(system, lower=True, overwrite_a=True, check_finite=False, driver="evd")
        centred = np.subtract(features, self._origin, dtype=np.float64) - mean
        return LeaveOneOut(
            np.maximum(values, 0.0),
            vectors.T @ (2.0 * sums.T),
            (centred * inverse) @ vectors,
            np.ones(len(labels)),
            labels,
            self._counts,
            has_intercept=has_intercept,
        )

    def _standardised(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return Z'Z (D, D; lower triangle) of standardised rows Z, sums of Z per class (C, D), mean and 1/std (D,).

        The mean is relative to the origin; 1/std is 0 for a feature that never varies, which then has no weight.
        """
        mean = self._class_sums.sum(axis=0) / self.num_rows
        system = blas.dsyr(-self.num_rows, mean, a=self._products, lower=1)  # a copy: N times the covariance
        inverse = _inverse_std(system.diagonal() / self.num_rows, self._least == self._greatest)
        system *= inverse
        system *= inverse[:, None]
        sums = (self._class_sums - self._counts[:, None] * mean) * inverse
        return system, sums, mean, inverse


def _inverse_std(variances: np.ndarray, is_constant: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.where(is_constant, 0.0, 1.0 / (np.sqrt(np.maximum(variances, 0.0)) + STD_EPSILON))
    return result


def class_sums(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that are present, (P,) int64 ascending, and the sums of their rows, (P, D) float64.

    Args:
        features: (N, D) float64.
        labels: (N,) int64, N >= 1.
    """
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rows = features if (order == np.arange(len(order))).all() else features[order]
    return ordered[starts], np.add.reduceat(rows, starts, axis=0)


def _solve_positive(system: np.ndarray, right: np.ndarray, *, l2: float) -> np.ndarray:
    """Solve ``system @ x = right``, (D, D) positive definite in its lower triangle; overwrites both.

    Where ``l2`` is below the rounding of the sums, directions in which nothing varies get no weight, as they would in
    exact arithmetic, instead of rounding noise over ``l2``.
    """
    noise = float(len(system) * np.finfo(np.float64).eps * system.diagonal().max())
    if l2 > noise:
        try:
            factor = cho_factor(system, lower=True, check_finite=False)
            solution: np.ndarray = cho_solve(factor, right, overwrite_b=True, check_finite=False)
            return solution
        except np.linalg.LinAlgError:  # sums over many rows far from the origin are not that exact
            noise = max(noise, l2)
    values, vectors = eigh(system, lower=True, overwrite_a=True, check_finite=False)
    inverse = np.where(values > noise, 1.0 / np.maximum(values, noise), 0.0)
    found: np.ndarray = vectors @ (inverse[:, None] * (vectors.T @ right))
    return found


def _folded(
    weights: np.ndarray, counts: np.ndarray, mean: np.ndarray, *, l2: float, has_intercept: bool
) -> LinearClassifier:
    """Return the classifier of features as they are, from ``weights`` of centred ones."""
    intercept = _intercept(counts, l2=l2) if has_intercept else np.zeros(len(counts))
    return LinearClassifier(weights, intercept - mean @ weights)


def _intercept(counts: np.ndarray, *, l2: float) -> np.ndarray:
    """Return what the constant column contributes to each class's score."""
    total = counts.sum()
    shrinkage = BIAS_CONSTANT**2 * total / (BIAS_CONSTANT**2 * total + l2)
    result: np.ndarray = shrinkage * (2 * counts / total - 1)
    return result


@dataclass(frozen=True)
class StandardisedSupport:
    """A support, standardised, its rows scaled by the roots of their weights.

    Attributes:
        rows: (N, D) float64.
        roots: (N,) float64, square roots of the row weights, whose sum is N; ones without weights.
        labels: (N,) int64.
        counts: (C,) float64, sums of the weights per class.
        mean: (D,) float64, of the features.
        inverse_std: (D,) float64; 0 for a feature that never varies.
        has_intercept: See ``RidgeStatistics.solve``.
    """

    rows: np.ndarray
    roots: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    inverse_std: np.ndarray
    has_intercept: bool

    def targets(self) -> np.ndarray:
        """Return (N, C) float64: +1 for the row's class, -1 for the others, times the row's root."""
        result = np.full((len(self.labels), len(self.counts)), -1.0)
        result[np.arange(len(self.labels)), self.labels] = 1.0
        result *= self.roots[:, None]
        return result


def standardise_support(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, balance: str = "none", has_own_std: bool = True
) -> StandardisedSupport:
    """Return the support as the ridge classifier sees it.

    Args:
        features: (N, D) float, finite, N >= 1.
        labels: (N,) int64, 0..C-1.
        num_classes: C.
        balance: ``none``; ``intercept``: frequent classes score no higher; ``weighted``: rows weigh
            N / (C_present N_c), so that every class counts alike in mean, deviation and error.
        has_own_std: Divide by the support's standard deviation; else the features are only centred, having been
            scaled before.
    """
    features = np.asarray(features, dtype=np.float64)
    counts: np.ndarray = np.bincount(labels, minlength=num_classes).astype(np.float64)
    row_weights: np.ndarray = np.ones(len(labels))
    if balance == "weighted":
        row_weights = len(labels) / (np.count_nonzero(counts) * counts[labels])
        counts = np.bincount(labels, weights=row_weights, minlength=num_classes)
    mean = row_weights @ features / len(labels)
    centred = features - mean
    variances = row_weights @ centred**2 / len(labels)
    inverse = np.ones(features.shape[1])
    if has_own_std:
        inverse = _inverse_std(variances, features.min(axis=0) == features.max(axis=0))
    roots = np.sqrt(row_weights)
    return StandardisedSupport(
        centred * inverse * roots[:, None], roots, labels, counts, mean, inverse, has_intercept=balance != "intercept"
    )


def solve_dual(support: StandardisedSupport, l2: float) -> LinearClassifier:
    """Return the ridge classifier by the N x N system, which suits N < D.

    Args:
        support: N rows.
        l2: Penalty, > 0.

    Returns:
        A (D, C) classifier, equal to ``RidgeStatistics.solve`` where both apply.
    """
    gram = blas.dsyrk(1.0, support.rows.T, trans=1, lower=1)
    gram[np.diag_indices_from(gram)] += l2
    share = support.counts / len(support.labels)
    targets = -2.0 * np.outer(support.roots, share)  # centred: a constant part of the targets is the intercept's
    targets[np.arange(len(support.labels)), support.labels] += 2.0 * support.roots
    weights = support.rows.T @ _solve_positive(gram, np.asfortranarray(targets), l2=l2)
    weights *= support.inverse_std[:, None]
    return _folded(weights, support.counts, support.mean, l2=l2, has_intercept=support.has_intercept)


def solve_primal(support: StandardisedSupport, l2: float) -> LinearClassifier:
    """Return the ridge classifier by the D x D system, which suits N >= D; (D, C), as ``solve_dual``."""
    system = blas.dsyrk(1.0, support.rows.T, lower=1)
    system[np.diag_indices_from(system)] += l2
    present, sums = class_sums(support.rows * support.roots[:, None], support.labels)
    right = np.zeros((support.rows.shape[1], len(support.counts)), order="F")
    right[:, present] = 2.0 * sums.T
    weights = _solve_positive(system, right, l2=l2) * support.inverse_std[:, None]
    return _folded(weights, support.counts, support.mean, l2=l2, has_intercept=support.has_intercept)


def fit_ridge(support: StandardisedSupport, l2: float) -> LinearClassifier:
    """Return the (D, C) ridge classifier by the smaller of the two systems, as big_vision chooses."""
    num_rows, width = support.rows.shape
    return solve_primal(support, l2) if num_rows > width else solve_dual(support, l2)


class LeaveOneOut:
    """What a ridge classifier says of each support row when it is refitted without that row.

    Exact, for every penalty from one decomposition: with the hat matrix H of the fit, the score without row i is
    y_i - (y_i - yhat_i) / (1 - H_ii) (Cook and Weisberg 1982, section 2.2). The standardisation stays that of
    the whole support. The test set is not looked at.

    Made by ``leave_one_out`` of a support, or of ``RidgeStatistics``.

    Args:
        values: (r,) eigenvalues of Z'Z, r <= D.
        moments: (r, C) Z'Y in their basis.
        projected: (P, r) the rows of Z that are left out in turn, in that basis.
        roots: (P,) square roots of their weights.
        labels: (P,) int64, theirs.
        counts: (C,) float64, sums of all weights per class, together N.
        has_intercept: See ``RidgeStatistics.solve``.
        basis: (P, r) where N <= D: orthonormal, and complete but for the direction of the intercept. Then 1 - H_ii
            is a sum without cancellation.
    """

    def __init__(
        self,
        values: np.ndarray,
        moments: np.ndarray,
        projected: np.ndarray,
        roots: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray,
        *,
        has_intercept: bool,
        basis: np.ndarray | None = None,
    ) -> None:
        self._values, self._moments, self._projected = values, moments, projected
        self._roots, self._labels, self._counts = roots, labels, counts
        self._has_intercept, self._basis = has_intercept, basis

    def scores(self, l2: float) -> np.ndarray:
        """Return the (P, C) float64 scores of the rows, each left out; ``l2`` > 0."""
        return self._scores(l2, has_constant=self._has_intercept)

    def _scores(self, l2: float, *, has_constant: bool) -> np.ndarray:
        shrinkage = 1.0 / (self._values + l2)
        fitted = (self._projected @ (shrinkage[:, None] * self._moments)) / self._roots[:, None]
        if has_constant:
            fitted += _intercept(self._counts, l2=l2)
        targets = np.full(fitted.shape, -1.0)
        targets[np.arange(len(targets)), self._labels] = 1.0
        result: np.ndarray = (
            targets - (targets - fitted) / self._one_less_leverage(l2, has_constant=has_constant)[:, None]
        )
        return result

    def _one_less_leverage(self, l2: float, *, has_constant: bool) -> np.ndarray:
        """Return 1 - H_ii, (P,)."""
        total = self._counts.sum()
        of_bias = BIAS_CONSTANT**2 if has_constant else 0.0
        share = self._roots**2 / total
        if self._basis is not None:
            result: np.ndarray = (self._basis**2) @ (l2 / (self._values + l2)) + share * l2 / (of_bias * total + l2)
            return result
        leverage = (self._projected**2) @ (1.0 / (self._values + l2)) + share * of_bias * total / (of_bias * total + l2)
        left: np.ndarray = np.maximum(1.0 - leverage, 1e-12)
        return left

    def scores_without(self, sets: Sequence[np.ndarray], l2: float) -> np.ndarray:
        """Return the (P, C) float64 scores of the rows, each left out together with the other rows of its set.

        Exact too: with S a set and H_SS its block of the hat matrix, its scores without it are
        Y_S - (I - H_SS)^-1 (Y_S - Yhat_S). The intercept is part of the fit; for rows without weights.

        Args:
            sets: Of the indices 0..P-1, one or more each, without overlap: (G, m) int64, G sets of m rows each.
            l2: Penalty, > 0.
        """
        result = self._scores(l2, has_constant=True)
        for several in sets:
            for block in np.array_split(several, -(-several.size * self._projected.shape[1] // _SET_NUMBERS)):
                result[block] = self._scores_of_sets(block, l2)
        return result

    def _scores_of_sets(self, sets: np.ndarray, l2: float) -> np.ndarray:
        """Return the (G, m, C) scores of sets (G, m) of rows."""
        constant = BIAS_CONSTANT**2 / (BIAS_CONSTANT**2 * self._counts.sum() + l2)  # its part of each entry of H
        rows = self._projected[sets]
        fitted = rows @ (self._moments / (self._values + l2)[:, None]) + _intercept(self._counts, l2=l2)
        targets = np.full(fitted.shape, -1.0)
        np.put_along_axis(targets, self._labels[sets][..., None], 1.0, axis=2)
        residuals = targets - fitted
        size, rank = sets.shape[1], rows.shape[2] + 1
        factor = np.concatenate(
            [rows / np.sqrt(self._values + l2), np.full((*sets.shape, 1), np.sqrt(constant))], axis=2
        )  # (G, m, r + 1), whose products with itself are H_SS
        if size <= rank:
            left = np.eye(size) - factor @ factor.swapaxes(1, 2)
            return np.asarray(targets - np.linalg.solve(left, residuals))
        inner = np.eye(rank) - factor.swapaxes(1, 2) @ factor  # Woodbury: a set larger than D costs D^3
        return np.asarray(targets - residuals - factor @ np.linalg.solve(inner, factor.swapaxes(1, 2) @ residuals))

    def accuracy(self, l2: float) -> float:
        """Return the share, 0-1, of rows that are classified correctly when left out; see ``decisions``."""
        return float(np.mean(self.decisions(l2).argmax(axis=1) == self._labels))

    def decisions(self, l2: float) -> np.ndarray:
        """Return the (P, C) float64 scores to classify the left-out rows by; with an intercept those of ``scores``.

        Without an intercept the refit is one with the constant column whose intercept is then dropped: the mean is
        that of all rows, so without that column the row left out would be minus the sum of the others, and known.
        """
        scores = self._scores(l2, has_constant=True)
        return scores if self._has_intercept else scores - self._refitted_intercepts(l2)

    def _refitted_intercepts(self, l2: float) -> np.ndarray:
        """Return what the constant column gives every class without each row, (P, C)."""
        weights = self._roots**2
        counts = np.repeat(self._counts[None], len(weights), axis=0)
        counts[np.arange(len(weights)), self._labels] -= weights
        totals = counts.sum(axis=1, keepdims=True)
        shrinkage = BIAS_CONSTANT**2 * totals / (BIAS_CONSTANT**2 * totals + l2)
        result: np.ndarray = shrinkage * (2 * counts / np.maximum(totals, 1e-12) - 1)
        return result

    def choose_l2(self, candidates: Sequence[float] = LOO_L2) -> tuple[float, float]:
        """Return the candidate with the highest leave-one-out accuracy, and that accuracy, 0-1.

        Of equally good ones the nearest to ``DEFAULT_L2`` (as a ratio) is taken. Accuracy, because squared error
        and generalised cross-validation choose penalties that are far too large for few shots.
        """
        best = max((self.accuracy(l2), -abs(np.log(l2 / DEFAULT_L2)), l2) for l2 in candidates)
        return best[2], best[0]


def leave_one_out(support: StandardisedSupport) -> LeaveOneOut:
    """Return what is said of every row of ``support``, (N, D), when it is left out."""
    rows = support.rows
    basis: np.ndarray | None = None
    if rows.shape[0] > rows.shape[1]:
        system = blas.dsyrk(1.0, rows.T, lower=1)
        values, vectors = eigh(system, lower=True, overwrite_a=True, check_finite=False, driver="evd")
        projected = rows @ vectors
    else:
        gram = blas.dsyrk(1.0, rows.T, trans=1, lower=1)
        largest = 2.0 * gram.trace() + 1.0  # makes the direction of the intercept, of eigenvalue 0, the last one
        gram = blas.dsyr(largest / len(rows), support.roots, a=gram, lower=1)
        values, vectors = eigh(gram, lower=True, overwrite_a=True, check_finite=False, driver="evd")
        values, basis = values[:-1], vectors[:, :-1]
        projected = basis * np.sqrt(np.maximum(values, 0.0))
    return LeaveOneOut(
        np.maximum(values, 0.0),
        projected.T @ support.targets(),
        projected,
        support.roots,
        support.labels,
        support.counts,
        has_intercept=support.has_intercept,
        basis=basis,
    )


def error_bound(width: int) -> float:
    """Return the largest error of a float32 dot product over ``width`` numbers, relative to the product of lengths.

    Cauchy-Schwarz applied to the bound of Higham 2002, section 3.1, with room for rounding both factors.
    """
    return 1.01 * (width + 4) * _UNIT


def predict_classes(features: np.ndarray, classifiers: Sequence[LinearClassifier]) -> np.ndarray:
    """Return the class with the highest score for every row, as float64 arithmetic gives it; (F, M) int64.

    Scores are computed in float32, tile by tile, so that no M x C matrix is held. Where the two best are closer
    than rounding can move them (``error_bound``), the row is computed again in float64. Of scores that
    are equal but for rounding the first class wins.

    Args:
        features: (M, D) float, finite.
        classifiers: F of them, with the same C.
    """
    num_rows, width = features.shape
    num_classes = len(classifiers[0].bias)
    predicted = np.empty((len(classifiers), num_rows), dtype=np.int64)
    origin = features[:_ROW_BLOCK].mean(axis=0, dtype=np.float64)
    at_once = max(1, _COLUMN_BLOCK // num_classes)
    relative = error_bound(width)
    for first in range(0, len(classifiers), at_once):
        group = classifiers[first : first + at_once]
        weights = np.concatenate([one.weights for one in group], axis=1, dtype=np.float32)  # (D, F' C)
        shifted = np.concatenate([one.bias + origin @ one.weights for one in group])
        norms = np.array([np.sqrt((one.weights**2).sum(axis=0).max()) for one in group])  # largest column
        for start in range(0, num_rows, _ROW_BLOCK):
            block = features[start : start + _ROW_BLOCK]
            centred = np.subtract(block, origin, dtype=np.float64)
            best, second, chosen = _two_best(centred.astype(np.float32), weights, shifted, len(group))
            sizes = np.sqrt((centred**2).sum(axis=1))
            bound = relative * sizes[:, None] * norms + error_bound(0) * np.abs(best)
            predicted[first : first + len(group), start : start + len(block)] = chosen.T
            for index, one in enumerate(group):
                unsure = np.flatnonzero(~(best[:, index] - second[:, index] > 2 * bound[:, index]))
                for part in np.array_split(unsure, -(-len(unsure) * num_classes // 2**24) or 1):
                    scores = centred[part] @ one.weights + (one.bias + origin @ one.weights)
                    alike = 2.0**-29 * bound[part, index, None]  # what rounding in float64 cannot tell apart
                    predicted[first + index, start + part] = (
                        scores >= scores.max(axis=1, keepdims=True) - alike
                    ).argmax(axis=1)
    return predicted


def _two_best(
    rows: np.ndarray, weights: np.ndarray, bias: np.ndarray, num_classifiers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return best score, second best and best class of each row and classifier, (B, F) each, in float32."""
    num_classes = len(bias) // num_classifiers
    best = np.full((len(rows), num_classifiers), -np.inf, dtype=np.float32)
    second, chosen = best.copy(), np.zeros(best.shape, dtype=np.int64)
    small = bias.astype(np.float32)
    step = num_classes if num_classifiers > 1 else min(num_classes, _COLUMN_BLOCK)
    for start in range(0, num_classes, step):
        tile = slice(start, start + step) if num_classifiers == 1 else slice(None)
        scores = rows @ weights[:, tile]
        scores += small[tile]
        scores = scores.reshape(len(rows), num_classifiers, -1)
        index = scores.argmax(axis=2)
        top = np.take_along_axis(scores, index[..., None], axis=2)[..., 0]
        np.put_along_axis(scores, index[..., None], -np.inf, axis=2)
        runner_up = scores.max(axis=2)
        is_better = top > best
        second = np.where(is_better, np.maximum(best, runner_up), np.maximum(second, top))
        chosen = np.where(is_better, index + start, chosen)
        best = np.where(is_better, top, best)
    return best, second, chosen
