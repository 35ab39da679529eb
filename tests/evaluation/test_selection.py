"""The rule of one standard error, by hand and against scipy."""

import numpy as np
import pytest
import scipy.stats

from vitctl.evaluation.selection import Choice, choose

LOSSES = np.array([[1.0, 2.0, 3.0, 4.0]])


def test_the_lowest_rate_within_one_paired_standard_error() -> None:
    near = LOSSES + np.array([0.3, -0.2, 0.3, -0.2])  # 0.05 worse, give or take 0.144
    far = LOSSES + np.array([0.3, 0.2, 0.3, 0.2])
    found = choose([far, near, LOSSES], [1e-4, 3e-4, 1e-3])
    assert found == Choice(1, 2, pytest.approx(scipy.stats.sem((near - LOSSES)[0])))


def test_images_of_one_difficulty_do_not_hide_a_difference() -> None:
    # unpaired, the standard error of either is 0.65
    assert choose([LOSSES + 0.01, LOSSES], [1, 2]) == Choice(1, 1, 0.0)


def test_a_higher_rate_is_not_taken_for_being_near() -> None:
    near = LOSSES + np.array([0.3, -0.2, 0.3, -0.2])
    assert choose([LOSSES, near], [1e-4, 1e-3]) == Choice(0, 0, 0.0)


def test_of_equal_ones_the_lowest_rate_then_the_first() -> None:
    assert choose([LOSSES, LOSSES], [2, 1]) == Choice(1, 1, 0.0)
    assert choose([LOSSES, LOSSES], [1, 1]) == Choice(0, 0, 0.0)


def test_of_one_rate_the_best_is_taken_whatever_the_order() -> None:
    near = LOSSES + np.array([0.3, -0.2, 0.3, -0.2])
    assert choose([near, LOSSES], [1, 1]) == Choice(1, 1, 0.0)
    assert choose([near, LOSSES + 0.01, LOSSES], [1, 1, 2]).index == 0  # the second is surely worse
    nearer = LOSSES + np.array([0.05, -0.04, 0.05, -0.04])
    assert choose([near, nearer, LOSSES], [1, 1, 2]).index == 1


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_what_diverged_is_not_chosen_unless_all_did(wrong: float) -> None:
    diverged = np.where(np.arange(4) == 2, wrong, LOSSES)
    assert choose([diverged, LOSSES], [1, 2]) == Choice(1, 1, 0.0)
    assert choose([diverged, diverged], [2, 1]) == Choice(1, 1, 0.0)


def test_seeds_that_differ_make_it_less_sure() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 200))
    worse = base + 0.1 + 0.01 * rng.normal(size=(3, 200))
    shaken = worse + np.array([[-0.4], [0.1], [0.3]])
    assert choose([worse, base], [1, 2]).index == 1
    assert choose([shaken, base], [1, 2]).index == 0


def test_one_image_and_one_seed_is_enough() -> None:
    assert choose([np.array([[0.2]]), np.array([[0.1]])], [1, 2]) == Choice(1, 1, 0.0)
