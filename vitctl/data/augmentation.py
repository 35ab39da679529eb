"""What is done at random to a training image that has its size already: colours, geometry, a rectangle of noise.

The order is timm's (``transforms_imagenet_train`` in ``timm/data/transforms_factory.py``): after crop and flip come the
policy, colour jitter, at last erasing; the affine transform, which timm has none of, comes before the policy. All draw
from the global generators of torch, Python and numpy: see ``vitctl.primitives.seeds.global_randomness``.

What differs from timm:

- what a turn, shift or shear uncovers gets the colour of the image's own ground, where it has a plain one
  (``colour_around``); elsewhere the mean colour, as with timm;
- posterising leaves at least one bit of each channel, where timm would leave an image black, which Pillow refuses since
  version 13: that is what became of one in some 650 images of ``rand-m9-mstd0.5-inc1``;
- colour jitter is done wherever it is asked for, timm leaves it out beside a policy;
- erasing draws its noise as timm does, N(0, 1) in the units of the normalised image, but on levels of a byte, so that
  noise blacker than black or whiter than white is black or white.

Letters: H W px.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitctl.primitives.augment_specs import NONE, THREE, TRIVIAL, check_augment
from vitctl.primitives.compiler_later import compiler_later

with compiler_later():
    from timm.data import auto_augment
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
    from timm.data.random_erasing import RandomErasing
    from timm.data.transforms import str_to_pil_interp
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

JITTER_OF_THREE = 0.3
"""Colour jitter of 3-Augment in the commands of facebookresearch/deit ``README_revenge.md``."""
LIKE_GROUND = 8  # levels between two pixels of one plain ground, for JPEG's sake; guess
PLAIN = 1 / 3  # share of the outermost pixels; what stands on a plain ground often touches two sides of four
_BIN = 16  # levels taken together to find the commonest colour: 16 of 16 levels in each channel
_LARGEST_SHIFT, _SHIFT_OF_AUGMIX = 0.45, 0.3  # shares of a side, timm's in transforms_imagenet_train

Colour = tuple[int, int, int]
_ImageStep = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images beside crop and flip; all of it off by default.

    Attributes:
        augment: ``none``; ``trivial``: TrivialAugment (arXiv 2103.10158), torchvision's ``TrivialAugmentWide``;
            ``three``: 3-Augment (DeiT III, arXiv 2204.07118; facebookresearch/deit ``augment.py``), one of grey,
            solarised and blurred, as timm's policy ``3a`` has them, then colour jitter of 0.3 if none is given; or
            RandAugment (arXiv 1909.13719), AugMix (arXiv 1912.02781) and AutoAugment (arXiv 1805.09501) in timm's
            spelling.
        color_jitter: Brightness, contrast and saturation are multiplied by up to 1 +- this each, >= 0.
        rotate: Most degrees of a turn, 0-180.
        translate: Most of a shift, as a share of each side, 0-1.
        zoom: Most of a change of size, as a share, 0 to below 1.
        shear: Most degrees of a shear along either axis, 0 to below 90.
        erasing: Share of the images of which a rectangle of 2 % to a third of the area becomes noise, 0-1 (arXiv
            1708.04896; timm's ``RandomErasing``, mode ``pixel``).
    """

    augment: str = NONE
    color_jitter: float = 0.0
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        check_augment(self.augment, what="augment")

    @property
    def is_warping(self) -> bool:
        """Whether there is an affine transform."""
        return bool(self.rotate or self.translate or self.zoom or self.shear)


OFF = Augmentation()


class Augmenter:
    """An RGB image of (H, W) px to (3, H, W) uint8, at random; with everything off only that.

    Args:
        how: What to do.
        image_size: (H, W) px of all images.
        interpolation: ``bicubic``, ``bilinear``..., of what is turned, shifted or sheared.
        mean: Per channel, 0-1.
        std: Per channel, > 0.
    """

    def __init__(
        self,
        how: Augmentation,
        *,
        image_size: tuple[int, int],
        interpolation: str,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self._how, self._image_size, self._interpolation = how, image_size, interpolation
        self._mean_colour = _levels(mean)
        self._uncovers = how.is_warping or how.augment not in (NONE, THREE)
        self._erasing = NoiseRectangle(how.erasing, mean=mean, std=std) if how.erasing else None

    def drawn_on(self, image: Image.Image) -> Image.Image:
        """Return ``image`` after all that is done to images as a whole."""
        if self._how == OFF:
            return image
        colour = colour_around(image, otherwise=self._mean_colour) if self._uncovers else self._mean_colour
        for step in _steps(self._how, self._image_size, self._interpolation, colour):
            image = step(image)
        return image

    def erased(self, pixels: Tensor) -> Tensor:
        """Return ``pixels``, (3, H, W) uint8, changed in place where a rectangle of it is erased."""
        return pixels if self._erasing is None else self._erasing(pixels)


def colour_around(image: Image.Image, *, otherwise: Colour) -> Colour:
    """Return the colour of the ground that an RGB image stands on, if that is plain; else ``otherwise``.

    Grey corners on a black ground would tell a model what was done to a digit; on a photo no one colour is right. Plain
    is a ground where a third or more of the outermost pixels are within 8 levels, in each channel, of their commonest
    colour. Measured (2026-11): so are all digits, 99.5 % of Fashion-MNIST's pictures, 14 % of photos of clothes.
    """
    levels = np.asarray(image)
    edge = np.concatenate([levels[0], levels[-1], levels[1:-1, 0], levels[1:-1, -1]]).astype(np.int16)  # (pixels, 3)
    bins = edge // _BIN @ [_BIN**2, _BIN, 1]
    numbers, counts = np.unique(bins, return_counts=True)
    commonest = np.median(edge[bins == numbers[counts.argmax()]], axis=0)
    is_near = (np.abs(edge - commonest) <= LIKE_GROUND).all(axis=1)
    if np.count_nonzero(is_near) < PLAIN * len(edge):
        return otherwise
    red, green, blue = commonest.astype(int).tolist()
    return red, green, blue


class NoiseRectangle:
    """Random erasing of an image of bytes.

    Args:
        share: Of the images that are erased, 0-1.
        mean: Per channel, 0-1: the noise is N(mean, std).
        std: Per channel, > 0.
    """

    def __init__(self, share: float, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._erase = RandomErasing(share, mode="pixel", device="cpu")
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return ``pixels``, (3, H, W) uint8, with noise in a rectangle of some of them; changed in place."""
        noise = self._erase(torch.full(pixels.shape, math.nan))
        rows, columns = (~noise[0].isnan()).nonzero(as_tuple=True)
        if len(rows):
            top, left, bottom, right = (int(edge) for edge in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
            rectangle = noise[:, top:bottom, left:right]
            levels = (rectangle * self._std + self._mean).mul_(255).round_().clamp_(0, 255)
            pixels[:, top:bottom, left:right] = levels.to(torch.uint8)
        return pixels


@functools.lru_cache(maxsize=64)  # most images have the same colour around
def _steps(how: Augmentation, image_size: tuple[int, int], interpolation: str, colour: Colour) -> list[_ImageStep]:
    """Return what is done to each image, in order."""
    steps: list[_ImageStep] = []
    if how.is_warping:
        steps.append(
            transforms.RandomAffine(
                how.rotate,
                translate=(how.translate, how.translate),
                scale=(1 - how.zoom, 1 + how.zoom),
                shear=(-how.shear, how.shear, -how.shear, how.shear),
                interpolation=_of_warps(interpolation),
                fill=list(colour),
            )
        )
    if how.augment == TRIVIAL:
        steps.append(transforms.TrivialAugmentWide(interpolation=_of_warps(interpolation), fill=list(colour)))
    elif how.augment != NONE:
        steps.append(_timms_policy(how.augment, image_size, interpolation, colour))
    if jitter := how.color_jitter or JITTER_OF_THREE * (how.augment == THREE):
        steps.append(transforms.ColorJitter(jitter, jitter, jitter))
    return steps


def _timms_policy(augment: str, image_size: tuple[int, int], interpolation: str, colour: Colour) -> _ImageStep:
    """Return timm's transform of that spelling, with the parameters that ``transforms_imagenet_train`` gives it."""
    name = "3a" if augment == THREE else augment
    parameters: dict[str, Any] = {
        "translate_const": int(min(image_size) * _LARGEST_SHIFT),
        "img_mean": colour,
        "interpolation": str_to_pil_interp(_of_warps(interpolation).value),
    }
    policy: _ImageStep
    if name.startswith("rand"):
        policy = rand_augment_transform(name, parameters)
    elif name.startswith("augmix"):
        policy = augment_and_mix_transform(name, {**parameters, "translate_pct": _SHIFT_OF_AUGMIX})
    else:
        policy = auto_augment_transform(name, parameters)
    for operation in chain(getattr(policy, "ops", ()), *getattr(policy, "policy", ())):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterised
    return policy


def _posterised(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Return ``image`` with that many bits per channel, at least one: at timm's strongest it is none, or fewer."""
    posterised: Image.Image = auto_augment.posterize(image, max(1, bits_to_keep))
    return posterised


def _of_warps(interpolation: str) -> InterpolationMode:
    """Return how warped pixels are resampled: Pillow warps by no other filters than these."""
    known = {mode.value: mode for mode in (InterpolationMode.BICUBIC, InterpolationMode.NEAREST)}
    return known.get(interpolation, InterpolationMode.BILINEAR)


def _levels(fractions: tuple[float, float, float]) -> Colour:
    red, green, blue = (min(255, round(255 * one)) for one in fractions)
    return red, green, blue
