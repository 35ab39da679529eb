"""Intervals against SciPy, closed forms, slow loops and simulations; similarities against the full matrix."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics.pairwise import cosine_similarity

import vitctl.evaluation.resampling as statistics
from vitctl.evaluation.fewshot_statistics import (
    cosine_similarities,
    episode_interval,
    paired_difference,
    summarise,
)
from vitctl.evaluation.resampling import PigeonholeBootstrap, t_interval
from vitctl.results.result import plain


def _table(
    num_seeds: int, num_images: int, *, seed: int = 0, seed_sd: float = 0.05, image_sd: float = 0.25
) -> np.ndarray:
    """Return zeros and ones (S, M) that are right with chance 0.6, more so for easy images and lucky seeds."""
    rng = np.random.default_rng(seed)
    chance = 0.6 + seed_sd * rng.normal(size=(num_seeds, 1)) + image_sd * rng.normal(size=(1, num_images))
    return (rng.random((num_seeds, num_images)) < chance).astype(np.float64)


def _width(interval: tuple[float, float] | list[float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


# --- t interval


@pytest.mark.parametrize("confidence", [0.95, 0.68])
@pytest.mark.parametrize("values", [[0.5, 0.6], [0.71, 0.68, 0.75], [0.1, 0.9, 0.3, 0.35, 0.99], [-0.2, 0.1, 0.0]])
def test_t_interval_is_scipys(values: list[float], confidence: float) -> None:
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert t_interval(np.array(values), confidence=confidence) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_t_interval__of_two_values_by_hand() -> None:
    # sd / sqrt(2) is 0.05, t with one degree of freedom is tan(0.475 pi)
    half = 0.05 * math.tan(0.475 * math.pi)
    assert t_interval(np.array([0.5, 0.6])) == pytest.approx((0.55 - half, 0.55 + half), rel=1e-12)


@pytest.mark.parametrize("values", [[], [0.7]])
def test_t_interval__needs_two_seeds(values: list[float]) -> None:
    assert t_interval(np.array(values)) is None


def test_t_interval__equal_values_have_no_width() -> None:
    assert t_interval(np.full(5, 0.25)) == (0.25, 0.25)


# --- bootstrap


def _slow_means(correct: np.ndarray, bootstrap: PigeonholeBootstrap, *, num_replicates: int) -> list[float]:
    """Return the first replicates from the definition: a table of the drawn rows and columns, averaged."""
    seed_counts = bootstrap.seed_counts(len(correct))
    means = []
    for replicate in range(num_replicates):
        rows = np.repeat(np.arange(len(correct)), seed_counts[replicate])
        columns = np.repeat(np.arange(correct.shape[1]), bootstrap.image_counts[replicate])
        means.append(float(np.mean([[correct[row, column] for column in columns] for row in rows])))
    return means


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_replicates_are_the_means_of_the_drawn_cells(num_seeds: int) -> None:
    bootstrap = PigeonholeBootstrap(40, seed=3)
    for correct in (_table(num_seeds, 40), np.random.default_rng(1).random((num_seeds, 40))):
        slow = _slow_means(correct, bootstrap, num_replicates=60)
        np.testing.assert_allclose(bootstrap.means(correct)[:60], slow, rtol=1e-6)


def test_replicates_draw_as_many_seeds_and_images_as_there_are() -> None:
    bootstrap = PigeonholeBootstrap(70, seed=0)
    assert bootstrap.image_counts.shape == (2000, 70)
    assert set(bootstrap.image_counts.sum(axis=1).tolist()) == {70}
    assert set(bootstrap.seed_counts(4).sum(axis=1).tolist()) == {4}
    assert bootstrap.seed_counts(1).tolist() == [[1]] * 2000


def test_draws_are_uniform_and_independent() -> None:
    bootstrap = PigeonholeBootstrap(20, seed=0)
    images, seeds = bootstrap.image_counts.astype(float), bootstrap.seed_counts(20)
    for counts in (images, seeds):  # variance 0.95, so a mean over 2,000 has a standard deviation of 0.022
        assert np.abs(counts.mean(axis=0) - 1).max() < 5 * 0.022
        assert counts.var() == pytest.approx(0.95, rel=0.05)
    across = np.corrcoef(images, seeds, rowvar=False)[:20, 20:]
    assert np.abs(across).max() < 5 / math.sqrt(2000)


def test_interval__of_one_seed_is_the_standard_error_of_a_proportion() -> None:
    correct = np.zeros((1, 400))
    correct[0, :300] = 1
    low, high = PigeonholeBootstrap(400, seed=0).interval(correct)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.15 * half)


def test_interval__of_one_seed_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(5).beta(4, 2, size=150)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = PigeonholeBootstrap(150, seed=0).interval(values[None])
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.15 * (theirs.high - theirs.low) / 2)


@pytest.mark.parametrize(("seed_sd", "image_sd"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.4), (0.1, 0.2)])
@pytest.mark.parametrize("num_seeds", [1, 3, 10])
def test_variance_of_the_replicates_is_the_closed_form(num_seeds: int, seed_sd: float, image_sd: float) -> None:
    correct = _table(num_seeds, 200, seed_sd=seed_sd, image_sd=image_sd)
    rows, columns = correct.mean(axis=1, keepdims=True), correct.mean(axis=0, keepdims=True)
    rest = correct - rows - columns + correct.mean()
    expected = (rows.var() / num_seeds) + (columns.var() / 200) + rest.var() / (num_seeds * 200)
    found = PigeonholeBootstrap(200, seed=0).means(correct).var()
    assert found == pytest.approx(expected, rel=5 * math.sqrt(2 / 2000))  # five standard deviations of 2,000 draws


def test_variance__of_independent_cells_is_almost_three_times_the_truth() -> None:
    rng = np.random.default_rng(0)
    bootstrap = PigeonholeBootstrap(100, seed=0)
    found = np.mean([bootstrap.means((rng.random((10, 100)) < 0.7).astype(float)).var() for _ in range(40)])
    assert found / (0.7 * 0.3 / 1000) == pytest.approx(0.9 + 0.99 + 0.9 * 0.99, rel=0.1)


def _coverage(num_seeds: int, *, seed_sd: float, image_sd: float, noise_sd: float) -> float:
    """Return how often the interval holds the true mean, over 300 tables of 100 images."""
    rng = np.random.default_rng(0)
    bootstrap = PigeonholeBootstrap(100, seed=0)
    num_covered = 0
    for _ in range(300):
        seeds, images = seed_sd * rng.normal(size=(num_seeds, 1)), image_sd * rng.normal(size=(1, 100))
        low, high = bootstrap.interval(seeds + images + noise_sd * rng.normal(size=(num_seeds, 100)))
        num_covered += low <= 0 <= high
    return num_covered / 300


def test_coverage__of_one_seed_is_nominal() -> None:
    assert _coverage(1, seed_sd=0.0, image_sd=1.0, noise_sd=0.0) == pytest.approx(0.95, abs=0.035)


def test_coverage__of_seeds_and_images_and_noise_is_at_least_nominal() -> None:
    assert _coverage(5, seed_sd=0.05, image_sd=0.5, noise_sd=1.0) > 0.95


def test_coverage__of_few_seeds_that_alone_vary_is_below_nominal() -> None:
    # the limit that the docstring states
    assert _coverage(5, seed_sd=1.0, image_sd=0.0, noise_sd=0.0) == pytest.approx(0.88, abs=0.05)


def test_intervals_grow_with_the_spread_between_seeds() -> None:
    bootstrap = PigeonholeBootstrap(100, seed=0)
    images = np.random.default_rng(0).uniform(0.4, 0.6, size=100)
    summaries = [summarise(images + spread * np.array([[-1], [0], [1]]), bootstrap) for spread in (0.0, 0.1, 0.2, 0.4)]
    for name in ("top1_ci95", "top1_ci95_support"):
        widths = [_width(summary[name]) for summary in summaries]
        assert widths == sorted(widths)
        assert len(set(widths)) == 4


def test_intervals_shrink_with_more_images_and_less_confidence() -> None:
    correct = _table(3, 800)
    few, many = PigeonholeBootstrap(100, seed=0), PigeonholeBootstrap(800, seed=0)
    assert _width(many.interval(correct)) < 0.7 * _width(few.interval(correct[:, :100]))
    assert _width(many.interval(correct, confidence=0.5)) < 0.5 * _width(many.interval(correct))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_interval__of_equal_cells_has_no_width(value: float) -> None:
    assert PigeonholeBootstrap(30, seed=0).interval(np.full((3, 30), value)) == (value, value)


def test_interval__of_one_image_is_over_seeds_alone() -> None:
    bootstrap = PigeonholeBootstrap(1, seed=0)
    assert bootstrap.interval(np.array([[0.25]])) == (0.25, 0.25)
    # each of three draws hits the first seed in one replicate of 27, more than the 2.5 % that lie outside
    assert bootstrap.interval(np.array([[0.0], [0.5], [1.0]])) == (0.0, 1.0)


def test_interval__of_booleans_is_that_of_ones_and_zeros() -> None:
    bootstrap = PigeonholeBootstrap(50, seed=0)
    assert bootstrap.interval(_table(3, 50) > 0) == bootstrap.interval(_table(3, 50))


def test_interval__refuses_a_table_of_other_images() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        PigeonholeBootstrap(50, seed=0).interval(_table(3, 49))


def test_bootstrap_is_a_function_of_its_seed() -> None:
    correct = _table(4, 60)
    first, again, other = (PigeonholeBootstrap(60, seed=seed) for seed in (7, 7, 8))
    first.interval(_table(2, 60))  # what was asked before changes nothing
    assert first.means(correct).tolist() == again.means(correct).tolist() == first.means(correct).tolist()
    assert first.means(correct).tolist() != other.means(correct).tolist()


def test_draws_are_the_same_on_every_machine_and_in_every_version() -> None:
    # recorded once (numpy 2.4)
    bootstrap = PigeonholeBootstrap(10, seed=0)
    assert bootstrap.image_counts[0].tolist() == [2, 1, 0, 2, 0, 0, 0, 1, 3, 1]
    assert bootstrap.seed_counts(5)[:2].tolist() == [[1, 1, 1, 1, 1], [1, 3, 1, 0, 0]]


def test_blocks_do_not_change_the_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = _table(3, 60)
    expected = PigeonholeBootstrap(60, seed=0).means(correct).tolist()
    monkeypatch.setattr(statistics, "BLOCK", 7)
    assert PigeonholeBootstrap(60, seed=0).means(correct).tolist() == expected


@pytest.mark.parametrize(("most_bytes", "expected"), [(10**9, 2000), (30_000, 300), (100, 200)])
def test_large_test_sets_have_fewer_replicates(most_bytes: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_COUNT_BYTES", most_bytes)
    bootstrap = PigeonholeBootstrap(100, seed=0)
    assert bootstrap.means(_table(2, 100)).shape == (expected,)
    assert bootstrap.image_counts.nbytes == 100 * expected


# --- summary


def test_summary_by_hand() -> None:
    correct = np.zeros((4, 10))
    for row, num_correct in enumerate((5, 6, 7, 10)):
        correct[row, :num_correct] = 1
    bootstrap = PigeonholeBootstrap(10, seed=0)
    summary = summarise(correct, bootstrap)
    assert summary["top1_per_seed"] == (0.5, 0.6, 0.7, 1.0)
    assert summary["top1_mean"] == pytest.approx(0.7, rel=1e-15)
    assert summary["top1_mean_first3"] == pytest.approx(0.6, rel=1e-15)
    assert summary["top1_std"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0 + 0.09) / 3), rel=1e-14)
    assert summary["top1_ci95"] == bootstrap.interval(correct)
    theirs = scipy.stats.ttest_1samp([0.5, 0.6, 0.7, 1.0], 0).confidence_interval()
    assert theirs.high > 1
    assert summary["top1_ci95_support"] == pytest.approx([theirs.low, 1.0], rel=1e-12)


def test_summary__support_interval_stays_a_fraction() -> None:
    correct = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert summarise(correct, PigeonholeBootstrap(2, seed=0))["top1_ci95_support"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("num_seeds", "absent"),
    [
        (1, {"top1_std", "top1_ci95_support", "top1_mean_first3"}),
        (2, {"top1_mean_first3"}),
        (3, set()),
    ],
)
def test_summary__what_few_seeds_cannot_say_is_none(num_seeds: int, absent: set[str]) -> None:
    summary = summarise(_table(num_seeds, 30), PigeonholeBootstrap(30, seed=0))
    assert {name for name, value in summary.items() if value is None} == absent


@pytest.mark.parametrize(
    "table", [lambda: _table(3, 20).astype(np.float32), lambda: np.ones((2, 20)), lambda: _table(1, 20) > 0]
)
def test_summary_and_difference_are_plain_json(table: Callable[[], np.ndarray]) -> None:
    bootstrap = PigeonholeBootstrap(20, seed=0)
    for document in (summarise(table(), bootstrap), paired_difference(table(), table(), bootstrap)):
        assert json.loads(json.dumps(document, allow_nan=False)) == plain(document)


# --- paired difference


def _two_models(num_seeds: int = 5, num_images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables that agree on most images; the first model is some 5 points better."""
    rng = np.random.default_rng(2)
    worse = _table(num_seeds, num_images, image_sd=0.5)
    mended = (rng.random(worse.shape) < 0.12).astype(np.float64)
    return np.maximum(worse, mended), worse


def test_difference__of_a_model_to_itself_is_exactly_nothing() -> None:
    correct = _table(3, 50)
    found = paired_difference(correct, correct.copy(), PigeonholeBootstrap(50, seed=0))
    assert found == {"difference": 0.0, "ci95": (0.0, 0.0), "ci95_support": (0.0, 0.0)}


def test_difference__is_that_of_the_means_on_the_same_replicates() -> None:
    bootstrap = PigeonholeBootstrap(300, seed=0)
    better, worse = _two_models()
    found = paired_difference(better, worse, bootstrap)
    assert found["difference"] == pytest.approx(better.mean() - worse.mean(), rel=1e-12)
    paired = bootstrap.means(better) - bootstrap.means(worse)
    assert found["ci95"] == pytest.approx(np.quantile(paired, [0.025, 0.975]).tolist(), rel=1e-12)
    theirs = scipy.stats.ttest_rel(better.mean(axis=1), worse.mean(axis=1)).confidence_interval()
    assert found["ci95_support"] == pytest.approx([theirs.low, theirs.high], rel=1e-10)


def test_difference__of_models_that_agree_on_most_images_is_surer_than_either_model() -> None:
    bootstrap = PigeonholeBootstrap(300, seed=0)
    better, worse = _two_models()
    found = paired_difference(better, worse, bootstrap)
    assert found["ci95"][0] > 0
    for correct in (better, worse):
        assert _width(found["ci95"]) < 0.7 * _width(bootstrap.interval(correct))
    assert bootstrap.interval(worse)[1] > bootstrap.interval(better)[0]  # unpaired, nothing could be said


def test_difference__turned_round_changes_its_sign() -> None:
    bootstrap = PigeonholeBootstrap(300, seed=0)
    better, worse = _two_models()
    one, other = paired_difference(better, worse, bootstrap), paired_difference(worse, better, bootstrap)
    assert other["difference"] == -one["difference"]
    assert other["ci95"] == pytest.approx([-one["ci95"][1], -one["ci95"][0]], rel=1e-12)


def test_difference__of_one_seed_has_no_support_interval() -> None:
    better, worse = _two_models(num_seeds=1)
    assert paired_difference(better, worse, PigeonholeBootstrap(300, seed=0))["ci95_support"] is None


def test_difference__refuses_tables_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(_table(1, 50), _table(3, 50), PigeonholeBootstrap(50, seed=0))


# --- episodes


def test_episode_interval_by_hand() -> None:
    mean, half = episode_interval(np.array([0.2, 0.4, 0.6, 0.8]))
    assert mean == pytest.approx(0.5, rel=1e-15)
    assert half == pytest.approx(1.96 * math.sqrt(0.05) / 2, rel=1e-14)


def test_episode_interval_is_almost_scipys_standard_error() -> None:
    accuracies = np.random.default_rng(0).binomial(75, 0.6, size=600) / 75
    half = episode_interval(accuracies)[1]
    assert half == pytest.approx(1.96 * scipy.stats.sem(accuracies, ddof=0), rel=1e-12)
    assert half == pytest.approx(_width(t_interval(accuracies)) / 2, rel=0.003)  # t(599) is 1.964


def test_episode_interval__of_one_episode_has_no_width() -> None:
    assert episode_interval(np.array([0.75])) == (0.75, 0.0)


# --- cosine similarity


def _slow_similarities(features: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    matrix = cosine_similarity(features.astype(np.float64))
    pairs = [(i, j) for i in range(len(labels)) for j in range(i)]
    within = [matrix[i, j] for i, j in pairs if labels[i] == labels[j]]
    between = [matrix[i, j] for i, j in pairs if labels[i] != labels[j]]
    return (float(np.mean(within)) if within else None), (float(np.mean(between)) if between else None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [np.arange(40) % 4, np.arange(40) ** 2 % 17 - 3, np.repeat([9, 2], [39, 1])])
def test_cosine_similarities_are_the_full_matrixs(labels: np.ndarray, dtype: type) -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(40, 6)) + rng.normal(size=(60, 6))[labels] * 2).astype(dtype)
    features[[0, 7, 20]] = 0
    assert cosine_similarities(features, labels) == pytest.approx(_slow_similarities(features, labels), rel=1e-10)


def test_cosine_similarities_by_hand() -> None:
    features = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0], [-3.0, 0.0]])
    within, between = cosine_similarities(features, np.array([0, 0, 1, 1]))
    assert within == pytest.approx((math.sqrt(0.5) + 0) / 2, rel=1e-14)
    assert between == pytest.approx((0 - 1 + math.sqrt(0.5) - math.sqrt(0.5)) / 4, rel=1e-14)


def test_cosine_similarities__order_and_length_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 5)), rng.integers(0, 4, size=30)
    order = rng.permutation(30)
    stretched = features[order] * rng.uniform(1e-3, 1e3, size=(30, 1))
    assert cosine_similarities(stretched, labels[order]) == pytest.approx(cosine_similarities(features, labels))


def test_cosine_similarities__where_there_is_no_pair_is_none() -> None:
    features = np.array([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
    assert cosine_similarities(features, np.arange(3)) == (None, pytest.approx(-1 / 3, rel=1e-12))
    assert cosine_similarities(features, np.zeros(3, dtype=int)) == (pytest.approx(-1 / 3, rel=1e-12), None)
    assert cosine_similarities(features[:1], np.zeros(1, dtype=int)) == (None, None)


def test_cosine_similarities__zero_vectors_are_like_nothing() -> None:
    assert cosine_similarities(np.zeros((4, 3)), np.array([0, 0, 1, 1])) == (0.0, 0.0)
    features = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert cosine_similarities(features, np.array([0, 0, 0]))[0] == pytest.approx(1 / 3, rel=1e-15)


def test_cosine_similarities__of_equal_vectors_is_never_above_one() -> None:
    for width in range(1, 60):
        within, between = cosine_similarities(np.full((9, width), 0.1), np.array([0, 1, 2] * 3))
        assert within == pytest.approx(1.0, rel=1e-12)
        assert between == pytest.approx(1.0, rel=1e-12)
        assert within <= 1
        assert between <= 1
