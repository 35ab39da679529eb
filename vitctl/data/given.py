"""Images as a program gives them: paths, Pillow images, arrays, one or many; each to 8-bit RGB as files are read.

Letters: H W px.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from vitctl.data.images import decoding, open_image, to_rgb
from vitctl.data.pixel_budget import IN_FLIGHT
from vitctl.errors import DataError
from vitctl.primitives.files import user_path

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a Pillow image of any mode, or an array (H, W, 3) or (H, W) uint8."""

EXPECTED = "paths of image files, Pillow images or uint8 arrays (H, W, 3) or (H, W)"

_decoding = threading.Lock()  # one Pillow image may be given twice, and two threads must not decode it at once


def list_given(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return one or many images as a list.

    Args:
        images: One image, or an iterable of them; an array (N, H, W, 3) is N images.

    Raises:
        DataError: It is neither.
    """
    if isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim in (2, 3)
    ):
        return [images]
    try:
        return list(images)
    except TypeError as error:
        raise DataError(f"images is of type {type(images).__name__}; expected {EXPECTED}, one or many.") from error


@contextmanager
def rgb_in_flight(image: ImageLike, *, max_value: int | None = None) -> Iterator[Image.Image]:
    """Give an image as 8-bit RGB, when it is its turn; its pixels count as in flight until the block ends.

    Args:
        image: A path, a Pillow image or an array.
        max_value: How one of 16 bits becomes RGB: see ``to_rgb``.

    Raises:
        Exception: Whatever Pillow raises for a file that it cannot decode; it has no common base class.
        ValueError: An array has another type or shape, or ``image`` is something else.
    """
    if isinstance(image, str | os.PathLike):
        with open_image(user_path(os.fspath(image))) as opened, decoding(opened, max_value=max_value) as rgb:
            yield rgb
    else:
        given = image if isinstance(image, Image.Image) else _of_array(image)
        with IN_FLIGHT.hold(given.size):
            with _decoding:
                rgb = to_rgb(given, max_value=max_value)
            yield rgb


def _of_array(image: np.ndarray) -> Image.Image:
    if not isinstance(image, np.ndarray):
        raise ValueError(f"it is of type {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"it is an array of {image.dtype}, not of uint8 values from 0 to 255")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise ValueError(f"it is an array of shape {image.shape}")
    return Image.fromarray(image)


def unreadable(image: ImageLike, index: int, reason: str) -> DataError:
    """Return the error for an image that cannot be read.

    Args:
        image: What was given; a path names itself.
        index: Its place among the images, from 0, which names the others.
        reason: A few words, as ``reason_of`` gives them.
    """
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else f"images[{index}]"
    return DataError(f"{name} cannot be read: {reason}. Expected {EXPECTED}.")
