"""Which images a few-shot classifier is fitted on: draws from the labels alone, before any image is embedded.

Letters: N images of the pool, C classes, E episodes, Q query images of a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.primitives.seeds import random_generator

_BLOCK = 1000  # episodes drawn from one random stream: more episodes begin with the same ones


@dataclass(frozen=True)
class SupportDraw:
    """The images of every class in drawn order; k shots are the first k of each, so supports are nested.

    Attributes:
        seed: Of the draw.
        orders: C arrays (N_c,) int64 of positions in the pool.
    """

    seed: int
    orders: tuple[np.ndarray, ...]

    def rows(self, shots: int | None, *, beyond: int = 0) -> np.ndarray:
        """Return the support of ``shots`` images per class (None: all), class after class, (N_s,) int64.

        A class with fewer images gives what it has. ``beyond`` leaves out the first images of each class.
        """
        return np.concatenate([order[beyond:shots] for order in self.orders])

    def moved(self, positions: np.ndarray) -> "SupportDraw":
        """Return the draw as positions within ``positions`` (U,) int64, ascending, that hold all of its images."""
        return SupportDraw(self.seed, tuple(np.searchsorted(positions, order) for order in self.orders))


def draw_support(labels: np.ndarray, *, num_classes: int, seed: int, most: int | None = None) -> SupportDraw:
    """Return the draw of google-research/big_vision ``evaluators/fewshot_lsr.py``.

    One generator permutes the positions of class 0, then of class 1, and so on; here the positions are those of
    the data source (there of a TFDS reader).

    Args:
        labels: (N,) int64, 0..C-1.
        num_classes: C.
        seed: >= 0.
        most: Images of each class to keep; None keeps all.
    """
    rng = np.random.default_rng(seed)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])
    return SupportDraw(seed, tuple(rng.permutation(rows)[:most] for rows in by_class))


def rows_used(draws: Sequence[SupportDraw], shots: int | None) -> np.ndarray:
    """Return the positions that any draw uses with up to ``shots`` images per class, (U,) int64 ascending."""
    return np.unique(np.concatenate([draw.rows(shots) for draw in draws]))


@dataclass(frozen=True)
class Episodes:
    """N-way K-shot tasks: support images from the pool, query images from the test set.

    Fewer ways or shots than drawn are the first ones, so a grid of them compares like with like.

    Attributes:
        classes: (E, ways) int64, the classes of each episode.
        support: (E, ways, shots) int64, positions in the pool.
        queries: (E, ways, Q) int64, positions in the test set.
    """

    classes: np.ndarray
    support: np.ndarray
    queries: np.ndarray

    def part(self, *, ways: int, shots: int) -> "Episodes":
        """Return the episodes with fewer ways (<= W drawn) and shots."""
        return Episodes(self.classes[:, :ways], self.support[:, :ways, :shots], self.queries[:, :ways])

    def moved(self, positions: np.ndarray, test_positions: np.ndarray) -> "Episodes":
        """Return the episodes as positions within ``positions`` (U,) and ``test_positions`` (M,), ascending int64."""
        support, queries = np.searchsorted(positions, self.support), np.searchsorted(test_positions, self.queries)
        return Episodes(self.classes, support, queries)


def eligible_classes(
    labels: np.ndarray, test_labels: np.ndarray, *, num_classes: int, shots: int, queries: int
) -> np.ndarray:
    """Return the classes with at least ``shots`` pool images and ``queries`` test images, (P,) int64.

    Args:
        labels: (N,) int64 of the pool.
        test_labels: (M,) int64 of the test set.
        num_classes: C.
        shots: Support images that an episode takes of a class.
        queries: Test images that it takes of a class.
    """
    has_support = np.bincount(labels, minlength=num_classes) >= shots
    return np.flatnonzero(has_support & (np.bincount(test_labels, minlength=num_classes) >= queries))


def draw_episodes(
    labels: np.ndarray,
    test_labels: np.ndarray,
    classes: np.ndarray,
    *,
    ways: int,
    shots: int,
    queries: int,
    num_episodes: int,
    seed: int,
) -> Episodes:
    """Draw episodes: distinct classes, distinct images within each, all equally probable.

    Args:
        labels: (N,) int64 of the pool.
        test_labels: (M,) int64 of the test set.
        classes: (P,) int64 to draw from, P >= ``ways``; see ``eligible_classes``.
        ways: Classes of an episode.
        shots: Support images of a class.
        queries: Query images of a class.
        num_episodes: E.
        seed: >= 0; the same seed and more episodes begin with the same ones.
    """
    parts = []
    for start in range(0, num_episodes, _BLOCK):
        rng = random_generator(seed, "episodes", start // _BLOCK)
        chosen = classes[rng.random((_BLOCK, len(classes))).argsort(axis=1)[:, :ways]]
        support = _draw_rows(labels, chosen, shots, rng)
        queried = _draw_rows(test_labels, chosen, queries, rng)
        count = min(_BLOCK, num_episodes - start)
        parts.append((chosen[:count], support[:count], queried[:count]))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return Episodes(*joined)


def _draw_rows(labels: np.ndarray, chosen: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` different rows of each class in ``chosen`` (E, ways): (E, ways, count) int64."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    flat, num = chosen.reshape(-1), sizes[chosen.reshape(-1)]
    ranks = np.empty((len(flat), count), dtype=np.int64)
    is_small = num < 4 * count  # few to choose from: by random keys; else drawing again what was drawn twice is quick
    if is_small.any():
        keys = rng.random((int(is_small.sum()), int(num[is_small].max())))
        keys[np.arange(keys.shape[1]) >= num[is_small, None]] = np.inf
        ranks[is_small] = keys.argsort(axis=1)[:, :count]
    left = np.flatnonzero(~is_small)
    while len(left):
        ranks[left] = (rng.random((len(left), count)) * num[left, None]).astype(np.int64)
        ordered = np.sort(ranks[left], axis=1)
        left = left[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
    rows: np.ndarray = order[starts[flat][:, None] + ranks]
    return rows.reshape(*chosen.shape, count)
