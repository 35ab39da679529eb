"""N-way K-shot episodes: fit a classifier on each episode's support, score its queries; many at a time.

Letters: E episodes, B of them at a time, n support rows of an episode, q query rows, D width, N pool rows, M test rows.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vitctl.conversation import Conversation
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.fewshot import Probe, fit_probe, predict_knn
from vitctl.evaluation.ridge import STD_EPSILON, error_bound, predict_classes
from vitctl.evaluation.supports import Episodes
from vitctl.evaluation.tasks import EpisodePlan, Task

_BATCH = 4  # episodes at a time: their features stay in a core's own cache (measured 2026-11: 4 is 1.5 times 64)

_Classifiers = list[tuple[np.ndarray, np.ndarray]]
_Fit = Callable[[np.ndarray], _Classifiers]
"""From support rows (B, n, D) to weights (B, D, ways) and bias (B, 1, ways), float64, of one or more classifiers."""


def episode_accuracies(
    features: np.ndarray,
    test_features: np.ndarray,
    episodes: Episodes,
    probe: Probe,
    *,
    advance: Callable[[int], None] = lambda _count: None,
) -> np.ndarray:
    """Return the accuracy of every episode, 0-1: (S, E), a row per penalty or number of neighbours of ``probe``.

    ``ridge`` with fixed penalties and ``centroid`` are fitted in batches, in float64, and score in float32 with a
    bound on the error, below which they score again in float64; the others are computed one by one.

    ``ridge`` and ``logistic`` see features that are standardised once, by mean and deviation of all pool rows,
    and centred in every episode. (In the linear protocol each support has a deviation of its own. That of two images
    is half their difference in every feature: all features would count alike, those that hardly vary included.)

    Args:
        features: (N, D) float; ``episodes.support`` are rows of it.
        test_features: (M, D) float; ``episodes.queries`` are rows of it.
        episodes: E of them.
        probe: The classifier. Episodes are balanced, so its ``balance`` does not matter.
        advance: Called with the number of episodes done.
    """
    ways, shots = episodes.support.shape[1:]
    scale = _Scale(features.mean(axis=0, dtype=np.float64), np.ones(features.shape[1]))
    if probe.classifier in ("ridge", "logistic"):
        scale = _scale_of(features)
        probe = replace(probe, has_own_std=False)
    if probe.classifier == "centroid":
        return _batched(features, test_features, episodes, scale, lambda rows: [_centroids(rows, ways)], 1, advance)
    if probe.classifier == "ridge" and probe.l2 is not None:
        penalties = probe.l2
        onehot = np.repeat(np.eye(ways), shots, axis=0)
        targets = 2.0 * onehot - 2.0 / ways  # centred: classes are balanced, so the intercept decides nothing
        return _batched(
            features,
            test_features,
            episodes,
            scale,
            lambda rows: _ridge(rows, targets, penalties),
            len(penalties),
            advance,
        )
    if probe.classifier != "knn":  # whose cosines are of the features as they are
        features, test_features = scale(features), scale(test_features)
    return _one_by_one(features, test_features, episodes, probe, advance)


class SolvedEpisodes(NamedTuple):
    """What one number of ways and shots and one setting led to.

    Attributes:
        ways: Classes of an episode.
        shots: Support images per class.
        setting: Position in the probe's ``l2`` or ``neighbours``.
        accuracies: Of every seed's episodes, (E,) float 0-1 each; over tokens their mean.
    """

    ways: int
    shots: int
    setting: int
    accuracies: list[np.ndarray]


def solve_episodes(
    task: Task,
    support: Mapping[FeatureKey, np.ndarray],
    test: Mapping[FeatureKey, np.ndarray],
    plan: EpisodePlan,
    probe: Probe,
    conversation: Conversation,
) -> Iterator[tuple[FeatureKey, list[SolvedEpisodes]]]:
    """Yield for each layer and pooling the accuracies of the task's episodes.

    Args:
        task: Its episodes.
        support: (N, D) float, or (T, N, D), by layer and pooling.
        test: (M, D) float, or (T, M, D), likewise.
        plan: Numbers of ways and shots.
        probe: The classifier.
        conversation: Shows progress.
    """
    grid = list(itertools.product(plan.ways, plan.shots))
    num_tokens = sum(len(values) if values.ndim == 3 else 1 for values in support.values())
    num_episodes = sum(len(one.classes) for one in task.episodes)
    with conversation.progress("solving", num_tokens * len(grid) * num_episodes, "episodes") as bar:
        for key, features in support.items():
            tokens, test_tokens = ((one[None] if one.ndim == 2 else one) for one in (features, test[key]))
            solved = []
            for num_ways, num_shots in grid:
                per_seed = []  # (settings, episodes) of each seed
                for episodes in task.episodes:
                    part = episodes.part(ways=num_ways, shots=num_shots)
                    found = [
                        episode_accuracies(rows, asked, part, probe, advance=bar.advance)
                        for rows, asked in zip(tokens, test_tokens, strict=True)
                    ]
                    per_seed.append(np.mean(found, axis=0))
                solved += [
                    SolvedEpisodes(num_ways, num_shots, setting, [one[setting] for one in per_seed])
                    for setting in range(len(per_seed[0]))
                ]
            yield key, solved


class _Scale(NamedTuple):
    """What is subtracted from features, and what they are multiplied with then, (D,) float64 each."""

    mean: np.ndarray
    inverse: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = rows - self.mean
        scaled *= self.inverse
        return scaled


def _scale_of(rows: np.ndarray) -> _Scale:
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    is_constant = rows.min(axis=0) == rows.max(axis=0)
    return _Scale(mean, np.where(is_constant, 0.0, 1.0 / (std + STD_EPSILON)))


def _ridge(rows: np.ndarray, targets: np.ndarray, penalties: tuple[float, ...]) -> _Classifiers:
    mean = rows.mean(axis=1, keepdims=True)  # (B, 1, D)
    centred = rows - mean
    across = centred.transpose(0, 2, 1)
    num_rows, width = rows.shape[1:]
    moments = across @ targets if num_rows > width else np.broadcast_to(targets, (len(rows), *targets.shape))
    system = across @ centred if num_rows > width else centred @ across  # the smaller one
    if num_rows <= width:  # centring makes it singular along ones, to which the targets are orthogonal: fill that in
        system += np.trace(system, axis1=1, axis2=2)[:, None, None] / num_rows**2
    classifiers = []
    for l2 in penalties:
        solution = np.linalg.solve(system + l2 * np.eye(system.shape[1]), moments)
        weights = solution if num_rows > width else across @ solution
        classifiers.append((weights, -mean @ weights))
    return classifiers


def _centroids(rows: np.ndarray, ways: int) -> tuple[np.ndarray, np.ndarray]:
    means = rows.reshape(len(rows), ways, -1, rows.shape[2]).mean(axis=2)  # (B, ways, D)
    return 2.0 * means.transpose(0, 2, 1), -np.einsum("bwd,bwd->bw", means, means)[:, None]


def _batched(
    features: np.ndarray,
    test_features: np.ndarray,
    episodes: Episodes,
    scale: _Scale,
    fit: _Fit,
    num_classifiers: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    num, ways, num_queries = episodes.queries.shape
    exact = scale(test_features)  # (M, D) float64
    quick, sizes = exact.astype(np.float32), np.sqrt(np.einsum("md,md->m", exact, exact))
    support, queries = episodes.support.reshape(num, -1), episodes.queries.reshape(num, -1)
    answers = np.repeat(np.arange(ways), num_queries)
    relative = error_bound(features.shape[1])
    result = np.empty((num_classifiers, num))
    for start in range(0, num, _BATCH):
        part = slice(start, start + _BATCH)
        asked = queries[part]
        rows = quick[asked]  # (B, q, D)
        for index, (weights, bias) in enumerate(fit(scale(features[support[part]]))):
            scores = rows @ weights.astype(np.float32) + bias.astype(np.float32)
            predicted = scores.argmax(axis=2)
            second, best = np.moveaxis(np.partition(scores, -2, axis=2)[..., -2:], 2, 0)
            largest = np.sqrt(np.einsum("bdw,bdw->bw", weights, weights).max(axis=1))[:, None]
            bound = relative * sizes[asked] * largest + error_bound(0) * np.abs(best)
            for episode, query in np.argwhere(~(best - second > 2 * bound)):
                again = exact[asked[episode, query]] @ weights[episode] + bias[episode, 0]
                predicted[episode, query] = again.argmax()
            result[index, part] = (predicted == answers).mean(axis=1)
        advance(len(rows))
    return result


def _one_by_one(
    features: np.ndarray,
    test_features: np.ndarray,
    episodes: Episodes,
    probe: Probe,
    advance: Callable[[int], None],
) -> np.ndarray:
    ways, shots = episodes.support.shape[1:]
    labels = np.repeat(np.arange(ways), shots)
    answers = np.repeat(np.arange(ways), episodes.queries.shape[2])
    columns = []
    for support, queries in zip(episodes.support, episodes.queries, strict=True):
        rows, asked = features[support.ravel()], test_features[queries.ravel()]
        if probe.classifier == "knn":
            everything = [np.arange(len(rows))]
            predicted = predict_knn(rows, labels, asked, everything, neighbours=probe.neighbours, num_classes=ways)[0]
        else:
            predicted = predict_classes(asked, [one.linear for one in fit_probe(rows, labels, probe, ways)])
        columns.append((predicted == answers).mean(axis=1))
        advance(1)
    return np.stack(columns, axis=1)
