"""Which of many thumbnails are nearly one of many others: a join by distance that stops at the first that is near.

A tree's radius query (scikit-learn, scipy) lists every pair, and of images that all look alike that is every image with
every other: 1.5 GB for two times 12,000, measured (2026-11). Their nearest-neighbour query lists none, but tells ties
apart one by one. Here a thumbnail is done with as soon as one is near.

Letters: N and M thumbnails, D levels of 0-255 in each.
"""

import numpy as np

_SAMPLE = 64  # of the others, seen first: where all are alike, they are near all. A guess
_BLOCK = 2**18  # pairs compared at a time: their flags stay in the processor's cache. A guess
_FEW = 2**20  # pairs that are compared without dividing them further. A guess


def near_any(thumbs: np.ndarray, others: np.ndarray, *, tolerance: int) -> np.ndarray:
    """Return which of ``thumbs`` have one among ``others`` that differs by ``tolerance`` or less in every level.

    Args:
        thumbs: (N, D) uint8.
        others: (M, D) uint8.
        tolerance: Levels, 0-255.

    Returns:
        (N,) bool.
    """
    thumbs, back = np.unique(thumbs, axis=0, return_inverse=True)
    others = np.random.default_rng(0).permutation(np.unique(others, axis=0))
    low = np.maximum(thumbs.astype(np.int16) - tolerance, 0).astype(np.uint8)
    high = np.minimum(thumbs.astype(np.int16) + tolerance, 255).astype(np.uint8)
    found = np.zeros(len(thumbs), dtype=bool)
    _search(low, high, np.arange(len(thumbs)), others, found)
    return found[back.reshape(-1)]


def _search(low: np.ndarray, high: np.ndarray, rows: np.ndarray, others: np.ndarray, found: np.ndarray) -> None:
    """Set ``found`` for those of ``rows``, (R,), in whose box ``low`` to ``high``, (N, D), one of ``others`` lies."""
    found[rows] = _any_within(low[rows], high[rows], others[:_SAMPLE])
    rows, others = rows[~found[rows]], others[_SAMPLE:]
    if len(rows) * len(others) <= _FEW:
        found[rows] = _any_within(low[rows], high[rows], others)
        return
    level = int(np.argmax(np.std(others, axis=0)))
    middle = np.median(others[:, level])
    is_left = others[:, level] <= middle
    if is_left.all():  # more than half are equal there, and those on the other side none
        is_left = others[:, level] < middle
    if not is_left.any():
        found[rows] = _any_within(low[rows], high[rows], others)
        return
    left, right = others[is_left], others[~is_left]
    _search(low, high, rows[low[rows, level] <= left[:, level].max()], left, found)
    rows = rows[~found[rows]]
    _search(low, high, rows[high[rows, level] >= right[:, level].min()], right, found)


def _any_within(low: np.ndarray, high: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each box (R, D) holds one of ``others`` (M, D): (R,) bool, by looking at all of them."""
    found = np.zeros(len(low), dtype=bool)
    width = max(1, min(len(others), _BLOCK // 256))
    for start in range(0, len(others), width):
        some = np.ascontiguousarray(others[start : start + width].T)
        left = np.flatnonzero(~found)
        for first in range(0, len(left), max(1, _BLOCK // width)):
            rows = left[first : first + max(1, _BLOCK // width)]
            found[rows] = _within(low[rows], high[rows], some)
    return found


def _within(low: np.ndarray, high: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each box (R, D) holds one of ``others``, (D, M) here: (R,) bool."""
    are_near = np.ones((len(low), others.shape[1]), dtype=bool)
    for level, values in enumerate(others):
        are_near &= values >= low[:, level, None]
        are_near &= values <= high[:, level, None]
        if not are_near.any():
            break
    return np.asarray(are_near.any(axis=1))
