"""Few-shot classifiers against scikit-learn and the definitions written out."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import sklearn.linear_model
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from threadpoolctl import threadpool_limits

from vitctl.evaluation import fewshot
from vitctl.evaluation.fewshot import (
    LOGISTIC_C,
    LOGISTIC_ONE_SHOT_C,
    Prediction,
    Probe,
    can_choose_l2,
    fit_centroid,
    fit_logistic,
    fit_probe,
    linear_predictions,
    predict_knn,
)
from vitctl.evaluation.ridge import (
    RidgeStatistics,
    fit_ridge,
    leave_one_out,
    predict_classes,
    standardise_support,
)
from vitctl.evaluation.supports import draw_support, rows_used
from vitctl.settings.words import BALANCES, FEWSHOT_CLASSIFIERS


def _clusters(
    counts: list[int], width: int, *, num_test: int = 120, apart: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features (float32), shuffled labels, test features and their labels: a Gaussian per class."""
    rng = np.random.default_rng([seed, width, *counts])
    centres = apart * rng.normal(size=(len(counts), width)) + 0.3 * rng.normal(size=width)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    test_labels = rng.integers(len(counts), size=num_test)
    scales = 2.0 ** rng.uniform(-1, 1, size=width)
    features, test = ((centres[y] + rng.normal(size=(len(y), width))) * scales for y in (labels, test_labels))
    return features.astype(np.float32), labels, test.astype(np.float32), test_labels


def _of_linear(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, probe: Probe, num_classes: int
) -> list[np.ndarray]:
    return [one.linear.scores(test).argmax(axis=1) for one in fit_probe(features, labels, probe, num_classes)]


# --- centroid


def _squared_distances(features: np.ndarray, labels: np.ndarray, test: np.ndarray, num_classes: int) -> np.ndarray:
    distances = np.full((len(test), num_classes), np.inf)
    for label in np.unique(labels):
        centre = features[labels == label].astype(np.float64).mean(axis=0)
        distances[:, label] = ((test.astype(np.float64) - centre) ** 2).sum(axis=1)
    return distances


@pytest.mark.parametrize("counts", [[5, 5, 5], [1, 1, 1, 1], [9, 1, 30, 4], [6, 7]])
def test_centroid_is_the_nearest_class_mean(counts: list[int]) -> None:
    features, labels, test, _ = _clusters(counts, 8)
    linear = fit_centroid(features, labels, len(counts))
    distances = _squared_distances(features, labels, test, len(counts))
    lengths = (test.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear.scores(test), lengths - distances, rtol=0, atol=1e-10)
    predicted = predict_classes(test, [linear])[0]
    assert (predicted == distances.argmin(axis=1)).all()
    with np.errstate(invalid="ignore"):  # of the deviations within classes of one row
        theirs = NearestCentroid().fit(features.astype(np.float64), labels)
    assert (predicted == theirs.predict(test.astype(np.float64))).all()
    assert len(set(predicted)) == len(counts)


def test_centroid__by_hand() -> None:
    linear = fit_centroid(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]), 2)
    assert linear.weights.tolist() == [[2.0, 22.0]]
    assert linear.bias.tolist() == [-1.0, -121.0]  # the boundary is at 6
    assert predict_classes(np.array([[-3.0], [5.9], [6.1], [40.0]]), [linear]).tolist() == [[0, 0, 1, 1]]


def test_centroid__a_class_without_a_row_is_never_predicted() -> None:
    features, labels, test, _ = _clusters([4, 0, 4, 0], 6)
    test[:10] = 0  # near the means of nothing
    linear = fit_centroid(features, labels, 4)
    assert linear.bias[[1, 3]].tolist() == [-np.inf, -np.inf]
    predicted = predict_classes(test, [linear])[0]
    assert set(predicted) == {0, 2}
    assert (predicted == _squared_distances(features, labels, test, 4).argmin(axis=1)).all()


# --- nearest neighbours


def _votes_of_neighbours(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, support: np.ndarray, k: int, num_classes: int
) -> np.ndarray:
    """Return the sum of exp(cosine / 0.07) over the nearest per class; of equally near rows the first counts."""
    pool = features[support].astype(np.float64)
    votes = np.zeros((len(test), num_classes))
    for index, row in enumerate(test.astype(np.float64)):
        cosines = [float(one @ row / np.sqrt((one @ one) * (row @ row))) for one in pool]
        for position in sorted(range(len(pool)), key=lambda at: (-cosines[at], at))[:k]:
            votes[index, labels[support[position]]] += np.exp(cosines[position] / 0.07)
    return votes


def test_knn_is_the_definition() -> None:
    features, labels, test, _ = _clusters([12, 9, 20], 5, num_test=60, apart=0.5)
    draws = [draw_support(labels, num_classes=3, seed=seed) for seed in (0, 1)]
    supports = [draw.rows(shots) for draw in draws for shots in (1, 4, None)]
    neighbours = (1, 2, 5, 12, 1000)
    found = predict_knn(features, labels, test, supports, neighbours=neighbours, num_classes=3)
    assert [one.shape for one in found] == [(5, 60)] * 6
    for support, predicted in zip(supports, found, strict=True):
        for row, k in zip(predicted, neighbours, strict=True):
            votes = _votes_of_neighbours(features, labels, test, support, k, 3)
            assert (row == votes.argmax(axis=1)).all()
    assert (found[2][0] != found[2][2]).any()


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_knn_is_sklearns(k: int) -> None:
    features, labels, test, test_labels = _clusters([15, 15, 15, 15], 6, num_test=1100)  # more than one block of rows
    model = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / 0.07)
    ).fit(features.astype(np.float64), labels)
    everything = [np.arange(60)]
    (found,) = predict_knn(features, labels, test, everything, neighbours=(k,), num_classes=4)
    assert (found[0] == model.predict(test.astype(np.float64))).all()
    assert 0.5 < np.mean(found[0] == test_labels) < 1


def test_knn__by_hand() -> None:
    # cosines with (1, 0): 1 for class 2; 0.8 twice for class 0. exp(1/0.07) outweighs 2 exp(0.8/0.07) eight times
    features = np.array([[4.0, 3.0], [8.0, 6.0], [3.0, 0.0], [-1.0, 0.0]])
    labels, test = np.array([0, 0, 2, 1]), np.array([[0.5, 0.0]])
    (found,) = predict_knn(features, labels, test, [np.arange(4)], neighbours=(1, 3, 4), num_classes=3)
    assert found.tolist() == [[2], [2], [2]]
    # with 0.98 instead of 1 and four of 0.8 it does not: exp(0.18/0.07) is 13, against 16
    features = np.vstack([np.repeat([[4.0, 3.0]], 16, axis=0), [[0.98, np.sqrt(1 - 0.98**2)]]])
    labels = np.r_[np.zeros(16, dtype=np.int64), 2]
    (found,) = predict_knn(features, labels, test, [np.arange(17)], neighbours=(1, 10, 17), num_classes=3)
    assert found.tolist() == [[2], [2], [0]]


def test_knn__of_equally_near_rows_the_first_in_the_support_counts() -> None:
    rng = np.random.default_rng(1)
    features, test = np.eye(4)[rng.integers(4, size=60)], np.eye(4)  # cosines are exactly 0 or 1
    labels = rng.integers(3, size=60)
    supports = [np.arange(60), rng.permutation(60)[:25], np.arange(60)[::-1]]
    neighbours = (1, 2, 3, 7, 20)
    found = predict_knn(features, labels, test, supports, neighbours=neighbours, num_classes=3)
    for support, predicted in zip(supports, found, strict=True):
        for row, k in zip(predicted, neighbours, strict=True):
            votes = _votes_of_neighbours(features, labels, test, support, k, 3)
            assert row.tolist() == votes.argmax(axis=1).tolist(), f"{k} neighbours of {len(support)}"


def test_knn__numbers_of_neighbours_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(1)
    features, test = np.eye(4)[rng.integers(4, size=60)], np.eye(4)  # many are equally near
    labels, neighbours = rng.integers(3, size=60), (7, 20, 1, 3, 40)
    (together,) = predict_knn(features, labels, test, [np.arange(60)], neighbours=neighbours, num_classes=3)
    for row, k in zip(together, neighbours, strict=True):
        (alone,) = predict_knn(features, labels, test, [np.arange(60)], neighbours=(k,), num_classes=3)
        assert row.tolist() == alone[0].tolist(), f"{k} neighbours"


def test_knn__rows_of_zeros() -> None:
    features, test = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    (found,) = predict_knn(features, np.array([0, 1, 2]), test, [np.arange(3)], neighbours=(1,), num_classes=3)
    assert found.tolist() == [[0, 1, 2]]  # a cosine of 0 with everything: the first


# --- logistic regression


def _sklearn_logistic(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and log probabilities, (M, C_present), without rotation and with a tight tolerance."""
    support = features.astype(np.float64)
    mean, sd = support.mean(axis=0), support.std(axis=0) + 1e-5
    model = LogisticRegression(C=c, max_iter=10_000, tol=1e-9).fit((support - mean) / sd, labels)
    return model.classes_, model.predict_log_proba((test.astype(np.float64) - mean) / sd)


LOGISTIC_CASES: dict[str, tuple[list[int], int]] = {
    "more rows than features": ([15, 15, 15], 8),
    "fewer rows than features": ([4, 4, 4], 30),
    "two classes": ([8, 9], 12),
    "two classes of five": ([0, 8, 0, 7, 0], 6),
    "missing classes": ([6, 0, 9, 5, 0], 10),
    "one image per class": ([1, 1, 1, 1], 10),
    "one image of some": ([1, 8, 1], 10),
}
logistic_cases = pytest.mark.parametrize(("counts", "width"), LOGISTIC_CASES.values(), ids=LOGISTIC_CASES.keys())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # the problems are tiny; with threads scikit-learn's logistic regression mostly waits
        yield


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three candidates instead of 15, for speed."""
    monkeypatch.setattr(fewshot, "LOGISTIC_C", (0.001, 0.03, 1.0))


@logistic_cases
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_logistic_is_sklearns_without_rotation(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], width: int, c: float
) -> None:
    features, labels, test, _ = _clusters(counts, width)
    monkeypatch.setattr(fewshot, "LOGISTIC_C", (c,))
    monkeypatch.setattr(fewshot, "LOGISTIC_ONE_SHOT_C", c)
    classes, expected = _sklearn_logistic(features, labels, test, c)
    missing = np.setdiff1d(np.arange(len(counts)), classes)

    # both to the end: the same
    with monkeypatch.context() as patch:
        patch.setattr(sklearn.linear_model, "LogisticRegression", partial(LogisticRegression, tol=1e-9))
        linear, chosen = fit_logistic(features, labels, len(counts))
    assert chosen == c
    scores = linear.scores(test)
    assert scores.shape == (120, len(counts))
    assert (scores[:, missing] == -np.inf).all()
    np.testing.assert_allclose(softmax(scores[:, classes], axis=1), np.exp(expected), rtol=0, atol=1e-5)
    assert (scores.argmax(axis=1) == classes[expected.argmax(axis=1)]).all()

    # stopping as early as scikit-learn does by default
    linear, _ = fit_logistic(features, labels, len(counts))
    predicted = predict_classes(test, [linear])[0]
    assert set(predicted) <= set(classes)
    ordered = np.sort(np.exp(expected), axis=1)
    is_clear = ordered[:, -1] - ordered[:, -2] > 0.05
    is_equal = predicted == classes[expected.argmax(axis=1)]
    assert is_equal[is_clear].all()
    assert is_equal.mean() > 0.95


@pytest.mark.parametrize("counts", [[15, 15, 15], [20, 20], [9, 0, 1, 12, 6]])
def test_logistic__c_is_the_best_on_the_last_fifth_of_each_class(
    monkeypatch: pytest.MonkeyPatch, counts: list[int]
) -> None:
    candidates = (1e-5, 0.001, 0.01, 0.1, 1.0)
    monkeypatch.setattr(fewshot, "LOGISTIC_C", candidates)
    features, labels, _, _ = _clusters(counts, 8, apart=0.6)
    support = features.astype(np.float64)
    rows = (support - support.mean(axis=0)) / (support.std(axis=0) + 1e-5)
    held_out: list[int] = []
    for label, count in enumerate(counts):
        if count > 1:
            held_out += np.flatnonzero(labels == label).tolist()[-max(1, round(count / 5)) :]
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    quality = {}
    for c in candidates:
        model = LogisticRegression(C=c, max_iter=10_000, tol=1e-7).fit(rows[kept], labels[kept])
        log_p = model.predict_log_proba(rows[held_out])
        right = np.searchsorted(model.classes_, labels[held_out])
        quality[c] = (np.mean(log_p.argmax(axis=1) == right), log_p[np.arange(len(right)), right].mean())
    assert len({accuracy for accuracy, _ in quality.values()}) > 1  # the choice matters
    assert fit_logistic(features, labels, len(counts))[1] == max(candidates, key=lambda c: quality[c])


def test_logistic__c_of_equal_accuracy_is_chosen_by_the_log_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, _, _ = _clusters([8, 8, 8], 6, apart=8.0)  # all are right at any C: the surest is the best
    monkeypatch.setattr(fewshot, "LOGISTIC_C", (1e-3, 10.0, 0.1))
    assert fit_logistic(features, labels, 3)[1] == 10.0


@pytest.mark.parametrize(("counts", "num_held_out"), [([1, 1, 1], 0), ([5, 5], 2), ([1, 8, 1], 2), ([12, 2, 13], 6)])
def test_logistic__held_out_is_a_fifth_of_each_class_at_least_one(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], num_held_out: int
) -> None:
    features, labels, _, _ = _clusters(counts, 6)
    monkeypatch.setattr(fewshot, "LOGISTIC_C", (0.1,))
    sizes: list[int] = []

    class Watched(LogisticRegression):
        def fit(self, rows: np.ndarray, classes: np.ndarray) -> LogisticRegression:
            sizes.append(len(rows))
            return super().fit(rows, classes)

    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", Watched)
    _, chosen = fit_logistic(features, labels, len(counts))
    assert sizes == ([len(labels) - num_held_out] if num_held_out else []) + [len(labels)]  # then the whole support
    assert chosen == (0.1 if num_held_out else 0.01)


def test_logistic__candidates() -> None:
    assert LOGISTIC_ONE_SHOT_C == 0.01
    assert len(LOGISTIC_C) == 15
    np.testing.assert_allclose(np.log10(LOGISTIC_C), np.arange(15) / 2 - 5, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("few_candidates")
def test_logistic__reports_the_penalty_that_it_used() -> None:
    features, labels, _, _ = _clusters([6, 6, 6], 10)
    (fitted,) = fit_probe(features, labels, Probe("logistic"), 3)
    linear, c = fit_logistic(features, labels, 3)
    assert fitted.l2 == 1 / c
    assert (fitted.linear.weights == linear.weights).all()
    (of_one_shot,) = fit_probe(features[:1].repeat(2, axis=0) * [[1], [2]], np.array([0, 2]), Probe("logistic"), 3)
    assert of_one_shot.l2 == pytest.approx(100)


@pytest.mark.usefixtures("few_candidates")
def test_logistic__constant_features_are_ignored() -> None:
    features, labels, test, _ = _clusters([6, 6, 6], 10)
    features[:, 4] = 0.1
    linear, _ = fit_logistic(features, labels, 3)
    np.testing.assert_allclose(linear.weights[4], 0, rtol=0, atol=1e-12)
    others = np.delete(np.arange(10), 4)
    smaller, _ = fit_logistic(features[:, others], labels, 3)
    found, expected = (log_softmax(one, axis=1) for one in (linear.scores(test), smaller.scores(test[:, others])))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# --- predictions of all draws, shots and settings


def _predictions(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, probe: Probe, shots: list[int | None], *,
    num_classes: int, seeds: tuple[int, ...] = (0,),
) -> list[Prediction]:  # fmt: skip
    draws = [draw_support(labels, num_classes=num_classes, seed=seed) for seed in seeds]
    found = linear_predictions(features, labels, test, draws, shots=shots, probe=probe, num_classes=num_classes)
    return list(found)


PROBES = {
    "ridge": Probe("ridge", l2=(1.0, 1024.0)),
    "ridge, loo": Probe("ridge", l2=None),
    "ridge, intercept": Probe("ridge", l2=(0.1, 32.0), balance="intercept"),
    "ridge, weighted": Probe("ridge", l2=(0.1, 32.0), balance="weighted"),
    "ridge, weighted, loo": Probe("ridge", l2=None, balance="weighted"),
    "logistic": Probe("logistic"),
    "knn": Probe("knn", neighbours=(3, 10)),
    "centroid": Probe("centroid"),
}
probes = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())


@pytest.mark.usefixtures("few_candidates")
@probes
def test_every_prediction_is_that_of_its_support_alone(probe: Probe) -> None:
    features, labels, test, _ = _clusters([14, 3, 8, 9], 12, apart=0.5)
    found = _predictions(features, labels, test, probe, [5, None, 1, 2], num_classes=4, seeds=(3, 4))
    settings = {"knn": 2, "logistic": 1, "centroid": 1}.get(probe.classifier, len(probe.l2 or (0,)))
    assert [(one.seed, one.shots, one.setting) for one in found] == [
        (seed, shots, setting) for seed in (3, 4) for shots in (1, 2, 5, None) for setting in range(settings)
    ]
    for one in found:
        rows = draw_support(labels, num_classes=4, seed=one.seed).rows(one.shots)
        assert one.num_support == len(rows) == {1: 4, 2: 8, 5: 18, None: 34}[one.shots]
        if probe.classifier == "knn":
            votes = _votes_of_neighbours(features, labels, test, rows, probe.neighbours[one.setting], 4)
            expected, l2 = votes.argmax(axis=1), None
        elif probe.classifier == "ridge":
            support = standardise_support(features[rows], labels[rows], num_classes=4, balance=probe.balance)
            by_loo = leave_one_out(support).choose_l2()[0] if one.shots != 1 else 1024
            l2 = by_loo if probe.l2 is None else probe.l2[one.setting]
            expected = fit_ridge(support, l2).scores(test).argmax(axis=1)
        else:
            expected = _of_linear(features[rows], labels[rows], test, probe, 4)[0]
            l2 = one.l2 if probe.classifier == "logistic" else None
        assert one.l2 == l2
        assert (one.predicted == expected).all()


@pytest.mark.usefixtures("few_candidates")
@probes
def test_predictions__do_not_depend_on_other_shots_or_on_images_that_no_draw_uses(probe: Probe) -> None:
    features, labels, test, _ = _clusters([30, 25, 40], 8, apart=0.5)
    draws = [draw_support(labels, num_classes=3, seed=seed, most=9) for seed in (0, 1)]
    used = rows_used(draws, 9)
    together = linear_predictions(features, labels, test, draws, shots=[1, 2, 9], probe=probe, num_classes=3)
    moved = [draw.moved(used) for draw in draws]
    alone = [
        one
        for draw in moved
        for shots in (1, 2, 9)
        for one in linear_predictions(
            features[used], labels[used], test, [draw], shots=[shots], probe=probe, num_classes=3
        )
    ]
    for one, other in zip(together, alone, strict=True):
        assert one[:5] == other[:5]
        assert (one.predicted == other.predicted).all()


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("classifier", FEWSHOT_CLASSIFIERS)
def test_predictions__all_images(classifier: str) -> None:
    features, labels, test, test_labels = _clusters([20, 6, 15], 8, apart=3.0)
    probe = Probe(classifier, l2=(1.0,), neighbours=(5,))
    (found,) = _predictions(features, labels, test, probe, [None], num_classes=3)
    assert found.num_support == 41
    assert np.mean(found.predicted == test_labels) > 0.8
    if classifier == "knn":
        expected = predict_knn(features, labels, test, [np.arange(41)], neighbours=(5,), num_classes=3)[0][0]
    elif classifier == "logistic":  # which images C is chosen on depends on their order
        rows = draw_support(labels, num_classes=3, seed=0).rows(None)
        expected = _of_linear(features[rows], labels[rows], test, probe, 3)[0]
    else:
        expected = _of_linear(features, labels, test, probe, 3)[0]
    assert (found.predicted == expected).all()


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("classifier", FEWSHOT_CLASSIFIERS)
def test_predictions__a_row_depends_on_no_other_test_row(classifier: str) -> None:
    features, labels, test, _ = _clusters([8, 8, 8], 6, apart=0.4)
    probe = Probe(classifier, l2=None, neighbours=(4,))
    others = [test, test[:7], np.vstack([test[:7], 1e3 * test[7:]])]
    whole, part, beside = (_predictions(features, labels, rows, probe, [6], num_classes=3)[0] for rows in others)
    assert (part.predicted == whole.predicted[:7]).all()
    assert (beside.predicted[:7] == whole.predicted[:7]).all()
    assert whole.l2 == part.l2 == beside.l2  # what is chosen is chosen on the support


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("classifier", FEWSHOT_CLASSIFIERS)
def test_shuffled_labels_give_chance(classifier: str) -> None:
    features, labels, test, test_labels = _clusters([15] * 4, 6, num_test=100, apart=3.0)
    probe = Probe(classifier, l2=None, neighbours=(5,))

    def accuracy(with_labels: np.ndarray) -> float:
        (found,) = _predictions(features, with_labels, test, probe, [8], num_classes=4)
        return float(np.mean(found.predicted == test_labels))

    assert accuracy(labels) > 0.9
    rng = np.random.default_rng(0)
    shuffled = [accuracy(rng.permutation(labels)) for _ in range(16)]
    assert abs(np.mean(shuffled) - 0.25) < 0.1


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("classifier", FEWSHOT_CLASSIFIERS)
def test_two_classes(classifier: str) -> None:
    features, labels, test, test_labels = _clusters([10, 10], 7, apart=3.0)
    (found,) = _predictions(features, labels, test, Probe(classifier, neighbours=(3,)), [5], num_classes=2)
    assert np.mean(found.predicted == test_labels) > 0.8


# --- the penalty by leaving one out


@pytest.mark.parametrize("width", [6, 60])
@pytest.mark.parametrize("balance", BALANCES)
def test_loo__one_shot_falls_back_to_1024(width: int, balance: str) -> None:
    features, labels, test, _ = _clusters([5] * 8, width, apart=0.5)
    probe = Probe("ridge", l2=None, balance=balance)
    one_shot, five_shot = _predictions(features, labels, test, probe, [1, 5], num_classes=8)
    assert one_shot.l2 == 1024
    rows = draw_support(labels, num_classes=8, seed=0).rows(5)
    support = standardise_support(features[rows], labels[rows], num_classes=8, balance=balance)
    assert five_shot.l2 == leave_one_out(support).choose_l2()[0]
    assert five_shot.l2 != 1024 or balance == "intercept"  # where it is, it was chosen


def test_can_choose_l2() -> None:
    assert can_choose_l2(np.array([0, 1, 2, 1]))
    assert not can_choose_l2(np.array([0, 3, 2, 1]))
    assert not can_choose_l2(np.array([], dtype=np.int64))


def test_loo__of_very_many_rows_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, test, _ = _clusters([40, 40], 5, apart=0.4)
    seen: list[tuple[np.ndarray, np.ndarray, int]] = []
    left_out: Callable[..., object] = RidgeStatistics.leave_one_out

    def watched(self: RidgeStatistics, rows: np.ndarray, classes: np.ndarray, *, has_intercept: bool = True) -> object:
        seen.append((rows, classes, self.num_rows))
        return left_out(self, rows, classes, has_intercept=has_intercept)

    monkeypatch.setattr(RidgeStatistics, "leave_one_out", watched)
    monkeypatch.setattr(fewshot, "LOO_ROWS", 20)
    probe = Probe("ridge", l2=None)
    few, many = _predictions(features, labels, test, probe, [5, 30], num_classes=2)
    (again,) = _predictions(features, labels, test, probe, [30], num_classes=2)
    assert [(len(rows), num) for rows, _, num in seen] == [(10, 10), (20, 60), (20, 60)]
    rows, classes, _ = seen[1]
    support = draw_support(labels, num_classes=2, seed=0).rows(30)
    where = [int(np.flatnonzero((features == row).all(axis=1))[0]) for row in rows]
    assert len(set(where)) == 20
    assert set(where) <= set(support)
    assert (labels[where] == classes).all()
    assert 4 < classes.sum() < 16
    assert again.l2 == many.l2
    statistics = RidgeStatistics(2, features.mean(axis=0, dtype=np.float64))
    statistics.add(features[support], labels[support])
    assert many.l2 == left_out(statistics, rows, classes).choose_l2()[0]  # type: ignore[attr-defined]
    assert few.num_support == 10
