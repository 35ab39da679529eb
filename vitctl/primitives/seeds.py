"""Randomness keyed by what it is for, never by what was drawn before.

A global random stream makes a result depend on how many workers there are and where a run was resumed.
Here every draw is a function of (seed, purpose, position), so order and augmentation can be computed for
any image of any epoch without having computed the ones before it.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator

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
    "dropout": 11,
    "drop-path": 12,
    "patch-drop": 13,
    "mixing": 14,
    "lora": 15,
    "development": 16,
    "folds": 17,
}
_OF_NUMPY = np.random.MT19937(0)  # stands in for numpy's own while its functions are to draw otherwise


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
def torch_randomness(seed: int, purpose: str, *position: int, device: torch.device | None = None) -> Iterator[None]:
    """Make torch's generators depend on (seed, purpose, position) inside the block, and restore them.

    torchvision's transforms and torch's initialisers draw from that of the CPU, dropout from that of its device.

    Args:
        seed: The run's seed, >= 0.
        purpose: A key of ``PURPOSES``.
        position: Further non-negative numbers.
        device: Whose generator it is about, beside the CPU's; None is the CPU alone.
    """
    number = _seed_of(seed, purpose, *position)
    if device is None or device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)
            yield
        return
    with torch.random.fork_rng(devices=[device.index or 0], device_type=device.type):
        torch.default_generator.manual_seed(number)
        torch.get_device_module(device).manual_seed(number)
        yield


def _seed_of(seed: int, purpose: str, *position: int) -> int:
    """Return 63 bits for (seed, purpose, position)."""
    key = ",".join(str(number) for number in (seed, PURPOSES[purpose], *position))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def global_randomness(seed: int, purpose: str, *position: int) -> Iterator[None]:
    """Make the global generators of torch (CPU), Python and numpy depend on (seed, purpose, position); restore them.

    timm's RandAugment and its like draw from Python's and numpy's, torchvision's transforms from torch's and Python's.
    What torch draws is what it draws in ``torch_randomness``. The second of two normal numbers that numpy's holds ready
    is not restored: its state is put aside as a whole, as a copy would take longer than cropping a small image.
    """
    number = _seed_of(seed, purpose, *position)
    before, numpys = random.getstate(), get_bit_generator()
    try:
        random.seed(number)
        set_bit_generator(_OF_NUMPY)
        np.random.seed(number & 0xFFFFFFFF)
        with torch_randomness(seed, purpose, *position):
            yield
    finally:
        random.setstate(before)
        set_bit_generator(numpys)
