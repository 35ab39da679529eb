"""Image files without labels: list them, read them in batches, keep the reason of those that fail."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from vitctl.data.endings import is_hidden, part_images
from vitctl.data.given import ImageLike, rgb_in_flight
from vitctl.data.images import open_image, reason_of
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform
from vitctl.primitives.cache import file_stamp
from vitctl.primitives.cpus import num_cpus
from vitctl.primitives.files import user_path
from vitctl.primitives.natural_order import natural_key

AnyImage = TypeVar("AnyImage", bound=ImageLike)


def list_images(given: str) -> tuple[list[str], dict[str, int]]:
    """Return ``given`` itself, or the image files in and below it, in natural order, where it is a folder.

    Hidden files and folders in it are left alone; images of kinds that are not read are counted, by ending.
    """
    folder = user_path(given)
    try:
        if not folder.is_dir():
            return [given], {}
    except OSError:
        return [given], {}  # reading it will tell what is wrong
    seen = (path for path in folder.rglob("*") if not is_hidden(path, below=folder) and _is_no_folder(path))
    images, left_out = part_images(map(str, seen))
    return sorted(images, key=natural_key), left_out


def _is_no_folder(path: Path) -> bool:
    return path.exists() and not path.is_dir()  # a FIFO too: reading it will tell


def read_batches(
    images: Sequence[AnyImage], transform: EvaluationTransform, *, batch_size: int
) -> Iterator[list[tuple[AnyImage, Tensor | str]]]:
    """Yield (image, tensor or reason) in order, ``batch_size`` at a time, read in parallel.

    Args:
        images: Paths, or whatever else ``rgb_in_flight`` takes.
        transform: Makes the tensor, (3, H, W) float32.
        batch_size: >= 1.

    Yields:
        A batch; a reason says in a few words why the image cannot be read.
    """
    max_value = transform.max_value

    def _read(image: AnyImage) -> Tensor | str:
        try:
            with rgb_in_flight(image, max_value=max_value) as rgb:
                return transform(rgb)
        except Exception as error:  # Pillow's decoders raise anything; the reason goes to the user
            return reason_of(error)

    with ThreadPoolExecutor(max_workers=num_cpus() + 4) as pool:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield list(zip(batch, pool.map(_read, batch), strict=True))


@dataclass(frozen=True)
class FileImages:
    """Image files in the order they were given.

    Attributes:
        paths: As a user wrote them.
    """

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` as Pillow opens it."""
        return open_image(user_path(self.paths[row]))

    def name(self, row: int) -> str:
        """Return the path."""
        return self.paths[row]

    def stamp(self, row: int) -> str:
        """Return a text that changes with the file."""
        return file_stamp(user_path(self.paths[row]))


def split_of_files(paths: Sequence[str]) -> Split:
    """Return image files as a split without classes: every label is 0, of the class ``image``."""
    nothing = np.zeros(len(paths), dtype=np.int64)
    return Split("given", FileImages(tuple(paths)), np.arange(len(paths)), nothing, ("image",))
