"""Accuracies of few-shot classifiers on features: draws, shots, penalties and tokens, summed up per combination.

Letters: S seeds, N support or pool rows, M test rows, T tokens, D width, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vitctl.conversation import Conversation
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.fewshot import Prediction, Probe, fit_statistics, linear_predictions
from vitctl.evaluation.ridge import RidgeStatistics, predict_classes
from vitctl.evaluation.supports import SupportDraw
from vitctl.evaluation.tasks import LinearPlan, Plan, Task


@dataclass
class Solved:
    """What one combination of shots and setting (penalty, neighbours) led to, over all seeds.

    Attributes:
        shots: Images per class; None is all.
        setting: Position in the probe's ``l2`` or ``neighbours``.
        seeds: S seeds.
        l2: Their penalties.
        num_support: Support images.
        correct: S arrays (M,) float64, 1 where the class is right; with tokens the share of them.
        predicted: S arrays (M,) int64; empty with tokens.
    """

    shots: int | None
    setting: int
    num_support: int
    seeds: list[int] = field(default_factory=list)
    l2: list[float | None] = field(default_factory=list)
    correct: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)

    @property
    def table(self) -> np.ndarray:
        """(S, M) float64 of ``correct``."""
        return np.stack(self.correct)


def num_fits(draws: Sequence[SupportDraw], shots: Sequence[int | None], probe: Probe) -> int:
    """Return how many predictions ``solve_probes`` makes for features without tokens."""
    settings = len(probe.neighbours) if probe.classifier == "knn" else len(probe.l2 or (0,))
    settings = 1 if probe.classifier in ("logistic", "centroid") else settings
    return settings * sum(1 if count is None else len(draws) for count in shots)


def solve_linear(
    task: Task,
    support: Mapping[FeatureKey, np.ndarray],
    test: Mapping[FeatureKey, np.ndarray],
    plan: LinearPlan,
    probe: Probe,
    conversation: Conversation,
) -> Iterator[tuple[FeatureKey, list[Solved]]]:
    """Yield for each layer and pooling what ``solve_probes`` finds.

    Args:
        task: Labels and draws.
        support: (N, D) float, or (T, N, D), by layer and pooling.
        test: (M, D) float, or (T, M, D), likewise.
        plan: Numbers of images per class.
        probe: The classifier.
        conversation: Shows progress.
    """
    total = sum(
        num_fits(task.draws, plan.shots, probe) * (len(values) if values.ndim == 3 else 1)
        for values in support.values()
    )
    with conversation.progress("solving", total, "classifiers") as bar:
        for key, features in support.items():
            solved = solve_probes(
                features,
                task.labels,
                test[key],
                task.test_labels,
                task.draws,
                shots=plan.shots,
                probe=probe,
                num_classes=len(task.class_names),
                advance=bar.advance,
            )
            yield key, solved


def solve_probes(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    draws: Sequence[SupportDraw],
    *,
    shots: Sequence[int | None],
    probe: Probe,
    num_classes: int,
    advance: Callable[[int], None] = lambda _count: None,
) -> list[Solved]:
    """Return accuracies for every number of shots and every setting, in that order.

    With tokens, one classifier is fitted per token and the accuracies are averaged (arXiv 2108.08810, figure 11).

    Args:
        features: (N, D) float, or (T, N, D).
        labels: (N,) int64.
        test_features: (M, D) float, or (T, M, D).
        test_labels: (M,) int64.
        draws: S draws of rows of ``features``; all of a class (None) is the same for each, so drawn once.
        shots: Images per class.
        probe: The classifier.
        num_classes: C.
        advance: Called with the number of predictions done.
    """
    solved: dict[tuple[int | None, int], Solved] = {}
    tokens = features[None] if features.ndim == 2 else features
    test_tokens = test_features[None] if test_features.ndim == 2 else test_features
    for rows, test_rows in zip(tokens, test_tokens, strict=True):
        for counts, some in (([one for one in shots if one is not None], draws), ([None], draws[:1])):
            if not counts or counts[0] not in shots:
                continue
            for one in linear_predictions(
                rows, labels, test_rows, some, shots=counts, probe=probe, num_classes=num_classes
            ):
                _add(solved, one, test_labels, num_tokens=len(tokens))
                advance(1)
    return [solved[key] for key in sorted(solved, key=lambda key: (key[0] or np.inf, key[1]))]


def _add(
    solved: dict[tuple[int | None, int], Solved], one: Prediction, test_labels: np.ndarray, *, num_tokens: int
) -> None:
    found = solved.setdefault((one.shots, one.setting), Solved(one.shots, one.setting, one.num_support))
    share = (one.predicted == test_labels) / num_tokens
    if one.seed in found.seeds:
        found.correct[found.seeds.index(one.seed)] += share
        return
    found.seeds.append(one.seed)
    found.l2.append(one.l2)
    found.correct.append(share)
    if num_tokens == 1:
        found.predicted.append(one.predicted)


def needs_sums_only(probe: Probe, plan: Plan) -> bool:
    """Return whether sums over the support are all that is needed of it, as ``stream_ridge`` keeps them."""
    is_ridge = probe.classifier == "ridge" and probe.l2 is not None and probe.balance != "weighted"
    return is_ridge and plan.shots == (None,)


def stream_ridge(
    batches: Iterable[dict[FeatureKey, np.ndarray]],
    labels: np.ndarray,
    test_features: dict[FeatureKey, np.ndarray],
    test_labels: np.ndarray,
    *,
    probe: Probe,
    num_classes: int,
    conversation: Conversation,
) -> dict[FeatureKey, list[Solved]]:
    """Return the accuracies of ridge classifiers on all images, without holding their features.

    Memory is O(D^2 + C D) for each combination of layer and pooling, whatever N is.

    Args:
        batches: Features of the pool in order: (B, D) or (B, T, D) float32 by key.
        labels: (N,) int64.
        test_features: (M, D) or (T, M, D) float32 by key.
        test_labels: (M,) int64.
        probe: ``ridge`` with fixed penalties, ``balance`` none or intercept.
        num_classes: C.
        conversation: Shows progress.
    """
    sums: dict[FeatureKey, list[RidgeStatistics]] = {}
    done = 0
    for batch in batches:
        part = labels[done : done + len(next(iter(batch.values())))]
        for key, values in batch.items():
            tokens = values[None] if values.ndim == 2 else np.moveaxis(values, 1, 0)
            if key not in sums:
                origins = tokens.mean(axis=1, dtype=np.float64)
                sums[key] = [RidgeStatistics(num_classes, origin) for origin in origins]
            for statistics, rows in zip(sums[key], tokens, strict=True):
                statistics.add(rows, part)
        done += len(part)
    result: dict[FeatureKey, list[Solved]] = {}
    with conversation.progress("solving", sum(len(found) for found in sums.values()), "classifiers") as bar:
        for key, statistics_of_tokens in sums.items():
            test = test_features[key][None] if test_features[key].ndim == 2 else test_features[key]
            solved: dict[tuple[int | None, int], Solved] = {}
            for statistics, rows in zip(statistics_of_tokens, test, strict=True):
                fits = fit_statistics(statistics, rows[:0], test_labels[:0], probe)
                predicted = predict_classes(rows, [one.linear for one in fits])
                for one, classes in zip(fits, predicted, strict=True):
                    prediction = Prediction(0, None, one.setting, one.l2, len(labels), classes)
                    _add(solved, prediction, test_labels, num_tokens=len(test))
                bar.advance()
            result[key] = [solved[found] for found in sorted(solved, key=lambda found: found[1])]
    return result
