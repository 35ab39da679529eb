"""Image files without labels: list them, read them in batches, keep the reason of those that fail."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from vitctl.data.images import EXTENSIONS, is_hidden, open_image, read_rgb, reason_of
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform
from vitctl.primitives.files import file_stamp, user_path
from vitctl.primitives.natural_order import natural_key


def list_images(given: str) -> list[str]:
    """Return ``given`` itself, or the image files in and below it, in natural order, where it is a folder.

    Hidden files and folders in it are left alone.
    """
    folder = user_path(given)
    try:
        if not folder.is_dir():
            return [given]
    except OSError:
        return [given]  # reading it will tell what is wrong
    files = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return sorted((str(path) for path in files if not is_hidden(path, below=folder)), key=natural_key)


def read_batches(
    paths: list[str], transform: EvaluationTransform, *, batch_size: int
) -> Iterator[list[tuple[str, Tensor | str]]]:
    """Yield (path, tensor or reason) in order, ``batch_size`` at a time, read in parallel.

    A tensor is (3, H, W) float32; a reason says in a few words why the file cannot be read.
    """

    def _read(path: str) -> Tensor | str:
        try:
            return transform(read_rgb(user_path(path)))
        except Exception as error:  # Pillow's decoders raise anything; the reason goes to the user
            return reason_of(error)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
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
        """Return size and time of the file."""
        return file_stamp(user_path(self.paths[row]))


def split_of_files(paths: Sequence[str]) -> Split:
    """Return image files as a split without classes: every label is 0, of the class ``image``."""
    nothing = np.zeros(len(paths), dtype=np.int64)
    return Split("given", FileImages(tuple(paths)), np.arange(len(paths)), nothing, ("image",))
