"""``digits``: the embedded data set, 1,797 handwritten digits of 8x8 px that come with scikit-learn.

Source: UCI "Optical recognition of handwritten digits" as ``sklearn.datasets.load_digits`` ships it. Its
test split, a stratified fifth, is ours and always the same, whatever a run's seed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitctl.data.source import Source, SourceOptions, Split

OPTIONS: tuple[str, ...] = ()
TEST_FRACTION = 0.2
TEST_SEED = 0


@dataclass(frozen=True)
class ArrayImages:
    """Images that are rows of one array.

    Attributes:
        prefix: Names are ``prefix/row``.
        pixels: (N, H, W) uint8 greyscale.
    """

    prefix: str
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def open(self, row: int) -> Image.Image:
        """Return image ``row``."""
        return Image.fromarray(self.pixels[row])

    def name(self, row: int) -> str:
        """Return ``prefix/row``."""
        return f"{self.prefix}/{row}"

    def stamp(self, row: int) -> str:
        """Return nothing: there is nothing to decode."""
        return ""


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is the word ``digits``."""
    return spec == "digits"


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the digits: splits ``train`` (1,437 images) and ``test`` (360)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # values are 0..16
    labels = bunch.target.astype(np.int64)
    rows = np.arange(len(labels), dtype=np.int64)
    train, test = train_test_split(rows, test_size=TEST_FRACTION, stratify=labels, random_state=TEST_SEED)
    images = ArrayImages("digits", pixels)
    names = tuple(str(digit) for digit in range(10))
    splits = {
        name: Split(name, images, chosen, labels[chosen], names)
        for name, chosen in (("train", np.sort(train)), ("test", np.sort(test)))
    }
    is_shadowing = Path("digits").is_dir()
    return Source(
        notes=("'digits' is the embedded data set; the folder here is './digits'.",) if is_shadowing else (),
        spec="digits",
        description="scikit-learn's 1,797 handwritten digits, 8x8 px, embedded",
        splits=splits,
        is_flippable=False,
        is_in_memory=True,
    )
