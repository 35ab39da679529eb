"""How far features of other images bear out each image's label: by ridge probes that were fitted without it.

An image that its own probe has seen vouches for its label, right or wrong; one that was left out does not. All images
are left out in turn in closed form, copies of one together, as each would vouch for the other.

Letters: N images, D width, C classes, P of the images.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.fewshot import LOO_ROWS
from vitctl.evaluation.ridge import (
    DEFAULT_L2,
    LOO_L2,
    LeaveOneOut,
    RidgeStatistics,
    leave_one_out,
    standardise_support,
)
from vitctl.evaluation.ridge_head import best_scale
from vitctl.primitives.seeds import random_generator

_SAMPLE_SCORES = 2**22  # to choose the penalty by: of 1,000 classes 4,194 images, 30 penalties in a minute. A guess
_BLOCK_ROWS = 16_384  # images that are scored at a time: of 768 features and 1,000 classes 0.7 GB


@dataclass(frozen=True)
class LabelDoubts:
    """What is said of every image by a probe that knew nothing of it.

    Attributes:
        probability: (N,) float64, 0-1, of the image's own class.
        suggested: (N,) int64, the most probable class; often its own.
        suggested_probability: (N,) float64, 0-1.
        is_judged: (N,) bool, False where the probe knew no image of the own class, so that it could not be right.
        is_flagged: (N,) bool; see ``flags``.
        l2: Penalty of the probes.
    """

    probability: np.ndarray
    suggested: np.ndarray
    suggested_probability: np.ndarray
    is_judged: np.ndarray
    is_flagged: np.ndarray
    l2: float

    def ranked(self) -> np.ndarray:
        """Return the positions of the images that were judged, the least probable label first, (N_judged,) int64."""
        order = np.argsort(self.probability, kind="stable")
        ranked: np.ndarray = order[self.is_judged[order]]
        return ranked

    def top1(self, labels: np.ndarray) -> float | None:
        """Return the share, 0-1, of the judged images whose label (N,) int64 is the most probable; None of none."""
        return float(np.mean((self.suggested == labels)[self.is_judged])) if self.is_judged.any() else None


def doubt_labels(
    features: np.ndarray, labels: np.ndarray, together: Sequence[str], *, num_classes: int, seed: int
) -> LabelDoubts:
    """Return how probable every label is, by ridge probes on the features of the others.

    The penalty has the best accuracy on images left out, and one temperature turns their scores into probabilities; of
    many images, or classes, both are found on a sample. No (N, C) matrix is held.

    Args:
        features: (N, D) float32, finite, N >= 1.
        labels: (N,) int64, 0..C-1.
        together: N names; images of one name are left out together.
        num_classes: C.
        seed: Of the sample.
    """
    if len(labels) == 1:
        alone = np.ones(1)
        return LabelDoubts(alone, labels, alone, np.zeros(1, dtype=bool), np.zeros(1, dtype=bool), DEFAULT_L2)
    sets = _sets(together)
    is_judged = _has_others(labels, together)
    probes = _Probes(features, labels, num_classes)
    most = min(LOO_ROWS, _SAMPLE_SCORES // num_classes)
    sample = next(_parts(sets, most, order=random_generator(seed, "leave-one-out").permutation(len(sets))))
    l2, scale = _choose(probes, sample, labels, is_judged)
    own, best = np.empty(len(labels)), np.empty(len(labels))
    suggested = np.empty(len(labels), dtype=np.int64)
    for part in _parts(sets, _BLOCK_ROWS if probes.is_in_parts else len(labels), order=np.arange(len(sets))):
        rows, scores = probes.scores(part, [l2])
        shares = _softmax(scale * next(scores))
        own[rows] = shares[np.arange(len(rows)), labels[rows]]
        suggested[rows], best[rows] = shares.argmax(axis=1), shares.max(axis=1)
    flagged = flags(own, suggested, best, labels, is_judged, num_classes=num_classes)
    return LabelDoubts(own, suggested, best, is_judged, flagged, l2)


def flags(
    probability: np.ndarray,
    suggested: np.ndarray,
    suggested_probability: np.ndarray,
    labels: np.ndarray,
    is_judged: np.ndarray,
    *,
    num_classes: int,
) -> np.ndarray:
    """Return which labels are probably wrong, (N,) bool: confident learning (arXiv 1911.00068, section 3.1).

    Another class is the most probable, and at least as probable as it is, on average, of the images that bear it as
    their label: so a class that is hard to tell needs less than an easy one. A class none of whose images was judged
    is suggested of none.

    Args:
        probability: (N,) of the own class.
        suggested: (N,) int64, the most probable class.
        suggested_probability: (N,) its probability.
        labels: (N,) int64, the own class.
        is_judged: (N,) bool.
        num_classes: C.
    """
    counts = np.bincount(labels[is_judged], minlength=num_classes)
    sums = np.bincount(labels[is_judged], weights=probability[is_judged], minlength=num_classes)
    own_confidence = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    result: np.ndarray = is_judged & (suggested != labels) & (suggested_probability >= own_confidence[suggested])
    return result


class _Probes:
    """Ridge probes that know all images but a set.

    Args:
        features: (N, D) float32.
        labels: (N,) int64.
        num_classes: C.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        self._features, self._labels = features, labels
        self.is_in_parts = features.shape[0] > features.shape[1]
        self._all: LeaveOneOut | None = None
        self._statistics = RidgeStatistics(num_classes, features.mean(axis=0, dtype=np.float64))
        if self.is_in_parts:
            for first in range(0, len(labels), _BLOCK_ROWS):
                block = slice(first, first + _BLOCK_ROWS)
                self._statistics.add(features[block], labels[block])
        else:
            self._all = leave_one_out(standardise_support(features, labels, num_classes=num_classes))

    def scores(self, sets: Sequence[np.ndarray], penalties: Sequence[float]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """Return the rows of ``sets``, (P,), sorted, and for each penalty their scores without their set, (P, C)."""
        rows = np.sort(np.concatenate(sets))
        found = self._all
        if found is None:
            found = self._statistics.leave_one_out(self._features[rows], self._labels[rows])
        places = _of_one_size([np.searchsorted(rows, one) for one in sets] if self._all is None else sets)
        return rows, (
            found.scores_without(places, l2)[rows if self._all is not None else slice(None)] for l2 in penalties
        )


def _choose(
    probes: _Probes, sample: Sequence[np.ndarray], labels: np.ndarray, is_judged: np.ndarray
) -> tuple[float, float]:
    """Return the penalty and the factor on the scores, by what is said of the images of ``sample``."""
    rows, by_penalty = probes.scores(sample, LOO_L2)
    is_good, own = is_judged[rows], labels[rows][is_judged[rows]]
    if not is_good.any():
        return DEFAULT_L2, 1.0
    accuracies = [float(np.mean(scores[is_good].argmax(axis=1) == own)) for scores in by_penalty]
    best = max(zip(accuracies, (-abs(np.log(l2 / DEFAULT_L2)) for l2 in LOO_L2), LOO_L2, strict=True))[2]
    _, chosen = probes.scores(sample, [best])
    return best, best_scale(next(chosen)[is_good], own)


def _softmax(scores: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _sets(together: Sequence[str]) -> list[np.ndarray]:
    """Return the positions of each name."""
    members: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(together):
        members[name].append(position)
    return [np.array(one) for one in members.values()]


def _of_one_size(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the sets of more than one, (G, m) int64 for each size m."""
    by_size: dict[int, list[np.ndarray]] = defaultdict(list)
    for one in sets:
        by_size[len(one)].append(one)
    return [np.stack(same) for size, same in by_size.items() if size > 1]


def _parts(sets: Sequence[np.ndarray], most: int, *, order: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yield the sets, in ``order``, in parts of ``most`` rows, or of one set that is larger."""
    part, num_rows = list[np.ndarray](), 0
    for index in order:
        if part and num_rows + len(sets[index]) > most:
            yield part
            part, num_rows = [], 0
        part.append(sets[index])
        num_rows += len(sets[index])
    yield part


def _has_others(labels: np.ndarray, together: Sequence[str]) -> np.ndarray:
    """Return of which images the class has an image under another name, (N,) bool."""
    _, names = np.unique(np.asarray(together, dtype=object).astype(str), return_inverse=True)
    of_both, inverse, counts = np.unique(
        np.stack([labels, names], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    of_class = np.bincount(labels)
    result: np.ndarray = (of_class[of_both[:, 0]] > counts)[inverse.ravel()]
    return result
