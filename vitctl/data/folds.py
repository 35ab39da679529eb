"""Divide training images into parts of which each is validated on once: stratified, seeded, groups kept whole.

scikit-learn's StratifiedGroupKFold does about the same, and takes minutes for a million images.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vitctl.primitives.seeds import random_generator


def draw_folds(labels: np.ndarray, groups: Sequence[str], *, num_folds: int, seed: int) -> np.ndarray:
    """Return which of ``num_folds`` parts each image is in, (N,) int64 from 0.

    Groups of several classes come first, the largest first, each to the part that has the smallest share of its
    classes; then those of one class, class by class, each to the part with the fewest images of the class, of such
    the one with the fewest images. Without groups each part so has an n-th of every class, and of all images, up to
    one. A class of ``num_folds`` or more groups is in every part, and one of two or more is in two of them at least,
    where groups are of one class each; where they are not, that may be impossible.

    Args:
        labels: (N,) int64 class of each image.
        groups: N names; images with the same name are in one part. At least ``num_folds`` different ones.
        num_folds: At least 2; no part is empty.
        seed: Same seed, same parts.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    named = list(members.values())
    shuffled = [named[index] for index in random_generator(seed, "folds").permutation(len(named)).tolist()]
    mixed, pure, class_of = list[list[int]](), defaultdict[int, list[list[int]]](list), labels.tolist()
    for positions in sorted(shuffled, key=len, reverse=True):
        classes = {class_of[position] for position in positions}
        (mixed if len(classes) > 1 else pure[classes.pop()]).append(positions)
    parts = _Parts(np.bincount(labels), num_folds)
    folds = np.empty(len(labels), dtype=np.int64)
    for positions in mixed:
        folds[positions] = parts.add_mixed(labels[positions])
    for label in sorted(pure, key=lambda label: -len(pure[label][0])):  # what is even can fill up the rest
        sizes = [len(positions) for positions in pure[label]]
        for positions, part in zip(pure[label], parts.add_pure(label, sizes), strict=True):
            folds[positions] = part
    return folds


class _Parts:
    """What is in each of the parts so far.

    Args:
        counts: (C,) images of each class.
        num_folds: How many parts.
    """

    def __init__(self, counts: np.ndarray, num_folds: int) -> None:
        self._counts = np.maximum(counts, 1).astype(np.float64)
        self._taken = np.zeros((num_folds, len(counts)), dtype=np.int64)
        self._sizes = [0] * num_folds

    def add_mixed(self, labels: np.ndarray) -> int:
        """Add a group where its classes are then nearest to even, by squares of their shares; return where.

        Args:
            labels: (N,) int64 class of each of its images.
        """
        classes, counts = np.unique(labels, return_counts=True)
        # the sum of all squares grows by what is the same for every part, and by this
        growth = (self._taken[:, classes] * (counts / self._counts[classes] ** 2)).sum(axis=1)
        part = int(np.lexsort((self._sizes, np.round(growth, 12)))[0])  # rounded, as sums in another order differ
        self._taken[part, classes] += counts
        self._sizes[part] += len(labels)
        return part

    def add_pure(self, label: int, sizes: Sequence[int]) -> list[int]:
        """Add groups of one class, each where fewest of the class are, then fewest images; return where."""
        taken, totals, found = self._taken[:, label].tolist(), self._sizes, list[int]()
        for size in sizes:
            part = min(range(len(taken)), key=lambda part: (taken[part], totals[part]))
            taken[part] += size
            totals[part] += size
            found.append(part)
        self._taken[:, label] = taken
        return found
