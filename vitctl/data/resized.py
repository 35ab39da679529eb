"""Training images kept decoded and resized, for photos much larger than the size trained at.

Each image lies in one file as raw 8-bit RGB with its short side at most ``short_side`` px, so that a training
step decodes nothing. Behind the images come their checksums, which are compared before a run reads them. The file is in
vitctl's cache folder; it is found again by a hash of the images' names and stamps, and can be deleted when no run reads
it. Validation, evaluate and predict never read it.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.scan import in_parallel
from vitctl.data.source import Images, Source, Split, lost_image
from vitctl.errors import SettingError
from vitctl.primitives.cache import cache_folder, checksum, make_private, say_damaged
from vitctl.primitives.files import whole_file
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.processes import ALONE, Processes

VERSION = 2


@dataclass(frozen=True)
class ResizedImages:
    """Images in a file of raw pixels.

    Attributes:
        path: The file.
        starts: (N,) int64, first byte of each image.
        sizes: (N, 2) int64, (H, W) px.
        original: What they were made from, for names.
        rows: (N,) int64, rows of ``original``.
    """

    path: str
    starts: np.ndarray
    sizes: np.ndarray
    original: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def open(self, row: int) -> Image.Image:
        """Return image ``row``."""
        height, width = (int(side) for side in self.sizes[row])
        with open(self.path, "rb") as file:
            file.seek(int(self.starts[row]))
            return Image.frombytes("RGB", (width, height), file.read(height * width * 3))

    def name(self, row: int) -> str:
        """Return the name of the original."""
        return self.original.name(int(self.rows[row]))

    def stamp(self, row: int) -> str:
        """Return nothing: there is nothing to decode."""
        return ""


def check_worth_keeping(source: Source) -> None:
    """Refuse to keep images that nothing has to decode, or where there is nowhere to keep them.

    Raises:
        SettingError: The images are in memory, or there is no cache folder.
    """
    if cache_folder() is None:
        raise SettingError("--cache resized needs a folder: set HOME, or VITCTL_CACHE to one.", field="cache")
    if source.is_in_memory:
        raise SettingError(f"--cache resized is of no use for {source.spec}: its images are in memory.", field="cache")


def resized_sizes(sizes: np.ndarray, short_side: int) -> np.ndarray:
    """Return the (N, 2) int64 (H, W) px that images of ``sizes``, (N, 2), are kept at; none is enlarged."""
    factor = np.minimum(1.0, short_side / sizes.min(axis=1, keepdims=True))
    kept: np.ndarray = np.maximum(1, np.rint(sizes * factor)).astype(np.int64)
    return kept


def resized_split(
    split: Split,
    sizes: np.ndarray,
    *,
    short_side: int,
    max_value: int | None = None,
    num_threads: int,
    conversation: Conversation,
    processes: Processes = ALONE,
) -> tuple[Split, Path]:
    """Return ``split`` with its images read from a file in the cache, and that file; made where it is not there.

    Of several processes the first of each machine checks or makes it.

    Args:
        split: Images that all decode.
        sizes: (N, 2) int64, their (H, W) px.
        short_side: px to keep.
        max_value: How images of 16 bits become RGB; see ``vitctl.data.images.to_rgb``.
        num_threads: Threads that decode.
        conversation: Shows progress.
        processes: Who reads it.

    Raises:
        SettingError: The disk has no room.
        DataError: An image cannot be read any more.
    """
    kept = resized_sizes(sizes, short_side)
    folder = cache_folder()
    if folder is None:
        raise AssertionError("check_worth_keeping comes first")
    pixels = folder / "resized" / f"{_key(split, short_side, max_value)}.bin"
    how: dict[str, Any] = {"num_threads": num_threads, "conversation": conversation}
    with processes.together():
        if processes.is_first_here and not _is_whole(pixels, kept, **how):
            try:
                _write(pixels, split, kept, short_side, max_value, **how)
            except OSError as error:
                raise SettingError(
                    f"--cache resized cannot write to {pixels.parent}: {error.strerror}. Make room there, set "
                    "VITCTL_CACHE to another folder, or leave it out.",
                    field="cache",
                ) from error
    ends = np.cumsum(kept.prod(axis=1) * 3)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    images = ResizedImages(str(pixels), starts, kept, split.images, split.rows)
    return replace(split, images=images, rows=np.arange(len(split), dtype=np.int64)), pixels


def num_bytes(kept: np.ndarray) -> int:
    """Return what images of (N, 2) px take."""
    return int(kept.prod(axis=1).sum()) * 3


def _is_whole(path: Path, kept: np.ndarray, *, num_threads: int, conversation: Conversation) -> bool:
    """Return whether a file holds images of (N, 2) px ``kept``, each with its checksum."""
    counts = kept.prod(axis=1) * 3
    starts = np.cumsum(counts) - counts
    try:
        if path.stat().st_size != num_bytes(kept) + len(kept) * 4:  # a cleaner of caches may have been there
            say_damaged(path.parent)
            return False
        content = np.memmap(path, dtype=np.uint8, mode="r").data
        found = in_parallel(
            lambda image: checksum(content[starts[image] : starts[image] + counts[image]]),
            range(len(kept)),
            num_threads=num_threads,
        )
        shown = conversation.track(found, "checking resized images", len(kept), "images")
        is_whole = _as_bytes(list(shown)) == content[num_bytes(kept) :].tobytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        is_whole = False
    if not is_whole:
        say_damaged(path.parent)
    return is_whole


def _as_bytes(checksums: list[int]) -> bytes:
    return np.array(checksums, dtype="<u4").tobytes()


def _key(split: Split, short_side: int, max_value: int | None) -> str:
    white = "" if max_value is None else f" {max_value}"
    digest = hashlib.blake2b(f"{VERSION} {PIL.__version__} {short_side}{white}".encode(), digest_size=12)
    for position, row in enumerate(split.rows):
        try:
            stamp = split.images.stamp(int(row))
        except OSError as error:
            raise lost_image(split, position, error) from error
        digest.update(os.fsencode(split.image_name(position)) + b"\0" + stamp.encode() + b"\0")
    return digest.hexdigest()


def _write(
    path: Path,
    split: Split,
    kept: np.ndarray,
    short_side: int,
    max_value: int | None,
    *,
    num_threads: int,
    conversation: Conversation,
) -> None:
    needed = num_bytes(kept)
    make_private(path.parent)
    free = shutil.disk_usage(path.parent).free
    if needed > 0.95 * free:
        raise SettingError(
            f"--cache resized needs {format_bytes(needed)} in {path.parent}, where {format_bytes(free)} are free. "
            "Make room, set VITCTL_CACHE to a folder on another disk, or leave it out.",
            field="cache",
        )

    def pixels(position: int) -> bytes:
        height, width = (int(side) for side in kept[position])
        try:
            with split.reading(position, least_side=short_side, max_value=max_value) as image:
                is_resized = image.size != (width, height)
                resized = image.resize((width, height), Image.Resampling.BICUBIC) if is_resized else image
                return resized.tobytes()
        except Exception as error:  # a file that changed since it was checked
            raise lost_image(split, position, error) from error

    rows = in_parallel(pixels, range(len(split)), num_threads=num_threads)
    with whole_file(path) as partial, partial.open("wb") as file:
        checksums = []
        for content in conversation.track(rows, "resizing training images", len(split), "images"):
            file.write(content)
            checksums.append(checksum(content))
        file.write(_as_bytes(checksums))
