"""big_vision's few-shot preprocessing: squash, cut out the centre, -1 to 1; the same bits as TensorFlow's.

Letters: H W px of the image, S px of the result, R px of the squashed image.

Source: google-research/big_vision ``configs/common_fewshot.py`` (``decode|resize(256)|central_crop(224)|
value_range(-1,1)``), ``pp/ops_image.py`` and ``pp/ops_general.py``; the order of the arithmetic from
tensorflow/tensorflow ``core/kernels/image/resize_bilinear_op.cc`` and ``core/util/image_resizer_state.h``.
What comes before, ``decode``, is not here: Pillow and TensorFlow read one noisy JPEG up to 4 levels apart (measured).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vitctl.data.pixels import fractions

# px, of the original
RESIZE = 256
CROP = 224


class BigVisionTransform:
    """RGB image to (3, S, S) float32 of -1 to 1, as big_vision's few-shot evaluation sees it.

    The aspect ratio is not kept, there is no antialias, and fractions of a level are cut off, not rounded.

    Args:
        image_size: S, >= 1. The original knows only 224, cut out of 256 px; another size keeps that ratio:
            R is S * 256 / 224, rounded.
        max_value: How images of 16 bits are to become RGB before: see ``vitctl.data.images.to_rgb``.

    Raises:
        ValueError: ``image_size`` is below 1.
    """

    def __init__(self, image_size: int = CROP, *, max_value: int | None = None) -> None:
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1 px")
        self.image_size, self.max_value = image_size, max_value
        self.resize = round(image_size * RESIZE / CROP)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the (3, S, S) float32 tensor of ``image``."""
        return self.finished(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the (3, S, S) uint8 levels of ``image``."""
        squashed = resize_bilinear(np.asarray(image), size=self.resize)
        offset = (self.resize - self.image_size) // 2
        inside = slice(offset, offset + self.image_size)
        return torch.from_numpy(np.ascontiguousarray(squashed[inside, inside].transpose(2, 0, 1)))

    def finished(self, pixels: Tensor) -> Tensor:
        """Return (..., 3, S, S) uint8 ``pixels``, on any device, as float32 of -1 to 1."""
        return fractions(pixels).mul_(2).sub_(1)

    def describe(self) -> dict[str, object]:
        """Return what decides the result, as plain values; equal dicts give equal tensors."""
        return {
            "name": "big_vision",
            "image_size": self.image_size,
            "resize": self.resize,
            "interpolation": "bilinear",
            "antialias": False,
        }


class _Neighbours(NamedTuple):
    """For each of R places along one side: the pixels before and after it, and how far towards the latter."""

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    lerp: npt.NDArray[np.float32]  # 0-1


def resize_bilinear(pixels: npt.NDArray[np.uint8], *, size: int) -> npt.NDArray[np.uint8]:
    """Return ``pixels`` squashed to a square, as big_vision's ``resize`` does, bit for bit.

    That is ``tf.image.resize(..., "bilinear", antialias=False)`` on a CPU, clipped to 0-255 and cast. The cast
    cuts off, so a last bit can be a whole level: every step is float32, in the kernel's order.

    Args:
        pixels: (H, W, 3).
        size: R, >= 1.

    Returns:
        (R, R, 3).
    """
    rows = _neighbours(pixels.shape[0], size)
    columns = _neighbours(pixels.shape[1], size)
    top = _between_columns(pixels[rows.lower], columns)
    bottom = _between_columns(pixels[rows.upper], columns)
    blended = top + (bottom - top) * rows.lerp[:, None, None]
    return np.clip(blended, 0, 255).astype(np.uint8)


def _between_columns(rows: npt.NDArray[np.uint8], columns: _Neighbours) -> npt.NDArray[np.float32]:
    """Return (R, W, 3) ``rows`` at the places of ``columns``, (R, R, 3) of 0-255."""
    left = rows[:, columns.lower].astype(np.float32)
    right = rows[:, columns.upper].astype(np.float32)
    return left + (right - left) * columns.lerp[:, None]


def _neighbours(length: int, size: int) -> _Neighbours:
    """Return where ``size`` pixels fall on ``length`` pixels, by their centres."""
    half = np.float32(0.5)
    scale = np.float32(length) / np.float32(size)
    places = (np.arange(size, dtype=np.float32) + half) * scale - half
    floors = np.floor(places)
    lower = np.maximum(floors.astype(np.int64), 0)
    upper = np.minimum(np.ceil(places).astype(np.int64), length - 1)
    return _Neighbours(lower, upper, places - floors)
