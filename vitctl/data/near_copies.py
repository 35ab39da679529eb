"""Which of many images are nearly copies of others: encoded anew, resized, saved from a web page.

Two small greyscale pictures of one photo differ by a level or so, whatever it went through. They are found by a
perceptual hash (the signs of the low frequencies of their cosine transform about their median: Zauner, "Implementation
and benchmarking of perceptual image hash functions", 2010, section 3.2.1; ``imagehash.phash``, whose package needs
PyWavelets for other hashes) and then compared level by level, as hashes alone take one handwritten digit for another.

Letters: N images, S px of a picture's side, P pairs.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

SIDE = 12  # px of the pictures that are compared; small enough to be remembered of every image. A guess
_NUM_FREQUENCIES = 8  # along each side: 64 bits
_MOST_BITS = 4  # that differ between two copies; 4 measured (tests/data/test_near_copies.py has what was measured)
_TURN = 4  # bits by which hashes are turned at a time; 12 or more of the 15 are then in front. A guess
_WINDOW = 24  # images compared with each in each order: of 100,000 unlike ones 12 begin with the same 13 bits. A guess
LEAST_CONTRAST = 8.0  # levels, standard deviation; a flatter image is like every other flat one. A guess
LEAST_CORRELATION = 0.995  # of the two pictures; copies 0.999, the nearest of 1,313 photos 0.985, of digits 0.99
MOST_DIFFERENCE = 3.0  # levels on average; copies 1, the nearest digits 8
_BLOCK = 2**16  # pairs compared at a time
_ENOUGH = 16  # copies of an image after which no more are looked for but by others. A guess


def near_pairs(pictures: np.ndarray) -> np.ndarray:
    """Return pairs of pictures that are nearly equal; of a crowd of copies not every pair.

    Takes time in proportion to N log N: between the 4 bits in which two hashes may differ, all in a circle, lie 15 or
    more that are equal. Turned until those come first, and sorted, the two stand near each other.

    Args:
        pictures: (N, S, S) uint8, greyscale. One that is nearly flat is nobody's copy.

    Returns:
        (P, 2) int64 positions, the smaller first; each pair once.
    """
    levels = pictures.reshape(len(pictures), pictures.shape[1] * pictures.shape[2])
    rows = np.flatnonzero(levels.std(axis=1) >= LEAST_CONTRAST)
    levels, num_links = levels[rows], np.zeros(len(rows), dtype=np.int64)
    found: set[tuple[int, int]] = set()
    for left, right in _candidates(perceptual_hashes(pictures[rows])):
        is_open = (num_links[left] < _ENOUGH) | (num_links[right] < _ENOUGH)
        pairs = _verified(levels, left[is_open], right[is_open])
        np.add.at(num_links, pairs, 1)
        found.update(map(tuple, np.sort(rows[pairs], axis=1).tolist()))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def perceptual_hashes(pictures: np.ndarray) -> np.ndarray:
    """Return the hash of each of (N, S, S) uint8 pictures: (N,) uint64.

    A bit per frequency of the 8 by 8 lowest of the cosine transform: above their median, or not. The constant counts
    as 0.
    """
    waves = _waves(pictures.shape[-1])
    spectrum = pictures.reshape(len(pictures), waves.shape[1] ** 2).astype(np.float32) @ np.kron(waves, waves).T
    spectrum[:, 0] = 0
    bits = np.packbits(spectrum > np.median(spectrum, axis=1, keepdims=True), axis=1)
    return bits.view(">u8").reshape(len(pictures)).astype(np.uint64)


@cache
def _waves(side: int) -> np.ndarray:
    """Return the lowest frequencies of the cosine transform of ``side`` values (DCT-II, unscaled), a row for each."""
    frequency, place = np.arange(_NUM_FREQUENCIES)[:, None], np.arange(side)[None]
    return np.cos(np.pi * (2 * place + 1) * frequency / (2 * side)).astype(np.float32)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions, (P,) int64 each, of hashes (N,) that differ in few bits; a pair may come several times."""
    for turn in range(0, 64, _TURN):
        turned = _turned(hashes, turn)
        order = np.argsort(turned, kind="stable")
        inside = turned[order]
        for shift in range(1, min(_WINDOW, len(order) - 1) + 1):
            near = np.flatnonzero(np.bitwise_count(inside[shift:] ^ inside[:-shift]) <= _MOST_BITS)
            if len(near):
                yield order[near], order[near + shift]


def _turned(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Return (N,) uint64 with the first ``bits`` bits behind the others."""
    if bits == 0:
        return hashes
    turned: np.ndarray = (hashes << np.uint64(bits)) | (hashes >> np.uint64(64 - bits))
    return turned


def _verified(levels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return those pairs of rows of ``levels`` (N, D), ``left`` and ``right`` (P,), that are nearly equal: (Q, 2)."""
    near = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(left), _BLOCK):
        pairs = np.stack([left[start : start + _BLOCK], right[start : start + _BLOCK]], axis=1)
        first, second = (levels[pairs[:, side]].astype(np.int16) for side in (0, 1))
        pairs = pairs[np.abs(first - second).sum(axis=1) <= MOST_DIFFERENCE * levels.shape[1]]
        first, second = (levels[pairs[:, side]].astype(np.float32) for side in (0, 1))
        near.append(pairs[_correlations(first, second) >= LEAST_CORRELATION])
    return np.concatenate(near)


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each row of (P, D) with its counterpart, none of them constant: (P,)."""
    first, second = (rows - rows.mean(axis=1, keepdims=True) for rows in (first, second))
    sizes = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    found: np.ndarray = (first * second).sum(axis=1) / sizes
    return found
