"""Neighbours of a global batch mixed with each other: mixup and cutmix, whose draws are a function of (seed, step).

Slots (places in the global batch) 2j and 2j + 1 are a pair, so both images of a pair are in one process, which mixes
its whole share before it is divided into micro-batches. An odd last image stays as it is.

What differs from timm's ``Mixup``: the share and the box are drawn for each pair instead of once per batch, and the
partner is the neighbour, not the image at the other end of the batch.

Letters: B images of one process (B // 2 pairs), N pairs of the global batch, H W px.
Sources: mixup, arXiv 1710.09412; cutmix, arXiv 1905.04899.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitctl.primitives.seeds import random_generator

_PAIRS_AT_A_TIME = 32  # bounds the memory for copies


class Others(NamedTuple):
    """The second label of every image, that of what was mixed in.

    Attributes:
        labels: (B,) int64.
        weights: (B,) float32, the share of the other image times its weight; 0 where nothing was mixed in.
    """

    labels: Tensor
    weights: Tensor


class PairDraws(NamedTuple):
    """How the pairs of one step are mixed.

    Attributes:
        own: (N,) float32, how much of each image is its own, 0-1; with a box, exactly the area outside of it.
        is_cut: (N,) bool, whether a box is exchanged (cutmix); else all pixels are blended (mixup).
        box: (N, 4) int64: top, bottom, left and right px of the box; empty where there is none.
    """

    own: np.ndarray
    is_cut: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class PairMixing:
    """What is done to each pair; one of the two is above 0.

    Attributes:
        mixup: Alpha of Beta(alpha, alpha), from which the share of a blend is drawn; 0 blends nothing.
        cutmix: The same of an exchanged box's area; 0 exchanges nothing. With both, each pair has either with
            probability 1/2.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def draws(self, num_pairs: int, image_size: tuple[int, int], *, seed: int, step: int) -> PairDraws:
        """Return how the ``num_pairs`` pairs of step ``step`` are mixed, at (H, W) px."""
        generator = random_generator(seed, "mixing", step)
        blended, cut = (generator.beta(alpha or 1, alpha or 1, num_pairs) for alpha in (self.mixup, self.cutmix))
        coins, centres = generator.random(num_pairs), generator.random((num_pairs, 2))
        is_cut = coins < (0.5 if self.mixup and self.cutmix else float(bool(self.cutmix)))
        size = np.array(image_size)
        sides = (size * np.sqrt(1 - cut)[:, None]).astype(np.int64)
        centre = (size * centres).astype(np.int64)
        low, high = np.maximum(centre - sides // 2, 0), np.minimum(centre + (sides + 1) // 2, size)
        box = np.where(is_cut[:, None], np.stack([low, high], axis=2).reshape(-1, 4), 0)
        outside = 1 - (high - low).prod(axis=1) / size.prod()
        return PairDraws(np.where(is_cut, outside, blended).astype(np.float32), is_cut, box)

    def mix(
        self, images: Tensor, labels: Tensor, weights: Tensor, *, first_slot: int, num_global: int, seed: int, step: int
    ) -> tuple[Tensor, Others]:
        """Mix a process's images in place; return the weights of their own labels, (B,), and their second labels.

        With share a of its own, the images of a pair of weights v and w count a v and (1 - a) w, and a w and (1 - a) v.
        Together these are v + w, so the sum of the weights over the global batch is what it was before.

        Args:
            images: (B, 3, H, W) float32.
            labels: (B,) int64.
            weights: (B,) float32.
            first_slot: Even place of the first image in the global batch.
            num_global: Images in the global batch.
            seed: The run's seed.
            step: Place of the batch in the plan.
        """
        num_pairs, height, width = len(images) // 2, *images.shape[2:]
        draws = self.draws(num_global // 2, (height, width), seed=seed, step=step)
        first = first_slot // 2
        own, is_cut, box = (torch.from_numpy(part[first : first + num_pairs]).to(images.device) for part in draws)
        pairs = images[: 2 * num_pairs].view(num_pairs, 2, *images.shape[1:])
        for start in range(0, num_pairs, _PAIRS_AT_A_TIME):
            few = slice(start, start + _PAIRS_AT_A_TIME)
            of_own = _of_each_pixel(own[few], is_cut[few], box[few], (height, width))
            pairs[few] = torch.lerp(pairs[few].flip(1), pairs[few], of_own)
        share = torch.ones_like(weights)
        share[: 2 * num_pairs] = own.repeat_interleave(2)
        others = torch.arange(len(labels), device=labels.device)
        others[: 2 * num_pairs] ^= 1
        return weights * share, Others(labels[others], weights[others] * (1 - share))


def _of_each_pixel(own: Tensor, is_cut: Tensor, box: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return how much of each pixel of each pair is its own: (pairs, 1, 1, H, W) float32, 1 or 0 with a box."""
    height, width = (torch.arange(side, device=box.device) for side in image_size)
    top, bottom, left, right = box.unsqueeze(-1).unbind(1)
    is_inside = ((height >= top) & (height < bottom)).unsqueeze(2) & ((width >= left) & (width < right)).unsqueeze(1)
    blend = own[:, None, None].expand_as(is_inside)
    return torch.where(is_cut[:, None, None], (~is_inside).to(own.dtype), blend)[:, None, None]
