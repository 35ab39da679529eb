"""Training images in parts: disjoint, stratified, groups whole, as even as groups allow."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from vitctl.data.folds import draw_folds


def _alone(count: int) -> list[str]:
    return [str(position) for position in range(count)]


def _table(labels: np.ndarray, folds: np.ndarray, num_folds: int) -> np.ndarray:
    """Return (parts, classes), how many images of each class are in each part."""
    found = np.zeros((num_folds, int(labels.max()) + 1), dtype=int)
    np.add.at(found, (folds, labels), 1)
    return found


@pytest.mark.parametrize("num_folds", [2, 3, 10])
def test_without_groups__each_class_and_the_whole_are_even_up_to_one(num_folds: int) -> None:
    labels = np.random.default_rng(num_folds).choice(7, size=203, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02])
    table = _table(labels, draw_folds(labels, _alone(203), num_folds=num_folds, seed=0), num_folds)
    assert np.ptp(table, axis=0).max() <= 1
    assert np.ptp(table.sum(axis=1)) <= 1


def test_seed__decides_and_repeats() -> None:
    labels = np.arange(60) % 3
    drawn = [tuple(draw_folds(labels, _alone(60), num_folds=5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_image_is_as_often_in_every_part() -> None:
    labels = np.arange(12) % 2
    times = np.zeros((12, 3))
    for seed in range(400):
        times[np.arange(12), draw_folds(labels, _alone(12), num_folds=3, seed=seed)] += 1
    assert np.abs(times / 400 - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 400)  # four standard errors, of 36


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_one_class_each__whole_and_every_class_where_it_can_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_folds = int(random.integers(2, 7))
    sizes, classes = random.integers(1, 9, 40), random.choice(8, 40, p=[0.3, 0.2, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05])
    owner = random.permutation(np.repeat(np.arange(40), sizes))
    labels = classes[owner]
    folds = draw_folds(labels, [f"patient {one}" for one in owner], num_folds=num_folds, seed=seed)
    assert set(folds) == set(range(num_folds))  # no part is empty
    assert all(len(set(folds[owner == one])) == 1 for one in range(40))
    table = _table(labels, folds, num_folds)
    for label in np.unique(labels):
        num_groups = int((classes == label).sum())
        assert (table[:, label] > 0).sum() == min(num_groups, num_folds)  # so one of two groups is always trained on
        largest = sizes[classes == label].max()
        assert np.ptp(table[:, label]) <= largest  # else the last group would have gone elsewhere


def test_groups_of_several_classes__no_worse_than_scikit_learn() -> None:
    ours, theirs = [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        num_folds, num_classes = int(random.integers(2, 6)), int(random.integers(2, 8))
        owner, labels = random.integers(0, 25, 120), random.integers(0, num_classes, 120)
        folds = draw_folds(labels, [str(one) for one in owner], num_folds=num_folds, seed=seed)
        assert all(len(set(folds[owner == one])) == 1 for one in owner)
        other = np.zeros(120, dtype=int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, owner)
            for part, (_, positions) in enumerate(parts):
                other[positions] = part
        for found, where in ((folds, ours), (other, theirs)):
            table = _table(labels, found, num_folds)
            where.append([(table / table.sum(axis=0)).std(axis=0).mean(), np.ptp(table.sum(axis=1))])
    for mine, other_one in zip(np.mean(ours, axis=0), np.mean(theirs, axis=0), strict=True):
        assert mine <= 1.02 * other_one
