"""Pixels on their way to a model: levels while they travel, float32 where the model computes.

A level takes a byte, a float four: what worker processes hand over through shared memory, and what is copied to a GPU,
is a quarter of what the model sees.

Letters: B images in a batch, H W px.
"""

from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class PixelTransform(Protocol):
    """From an RGB image to what a model sees, in two steps, always the same."""

    @property
    def max_value(self) -> int | None:
        """How images of 16 bits are to become RGB before: see ``vitctl.data.images.to_rgb``."""

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the (3, H, W) uint8 levels of the part of ``image`` that is shown."""

    def finished(self, pixels: Tensor) -> Tensor:
        """Return (B, 3, H, W) uint8 ``pixels``, on any device, as the (B, 3, H, W) float32 that the model sees."""


def levels_of(image: Image.Image) -> Tensor:
    """Return an RGB image as a (3, H, W) uint8 tensor, contiguous."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # array: a copy, as torch wants to write


def normalised(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Return ``(pixels / 255 - mean) / std``, float32: on every device the bits of torchvision on a CPU.

    Args:
        pixels: (..., 3, H, W) uint8.
        mean: Per channel, 0-1.
        std: Per channel, > 0.
    """
    centre, spread = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return fractions(pixels).sub_(centre).div_(spread)


def levels_shown(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Return the (..., 3, H, W) uint8 levels that normalised ``images``, float of that shape, show: for looking at.

    Args:
        images: (..., 3, H, W), as ``normalised`` returns them, or mixtures of such.
        mean: Per channel, 0-1.
        std: Per channel, > 0.
    """
    centre, spread = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images.float() * spread + centre).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def fractions(pixels: Tensor) -> Tensor:
    """Return (..., 3, H, W) uint8 levels as float32 fractions of the same shape, 0-1."""
    # by a tensor on the device: by a number, CUDA would multiply with 1 / 255, which is another bit here and there
    return pixels.to(torch.float32) / torch.tensor(255.0, device=pixels.device)
