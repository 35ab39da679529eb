"""Images as they were when they were looked at: one that was replaced since is noticed when it is opened."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vitctl.data.scan import Scan, look_at
from vitctl.data.source import Images, Split
from vitctl.errors import DataError


@dataclass(frozen=True)
class CheckedImages:
    """Images that were looked at.

    Attributes:
        original: Where they are.
        stamps: (N,) uint64, a hash of each image's stamp when it was looked at; 0 where it had none.
        fingerprints: (N,) uint64, the beginning of the hash of its pixels.
    """

    original: Images
    stamps: np.ndarray
    fingerprints: np.ndarray

    def __len__(self) -> int:
        return len(self.original)

    def open(self, row: int) -> Image.Image:
        """Return image ``row``.

        Raises:
            DataError: It shows something else than when it was looked at.
        """
        image = self.original.open(row)
        # after opening it: one that takes its place from now on is not the one that is open
        if not self.stamps[row] or self.stamps[row] == _hash(self.original.stamp(row)):
            return image
        # the times of a file change also by a copy of the same, a link to it, another mode
        with image:
            is_same = _beginning(look_at(image).fingerprint) == self.fingerprints[row]
        if is_same:
            return self.original.open(row)
        raise DataError(
            f"{self.name(row)} is not the image that was checked: it was replaced or changed meanwhile. Start again."
        )

    def name(self, row: int) -> str:
        """Return the name of the original."""
        return self.original.name(row)

    def stamp(self, row: int) -> str:
        """Return the stamp of the original as it is now."""
        return self.original.stamp(row)


def good_images(split: Split, scan: Scan) -> Split:
    """Return the images of ``split`` that decode, as ``scan`` saw them."""
    stamps, fingerprints = (np.zeros(len(split.images), dtype=np.uint64) for _ in range(2))
    for row, look, stamp in zip(split.rows, scan.looks, scan.stamps, strict=False):
        if look is not None and stamp:
            stamps[row], fingerprints[row] = _hash(stamp), _beginning(look.fingerprint)
    good = split.select(scan.good)
    return replace(good, images=CheckedImages(split.images, stamps, fingerprints)) if stamps.any() else good


def _hash(stamp: str) -> int:
    return int.from_bytes(hashlib.blake2b(stamp.encode(), digest_size=8).digest())


def _beginning(fingerprint: str) -> int:
    return int(fingerprint[:16], 16)
