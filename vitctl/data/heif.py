"""HEIC photos, as phones take them: read where the extra ``vitctl[heic]`` is installed, and recognised where not.

Pillow reads no HEIF; ``pillow-heif`` does, with libheif. It is imported when the first such image is opened, in every
process that opens one.
"""

import functools
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from vitctl.data.endings import HEIC_ADVICE, has_heif

# ISO/IEC 14496-12, section 4.3: a box "ftyp" with its major brand; the brands are those of ISO/IEC 23008-12, annex B
NUM_MARK_BYTES = 12
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heif(beginning: bytes) -> bool:
    """Return whether a file is HEIF by its first ``NUM_MARK_BYTES`` bytes; an AVIF may say so too (``mif1``)."""
    return beginning[4:8] == b"ftyp" and beginning[8:12] in _BRANDS


def open_heif(file: str | Path | BinaryIO) -> Image.Image:
    """Return a HEIF image as ``Image.open`` does, turned as the camera was held.

    Raises:
        ValueError: The extra is not installed.
        Exception: What libheif and Pillow raise for an image that cannot be read.
    """
    if not has_heif():
        raise ValueError(f"a HEIC image; {HEIC_ADVICE} such images")
    _register()
    return Image.open(file, formats=("HEIF",))


@functools.cache
def _register() -> None:
    from pillow_heif import register_heif_opener

    # without thumbnails, or training would be shown the small picture that a camera puts beside the large one
    register_heif_opener(thumbnails=False)
