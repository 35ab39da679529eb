"""Classes of unequal size: weights in the loss, or an order that shows every class equally often.

Either makes a run aim at balanced accuracy (the mean recall of the classes) instead of plain accuracy.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from vitctl.primitives.seeds import random_generator

NOTABLE_RATIO = 3.0  # largest over smallest class from which balancing is worth a thought: guess


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the weight of each class, N / (C * N_c): (C,) float64, whose mean over the images is 1.

    Source: scikit-learn's ``class_weight="balanced"``, after King and Zeng, Logistic Regression in Rare Events
    Data (2001).

    Args:
        labels: (N,) int64; every class occurs.
        num_classes: C.

    Raises:
        ValueError: A class does not occur.
    """
    weights: np.ndarray = compute_class_weight("balanced", classes=np.arange(num_classes), y=labels)
    return weights


def imbalance_ratio(counts: np.ndarray) -> float:
    """Return how many times larger the largest class is than the smallest that is not empty; counts is (C,)."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


@dataclass(frozen=True)
class BalancedOrder:
    """An endless order of images in which every class comes equally often.

    An epoch has as many places as there are images; each class gets an equal number of them (what does not
    divide goes to the classes in turn), in random order. Within a class every image is shown once before any
    is shown again. No state: an epoch's order is a function of (labels, seed, epoch).

    Attributes:
        labels: (N,) int64; every class 0..C-1 occurs.
        seed: The run's seed.
    """

    labels: np.ndarray
    seed: int

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (views, positions), each (N,) int64: how often an image was shown before, and which it is."""
        num_images, num_classes = len(self.labels), int(self.labels.max()) + 1
        each, left_over = divmod(num_images, num_classes)
        views, positions = [], []
        for label in range(num_classes):
            first, last = (index * each + _turns(index * left_over, label, num_classes) for index in (epoch, epoch + 1))
            class_views, class_positions = self._stretch(label, first, last)
            views.append(class_views)
            positions.append(class_positions)
        order = random_generator(self.seed, "order", epoch).permutation(num_images)
        return np.concatenate(views)[order], np.concatenate(positions)[order]

    def _stretch(self, label: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return views and positions of places ``first`` to ``last`` (exclusive) in the order of one class."""
        members = np.flatnonzero(self.labels == label)
        rounds = range(first // len(members), -(-last // len(members)))
        stream = [
            members[random_generator(self.seed, "balance", label, one).permutation(len(members))] for one in rounds
        ]
        start = first - rounds.start * len(members)
        places = np.concatenate([*stream, members[:0]])[start : start + last - first]
        return np.arange(first, last) // len(members), places


def _turns(num_places: int, label: int, num_classes: int) -> int:
    """Return how many of places 0..num_places-1 fall to ``label`` when the classes take them in turn."""
    return (num_places - label + num_classes - 1) // num_classes
