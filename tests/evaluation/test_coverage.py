"""How often intervals hold the truth, by simulation: what a run, an image and a cell add is normal, before a threshold.

``python tests/evaluation/test_coverage.py 1500`` prints the table of a guide.
"""

import itertools
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtri

from vitctl.evaluation.comparison import estimate, estimate_folds, smallest_difference

REGIMES = ("images", "runs", "both", "cells")  # which of them dominates
KINDS = ("accuracy", "difference", "few differ", "loss", "difference of losses")
NUM_RUNS, NUM_IMAGES = (1, 2, 3, 5, 10), (50, 200, 1000)

NORMAL = np.linspace(-8, 8, 4001)
WEIGHTS = np.exp(-(NORMAL**2) / 2) / np.exp(-(NORMAL**2) / 2).sum()

Value = Callable[[np.ndarray], np.ndarray]


def _spreads(regime: str, kind: str, *, num_runs: int, num_images: int) -> tuple[float, float, float]:
    """Return the standard deviations of what a run, an image and a cell add."""
    image, cell = {"images": (1.0, 0.3), "runs": (0.3, 0.3), "both": (1.0, 0.3), "cells": (0.0, 1.0)}[regime]
    size = float(np.hypot(image, cell))
    if regime == "runs":
        return (0.5 if num_images <= 200 else 0.3) * size, image, cell
    # about as much of the mean's variance as images
    return (size * (num_runs / num_images) ** 0.5 if regime == "both" else 0.0), image, cell


def _value_of(kind: str, size: float) -> Value:
    """Return what is said of an image, of a normal number of standard deviation ``size``."""
    if kind == "accuracy":
        return lambda latent: (latent > -float(ndtri(0.8)) * size).astype(np.float64)
    if kind == "loss":  # as the likelihood's: 2.5 times as skewed as a normal number is wide
        return lambda latent: np.logaddexp(0, -2 * (latent + 1.2))
    if kind == "difference of losses":  # tails heavier than normal
        return lambda latent: np.sinh(np.clip(latent + 0.1, -6, 6)) / 2
    moved = 0.2 if kind == "difference" else 0.03
    more, fewer = -float(ndtri(0.65 * moved)) * size, -float(ndtri(0.35 * moved)) * size
    return lambda latent: (latent > more).astype(np.float64) - (latent < -fewer)


def _coverage(kind: str, regime: str, *, num_runs: int, num_images: int, times: int) -> float:
    """Return the share of intervals that hold the truth: of these weights for one run, of all for more."""
    run, image, cell = _spreads(regime, kind, num_runs=num_runs, num_images=num_images)
    rng, size = np.random.default_rng([num_runs, num_images, KINDS.index(kind)]), float(np.hypot(image, cell))
    value, num_held = _value_of(kind, size), 0
    of_all = float(WEIGHTS @ value(NORMAL * float(np.hypot(run, size))))
    for _ in range(times):
        runs = run * rng.normal(size=(num_runs, 1))
        images = image * rng.normal(size=(1, num_images))
        table = value(runs + images + cell * rng.normal(size=(num_runs, num_images)))
        truth = of_all if num_runs > 1 else float(WEIGHTS @ value(NORMAL * size + runs[0, 0]))
        low, high = estimate(table, is_difference="differ" in kind).ci95
        num_held += low <= truth <= high
    return num_held / times


def _coverage_of_folds(part: float, *, num_parts: int, times: int) -> float:
    rng, num_held = np.random.default_rng(num_parts), 0
    for _ in range(times):
        shifts = part * rng.normal(size=num_parts)
        tables = [(shift + rng.normal(size=(1, 41 - index % 2)) > -0.84) * 1.0 for index, shift in enumerate(shifts)]
        truth = float(WEIGHTS @ (NORMAL * float(np.hypot(1, part)) > -0.84))
        low, high = estimate_folds(tables).ci95
        num_held += low <= truth <= high
    return num_held / times


@pytest.mark.parametrize(("kind", "regime"), [("difference", "both"), ("loss", "images"), ("accuracy", "runs")])
def test_intervals_of_three_runs_hold_the_truth(kind: str, regime: str) -> None:
    # of 100 intervals of 95 %, 88 or fewer hold it in 1 of 200 cases
    assert _coverage(kind, regime, num_runs=3, num_images=50, times=100) >= 0.89


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str) -> None:
    found = {
        (regime, num_runs, num_images): _coverage(
            kind, regime, num_runs=num_runs, num_images=num_images, times=150 if num_images < 1000 else 80
        )
        for regime, num_runs, num_images in itertools.product(REGIMES, NUM_RUNS, NUM_IMAGES)
    }
    # four standard deviations below 93 %
    assert min(found.values()) > 0.83, found
    for num_runs in NUM_RUNS:
        mean = np.mean([share for (_, runs, _), share in found.items() if runs == num_runs])
        # two runs that are alike, and a handful of images that differ, are less sure than they could be
        most = 0.99 if kind == "few differ" else 0.98 if num_runs == 2 else 0.972
        assert 0.94 <= mean <= most, (num_runs, mean)


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [3, 5, 10])
@pytest.mark.parametrize(("part", "most"), [(0.0, 0.985), (0.4, 0.975)])
def test_intervals_of_a_cross_validation_hold_the_truth(num_parts: int, part: float, most: float) -> None:
    assert 0.92 <= _coverage_of_folds(part, num_parts=num_parts, times=800) <= most


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize(("num_runs", "seed_sd"), [(1, 0.0), (2, 0.005), (3, 0.01), (5, 0.03), (10, 0.0)])
def test_the_difference_that_can_be_told_is_told_four_times_in_five(
    num_runs: int, seed_sd: float, shared: float
) -> None:
    num_images, rng, num_told = 400, np.random.default_rng(num_runs), 0
    told = smallest_difference(
        num_runs=num_runs, num_images=num_images, disagreement=0.1, seed_sd=seed_sd, shared=shared
    )
    disagreement = max(0.1, told)
    for _ in range(400):
        # an image's difference is that of all runs or each run's own; a run's luck moves the chance of being better
        of_all, own = rng.random((1, num_images)), rng.random((num_runs, num_images))
        chance = np.where(rng.random((1, num_images)) < shared, of_all, own)
        shifted = told + seed_sd * rng.normal(size=(num_runs, 1))
        more, fewer = (disagreement + shifted) / 2, (disagreement - shifted) / 2
        table = (chance < more).astype(np.float64) - (chance > 1 - fewer)
        num_told += estimate(table, is_difference=True).p < 0.05
    assert 0.74 <= num_told / 400 <= 0.86


if __name__ == "__main__":
    for kind, regime, num_images in itertools.product(KINDS, REGIMES, NUM_IMAGES):
        shares = [
            100 * _coverage(kind, regime, num_runs=num_runs, num_images=num_images, times=int(sys.argv[1]))
            for num_runs in NUM_RUNS
        ]
        print(
            f"| {kind} | {regime} | {num_images} | " + " | ".join(f"{share:.1f}" for share in shares) + " |", flush=True
        )
    for part, num_parts in itertools.product((0.0, 0.4), (3, 5, 10)):
        print("parts", part, num_parts, f"{100 * _coverage_of_folds(part, num_parts=num_parts, times=4000):.1f}")
