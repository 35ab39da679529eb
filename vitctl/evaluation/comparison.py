"""How sure a mean is, and a difference of two, over runs and images: the one home of comparisons.

Letters: S runs (seeds), M images, K parts or pairs. A table is (S, M): what run s says of image m, e.g. 1 where it is
right, a loss, a Brier score. Tables of two classifiers are paired where row s of both is of the same seed and column m
of the same image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.calibration_bootstrap import RunCalibration, adjusted_replicates, calibration_errors
from vitctl.evaluation.crossed import Spread, spread_of, total_and_share
from vitctl.evaluation.power import VarianceParts, parts_of, told_difference
from vitctl.evaluation.score_interval import paired_distance, paired_ends, wilson_ends

Interval = tuple[float, float]

# One number from a symmetric distribution with one peak is within t times itself of the centre but with chance
# 1 / (t + 1): the worst is the uniform one that just reaches beyond 0 (Edelman 1990, American Statistician 44:285).
REACH_OF_ONE_NUMBER = 19.0


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: Of all cells of the table.
        ci95: Its 95 % interval. Of one run: these weights, other images; of several: other seeds and other images.
        standard_error: Half the width of the interval would be about twice this; over runs and images alike. 0 where
            nothing varies.
        p: Two-sided, that the true mean is 0; below 0.05 exactly where 0 is outside the interval.
    """

    mean: float
    ci95: Interval
    standard_error: float
    p: float


def within(interval: Interval, least: float, most: float) -> Interval:
    """Return the part of an interval where the truth can be: an accuracy is 0-1, whatever Student's t makes of it."""
    return max(least, interval[0]), min(most, interval[1])


def estimate(table: np.ndarray, *, is_difference: bool = False, is_loss: bool = False) -> Estimate:
    """Return the mean of a table with its uncertainty.

    The variance is ``spread_of``'s, of runs and of images. Of zeros and ones, the interval is Wilson's of as many
    images as have that variance, of -1, 0 and 1 Tango's: neither is without width where all cells are equal. Of other
    numbers it is Student's with Hall's correction of skewness.

    Args:
        table: (S, M) float or bool, finite, S >= 1, M >= 1. For a paired difference: b - a, in float.
        is_difference: Whether it is a difference: a table without a -1 might be either, and nothing but ones and zeros
            is less sure of a difference than of an accuracy.
        is_loss: Whether cells are losses, or differences of two, which may be any number: where two runs are the same,
            all of these are 0, and there is nothing to be unsure of.

    Raises:
        ValueError: A cell is not finite.
    """
    table = np.atleast_2d(table).astype(np.float64)
    if not np.isfinite(table).all():
        raise ValueError("a table with cells that are not finite has no mean")
    kind = "number" if is_loss else _kind_of(table, is_difference=is_difference)
    if kind == "number":
        return _of_numbers(table, spread_of(table), is_difference=is_difference)
    spread = spread_of(table, image_freedom=_freedom_of_images(table, is_difference=kind == "difference"))
    return _of_shares(table, spread, is_difference=kind == "difference")


def _kind_of(table: np.ndarray, *, is_difference: bool) -> str:
    """Return ``share`` of zeros and ones, ``difference`` where a -1 is among them or could be, else ``number``."""
    if not np.isin(table, (-1, 0, 1)).all():
        return "number"
    return "difference" if is_difference or bool((table < 0).any()) else "share"


def _freedom_of_images(table: np.ndarray, *, is_difference: bool) -> float:
    """Return how many degrees of freedom the variance of images has, in tables of zeros and ones.

    Of one run it follows from the mean. Of several it is estimated, and images on which all runs are right (or, of a
    poor classifier, wrong) tell little of it: the others count, and 4 more (of 0, 2 and 4 that whose coverage is
    nearest to 95 % at an accuracy of 0.95, 50 and 200 images). A difference is wide enough without, however few differ.
    """
    if is_difference or len(table) == 1:
        return float("inf")
    num_mixed = int((table != np.round(table.mean())).any(axis=0).sum())
    return num_mixed + 4.0 if num_mixed else float("inf")


def _of_numbers(values: np.ndarray, spread: Spread, *, is_difference: bool) -> Estimate:
    """Return the estimate of a mean of numbers: Student's t, of losses with Hall's cubic correction of skewness.

    Hall (1992, J. R. Statist. Soc. B 54:221): where t is skewed by k, ((1 + k t / 3)^3 - 1) / k + k / 6 is not, and
    can be turned round. Differences are hardly skewed, and their heavy tails would be taken for it: 92 instead of 95 %
    coverage of 50 images, where losses have 91 without the correction and 95 with it.
    """
    mean, error = float(values.mean()), spread.variance**0.5
    is_loss = not is_difference and bool((values >= 0).all())
    lowest = 0.0 if is_loss else -np.inf  # the mean of what is never below 0 is not either
    if values.size == 1:
        reach = REACH_OF_ONE_NUMBER * abs(mean)
        return Estimate(mean, (max(lowest, mean - reach), mean + reach), 0.0, 1.0)
    if error <= 1e-12 * abs(mean):  # rounding of equal cells
        return Estimate(mean, (mean, mean), 0.0, float(mean == 0))
    reach, distance, skewness = spread.reach(), mean / error, spread.skewness
    if not is_loss or abs(skewness) < 1e-6:
        low, high = mean - reach * error, mean + reach * error
        return Estimate(mean, (max(lowest, low), high), error, spread.p_of(distance))
    low, high = (3 / skewness * float(np.cbrt(1 + skewness * (t - skewness / 6)) - 1) for t in (reach, -reach))
    corrected = ((1 + skewness * distance / 3) ** 3 - 1) / skewness + skewness / 6
    return Estimate(mean, (max(lowest, mean - error * low), mean - error * high), error, spread.p_of(corrected))


def _of_shares(table: np.ndarray, spread: Spread, *, is_difference: bool) -> Estimate:
    """Return the estimate of an accuracy, or of a difference of two, by the score interval of so many images.

    Args:
        table: (S, M) of 0 and 1, and -1 in a difference.
        spread: Of its mean.
        is_difference: Whether -1 is possible.
    """
    mean, moved = float(table.mean()), float(np.abs(table).mean())
    of_one = moved - mean**2  # the variance of a cell, of both kinds
    num_images = float(table.shape[1])  # of one run, and where nothing varies
    if spread.run_freedom > 0 and of_one > 1e-12 and spread.variance > 0:
        num_images = of_one / spread.variance
    error, reach = (max(of_one, 0.0) / num_images) ** 0.5, spread.reach()
    if not is_difference:
        return Estimate(mean, wilson_ends(mean, num_images, reach), error, float(mean == 0))
    p = spread.p_of(paired_distance(mean, moved, num_images))
    return Estimate(mean, paired_ends(mean, moved, num_images, reach), error, p)


def estimate_folds(values: Sequence[np.ndarray], *, is_difference: bool = False, is_loss: bool = False) -> Estimate:
    """Return the mean over the parts of a cross-validation with its uncertainty.

    A t interval over the means of parts, weighted by their images; seeds are averaged. Parts share most of their
    training images, so their scores are not independent and no variance is right for all (Bates, Hastie and Tibshirani
    2021, arXiv 2104.00673, where intervals that take all images for independent miss too often): this interval sees
    what differs from part to part, but not what all parts have in common.

    Args:
        values: One (S, M_k) table for each of K >= 2 parts: every image is in one part.
        is_difference: As of ``estimate``.
        is_loss: As of ``estimate``.

    Raises:
        ValueError: A cell is not finite, or there are fewer than two parts.
    """
    if len(values) < 2:
        raise ValueError("one part says nothing of others")
    means = [np.atleast_2d(value).mean(axis=0, dtype=np.float64) for value in values]
    images = np.concatenate(means)
    if not np.isfinite(images).all():
        raise ValueError("a table with cells that are not finite has no mean")
    num_parts, weights = len(means), np.array([len(part) for part in means]) / len(images)
    deviations = np.array([part.mean() for part in means]) - images.mean()
    of_parts = num_parts / (num_parts - 1) * float((weights**2 * deviations**2).sum())
    of_images = float(images.var()) / max(1, len(images) - 1)
    variance, share = total_and_share(of_parts, of_images, 0.0, num_runs=num_parts)
    table = np.concatenate([np.atleast_2d(value) for value in values], axis=1) if _are_of_one_height(values) else images
    kind = "number" if is_loss else _kind_of(table, is_difference=is_difference)
    spread = Spread(
        float(variance), float(share), num_parts - 1, float("inf") if kind != "number" else len(images) - 1.0
    )
    if kind == "number":
        return _of_numbers(images, spread, is_difference=is_difference)
    return _of_shares(np.atleast_2d(table).astype(np.float64), spread, is_difference=kind != "share")


def _are_of_one_height(values: Sequence[np.ndarray]) -> bool:
    return len({np.atleast_2d(value).shape[0] for value in values}) == 1


def ece_estimate(runs: Sequence[RunCalibration], others: Sequence[RunCalibration] = (), *, seed: int) -> Estimate:
    """Return the expected calibration error of S runs, or with ``others`` by how much that is larger than theirs.

    It is no mean, so runs and images are drawn anew (the pigeonhole bootstrap), 2,000 times. Absolute gaps are too
    large on average, of replicates more so: by as much as replicates are larger than the estimate, the interval is
    lower. Its spread is set to that of ``spread_of``, of each image's part in the error. It always holds the estimate,
    and reaches down to 0 where calibrated runs would have as large an error in one of 40 replicates.

    Args:
        runs: S, as ``calibration_of`` has them, of this seed.
        others: S, of the same images and seeds of training; none for the error itself.
        seed: Of the bootstrap, >= 0.
    """
    parts, replicates, by_chance = calibration_errors(runs, seed=seed)
    if len(others):
        other = calibration_errors(others, seed=seed)
        parts, replicates = parts - other.parts, replicates - other.errors
    mean, spread = float(parts.mean()), spread_of(parts)
    adjusted = adjusted_replicates(mean, replicates, parts, spread)
    low, high = (float(end) for end in np.quantile(adjusted, (0.025, 0.975)))
    low, high = min(low, mean), max(high, mean)
    if not len(others):
        low = 0.0 if mean <= float(np.quantile(by_chance, 0.975)) else low
        return Estimate(mean, (max(0.0, low), min(1.0, high)), spread.variance**0.5, float(mean == 0))
    p = min(1.0, 2 * float(min((adjusted <= 0).mean(), (adjusted >= 0).mean())))
    p = max(p, 0.05) if low <= 0 <= high else min(p, 0.0499)  # at the very end quantiles are between two replicates
    return Estimate(mean, (low, high), spread.variance**0.5, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down corrected p values, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values, dtype=np.float64)[order]))
    found: list[float] = corrected.tolist()
    return found


def variance_parts(differences: np.ndarray) -> VarianceParts:
    """Return what ``smallest_difference`` wants to know, as runs that are there have it.

    Args:
        differences: (S, M), which of two classifiers is right, b - a: -1, 0 and 1. One run tells nothing of seeds.
    """
    return parts_of(np.atleast_2d(differences).astype(np.float64))


def smallest_difference(
    *, num_runs: int, num_images: int, disagreement: float, seed_sd: float, shared: float = 1.0
) -> float:
    """Return the difference of two accuracies that is told from 0 in four of five comparisons (95 %, power 0.8).

    The variance of a difference d is taken to be seed_sd^2 / S + (disagreement - d^2) (shared + (1 - shared) / S) / M,
    and the chance that the interval of ``estimate`` leaves 0 out is integrated over what S runs will say of it.

    Args:
        num_runs: S of each of the two, paired by seed.
        num_images: M.
        disagreement: Share of images of which exactly one of two such runs is right, 0-1.
        seed_sd: Standard deviation of the difference from seed to seed, apart from that of images, 0-1; of one run it
            does not count, as it does not in the interval: these weights, other images.
        shared: Share of the disagreement that is about the same images with every seed, 0-1; 1 is the least favourable.

    Returns:
        0-1; the disagreement is at least as large.
    """
    parts = VarianceParts(disagreement=disagreement, seed_sd=seed_sd, shared=shared)
    return told_difference(parts, num_runs=num_runs, num_images=num_images)
