"""Episodes in batches against one classifier after the other, and by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from vitctl.evaluation.episodes import episode_accuracies
from vitctl.evaluation.fewshot import Probe, fit_probe, predict_knn
from vitctl.evaluation.ridge import LinearClassifier, predict_classes
from vitctl.evaluation.supports import Episodes, draw_episodes
from vitctl.settings.words import FEWSHOT_CLASSIFIERS

RIDGE = Probe("ridge", l2=(2.0**-10, 1.0, 1024.0, 2.0**19))
CENTROID = Probe("centroid")


def _pool(num_classes: int = 8, width: int = 16, *, each: int = 30, apart: float = 0.4, seed: int = 0) -> tuple:
    """Return features (float32) and labels of a pool and of a test set."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(num_classes, width))
    labels, test_labels = (rng.permutation(np.repeat(np.arange(num_classes), each)) for _ in range(2))
    features, test = (
        (centres[y] + rng.normal(size=(len(y), width)) + 1).astype(np.float32) for y in (labels, test_labels)
    )
    return features, labels, test, test_labels


def _episodes(
    labels: np.ndarray, test_labels: np.ndarray, *, ways: int, shots: int, num: int = 150, queries: int = 6
) -> Episodes:
    return draw_episodes(
        labels, test_labels, np.unique(labels), ways=ways, shots=shots, queries=queries, num_episodes=num, seed=1
    )


def _standardised(features: np.ndarray, test: np.ndarray, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Return both by mean and deviation (+ 1e-5) of all pool rows, constant features as zeros."""
    rows = features.astype(np.float64)
    varies, deviation = rows.max(axis=0) > rows.min(axis=0), rows.std(axis=0) + 1e-5
    return tuple((one.astype(np.float64) - rows.mean(axis=0)) / deviation * varies for one in (features, test))


def _one_by_one(features: np.ndarray, test: np.ndarray, episodes: Episodes, probe: Probe) -> np.ndarray:
    """Return the accuracies (S, E) by fitting each episode's support alone, in float64 throughout."""
    if probe.classifier != "centroid":
        features, test = _standardised(features, test, episodes)
        probe = replace(probe, has_own_std=False)
    ways, shots = episodes.support.shape[1:]
    labels, answers = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), episodes.queries.shape[2])
    accuracies = []
    for support, queries in zip(episodes.support, episodes.queries, strict=True):
        fits = fit_probe(features[support.ravel()], labels, probe, ways)
        predicted = [one.linear.scores(test[queries.ravel()]).argmax(axis=1) for one in fits]
        accuracies.append([np.mean(one == answers) for one in predicted])
    return np.array(accuracies).T


# --- in batches as one by one


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # the problems are tiny; with threads scikit-learn's logistic regression mostly waits
        yield


@pytest.mark.parametrize("probe", [RIDGE, CENTROID], ids=["ridge", "centroid"])
@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (2, 3), (8, 2), (3, 10), (4, 4)])
def test_batches_are_exact(probe: Probe, ways: int, shots: int) -> None:
    features, labels, test, test_labels = _pool()
    episodes = _episodes(labels, test_labels, ways=ways, shots=shots)  # 150 is no multiple of a batch
    found = episode_accuracies(features, test, episodes, probe)
    assert found.shape == (4 if probe is RIDGE else 1, 150)
    assert (found == _one_by_one(features, test, episodes, probe)).all()
    assert 1 / ways < found.mean() < 1
    if probe is RIDGE and shots > 1:
        assert (found[0] != found[3]).any()  # penalties are told apart


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (3, 8)])
def test_ridge_is_sklearns(ways: int, shots: int) -> None:
    features, labels, test, test_labels = _pool()
    episodes = _episodes(labels, test_labels, ways=ways, shots=shots, num=40)
    found = episode_accuracies(features, test, episodes, RIDGE)
    rows, test_rows = _standardised(features, test, episodes)
    targets, answers = 2 * np.repeat(np.eye(ways), shots, axis=0) - 1, np.repeat(np.arange(ways), 6)
    for of_penalty, l2 in zip(found, RIDGE.l2 or (), strict=True):
        for accuracy, support, queries in zip(of_penalty, episodes.support, episodes.queries, strict=True):
            fitted = rows[support.ravel()]
            model = Ridge(alpha=l2, solver="svd").fit(fitted, targets)
            assert accuracy == np.mean(model.predict(test_rows[queries.ravel()]).argmax(axis=1) == answers)


@pytest.mark.parametrize("probe", [RIDGE, CENTROID], ids=["ridge", "centroid"])
def test_batches_are_exact__features_far_from_zero(probe: Probe) -> None:
    features, labels, test, test_labels = _pool(width=10)
    features, test = features * 4 + np.float32(1e4), test * 4 + np.float32(1e4)
    episodes = _episodes(labels, test_labels, ways=4, shots=3, num=100)
    found = episode_accuracies(features, test, episodes, probe)
    assert (found == _one_by_one(features, test, episodes, probe)).all()


def _on_the_boundary(
    features: np.ndarray, episodes: Episodes, probe: Probe, *, margin: float
) -> tuple[np.ndarray, Episodes, float]:
    """Return float64 queries of their own for each episode, whose two best classes differ by ``margin``.

    And the share of them that scores in float32 get wrong.
    """
    rng = np.random.default_rng(3)
    ways, shots = episodes.support.shape[1:]
    labels, num_queries = np.repeat(np.arange(ways), shots), episodes.queries.shape[2]
    rows, wrong = [], []
    for support in episodes.support:
        (fitted,) = fit_probe(features[support.ravel()], labels, probe, ways)
        linear: LinearClassifier = fitted.linear
        asked = rng.normal(size=(ways * num_queries, features.shape[1])) + 1
        order = linear.scores(asked).argsort(axis=1)
        first, second, each = order[:, -1], order[:, -2], np.arange(len(asked))
        sign = rng.choice([-1.0, 1.0], size=len(asked))
        apart = (linear.weights[:, first] - linear.weights[:, second]).T
        for _ in range(2):
            scores = linear.scores(asked)
            excess = scores[each, first] - scores[each, second] - margin * sign
            asked -= (excess / (apart**2).sum(axis=1))[:, None] * apart
        single = asked.astype(np.float32) @ linear.weights.astype(np.float32) + linear.bias.astype(np.float32)
        wrong.append(np.mean(single.argmax(axis=1) != linear.scores(asked).argmax(axis=1)))
        rows.append(asked)
    queries = np.arange(len(rows) * ways * num_queries).reshape(len(rows), ways, num_queries)
    return np.concatenate(rows), Episodes(episodes.classes, episodes.support, queries), float(np.mean(wrong))


@pytest.mark.parametrize("probe", [Probe("ridge", l2=(1.0,)), Probe("ridge"), CENTROID], ids=["1", "1024", "centroid"])
@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (5, 3), (3, 8)])
def test_batches_are_exact__near_ties_that_float32_gets_wrong(probe: Probe, ways: int, shots: int) -> None:
    features, labels, _, test_labels = _pool()
    drawn = _episodes(labels, test_labels, ways=ways, shots=shots, num=70)
    test, episodes, wrong = _on_the_boundary(features, drawn, probe, margin=1e-10)
    assert wrong > 0.2
    assert (episode_accuracies(features, test, episodes, probe) == _one_by_one(features, test, episodes, probe)).all()


@pytest.mark.parametrize("probe", [RIDGE, CENTROID], ids=["ridge", "centroid"])
@pytest.mark.parametrize("shots", [1, 6])
def test_batches_are_exact__constant_features(probe: Probe, shots: int) -> None:
    features, labels, test, test_labels = _pool()
    features[:, [0, 5, 6, 9]] = np.array([0.0, 0.1, 1e4, -3.3e-5], dtype=np.float32)  # vary in the test set
    episodes = _episodes(labels, test_labels, ways=4, shots=shots)
    found = episode_accuracies(features, test, episodes, probe)
    assert (found == _one_by_one(features, test, episodes, probe)).all()
    if probe is RIDGE:
        others = np.delete(np.arange(16), [0, 5, 6, 9])
        assert (found == episode_accuracies(features[:, others], test[:, others], episodes, probe)).all()


@pytest.mark.parametrize("classifier", FEWSHOT_CLASSIFIERS)
def test_identical_features_leave_nothing_to_choose_by(classifier: str) -> None:
    features, test = np.full((40, 6), 0.1, dtype=np.float32), np.full((40, 6), 0.1, dtype=np.float32)
    labels = np.repeat(np.arange(4), 10)
    episodes = _episodes(labels, labels, ways=4, shots=3, num=5)
    found = episode_accuracies(features, test, episodes, Probe(classifier, neighbours=(4,)))
    assert (found == 0.25).all()


@pytest.mark.parametrize("l2", [1e-6, 1e-12, 1e-15, 1e-20, 1e-300])
def test_batches_are_exact__tiny_penalties(l2: float) -> None:
    features, labels, test, test_labels = _pool(width=10)
    episodes = _episodes(labels, test_labels, ways=5, shots=5, num=70)  # 25 rows of 10 features
    probe = Probe("ridge", l2=(l2,))
    found = episode_accuracies(features, test, episodes, probe)
    assert (found == _one_by_one(features, test, episodes, probe)).all()


# --- by hand

# on a line: classes around 1 and 11, the boundary at 6 both for centroids and for ridge
LINE = np.array([[0.0], [2.0], [10.0], [12.0]], dtype=np.float32)
QUERIES = np.array([[1.0], [7.0], [-4.0], [5.0], [12.0], [6.5]], dtype=np.float32)
TOY = Episodes(
    classes=np.array([[0, 1], [1, 0], [0, 1]]),
    support=np.array([[[0, 1], [2, 3]], [[2, 3], [0, 1]], [[0, 1], [2, 3]]]),
    queries=np.array([[[0, 1], [4, 3]], [[4, 5], [0, 2]], [[1, 5], [3, 2]]]),
)


@pytest.mark.parametrize("probe", [CENTROID, Probe("ridge", l2=(0.5, 1024.0)), Probe("logistic")])
def test_accuracy__by_hand(probe: Probe) -> None:
    # first: 1 right, 7 wrong; 12 right, 5 wrong. Second: all right. Third: 7, 6.5, 5, -4 all wrong
    found = episode_accuracies(LINE, QUERIES, TOY, probe)
    assert found.tolist() == [[0.5, 1.0, 0.0]] * len(found)


@pytest.mark.parametrize("probe", [CENTROID, Probe("ridge"), Probe("ridge", l2=None), Probe("knn", neighbours=(1, 3))])
def test_accuracy__one_shot_by_hand(probe: Probe) -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    test = np.array([[0.9, 0.1], [0.2, 0.9], [-0.7, 0.3], [0.3, 0.6]])
    episodes = Episodes(np.array([[0, 1, 2]]), np.array([[[0], [1], [2]]]), np.array([[[0, 3], [1, 0], [2, 2]]]))
    # (0.3, 0.6) is nearer to class 1 than to its own, (0.9, 0.1) nearer to class 0
    assert episode_accuracies(features, test, episodes, probe) == pytest.approx(4 / 6)


# --- every classifier


@pytest.mark.parametrize(
    ("probe", "num_settings"),
    [
        (Probe("ridge", l2=(1.0, 32.0)), 2),
        (Probe("ridge", l2=None), 1),
        (Probe("logistic"), 1),
        (Probe("knn", neighbours=(1, 3, 200)), 3),
        (CENTROID, 1),
    ],
)
def test_every_classifier(probe: Probe, num_settings: int) -> None:
    features, labels, test, test_labels = _pool(apart=1.0)
    episodes = _episodes(labels, test_labels, ways=3, shots=4, num=12)
    done: list[int] = []
    found = episode_accuracies(features, test, episodes, probe, advance=done.append)
    assert found.shape == (num_settings, 12)
    assert sum(done) == 12
    assert found.mean() > 0.8
    if probe.classifier != "knn":
        assert (found == _one_by_one(features, test, episodes, probe)).all()
        return
    for index, (support, queries) in enumerate(zip(episodes.support, episodes.queries, strict=True)):
        for row, k in zip(found, probe.neighbours, strict=True):
            (predicted,) = predict_knn(
                features, np.searchsorted(np.sort(episodes.classes[index]), labels), test[queries.ravel()],
                [support.ravel()], neighbours=(k,), num_classes=4,
            )  # fmt: skip
            answers = np.searchsorted(np.sort(episodes.classes[index]), np.repeat(episodes.classes[index], 6))
            assert row[index] == np.mean(predicted[0] == answers)


@pytest.mark.parametrize("probe", [RIDGE, CENTROID], ids=["ridge", "centroid"])
def test_progress_of_batches(probe: Probe) -> None:
    features, labels, test, test_labels = _pool()
    done: list[int] = []
    episode_accuracies(features, test, _episodes(labels, test_labels, ways=2, shots=1), probe, advance=done.append)
    assert sum(done) == 150
    assert len(done) > 1


def test_shuffled_labels_give_chance() -> None:
    features, labels, test, test_labels = _pool(apart=1.0)
    shuffled = np.random.default_rng(0).permutation(labels)
    accuracies: Callable[[np.ndarray], np.ndarray] = lambda y: episode_accuracies(  # noqa: E731
        features, test, _episodes(y, test_labels, ways=4, shots=5, num=400), Probe("ridge")
    )
    assert accuracies(labels).mean() > 0.8
    assert abs(accuracies(shuffled).mean() - 0.25) < 0.05


def test_more_ways_are_harder_and_more_shots_are_easier() -> None:
    features, labels, test, test_labels = _pool()
    drawn = _episodes(labels, test_labels, ways=8, shots=10, num=300)
    mean = {
        (ways, shots): episode_accuracies(features, test, drawn.part(ways=ways, shots=shots), Probe("ridge")).mean()
        for ways in (2, 5, 8)
        for shots in (1, 3, 10)
    }
    for shots in (1, 3, 10):
        assert mean[2, shots] > mean[5, shots] > mean[8, shots]
    for ways in (2, 5, 8):
        assert mean[ways, 10] > mean[ways, 3] > mean[ways, 1]


def test_inputs_are_left_as_they_are() -> None:
    features, labels, test, test_labels = _pool()
    episodes = _episodes(labels, test_labels, ways=3, shots=2, num=20)
    kept = features.copy(), test.copy(), episodes.support.copy()
    for probe in (RIDGE, CENTROID):
        episode_accuracies(features, test, episodes, probe)
    assert (features == kept[0]).all()
    assert (test == kept[1]).all()
    assert (episodes.support == kept[2]).all()
    assert predict_classes(test[:1], [LinearClassifier(np.ones((16, 2)), np.array([0.0, 1.0]))]).tolist() == [[1]]
