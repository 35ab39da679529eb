"""Intervals against scipy, statsmodels, brute force and by hand; tables in which nothing varies."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from vitctl.evaluation.calibration_bootstrap import calibration_errors, calibration_of
from vitctl.evaluation.comparison import (
    Estimate,
    ece_estimate,
    estimate,
    estimate_folds,
    holm,
    smallest_difference,
    variance_parts,
)
from vitctl.evaluation.crossed import Spread, spread_of
from vitctl.evaluation.metrics import expected_calibration_error, wilson_interval
from vitctl.evaluation.power import VarianceParts, chance_to_tell
from vitctl.evaluation.resampling import PigeonholeBootstrap, drawn_bootstrap, t_interval
from vitctl.evaluation.score_interval import paired_ends


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _differences(num_more: int, num_fewer: int, num_images: int) -> np.ndarray:
    """Return (1, M): 1 for images that b alone has right, -1 for those of a."""
    table = np.zeros((1, num_images))
    table[0, :num_more], table[0, num_more : num_more + num_fewer] = 1, -1
    return table


# --- one run


@pytest.mark.parametrize("num_correct", [0, 1, 45, 50])
def test_accuracy_of_one_run_is_wilsons(num_correct: int) -> None:
    found = estimate(np.arange(50)[None] < num_correct)
    theirs = scipy.stats.binomtest(num_correct, 50).proportion_ci(method="wilson")
    assert found.mean == num_correct / 50
    assert found.ci95 == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.ci95 == pytest.approx(wilson_interval(num_correct, 50), abs=1e-12)


def test_difference_of_losses_of_one_run_is_students() -> None:
    values = _rng().normal(0.2, 1, size=40)
    theirs = scipy.stats.ttest_1samp(values, 0)
    found = estimate(values[None], is_difference=True)
    low, high = theirs.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((low, high), rel=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.standard_error == pytest.approx(scipy.stats.sem(values))


def test_skewed_losses_reach_further_up_and_never_below_zero() -> None:
    values = _rng().lognormal(0, 1.5, size=(1, 40))
    (low, high), mean = estimate(values).ci95, float(values.mean())
    student = estimate(values, is_difference=True).ci95
    assert 0 < mean - low < mean - student[0]
    assert high > student[1]
    assert estimate(_rng(1).lognormal(0, 2, size=(2, 3))).ci95[0] == 0


@pytest.mark.parametrize(
    ("num_more", "num_fewer", "mcnemars_p"),  # statsmodels 0.15.0, mcnemar(exact=False, correction=False)
    [(9, 1, 0.01141203638600166), (12, 30, 0.00547855324254737), (3, 0, 0.08326451666355042)],
)
def test_p_of_a_difference_of_one_run_is_mcnemars(num_more: int, num_fewer: int, mcnemars_p: float) -> None:
    found = estimate(_differences(num_more, num_fewer, 100), is_difference=True)
    assert found.mean == pytest.approx((num_more - num_fewer) / 100)
    assert found.p == pytest.approx(mcnemars_p, rel=1e-9)


@pytest.mark.parametrize(("num_more", "num_fewer"), [(9, 1), (2, 5), (3, 0), (20, 20)])
def test_difference_of_one_run_is_the_score_interval_by_brute_force(num_more: int, num_fewer: int) -> None:
    num_images, reach = 60, 1.959963984540054

    def distance(truth: float) -> float:
        """Return the squared score statistic, with the likelihood maximised by search instead of in closed form."""

        def loss(fewer: float) -> float:
            shares = fewer + truth, fewer, 1 - 2 * fewer - truth
            counts = num_more, num_fewer, num_images - num_more - num_fewer
            return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

        bounds = max(0.0, -truth), (1 - truth) / 2
        fewer = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
        return (num_more - num_fewer - num_images * truth) ** 2 / (num_images * (2 * fewer + truth - truth**2))

    for end in estimate(_differences(num_more, num_fewer, num_images), is_difference=True).ci95:
        assert distance(end) == pytest.approx(reach**2, rel=1e-4)


def test_three_more_and_none_fewer_is_less_sure_of_a_difference_than_of_an_accuracy() -> None:
    table = _differences(3, 0, 100)
    assert estimate(table).ci95[0] > 0
    assert estimate(table, is_difference=True).ci95[0] < 0
    assert estimate(_differences(3, 1, 100)) == estimate(_differences(3, 1, 100), is_difference=True)


# --- nothing varies


@pytest.mark.parametrize("num_runs", [1, 3])
def test_equal_cells_have_an_interval_that_is_not_without_width(num_runs: int) -> None:
    z2 = 1.959963984540054**2
    right, same = np.ones((num_runs, 50)), np.zeros((num_runs, 50))
    assert estimate(right).ci95 == pytest.approx((50 / (50 + z2), 1.0))
    assert estimate(same).ci95 == pytest.approx((0.0, z2 / (50 + z2)))
    assert estimate(same, is_difference=True).ci95 == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)))
    assert estimate(same, is_difference=True).p == 1


def test_equal_numbers_are_what_they_are() -> None:
    same = np.zeros((2, 50))
    assert estimate(same, is_difference=True, is_loss=True) == Estimate(0.0, (0.0, 0.0), 0.0, 1.0)
    assert estimate_folds([same, same], is_difference=True, is_loss=True) == Estimate(0.0, (0.0, 0.0), 0.0, 1.0)
    assert estimate(np.full((3, 7), 0.3)).ci95 == pytest.approx((0.3, 0.3))
    assert estimate(np.zeros((3, 7)) + 0.0, is_difference=True).mean == 0


def test_one_image_is_over_runs_alone_and_one_number_says_next_to_nothing() -> None:
    values = np.array([0.3, 0.4, 0.35])
    assert estimate(values[:, None]).ci95 == pytest.approx(t_interval(values))
    assert estimate(np.array([[0.25]]), is_difference=True) == Estimate(0.25, (-4.5, 5.0), 0.0, 1.0)
    assert estimate(np.array([[1.0]])).ci95 == pytest.approx(wilson_interval(1, 1))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_cell_that_is_not_finite_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        estimate(np.array([[0.1, wrong]]))
    with pytest.raises(ValueError, match="not finite"):
        estimate_folds([np.array([[0.1]]), np.array([[wrong]])])


# --- several runs


def test_variance_is_that_of_the_analysis_of_variance() -> None:
    # statsmodels 0.15.0, anova_lm(ols("y ~ C(run) + C(image)")), of a table whose runs are equal: mean squares of 0
    # for runs, 14 for images, 4 / 3 for the rest; half of the rest counts for runs
    table = np.array([[3.0, 5, 4, 8], [2, 6, 3, 9], [4, 4, 5, 7]])
    assert spread_of(table).variance == pytest.approx((2 / 3 + 14 - 4 / 3) / 12)
    shifted = table + 3 * np.arange(3)[:, None]  # runs of means 0, 3 and 6 more: 4 * 9
    assert spread_of(shifted).variance == pytest.approx((36 + 14 - 4 / 3) / 12)
    assert spread_of(shifted).run_share == pytest.approx(36 / (36 + 14 - 4 / 3))


def test_variance_is_without_bias_where_runs_and_images_differ() -> None:
    rng, means, variances = _rng(), [], []
    for _ in range(400):
        table = 0.3 * rng.normal(size=(4, 1)) + 0.9 * rng.normal(size=(1, 12)) + 0.5 * rng.normal(size=(4, 12))
        means.append(table.mean())
        variances.append(spread_of(table).variance)
    truth = 0.09 / 4 + 0.81 / 12 + 0.25 / 48
    assert np.mean(variances) == pytest.approx(truth, rel=0.08)
    assert np.var(means) == pytest.approx(truth, rel=0.2)


def test_runs_that_alone_differ_have_students_interval() -> None:
    rows = np.array([0.1, 0.5, 0.3, 0.2])
    assert estimate(np.repeat(rows[:, None], 9, axis=1)).ci95 == pytest.approx(t_interval(rows), rel=1e-9)


def test_images_that_alone_differ_have_that_of_one_run() -> None:
    row = _rng().normal(size=(1, 30))
    once, often = estimate(row, is_difference=True), estimate(np.repeat(row, 5, axis=0), is_difference=True)
    assert once.ci95 == pytest.approx(often.ci95)
    assert once.p == pytest.approx(often.p)


def test_the_bootstrap_agrees_where_images_alone_differ() -> None:
    table = np.repeat(_rng(4).normal(0.1, 1, size=(1, 150)), 4, axis=0)
    (low, high), found = PigeonholeBootstrap(150, seed=0).interval(table), estimate(table, is_difference=True)
    assert found.ci95 == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.mark.parametrize("num_runs", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["paired", "loss"])
def test_p_is_below_5_percent_exactly_where_0_is_outside(num_runs: int, kind: str) -> None:
    rng, sides = _rng(num_runs), set()
    for _ in range(15):
        shift = rng.normal() * 0.7
        table = shift + 0.2 * rng.normal(size=(num_runs, 1)) + rng.normal(size=(num_runs, 30))
        found = estimate(np.sign(np.round(table)) if kind == "paired" else table, is_difference=True)
        is_outside = not found.ci95[0] <= 0 <= found.ci95[1]
        assert (found.p < 0.05) == is_outside
        assert found.ci95[0] <= found.mean <= found.ci95[1]
        sides.add(is_outside)
    assert sides == {False, True}


def test_a_difference_turned_round_changes_its_sign() -> None:
    table = np.sign(np.round(_rng().normal(0.3, 0.6, size=(3, 40))))
    one, other = estimate(table, is_difference=True), estimate(-table, is_difference=True)
    assert one.mean == -other.mean
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]), abs=1e-12)


def test_p_is_the_reach_turned_round() -> None:
    for spread in (Spread(1, 0, 0, math.inf), Spread(1, 0.4, 2, 30), Spread(1, 1, 1, 5)):
        for p in (0.9, 0.05, 1e-4, 1e-12):
            assert spread.p_of(-spread.reach(p)) == pytest.approx(p, rel=1e-6)
    assert Spread(1, 0, 0, math.inf).p_of(3) == pytest.approx(2 * scipy.stats.norm.sf(3))
    assert Spread(1, 1, 3, math.inf).p_of(3) == pytest.approx(2 * scipy.stats.t.sf(3, 3))


def test_paired_ends_stay_within_what_is_possible() -> None:
    assert paired_ends(1.0, 1.0, 4, 1.96)[1] == 1
    assert paired_ends(-1.0, 1.0, 4, 1.96)[0] == -1
    assert -1 <= paired_ends(0.5, 0.5, 2, 12.7)[0] <= 0.5 <= paired_ends(0.5, 0.5, 2, 12.7)[1] <= 1


# --- parts of a cross-validation


def test_parts_of_one_size_have_students_interval_over_their_means() -> None:
    rng = _rng()
    parts = [part + rng.normal(0, 0.1, size=(2, 20)) for part in (0.1, 0.9, 0.4, 0.6)]
    means = np.array([part.mean() for part in parts])
    found = estimate_folds(parts)
    assert found.mean == pytest.approx(means.mean())
    assert found.ci95 == pytest.approx(t_interval(means), rel=1e-9)


def test_parts_that_differ_are_less_sure_than_their_images() -> None:
    alike = [(np.arange(50) % 5 > 0)[None]] * 4
    apart = [(np.arange(50) < number)[None] for number in (50, 50, 40, 20)]
    assert estimate_folds(alike).mean == estimate_folds(apart).mean == 0.8
    (low, high), (lower, higher) = estimate_folds(alike).ci95, estimate_folds(apart).ci95
    assert lower < low - 0.1
    assert higher > high + 0.05
    assert (low, high) == pytest.approx(wilson_interval(160, 200), abs=0.03)


def test_variance_of_parts_of_different_sizes_is_weighted_by_their_images() -> None:
    values = [np.full((1, 30), 0.1), np.full((1, 10), 0.9), np.full((1, 20), 0.4)]
    mean, weights = 20 / 60, np.array([30, 10, 20]) / 60
    by_hand = 3 / 2 * (weights**2 * (np.array([0.1, 0.9, 0.4]) - mean) ** 2).sum()
    found = estimate_folds(values, is_difference=True)
    assert found.mean == pytest.approx(mean)
    assert found.standard_error == pytest.approx(by_hand**0.5)


def test_parts_count_by_their_images() -> None:
    parts = [np.zeros((1, 10)), np.ones((1, 30))]
    assert estimate_folds(parts).mean == 0.75
    assert estimate_folds([np.ones((1, 10))] * 5).ci95 == pytest.approx(wilson_interval(50, 50))
    with pytest.raises(ValueError, match="one part"):
        estimate_folds(parts[:1])


# --- calibration


def _shares(num_runs: int, num_images: int, *, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = _rng(seed)
    shares = rng.dirichlet(np.full(4, 0.4), size=(num_runs, num_images))
    return list(shares), np.where(rng.random(num_images) < 0.6, shares[0].argmax(axis=1), 0)


def _ece(shares: Sequence[np.ndarray], labels: np.ndarray, others: Sequence[np.ndarray] = ()) -> Estimate:
    runs, against = ([calibration_of(one, labels, seed=0) for one in group] for group in (shares, others))
    return ece_estimate(runs, against, seed=0)


def test_calibration_error_is_the_mean_of_the_runs() -> None:
    shares, labels = _shares(3, 80)
    errors = [expected_calibration_error(share, labels) for share in shares]
    found = _ece(shares, labels)
    assert found.mean == pytest.approx(np.mean(errors))
    assert 0 <= found.ci95[0] < found.mean <= found.ci95[1] <= 1
    paired = _ece(shares[:2], labels, shares[1:])
    assert paired.mean == pytest.approx((errors[0] - errors[2]) / 2)
    assert (paired.p < 0.05) == (not paired.ci95[0] <= 0 <= paired.ci95[1])
    assert _ece(shares, labels, shares) == Estimate(0.0, (0.0, 0.0), 0.0, 1.0)


def test_calibration_replicates_are_the_errors_of_the_images_drawn() -> None:
    shares, labels = _shares(2, 50)
    runs = [calibration_of(one, labels, seed=3) for one in shares]
    parts, replicates, _ = calibration_errors(runs, seed=3)
    bootstrap = drawn_bootstrap(50, seed=3)
    assert parts.mean(axis=1) == pytest.approx([expected_calibration_error(share, labels) for share in shares])
    for replicate in range(5):
        images = np.repeat(np.arange(50), bootstrap.image_counts[replicate])
        errors = [expected_calibration_error(share[images], labels[images]) for share in shares]
        expected = bootstrap.seed_counts(2)[replicate] @ errors / 2
        assert replicates[replicate] == pytest.approx(expected, rel=1e-5)


def test_calibration_interval_holds_the_truth() -> None:
    rng, num_held = _rng(), 0
    for _ in range(40):  # always 0.8 sure and right in 65 of 100: an error of 0.15
        labels = (rng.random(300) > 0.65).astype(np.int64)
        low, high = _ece([np.tile([0.8, 0.2], (300, 1))], labels).ci95
        num_held += low <= 0.15 <= high
    assert num_held >= 34  # fewer of 40 in 1 of 300 cases


def test_calibration_interval_of_a_calibrated_run_reaches_down_to_0() -> None:
    rng, lows = _rng(), []
    for _ in range(20):
        sure = rng.uniform(0.5, 1, size=200)
        labels = (rng.random(200) > sure).astype(np.int64)
        found = _ece([np.stack([sure, 1 - sure], axis=1)], labels)
        assert found.mean > 0.01  # by chance alone
        lows.append(found.ci95[0])
    assert lows.count(0.0) >= 17  # fewer of 20 in 1 of 600 cases


# --- corrections and plans


@pytest.mark.parametrize(
    ("p_values", "corrected"),  # statsmodels 0.15.0, multipletests(method="holm")
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.0001, 0.02, 0.02, 0.9, 0.013], [1.0, 0.0006, 0.08, 0.08, 1.0, 0.065]),
        ([0.3], [0.3]),
        ([1.0, 0.6, 0.04], [1.0, 1.0, 0.12]),
        ([], []),
    ],
)
def test_holm_is_statsmodels(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


def test_smallest_difference__of_one_run_by_hand() -> None:
    found = smallest_difference(num_runs=1, num_images=1000, disagreement=0.1, seed_sd=0.5)
    # seen against sqrt(q / M), it varies by sqrt((q - d^2) / M)
    expected = (1.959964 * math.sqrt(0.1) + 0.841621 * math.sqrt(0.1 - found**2)) / math.sqrt(1000)
    assert found == pytest.approx(expected, rel=1e-5)


def test_smallest_difference__shrinks_with_images_runs_and_agreement() -> None:
    def found(**changed: float) -> float:
        return smallest_difference(
            **({"num_runs": 5, "num_images": 500, "disagreement": 0.1, "seed_sd": 0.01} | changed)
        )  # type: ignore[arg-type]

    assert found(num_images=2000) < found()
    assert found(num_runs=10) < found() < found(num_runs=3)
    assert found(shared=0.3) < found() < found(seed_sd=0.03)
    assert found(disagreement=0.02) < found()
    assert found(num_images=3, num_runs=2) == pytest.approx(1.0)  # no difference would be told


def test_variance_parts_are_those_that_made_the_table() -> None:
    rng = _rng()
    latent = 0.1 * rng.normal(size=(40, 1)) + rng.normal(size=(1, 2000)) + 0.8 * rng.normal(size=(40, 2000))
    table = (latent > 1.6).astype(np.float64) - (latent < -1.6)
    parts = variance_parts(table)
    assert parts.disagreement == pytest.approx(np.abs(table).mean())
    by_seed = table[:, :1000].mean(axis=1), table[:, 1000:].mean(axis=1)  # what two halves of the images have in common
    assert parts.seed_sd**2 == pytest.approx(np.cov(*by_seed)[0, 1], rel=0.25)
    in_common = np.mean([np.cov(table[run], table[run + 1])[0, 1] for run in range(39)]) / table.var()
    assert parts.shared == pytest.approx(in_common, rel=0.1)
    assert variance_parts(table[:1])[1:] == (0.0, 1.0)


def test_smallest_difference__is_told_in_four_of_five() -> None:
    parts = VarianceParts(0.2, 0.02, 0.5)
    told = smallest_difference(num_runs=4, num_images=300, **parts._asdict())
    assert chance_to_tell(told, parts, num_runs=4, num_images=300) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.slow
def test_chance_to_tell_is_what_simulation_says() -> None:
    rng, parts, times = _rng(), VarianceParts(0.2, 0.02, 0.5), 1500
    told = smallest_difference(num_runs=4, num_images=300, **parts._asdict())
    noise = math.sqrt((parts.disagreement - told**2) / 2)
    num_told = 0
    for _ in range(times):
        cells = noise * (rng.normal(size=(1, 300)) + rng.normal(size=(4, 300)))
        table = told + parts.seed_sd * rng.normal(size=(4, 1)) + cells
        num_told += estimate(table, is_difference=True).p < 0.05
    assert num_told / times == pytest.approx(0.8, abs=0.05)


def test_large_tables_are_quick() -> None:
    import time

    table = (_rng().random((10, 50_000)) < 0.8).astype(np.float64)
    start = time.process_time()
    estimate(table)
    assert time.process_time() - start < 0.5
