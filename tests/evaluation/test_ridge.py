"""Ridge classifiers against big_vision's own predictions, scikit-learn, and refits row by row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vitctl.evaluation import ridge
from vitctl.evaluation.fewshot import Probe, linear_predictions
from vitctl.evaluation.ridge import (
    LinearClassifier,
    RidgeStatistics,
    fit_ridge,
    leave_one_out,
    predict_classes,
    solve_dual,
    solve_primal,
    standardise_support,
)
from vitctl.evaluation.supports import draw_support
from vitctl.settings.words import BALANCES

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_KEYS = [f"s{seed}_k{shots}_l{l2}_pred" for seed in (0, 1, 2) for shots in (1, 5, 10, 25) for l2 in (1, 1024)]
PENALTIES = (2.0**-10, 0.3, 32.0, 1024.0, 2.0**19)

# images per class, width
SIZES: dict[str, tuple[list[int], int]] = {
    "fewer rows than features": ([3, 3, 3, 3], 30),
    "as many rows as features": ([10, 10, 10], 30),
    "more rows than features": ([25, 25, 25], 14),
    "two classes": ([6, 6], 20),
    "two classes, many rows": ([20, 21], 8),
    "a class without rows": ([5, 0, 7, 4, 0], 25),
    "a class without rows, many rows": ([15, 0, 17], 9),
    "uneven": ([40, 1, 7, 13], 15),
    "uneven, few rows": ([9, 1, 4], 40),
    "one row": ([0, 1], 5),
}
sizes = pytest.mark.parametrize(("counts", "width"), SIZES.values(), ids=SIZES.keys())


def _problem(counts: list[int], width: int, *, num_test: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return support features (float32, of mixed means and scales), shuffled labels, and test features."""
    rng = np.random.default_rng([len(counts), width])
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = rng.normal(size=(len(counts), width))
    scales, means = 10.0 ** rng.uniform(-2, 2, size=width), rng.normal(size=width)
    features = ((centres[labels] + rng.normal(size=(len(labels), width)) + means) * scales).astype(np.float32)
    which = rng.integers(len(counts), size=num_test)
    test = ((centres[which] + rng.normal(size=(num_test, width)) + means) * scales).astype(np.float32)
    return features, labels, test


def _row_weights(labels: np.ndarray) -> np.ndarray:
    """Return weights by which every class that is present counts alike, together N."""
    counts = np.bincount(labels)
    return np.array([len(labels) / ((counts > 0).sum() * counts[label]) for label in labels])


def _standardised(
    features: np.ndarray, others: np.ndarray, *, weights: np.ndarray | None = None, has_constant: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as big_vision does: by the support's mean and deviation + 1e-5, with a column of 100."""
    mean = np.average(features.astype(np.float64), axis=0, weights=weights)
    variance = np.average((features.astype(np.float64) - mean) ** 2, axis=0, weights=weights)
    both = [(rows.astype(np.float64) - mean) / (np.sqrt(variance) + 1e-5) for rows in (features, others)]
    if has_constant:
        both = [np.hstack([rows, np.full((len(rows), 1), 100.0)]) for rows in both]
    return both[0], both[1]


def _sklearn_scores(
    features: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    l2: float,
    *,
    weights: np.ndarray | None = None,
    has_constant: bool = True,
) -> np.ndarray:
    rows, test_rows = _standardised(features, test, weights=weights, has_constant=has_constant)
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    model = Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(rows, targets, sample_weight=weights)
    return model.predict(test_rows).reshape(len(test), num_classes)


def _statistics(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, origin: np.ndarray | None = None
) -> RidgeStatistics:
    statistics = RidgeStatistics(num_classes, features.mean(axis=0, dtype=np.float64) if origin is None else origin)
    statistics.add(features, labels)
    return statistics


def _all_ways(
    features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float, *, origin: np.ndarray | None = None
) -> dict[str, LinearClassifier]:
    support = standardise_support(features, labels, num_classes=num_classes)
    return {
        "statistics": _statistics(features, labels, num_classes, origin=origin).solve(l2),
        "primal": solve_primal(support, l2),
        "dual": solve_dual(support, l2),
        "smaller": fit_ridge(support, l2),
    }


def _close(found: np.ndarray, expected: np.ndarray, *, within: float = 1e-8, why: str = "") -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=within, err_msg=why)


# --- big_vision's own predictions


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    names = ("fewshot_features", "fewshot_predictions")
    features, predictions = (dict(np.load(GOLDEN / f"{name}.npz")) for name in names)
    return features, predictions


def test_golden__has_the_keys_that_are_checked(golden: Any) -> None:
    assert set(golden[1]) == set(GOLDEN_KEYS)
    assert len(GOLDEN_KEYS) == 24


@pytest.mark.parametrize("key", GOLDEN_KEYS)
def test_big_visions_predictions__by_every_solver(golden: Any, key: str) -> None:
    features, predictions = golden
    seed, shots, l2 = (int(part[1:]) for part in key.split("_")[:3])
    rows = draw_support(features["y_train"], num_classes=6, seed=seed).rows(shots)
    assert len(rows) == 6 * shots
    support, labels = features["x_train"][rows], features["y_train"][rows]
    for name, linear in _all_ways(support, labels, 6, float(l2)).items():
        assert (linear.scores(features["x_test"]).argmax(axis=1) == predictions[key]).all(), name
        assert (predict_classes(features["x_test"], [linear])[0] == predictions[key]).all(), name


def test_big_visions_predictions__by_one_call_for_all(golden: Any) -> None:
    features, predictions = golden
    draws = [draw_support(features["y_train"], num_classes=6, seed=seed, most=25) for seed in (0, 1, 2)]
    found = linear_predictions(
        features["x_train"], features["y_train"], features["x_test"], draws, shots=[25, 1, 10, 5],
        probe=Probe("ridge", l2=(1.0, 1024.0)), num_classes=6,
    )  # fmt: skip
    by_key = {f"s{one.seed}_k{one.shots}_l{one.l2:g}_pred": one.predicted for one in found}
    assert set(by_key) == set(predictions)
    assert [key for key in by_key if (by_key[key] != predictions[key]).any()] == []


# --- against scikit-learn


@sizes
def test_ridge_is_sklearns_with_a_column_of_100(counts: list[int], width: int) -> None:
    features, labels, test = _problem(counts, width)
    for l2 in PENALTIES:
        expected = _sklearn_scores(features, labels, test, len(counts), l2)
        for name, linear in _all_ways(features, labels, len(counts), l2).items():
            assert linear.weights.shape == (width, len(counts))
            _close(linear.scores(test), expected, why=f"{name}, l2 {l2}")


@sizes
@pytest.mark.parametrize("balance", ["intercept", "weighted"])
def test_balance_is_sklearns(counts: list[int], width: int, balance: str) -> None:
    features, labels, test = _problem(counts, width)
    weights = _row_weights(labels) if balance == "weighted" else None
    support = standardise_support(features, labels, num_classes=len(counts), balance=balance)
    for l2 in PENALTIES:
        expected = _sklearn_scores(
            features, labels, test, len(counts), l2, weights=weights, has_constant=balance == "weighted"
        )
        for solve in (solve_primal, solve_dual, fit_ridge):
            _close(solve(support, l2).scores(test), expected, why=f"{solve.__name__}, l2 {l2}")
        if balance == "intercept":
            _close(_statistics(features, labels, len(counts)).solve(l2, has_intercept=False).scores(test), expected)


def test_balance__makes_a_difference_where_classes_are_uneven() -> None:
    features, labels, test = _problem([40, 1, 7, 13], 15)
    scores = [
        fit_ridge(standardise_support(features, labels, num_classes=4, balance=balance), 8.0).scores(test)
        for balance in BALANCES
    ]
    assert len({tuple(one.argmax(axis=1)) for one in scores}) == 3
    share = 2 * np.array([40, 1, 7, 13]) / 61 - 1  # what the column of 100 adds, but for 8 parts in 610,000
    _close(scores[0] - scores[1], np.tile(share, (len(test), 1)), within=1e-4)


@pytest.mark.parametrize("balance", ["intercept", "weighted"])
def test_balance__of_even_classes_changes_no_prediction(balance: str) -> None:
    features, labels, test = _problem([8, 8, 8], 10)
    plain, balanced = (
        fit_ridge(standardise_support(features, labels, num_classes=3, balance=how), 1.0).scores(test)
        for how in ("none", balance)
    )
    assert (plain.argmax(axis=1) == balanced.argmax(axis=1)).all()


def test_weighted__is_a_support_with_repeated_rows() -> None:
    # 4 and 12 rows: each of the 4 three times is the same as weights of 2 and 2/3, but for N (24 against 16)
    features, labels, test = _problem([4, 12], 6)
    repeated = np.repeat(np.arange(16), np.where(labels == 0, 3, 1))
    weighted = fit_ridge(standardise_support(features, labels, num_classes=2, balance="weighted"), 2.0)
    even = fit_ridge(standardise_support(features[repeated], labels[repeated], num_classes=2), 3.0)
    _close(weighted.scores(test), even.scores(test), within=1e-10)


def test_standardise_support__by_hand() -> None:
    features = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    support = standardise_support(features, np.array([0, 0, 1]), num_classes=2)
    sd = np.sqrt(8 / 3) + 1e-5
    _close(support.rows, np.array([[-2 / sd, 0], [0, 0], [2 / sd, 0]]), within=1e-15)
    _close(support.mean, np.array([2.0, 5.0]), within=1e-15)
    assert support.counts.tolist() == [2, 1]
    # each class weighs half: rows 3/4, 3/4, 3/2
    weighted = standardise_support(features, np.array([0, 0, 1]), num_classes=2, balance="weighted")
    _close(weighted.mean, np.array([0.25 * 0 + 0.25 * 2 + 0.5 * 4, 5.0]), within=1e-15)
    _close(weighted.roots**2, np.array([0.75, 0.75, 1.5]), within=1e-15)
    assert weighted.counts.tolist() == [1.5, 1.5]
    _close(weighted.targets(), np.array([[1, -1], [1, -1], [-1, 1]]) * weighted.roots[:, None], within=1e-15)


# --- sums over rows


@pytest.mark.parametrize("cuts", [[1], [37], [10, 10, 60], list(range(1, 75))])
def test_statistics__in_pieces(cuts: list[int]) -> None:
    features, labels, test = _problem([25, 25, 25], 14)
    origin = features.mean(axis=0, dtype=np.float64)
    pieces = RidgeStatistics(3, origin)
    for rows, classes in zip(np.split(features, cuts), np.split(labels, cuts), strict=True):
        pieces.add(rows, classes)  # one of them is empty where a cut comes twice
    assert pieces.num_rows == 75
    for l2 in PENALTIES:
        at_once = _statistics(features, labels, 3, origin=origin).solve(l2)
        _close(pieces.solve(l2).scores(test), at_once.scores(test), within=1e-10)


def test_statistics__solving_leaves_them_as_they_are() -> None:
    features, labels, test = _problem([25, 25, 25], 14)
    statistics = _statistics(features[:40], labels[:40], 3)
    first = statistics.solve(1.0).scores(test)
    statistics.leave_one_out(features[:40], labels[:40])
    assert (statistics.solve(1.0).scores(test) == first).all()
    statistics.add(features[40:], labels[40:])
    _close(statistics.solve(1.0).scores(test), _sklearn_scores(features, labels, test, 3, 1.0))


@pytest.mark.parametrize("distance", [0.0, 1.0, -30.0])
def test_statistics__do_not_depend_on_the_origin(distance: float) -> None:
    features, labels, test = _problem([25, 25, 25], 14)
    origin = features.mean(axis=0, dtype=np.float64) + distance * features.std(axis=0, dtype=np.float64)
    for l2 in PENALTIES:
        expected = _sklearn_scores(features, labels, test, 3, l2)
        _close(_statistics(features, labels, 3, origin=origin).solve(l2).scores(test), expected)


def test_statistics__of_nested_supports_are_those_from_scratch() -> None:
    features, labels, test = _problem([30, 30, 18, 3], 10)
    draw = draw_support(labels, num_classes=4, seed=3)
    statistics, before = RidgeStatistics(4, features.mean(axis=0, dtype=np.float64)), 0
    for shots in (1, 5, 12, None):
        added, rows = draw.rows(shots, beyond=before), draw.rows(shots)
        statistics.add(features[added], labels[added])
        before = shots or 0
        assert statistics.num_rows == len(rows)
        expected = _sklearn_scores(features[rows], labels[rows], test, 4, 2.0)
        _close(statistics.solve(2.0).scores(test), expected, why=f"{shots} shots")


# --- features that are hard on the arithmetic


@pytest.mark.parametrize(("counts", "width"), [([20, 20, 20], 12), ([4, 4, 4], 40)])
def test_mean_far_larger_than_the_deviation(counts: list[int], width: int) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), counts)
    small = (rng.normal(size=(len(labels), width)) + labels[:, None] / 2).astype(np.float32)
    small_test = rng.normal(size=(50, width)).astype(np.float32)
    features, test = (small + np.float32(1e4)), (small_test + np.float32(1e4))  # float32: rounds to a thousandth
    for l2 in PENALTIES:
        expected = _sklearn_scores(features - np.float32(1e4), labels, test - np.float32(1e4), 3, l2)  # exact
        found = _all_ways(features, labels, 3, l2)
        if len(labels) < width:
            del found["primal"]  # not meant for few rows: with the least penalty it is 6e-8 off
        for name, linear in found.items():
            _close(linear.scores(test), expected, why=f"{name}, l2 {l2}")
            assert (predict_classes(test, [linear])[0] == expected.argmax(axis=1)).all()


@pytest.mark.parametrize(("counts", "width"), [([20, 20, 20], 12), ([4, 4, 4], 40)])
@pytest.mark.parametrize("balance", ["none", "weighted"])
def test_constant_features__have_no_weight(counts: list[int], width: int, balance: str) -> None:
    features, labels, test = _problem(counts, width)
    where, constants = np.array([0, 3, 4, 9]), np.array([0.0, 0.1, 1e4, -3.3e-5], dtype=np.float32)
    features[:, where] = constants
    test[::2, where] = constants  # elsewhere in the test set they vary
    others = np.delete(np.arange(width), where)
    support = standardise_support(features, labels, num_classes=3, balance=balance)
    weights = _row_weights(labels) if balance == "weighted" else None
    origin = np.random.default_rng(1).normal(size=width)
    for l2 in PENALTIES:
        expected = _sklearn_scores(features[:, others], labels, test[:, others], 3, l2, weights=weights)
        found = {"primal": solve_primal(support, l2), "dual": solve_dual(support, l2)}
        if balance == "none":
            found["statistics"] = _statistics(features, labels, 3).solve(l2)
            found["statistics, elsewhere"] = _statistics(features, labels, 3, origin=origin).solve(l2)
        for name, linear in found.items():
            assert (linear.weights[where] == 0).all(), name
            _close(linear.scores(test), expected, why=f"{name}, l2 {l2}")


def test_constant_features__constant_only_within_each_piece_still_count() -> None:
    features, labels, test = _problem([20, 20], 6)
    features[:20, 2], features[20:, 2] = 1.0, 2.0
    statistics = RidgeStatistics(2, features.mean(axis=0, dtype=np.float64))
    statistics.add(features[:20], labels[:20])
    assert (statistics.solve(1.0).weights[2] == 0).all()
    statistics.add(features[20:], labels[20:])
    assert (statistics.solve(1.0).weights[2] != 0).all()
    _close(statistics.solve(1.0).scores(test), _sklearn_scores(features, labels, test, 2, 1.0))


def test_constant_features__all_of_them() -> None:
    features, labels = np.full((9, 5), 0.1, dtype=np.float32), np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    test = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    bias = 9e4 / (9e4 + 1024) * (2 * np.array([4, 2, 3]) / 9 - 1)
    for name, linear in _all_ways(features, labels, 3, 1024.0).items():
        _close(linear.scores(test), np.tile(bias, (7, 1)), within=1e-14, why=name)
        assert (predict_classes(test, [linear]) == 0).all()


def _pseudo_inverse_scores(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int, l2: float
) -> np.ndarray:
    """Return the scores by an eigendecomposition whose null directions are left out; the bias in closed form."""
    rows, test_rows = _standardised(features, test, has_constant=False)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    is_kept = values > 1e-9 * values[-1]
    basis = vectors[:, is_kept]
    moments = basis.T @ (rows.T @ (2.0 * np.eye(num_classes)[labels]))
    share = 1e4 * len(rows) / (1e4 * len(rows) + l2)
    bias = share * (2 * np.bincount(labels, minlength=num_classes) / len(rows) - 1)
    return test_rows @ (basis @ (moments / (values[is_kept] + l2)[:, None])) + bias


@pytest.mark.parametrize("num_rows", [8, 30])
@pytest.mark.parametrize("l2", [2.0**-10, 1e-6, 1e-12, 1e-20, 1e-100, 1e-300])
def test_tiny_penalty_and_too_few_directions(num_rows: int, l2: float) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(num_rows) % 3
    halves = rng.normal(size=(num_rows, 7)), rng.normal(size=(40, 7))
    features, test = (np.hstack([half, half]) for half in halves)  # 14 features, 7 directions
    linear = fit_ridge(standardise_support(features, labels, num_classes=3), l2)
    assert np.isfinite(linear.weights).all()
    expected = _pseudo_inverse_scores(features, labels, test, 3, l2)
    _close(linear.scores(test), expected, within=1e-6 * max(1.0, np.abs(expected).max()))
    if num_rows > 14:
        found = _statistics(features, labels, 3).solve(l2).scores(test)
        _close(found, expected, within=1e-6 * max(1.0, np.abs(expected).max()))


# --- leave one out


def _refitted_scores(
    features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float, *, balance: str
) -> np.ndarray:
    """Return each row's scores by least squares on the others; standardisation and weights stay those of all."""
    weights = _row_weights(labels) if balance == "weighted" else np.ones(len(labels))
    rows, _ = _standardised(features, features, weights=weights, has_constant=balance != "intercept")
    targets, roots = 2.0 * np.eye(num_classes)[labels] - 1.0, np.sqrt(weights)[:, None]
    shrink = np.sqrt(l2) * np.eye(rows.shape[1])
    scores = []
    for out in range(len(rows)):
        kept = np.arange(len(rows)) != out
        stacked = np.vstack([(rows * roots)[kept], shrink])
        right = np.vstack([(targets * roots)[kept], np.zeros((len(shrink), num_classes))])
        scores.append(rows[out] @ np.linalg.lstsq(stacked, right, rcond=None)[0])
    return np.array(scores)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize(("counts", "width"), [([7, 2, 9, 6], 8), ([7, 2, 5, 1], 30), ([4, 4, 4], 12), ([3, 0, 3], 9)])
def test_leave_one_out_is_a_refit_without_the_row(counts: list[int], width: int, balance: str) -> None:
    features, labels, _ = _problem(counts, width)
    num_classes, has_intercept = len(counts), balance != "intercept"
    support = standardise_support(features, labels, num_classes=num_classes, balance=balance)
    for l2 in (1e-3, 0.5, 32.0, 1024.0):
        expected = _refitted_scores(features, labels, num_classes, l2, balance=balance)
        accuracy = np.mean(expected.argmax(axis=1) == labels)
        _close(leave_one_out(support).scores(l2), expected, why=f"l2 {l2}")
        if has_intercept:  # else see accuracy's docstring: the left-out row would be known
            assert leave_one_out(support).accuracy(l2) == accuracy
        if balance == "weighted":
            continue
        statistics = _statistics(features, labels, num_classes)
        found = statistics.leave_one_out(features, labels, has_intercept=has_intercept)
        _close(found.scores(l2), expected, why=f"statistics, l2 {l2}")
        some = np.array([5, 0, 4])
        sample = statistics.leave_one_out(features[some], labels[some], has_intercept=has_intercept)
        _close(sample.scores(l2), expected[some], why=f"statistics of some rows, l2 {l2}")
        if has_intercept:
            assert sample.accuracy(l2) == np.mean(expected[some].argmax(axis=1) == labels[some])


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("width", [20, 64, 300])
def test_leave_one_out__is_no_better_than_chance_on_noise(width: int, balance: str) -> None:
    labels = np.repeat(np.arange(10), 5)
    for l2 in (2.0**-10, 1.0, 32.0, 1024.0, 2.0**15):
        accuracies = []
        for seed in range(6):
            noise = np.random.default_rng(seed).normal(size=(50, width))
            support = standardise_support(noise, labels, num_classes=10, balance=balance)
            accuracies.append(leave_one_out(support).accuracy(l2))
        assert np.mean(accuracies) < 0.2, f"l2 {l2}"  # chance is 0.1; centred rows sum to 0, so they tell of each other


@pytest.mark.parametrize("width", [8, 40])
def test_choose_l2__takes_the_best(width: int) -> None:
    rng = np.random.default_rng(width)
    labels = np.repeat(np.arange(4), 6)
    features = rng.normal(size=(24, width)) * np.geomspace(0.1, 10, width) + np.eye(4, width)[labels]
    candidates = tuple(2.0**power for power in range(-10, 20, 3))
    accuracies = {
        l2: float(np.mean(_refitted_scores(features, labels, 4, l2, balance="none").argmax(axis=1) == labels))
        for l2 in candidates
    }
    support = standardise_support(features, labels, num_classes=4)
    for left_out in (leave_one_out(support), _statistics(features, labels, 4).leave_one_out(features, labels)):
        chosen, accuracy = left_out.choose_l2(candidates)
        assert accuracy == max(accuracies.values()) == accuracies[chosen]
        assert min(accuracies.values()) < accuracy
        best = [l2 for l2 in candidates if accuracies[l2] == accuracy]
        assert chosen == min(best, key=lambda l2: abs(np.log(l2 / 1024)))


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [(ridge.LOO_L2, 1024), ((1, 512, 4096), 512), ((100, 8192), 8192), ((2.0, 1024.0, 4.0), 1024), ((0.25,), 0.25)],
)
def test_choose_l2__of_equally_good_ones_the_nearest_to_1024(candidates: tuple[float, ...], expected: float) -> None:
    labels = np.repeat([0, 1, 2], 8)
    features = np.eye(3, 6)[labels] * 50 + np.random.default_rng(0).normal(size=(24, 6))
    left_out = leave_one_out(standardise_support(features, labels, num_classes=3, balance="intercept"))
    assert left_out.choose_l2(candidates) == (expected, 1.0)  # each of them is always right


def test_candidates_are_scenics() -> None:
    assert len(ridge.LOO_L2) == 30
    assert (ridge.LOO_L2[0], ridge.LOO_L2[20], ridge.LOO_L2[-1]) == (1 / 1024, 1024, 2**19)


# --- predictions


def _near_ties(
    num_rows: int, width: int, num_classes: int, *, margin: float
) -> tuple[np.ndarray, LinearClassifier, np.ndarray]:
    """Return float64 features, each moved so that its two best scores differ by ``margin``, and the better class.

    Which of the two is better is drawn by lot. The truth is confirmed with longer numbers.
    """
    rng = np.random.default_rng(9)
    linear = LinearClassifier(rng.normal(size=(width, num_classes)), rng.normal(size=num_classes))
    rows, sign, each = rng.normal(size=(num_rows, width)) + 3.0, rng.choice([-1.0, 1.0], num_rows), np.arange(num_rows)
    first, second = np.sort(linear.scores(rows).argsort(axis=1)[:, -2:], axis=1).T
    apart = (linear.weights[:, first] - linear.weights[:, second]).T
    for _ in range(2):  # the second time for what rounding left
        scores = linear.scores(rows)
        excess = scores[each, first] - scores[each, second] - margin * sign
        rows -= (excess / (apart**2).sum(axis=1))[:, None] * apart
    precise = rows.astype(np.longdouble) @ linear.weights.astype(np.longdouble) + linear.bias
    truth = precise.argmax(axis=1)
    ordered = np.sort(precise, axis=1)
    is_close = np.abs(ordered[:, -1] - ordered[:, -2] - margin) < margin / 10  # a third may have overtaken
    return rows[is_close], linear, truth[is_close]


@pytest.mark.parametrize("num_classes", [2, 3, 40])
def test_predict_classes__near_ties_that_float32_gets_wrong(num_classes: int) -> None:
    rows, linear, truth = _near_ties(600, 24, num_classes, margin=1e-9)
    assert len(rows) > 300
    single = rows.astype(np.float32) @ linear.weights.astype(np.float32) + linear.bias.astype(np.float32)
    assert np.mean(single.argmax(axis=1) != truth) > 0.2
    assert (predict_classes(rows, [linear])[0] == truth).all()


@pytest.mark.parametrize("margin", [1e-6, 1e-7, 1e-8])
def test_predict_classes__near_ties_around_what_float32_can_tell(margin: float) -> None:
    rows, linear, truth = _near_ties(2000, 24, 5, margin=margin)
    assert (predict_classes(rows, [linear])[0] == truth).all()


def test_predict_classes__a_bias_and_a_mean_that_dwarf_the_margin() -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(10, 6))
    rows = (rng.normal(size=(500, 10)) + 1e4).astype(np.float32)
    linear = LinearClassifier(weights, -(1e4 * weights).sum(axis=0) + 1e3)
    precise = rows.astype(np.longdouble) @ weights.astype(np.longdouble) + linear.bias
    assert (predict_classes(rows, [linear])[0] == precise.argmax(axis=1)).all()
    single = rows @ weights.astype(np.float32) + linear.bias.astype(np.float32)
    assert (single.argmax(axis=1) != precise.argmax(axis=1)).any()


def test_predict_classes__large_biases_that_differ_little() -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(500, 10)).astype(np.float32)
    linear = LinearClassifier(1e-3 * rng.normal(size=(10, 6)), 1e6 + 1e-3 * rng.normal(size=6))
    expected = linear.scores(rows).argmax(axis=1)
    assert len(set(expected)) == 6
    assert (predict_classes(rows, [linear])[0] == expected).all()
    assert (rows @ linear.weights.astype(np.float32) + linear.bias.astype(np.float32)).std() == 0


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def patch(rows: int, columns: int) -> None:
        monkeypatch.setattr(ridge, "_ROW_BLOCK", rows)
        monkeypatch.setattr(ridge, "_COLUMN_BLOCK", columns)

    return patch


@pytest.mark.parametrize(("rows", "columns"), [(7, 1), (7, 3), (1, 2), (64, 5), (600, 11), (600, 24)])
def test_predict_classes__in_tiles(small_tiles: Callable[[int, int], None], rows: int, columns: int) -> None:
    features, linear, truth = _near_ties(200, 12, 11, margin=1e-9)
    rng = np.random.default_rng(1)
    plain = rng.normal(size=(50, 12))
    features, truth = np.vstack([features, plain]), np.r_[truth, linear.scores(plain).argmax(axis=1)]
    small_tiles(rows, columns)
    assert (predict_classes(features, [linear])[0] == truth).all()
    others = [LinearClassifier(rng.normal(size=(12, 11)), rng.normal(size=11)) for _ in range(4)]
    together = predict_classes(features, [others[0], linear, *others[1:]])
    assert together.shape == (5, len(features))
    assert together.dtype == np.int64
    assert (together[1] == truth).all()
    for found, one in zip(together[[0, 2, 3, 4]], others, strict=True):
        assert (found == one.scores(features).argmax(axis=1)).all()


def test_predict_classes__5000_classes() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300, 16)).astype(np.float32)
    linear = LinearClassifier(rng.normal(size=(16, 5000)), rng.normal(size=5000))
    nearly = np.r_[np.arange(100), np.arange(4900, 5000)]  # the last are the first but for a billionth
    linear.weights[:, nearly[100:]] = linear.weights[:, nearly[:100]] * 1.5
    linear.weights[:, nearly[:100]] = linear.weights[:, nearly[100:]]
    linear.bias[nearly[100:]] = linear.bias[nearly[:100]] + np.where(np.arange(100) % 2, 1e-9, -1e-9)
    expected = linear.scores(rows).argmax(axis=1)
    assert (expected < 100).sum() > 5
    assert (expected >= 4900).sum() > 5
    assert (predict_classes(rows, [linear])[0] == expected).all()
    assert (predict_classes(rows, [linear, linear]) == expected).all()


@pytest.mark.parametrize("columns", [1, 2, 4096])
def test_predict_classes__of_equal_scores_the_first_class(
    small_tiles: Callable[[int, int], None], columns: int
) -> None:
    small_tiles(5, columns)
    rows = np.random.default_rng(0).integers(-4, 5, size=(40, 3)).astype(np.float32)
    rows = np.vstack([rows, -rows])  # of mean 0: whole numbers throughout
    weights = np.array([[1, 2, -1, 2, -1], [0, -1, 1, -1, 1], [3, 0, 1, 0, 1]], dtype=np.float64)
    linear = LinearClassifier(weights, np.zeros(5))
    predicted = predict_classes(rows, [linear])[0]
    assert (predicted == linear.scores(rows).argmax(axis=1)).all()
    assert set(predicted) == {0, 1, 2}  # never 3 or 4, which equal 1 and 2
    assert (predict_classes(rows, [LinearClassifier(np.zeros((3, 4)), np.full(4, 0.3))]) == 0).all()


@pytest.mark.parametrize("num_classes", [2, 5, 13, 38, 100])
@pytest.mark.parametrize("width", [7, 48, 768])
def test_predict_classes__of_classes_with_equal_weights_the_first(num_classes: int, width: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(333, width)).astype(np.float32)
        column = rng.normal(size=(width, 1))
        linear = LinearClassifier(np.repeat(column, num_classes, axis=1), np.full(num_classes, 0.1))
        assert (predict_classes(rows, [linear])[0] == 0).all()


@pytest.mark.parametrize("columns", [1, 3, 4096])
def test_predict_classes__a_bias_of_minus_infinity_is_never_chosen(
    small_tiles: Callable[[int, int], None], columns: int
) -> None:
    small_tiles(16, columns)
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(100, 6)).astype(np.float32)
    linear = LinearClassifier(rng.normal(size=(6, 7)), rng.normal(size=7) - 100)
    linear.weights[:, [0, 1, 4]] = 0
    linear.bias[[0, 1, 4]] = -np.inf
    other = LinearClassifier(rng.normal(size=(6, 7)), np.full(7, -np.inf))
    other.bias[5] = -1e6
    predicted = predict_classes(rows, [linear, other])
    assert set(predicted[0]) == {2, 3, 5, 6}
    assert (predicted[0] == linear.scores(rows).argmax(axis=1)).all()
    assert (predicted[1] == 5).all()
    assert (predict_classes(rows, [linear])[0] == predicted[0]).all()


def test_predict_classes__one_class_and_one_row() -> None:
    linear = LinearClassifier(np.ones((3, 1)), np.zeros(1))
    assert predict_classes(np.ones((1, 3), dtype=np.float32), [linear]).tolist() == [[0]]


@pytest.mark.parametrize("width", [3, 48, 768])
def test_error_bound_holds(width: int) -> None:
    rng = np.random.default_rng(width)
    rows, columns = rng.normal(size=(400, width)), rng.normal(size=(width, 50))
    rows[:100], columns[:, :10] = np.abs(rows[:100]), np.abs(columns[:, :10])
    errors = np.abs(rows.astype(np.float32) @ columns.astype(np.float32) - rows @ columns)
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=0)
    assert (errors <= ridge.error_bound(width) * lengths).all()
    assert ridge.error_bound(width) < 1e-6 * (width + 4)
