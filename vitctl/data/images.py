"""Any image file or array to 8-bit RGB, the way a person would see it.

Pillow's own ``convert("RGB")`` clips 16-bit images to white, drops transparency to whatever colour lies
under it, and ignores the camera's orientation. Nothing here ever writes to the user's files.
"""

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL import _imaging as core

from vitctl.data.pixel_budget import IN_FLIGHT
from vitctl.primitives.devices import is_out_of_memory

# Pillow refuses images above twice MAX_IMAGE_PIXELS (179 megapixels), and warns from there to half of it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# what Pillow says of odd EXIF data and the like; what it cannot decode it raises
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# what Pillow opens without a further program; a class folder's other files are left alone
EXTENSIONS = (
    ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


# the formats of those endings (and AVIF where Pillow has it): others, such as EPS, would start further programs
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
Image.init()
_FORMATS = tuple(name for name in FORMATS if name in Image.OPEN)

LARGE_PX, BLOCK_BYTES = 2**26, 64 * 2**20
STRIP_PX = 2**22  # of a transparent image that are laid over white at a time
MOST_OF_16_BITS = 65_535
LITTER = ("__MACOSX", "__pycache__")


def is_hidden(path: Path, *, below: Path) -> bool:
    """Return whether a part of ``path`` below ``below`` is hidden or litter (``._1.jpg``, ``__MACOSX``)."""
    return any(part.startswith(".") or part in LITTER for part in path.relative_to(below).parts)


def to_rgb(image: Image.Image, *, max_value: int | None = None) -> Image.Image:
    """Return an 8-bit RGB image of what ``image`` shows.

    EXIF orientation is applied; 16-bit values are scaled (``max_value`` becomes 255); alpha and palette
    transparency are laid over white; greyscale, palette, CMYK and the other modes of Pillow are
    converted. Of an animation this is the first frame.

    Args:
        image: As Pillow opened it.
        max_value: The value of a 16-bit image that is white, as are those above it; 1-65,535. None is 65,535. Images
            of 8 bits are as they are.

    Raises:
        ValueError: The values have no defined range (32-bit integers above 65,535, floats).
    """
    image = _upright(image)
    if _is_deep(image):
        image = _scale_to_8_bits(image, MOST_OF_16_BITS if max_value is None else max_value)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return ImageOps.exif_transpose(image)
    return image


def _is_deep(image: Image.Image) -> bool:
    """Return whether the image has one channel of more than 8 bits; Pillow opens no others as what they are."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def values_of_16_bits(image: Image.Image) -> np.ndarray | None:
    """Return the (H, W) uint16 values of an image that ``to_rgb`` scales, as shown, 0 where transparent; else None."""
    if not _is_deep(image):
        return None
    values = np.asarray(_upright(image)).astype("<u2")
    transparent = image.info.get("transparency")
    return values if transparent is None else np.where(values == transparent, np.uint16(0), values)


def _over_white(image: Image.Image) -> Image.Image:
    """Return ``image`` laid over white, a strip at a time: three copies of a large one would not fit into memory."""
    flat = Image.new("RGB", image.size)
    rows = max(1, STRIP_PX // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return flat


def _scale_to_8_bits(image: Image.Image, max_value: int) -> Image.Image:
    values = np.asarray(image)
    transparent = image.info.get("transparency")  # one value, in a 16-bit greyscale PNG
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65_535:
        raise ValueError(f"mode {image.mode} with values of unknown range (8 or 16 bits per channel expected)")
    clipped = np.minimum(values, max_value).astype(np.uint32)
    scaled = ((clipped * 255 + max_value // 2) // max_value).astype(np.uint8)
    return Image.fromarray(scaled if transparent is None else np.where(values == transparent, np.uint8(255), scaled))


def decode(image: Image.Image, *, least_side: int | None = None, max_value: int | None = None) -> Image.Image:
    """Return an opened image as 8-bit RGB, decoded.

    Args:
        image: As ``Image.open`` returned it.
        least_side: px; None decodes in full. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where both
            sides stay at least this long, which is several times faster and differs from scaling the full
            image by less than a level on average, more at coloured edges (measured). For training only.
        max_value: That of ``to_rgb``.

    Raises:
        Exception: Whatever Pillow raises for a file that it cannot decode; it has no common base class.
    """
    if least_side is not None:
        image.draft(None, (least_side, least_side))
    return to_rgb(image, max_value=max_value)


@contextmanager
def decoding(
    image: Image.Image, *, least_side: int | None = None, max_value: int | None = None
) -> Iterator[Image.Image]:
    """Decode as ``decode`` does, when it is the image's turn; its pixels count as in flight until the block ends."""
    if least_side is not None:
        image.draft(None, (least_side, least_side))
    if image.width * image.height > LARGE_PX:
        # Pillow asks for memory in pieces of 16 MB, which glibc keeps for each thread when they are given back; pieces
        # above 32 MB go back to the system (malloc(3), M_MMAP_THRESHOLD). From here on, as photos of 12 megapixels
        # would take a fifth longer with them (measured, 2026-11)
        core.set_block_size(BLOCK_BYTES)
    with IN_FLIGHT.hold(image.size):
        yield to_rgb(image, max_value=max_value)


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Return an image as ``Image.open`` does, of the formats in ``FORMATS`` only, whatever its name says.

    Raises:
        Exception: As ``decode``; before it is opened, of a FIFO, where one would wait for ever, or a device.
    """
    if isinstance(file, (str, Path)):
        mode = os.stat(file).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder fails, and says so
            raise ValueError("not a file: a FIFO, a device or a socket")
    return Image.open(file, formats=_FORMATS)


def read_rgb(path: Path) -> Image.Image:
    """Return the file's image as 8-bit RGB, fully decoded, whatever its name says; raises as ``decode``."""
    with open_image(path) as image:
        return decode(image)


def reason_of(error: Exception) -> str:
    """Return one line saying why an image could not be read, without the path.

    Raises:
        Exception: ``error`` itself, where it says that the memory is full: that is no fault of the image.
    """
    if is_out_of_memory(error):
        raise error
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        found, limit = (f"{int(number):,}" for number in re.findall(r"\d+", str(error))[:2])
        return f"{found} pixels, more than Pillow's limit of {limit} (a decompression bomb?); cut it into tiles"
    text = " ".join(str(error).split()) or type(error).__name__
    return text[0].lower() + text[1:]


def pixel_hash(image: Image.Image) -> str:
    """Return a hash of an RGB image's size and pixels: equal for exact duplicates, whatever their files."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def value_hash(values: np.ndarray) -> str:
    """Return a hash of (H, W) uint16 values: two images that differ may be alike in 8 bits."""
    digest = hashlib.blake2b(f"{values.shape[1]}x{values.shape[0]} of 16 bits".encode(), digest_size=16)
    digest.update(values.tobytes())
    return digest.hexdigest()
