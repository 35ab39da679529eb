"""Thumbnails that are nearly one of others, against scikit-learn's tree and comparing all with all."""

import resource
import time
from base64 import b64encode

import numpy as np
import pytest

from vitctl.data.look_alikes import near_any
from vitctl.data.scan import Look, Place, _candidates


def thumbs(count: int, *, spread: float, seed: int) -> np.ndarray:
    """Return (N, 16) uint8 around the middle."""
    levels = np.random.default_rng(seed).normal(127, spread, (count, 16))
    return np.clip(levels, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("spread", [0, 1, 15, 20, 25, 40, 200])
@pytest.mark.parametrize(("count", "num_others"), [(1, 1), (3, 700), (700, 3), (3000, 2000)])
def test_near_any__agrees_with_a_tree(count: int, num_others: int, spread: float) -> None:
    from sklearn.neighbors import KDTree

    some, others = thumbs(count, spread=spread, seed=1), thumbs(num_others, spread=spread, seed=2)
    tree = KDTree(others.astype(float), metric="chebyshev")
    expected = tree.query(some.astype(float))[0][:, 0] <= 24
    assert np.array_equal(near_any(some, others, tolerance=24), expected)


@pytest.mark.parametrize("tolerance", [0, 1, 24, 255])
def test_near_any__the_tolerance_itself_is_near(tolerance: int) -> None:
    others = np.full((1, 16), 128 if tolerance < 100 else 255, dtype=np.uint8)
    at, beyond = others.copy(), others.copy()
    at[0, 3] -= np.uint8(tolerance)
    beyond[0, 3] = max(0, int(others[0, 3]) - tolerance - 1)
    found = near_any(np.concatenate([at, beyond]), others, tolerance=tolerance)
    assert found.tolist() == [True, tolerance == 255]


def test_near_any__of_levels_that_cannot_be_divided() -> None:
    """More than half are equal in every level, and the rest differ in one."""
    others = np.full((4000, 16), 100, dtype=np.uint8)
    others[np.arange(1500), np.arange(1500) % 16] = np.arange(1500) % 50
    some = np.full((4000, 16), 200, dtype=np.uint8)
    some[7] = 110
    assert np.flatnonzero(near_any(some, others, tolerance=24)).tolist() == [7]


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux


@pytest.mark.parametrize("spread", [1, 20])
def test_candidates__of_many_images_that_look_alike(spread: float) -> None:
    """2 x 12,000: all pairs of them, as they were listed once, are 1.2 GB."""

    def look(number: int, row: np.ndarray, is_scaled: bool) -> Look:
        thumb = np.kron(row.reshape(4, 4), np.ones((3, 3), dtype=np.uint8))  # of which the coarse one is ``row``
        return Look(300, 300, "RGB", "", is_scaled, f"{number}", b64encode(thumb.tobytes()).decode())

    rows = thumbs(24_000, spread=spread, seed=3)
    known = {Place(0, n): look(n, row, n % 2 == 0) for n, row in enumerate(rows)}
    before, start = peak_bytes(), time.process_time()
    found = _candidates(known)
    assert time.process_time() - start < 3  # 0.4 s measured (2026-11); 16 s before
    assert peak_bytes() - before < 200e6
    assert len(found) == 12_000 if spread == 1 else 1_000 < len(found) < 12_000
    assert all(place.position % 2 == 0 for place in found)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1, 15, 20, 25, 40])
def test_near_any__of_50000_and_50000(spread: float) -> None:
    """4.2 s at most, measured (2026-11)."""
    start = time.process_time()
    near_any(thumbs(50_000, spread=spread, seed=4), thumbs(50_000, spread=spread, seed=5), tolerance=24)
    assert time.process_time() - start < 30
