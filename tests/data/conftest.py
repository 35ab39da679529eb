"""Fixtures for tests of data: small folders and splits of drawn images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages


@pytest.fixture
def write_classes() -> Callable[..., Path]:
    """Return ``write(folder, cat=3, dog=2, first=0)``: a folder per class; no two images are alike."""

    def write(folder: Path, *, first: int = 0, **counts: int) -> Path:
        rng = np.random.default_rng(first)
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{index}.png")
        return folder

    return write


@pytest.fixture
def drawn_split() -> Callable[..., Split]:
    """Return ``draw(num_images, num_classes)``: images in memory, classes in turn, row r of grey r modulo 256."""

    def draw(num_images: int, num_classes: int = 2, *, size: tuple[int, int] = (6, 5)) -> Split:
        pixels = np.broadcast_to((np.arange(num_images) % 256).astype(np.uint8)[:, None, None], (num_images, *size))
        names = [f"class {row % num_classes}" for row in range(num_images)]
        return split_from_names("train", ArrayImages("drawn", np.ascontiguousarray(pixels)), names)

    return draw
