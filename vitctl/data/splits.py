"""Draw a validation split from training images: stratified, seeded, what belongs together kept together."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vitctl.primitives.seeds import random_generator

_FEW_PAIRS = 50  # classes of two images that may be divided whatever the number of images asked for; guess
_LOOK_AHEAD = 16  # groups among which to choose: enough to balance classes, few enough to stay random; guess


def default_num_validation(num_images: int) -> int:
    """Return how many of ``num_images`` to hold out: a tenth, at least 200, at most 5,000, never over a fifth.

    50 images at 90 % accuracy are known to +-8.5 points; 200 to +-4.2, 5,000 to +-0.8 (Wilson, 95 %).
    """
    return int(min(0.2 * num_images, max(200, min(0.1 * num_images, 5_000))))


def default_dev_fraction(num_images: int) -> float:
    """Return the share of ``num_images`` training images to choose settings on, where the user does not say.

    A tenth below 5,000 images, a fiftieth from there: of CIFAR's 50,000 that is the thousand, and of ImageNet's
    1.28 million nearer to the hundredth, that BiT (1912.11370) and the ViT paper (2010.11929, appendix D.4) cut off.
    """
    return 0.1 if num_images < 5_000 else 0.02


def num_development(num_images: int, fraction: float) -> int:
    """Return how many of ``num_images`` training images a share for development is, at least one."""
    return max(1, round(fraction * num_images))


def merge_groups(*groupings: Sequence[str]) -> list[str]:
    """Return one name per image, equal for images that any chain of ``groupings`` ties together.

    A patient's images stay together, and with them the exact duplicates of each under another patient.

    Args:
        groupings: At least one; each has N names, equal for images that belong together.

    Example:
        >>> merge_groups(["a", "a", "b", "c"], ["x", "y", "y", "z"])
        ['a', 'a', 'a', 'c']
    """

    def ties() -> Iterator[tuple[int, int]]:
        for grouping in groupings:
            first: dict[str, int] = {}
            for position, group in enumerate(grouping):
                yield first.setdefault(group, position), position

    return [groupings[0][first] for first in first_of_each_set(len(groupings[0]), ties())]


def first_of_each_set(count: int, ties: Iterable[tuple[int, int]]) -> list[int]:
    """Return of each position 0..count-1 the first of those that any chain of ``ties`` joins it to, or itself.

    Example:
        >>> first_of_each_set(5, [(3, 1), (4, 3)])
        [0, 1, 2, 1, 1]
    """
    root = list(range(count))

    def find(position: int) -> int:
        while root[position] != position:
            root[position] = root[root[position]]
            position = root[position]
        return position

    for tied in ties:
        one, other = map(find, tied)
        root[max(one, other)] = min(one, other)
    return list(map(find, range(count)))


def draw_validation(
    labels: np.ndarray, groups: Sequence[str], *, num_validation: int, seed: int, purpose: str = "split"
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0..N-1 into training and validation.

    Each class gives its share, rounded so that the shares add up to ``num_validation``. A group (a patient's
    images, exact duplicates) is never divided: it is drawn, in random order, where that brings the number drawn
    nearer to the number asked, and where every class keeps an image to train on. So the two can differ by part
    of a group.

    A class of two images whose share is less than one gives one all the same, so that it is trained on and scored: on
    top of the number asked for, and of so many classes at most, drawn, or of ``_FEW_PAIRS``.

    Args:
        labels: (N,) int64 class of each image.
        groups: N names; images with the same name stay on one side.
        num_validation: Images to draw, 0..N.
        seed: Same seed, same split.
        purpose: What it is drawn for, a key of ``vitctl.primitives.seeds.PURPOSES``: another one, another split.

    Returns:
        (training, validation): sorted int64 positions that together are 0..N-1.
    """
    counts = np.bincount(labels)
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    mixed: list[list[int]] = []  # groups of several classes
    pure: dict[int, list[list[int]]] = defaultdict(list)
    for positions in members.values():
        classes = {int(labels[position]) for position in positions}
        if len(classes) > 1:
            mixed.append(positions)
        else:
            pure[classes.pop()].append(positions)
    quotas = _shares(counts, num_validation)
    taken = np.zeros_like(counts)
    chosen: list[int] = []
    if mixed:
        order = random_generator(seed, purpose, len(counts)).permutation(len(mixed))
        for drawn in _draw_mixed([mixed[index] for index in order], labels, counts, num_validation):
            chosen += drawn
            taken += np.bincount(labels[drawn], minlength=len(counts))
    for label in sorted(pure):
        for index in random_generator(seed, purpose, label).permutation(len(pure[label])):
            size = len(pure[label][index])
            is_nearer = abs(taken[label] + size - quotas[label]) < abs(taken[label] - quotas[label])
            if is_nearer and taken[label] + size < counts[label]:
                chosen += pure[label][index]
                taken[label] += size
    pairs = [pure[label] for label in sorted(pure) if counts[label] == 2 and not taken[label]]
    most = max(num_validation, _FEW_PAIRS) if num_validation else 0
    chosen += _one_of_each(pairs, most, random_generator(seed, purpose, len(counts) + 1))
    validation = np.array(sorted(chosen), dtype=np.int64)
    training = np.setdiff1d(np.arange(len(labels), dtype=np.int64), validation)
    return training, validation


def _one_of_each(pairs: list[list[list[int]]], most: int, random: np.random.Generator) -> list[int]:
    """Return an image of each of ``pairs``, classes of two images of which none was drawn; of ``most`` of them.

    Args:
        pairs: The groups of each class. Two images that belong together stay together, in training.
        most: Images to draw, 0 or more.
        random: Draws them.
    """
    found: list[int] = []
    for index in random.permutation(len(pairs)):
        alone = [group[0] for group in pairs[index] if len(group) == 1]
        if alone and len(found) < most:
            found.append(alone[random.integers(len(alone))])
    return found


def _draw_mixed(
    groups: list[list[int]], labels: np.ndarray, counts: np.ndarray, num_validation: int
) -> list[list[int]]:
    """Return those of ``groups`` (of several classes each, in random order) to validate on.

    Groups are added while the number of images gets nearer to the part of ``num_validation`` that is due to them,
    so that they are as frequent in validation as in training; of the next few the one that brings the classes
    nearest to their shares, by squares. Every class keeps an image.
    """
    added = {id(group): np.bincount(labels[group], minlength=len(counts)) for group in groups}
    wanted = np.sum([added[id(group)] for group in groups], axis=0) * (num_validation / len(labels))
    taken = np.zeros(len(counts))
    chosen: list[list[int]] = []
    window, rest = list[list[int]](), iter(groups)
    while window := [*window, *itertools.islice(rest, _LOOK_AHEAD - len(window))]:
        missing = wanted.sum() - taken.sum()
        window = [  # what does not fit now never will: both conditions only get harder
            group
            for group in window
            if len(group) < 2 * missing and (taken + added[id(group)] < counts)[added[id(group)] > 0].all()
        ]
        if window:
            best = min(window, key=lambda group: float(((taken + added[id(group)] - wanted) ** 2).sum()))
            window.remove(best)
            taken += added[id(best)]
            chosen.append(best)
    return chosen


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """Return per-class numbers in proportion to ``counts`` that add up to ``total`` (largest remainder)."""
    exact = counts * (total / max(1, counts.sum()))
    shares: np.ndarray = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - shares), kind="stable")
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return shares
