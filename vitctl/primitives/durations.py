"""How long to train: steps, epochs and images seen, turned into one another.

Everything inside vitctl counts in optimiser steps; this is where the other units end.
"""

import math


def steps_for_images(num_images_seen: int, *, batch_size: int) -> int:
    """Return the optimiser steps that show ``num_images_seen`` images; the last batch may be short."""
    return math.ceil(num_images_seen / batch_size)


def images_seen_transfer(num_train: int) -> int:
    """Return how many images recipe ``transfer`` shows: 30 epochs, at least 32k, at most 256k or 10 epochs.

    Source: our reading of BiT (arXiv 1912.11370: 256k images below 20k) and of V (arXiv 2010.11929,
    section 4.1: CIFAR-100 gains little beyond 1,000 steps of 512). 500 images give 32,000; 50,000 give 500,000.
    """
    return min(max(30 * num_train, 32_000), max(256_000, 10 * num_train))


def bit_hyperrule_steps(num_train: int) -> int:
    """Return the steps of the BiT-HyperRule at batch 512: 500 below 20k images, 10k below 500k, else 20k.

    Source: arXiv 1912.11370, section 3.3. The rule's rate drops are not used: the schedule stays cosine.
    """
    if num_train < 20_000:
        return 500
    return 10_000 if num_train < 500_000 else 20_000


def batch_size_for(num_train: int, *, largest: int) -> int:
    """Return the global batch: ``largest``, or a quarter of the images down to a power of two (at least 1)."""
    if num_train // 4 >= largest:
        return largest
    return 1 << max(0, (num_train // 4).bit_length() - 1)
