"""Decode every image once before training, so that a bad file is found in the first minute.

The scan tells which files cannot be decoded and why, how large the images are, and which are exact
duplicates. It reads, and never writes: a bad file is not repaired, replaced or moved.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.images import pixel_hash, reason_of
from vitctl.data.source import Split
from vitctl.errors import DataError

_BLOCK = 256  # images handed to the threads at a time; keeps memory flat and Ctrl-C quick


@dataclass(frozen=True)
class Scan:
    """What decoding every image of a split showed.

    Attributes:
        sizes: (N, 2) int64, (H, W) px of each image; zeros for a bad one.
        pixel_hashes: One per image, equal for exact duplicates; empty for a bad one.
        bad: Reason by position, for the images that cannot be decoded.
    """

    sizes: np.ndarray
    pixel_hashes: list[str]
    bad: dict[int, str]

    @property
    def good(self) -> np.ndarray:
        """Positions of the images that decode, (N_good,) int64."""
        return np.flatnonzero(self.sizes[:, 0] > 0)


def num_scan_threads() -> int:
    """Return how many threads decode: this process's share of the processors."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def scan_images(split: Split, *, num_threads: int, conversation: Conversation) -> Scan:
    """Decode every image of ``split``, in parallel, with progress."""

    def look(position: int) -> tuple[tuple[int, int], str, str | None]:
        try:
            image = split.read(position)
        except Exception as error:  # Pillow's decoders raise anything; the reason goes to the user
            return (0, 0), "", reason_of(error)
        return (image.height, image.width), pixel_hash(image), None

    def results() -> Iterator[tuple[tuple[int, int], str, str | None]]:
        with ThreadPoolExecutor(max_workers=max(1, num_threads)) as pool:
            for start in range(0, len(split), _BLOCK):
                yield from pool.map(look, range(start, min(start + _BLOCK, len(split))))

    sizes, hashes, bad = [], [], {}
    shown = conversation.track(results(), f"checking {split.name} images", len(split), "images")
    for position, (size, digest, reason) in enumerate(shown):
        sizes.append(size)
        hashes.append(digest)
        if reason is not None:
            bad[position] = reason
    return Scan(np.array(sizes, dtype=np.int64).reshape(-1, 2), hashes, bad)


def check_bad_images(
    split: Split, scan: Scan, *, allow: bool, can_skip: bool = True, needs_every_class: bool = True
) -> list[str]:
    """Return one line per bad image, path and reason.

    Args:
        split: The images.
        scan: What decoding them showed.
        allow: Whether bad images may be left out.
        can_skip: Whether the user could ask for that; if so the message says how.
        needs_every_class: Whether a class must keep at least one image.

    Raises:
        DataError: There are some and ``allow`` is False, or none is left, or a class has lost all its images.
    """
    lines = [f"{split.image_name(position)}: {reason}" for position, reason in scan.bad.items()]
    if not lines:
        return lines
    shown = "\n".join(f"  {line}" for line in lines[:20])
    if len(lines) > 20:
        shown += f"\n  ... and {len(lines) - 20} more"
    if not allow:
        ways = "repair or remove them" + (", or leave them out with --on-bad-image skip" if can_skip else "")
        raise DataError(f"{len(lines)} of {len(split)} {split.name} images cannot be read; {ways}:\n{shown}")
    if len(lines) == len(split):
        raise DataError(f"None of the {len(split)} {split.name} images can be read:\n{shown}")
    left = np.bincount(split.labels[scan.good], minlength=len(split.class_names))
    lost = [split.class_names[label] for label in np.unique(split.labels) if not left[label]]
    if lost and needs_every_class:
        raise DataError(
            f"Without the images that cannot be read, {split.name} has no image of class "
            f"{', '.join(lost)}; repair them:\n{shown}"
        )
    return lines
