"""Randomness keyed by what it is for, never by what was drawn before.

A global random stream makes a result depend on how many workers there are and where a run was resumed.
Here every draw is a function of (seed, purpose, position), so order and augmentation can be computed for
any image of any epoch without having computed the ones before it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# one number per purpose, so that the same seed never yields the same stream for two purposes
PURPOSES = {
    "split": 1,
    "order": 2,
    "augment": 3,
    "weights": 4,
    "balance": 5,
    "bootstrap": 6,
    "episodes": 7,
    "leave-one-out": 8,
    "verification": 9,
    "inspection": 10,
}


def random_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Return a numpy generator that depends on (seed, purpose, position) alone.

    Args:
        seed: The run's seed, >= 0.
        purpose: A key of ``PURPOSES``.
        position: Further non-negative numbers, e.g. (epoch,) or (class,).
    """
    return np.random.default_rng([seed, PURPOSES[purpose], *position])


def epoch_permutation(num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of images in one epoch: a permutation (N,) int64 of 0..N-1."""
    return random_generator(seed, "order", epoch).permutation(num_images)


@contextmanager
def torch_randomness(seed: int, purpose: str, *position: int) -> Iterator[None]:
    """Make torch's CPU generator depend on (seed, purpose, position) inside the block, and restore it.

    torchvision's transforms and torch's initialisers draw from that generator.
    """
    key = ",".join(str(number) for number in (seed, PURPOSES[purpose], *position))
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        yield
