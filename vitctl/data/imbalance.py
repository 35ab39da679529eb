"""Classes of unequal size: how unequal, and weights in the loss.

The weights make a run aim at balanced accuracy (the mean recall of the classes) instead of plain accuracy; so does
``vitctl.data.order.BalancedOrder``.
"""

import numpy as np

NOTABLE_RATIO = 3.0  # largest over smallest class from which balancing is worth a thought: guess


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the weight of each class, N / (C * N_c): (C,) float64, whose mean over the images is 1; 0 without images.

    Source: scikit-learn's ``class_weight="balanced"``, after King and Zeng, Logistic Regression in Rare Events
    Data (2001).

    Args:
        labels: (N,) int64; C counts the classes that occur.
        num_classes: C and those that do not occur.
    """
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    weights = np.zeros(num_classes)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights


def imbalance_ratio(counts: np.ndarray) -> float:
    """Return how many times larger the largest class is than the smallest that is not empty; counts is (C,)."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0
