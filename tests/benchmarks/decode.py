"""How fast training images are decoded, against Pillow's full decode in the same run; exits 1 below the floors.

``python tests/benchmarks/decode.py``, half a minute. JPEGs of 1 and 12 megapixels (scikit-learn's two photos, mirrored
side by side at their own resolution, so that they are as rich in detail as a camera's; quality 90) are made in a
temporary folder and read with one thread for the transfer recipe at 384 px. The ways to read are interleaved image by
image; each figure is the mean over the images, the median over the repeats. The files are in the page cache, so no
disk is measured.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vitctl.conversation import Conversation
from vitctl.data.resized import resized_split
from vitctl.data.scan import look_at, scan_images
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.data.transforms import TrainingTransform
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes import load_recipe

SIZES = {"1 MP": (1152, 864), "12 MP": (4000, 3000)}  # (width, height) px
FLOORS = {"1 MP": 3.0, "12 MP": 5.0}  # of decoding with --cache resized, in times as fast as a full decode
TARGET = 384  # px
NUM_REPEATS = 5

PLAIN, DRAFT, CACHED, SMALL = "full", "draft", "cached", "draft to the target"
ALL_PLAIN, ALL_DRAFT, ALL_CACHED, LOOK = "full, all", "draft, all", "cached, all", "look"


def _write_photos(folder: Path, size: tuple[int, int], num_images: int) -> list[Path]:
    """Write JPEGs: the photos and their mirror images side by side, from another corner each."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images  # 427x640 px
    paths = []
    for number in range(num_images):
        top, left = int(rng.integers(400)), int(rng.integers(600))
        padding = ((top, size[1]), (left, size[0]), (0, 0))
        pixels = np.pad(photos[number % len(photos)], padding, mode="symmetric")[: size[1], : size[0]]
        paths.append(folder / f"{size[0]}-{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def _median_ms(ways: dict[str, Callable[[int], object]], num_images: int) -> dict[str, float]:
    """Return the time per image of each way; all of them see image after image together."""
    means: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(NUM_REPEATS + 1):  # the first one warms up
        spent = dict.fromkeys(ways, 0.0)
        for position in range(num_images):
            for name, way in ways.items():
                start = time.perf_counter()
                way(position)
                spent[name] += time.perf_counter() - start
        for name in ways:
            if repeat:
                means[name].append(1000 * spent[name] / num_images)
    return {name: statistics.median(values) for name, values in means.items()}


def _training_transform() -> TrainingTransform:
    images = load_recipe("transfer").images
    preprocessing = Preprocessing((TARGET, TARGET), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return TrainingTransform(preprocessing, crop=images.crop, crop_area=images.crop_area, flip=images.flip, seed=0)


def measure(paths: list[Path]) -> dict[str, float]:
    """Return ms per image of each way to read."""
    transform = _training_transform()
    split = split_from_names("train", FileImages(tuple(map(str, paths))), ["photo"] * len(paths))
    sizes = scan_images(split, num_threads=1, conversation=Conversation()).sizes
    cached, _ = resized_split(split, sizes, short_side=transform.least_side, num_threads=1, conversation=Conversation())

    def plain(position: int) -> Image.Image:
        with Image.open(paths[position]) as image:
            return image.convert("RGB")

    def small(position: int) -> Image.Image:
        with Image.open(paths[position]) as image:
            image.draft("RGB", (TARGET, TARGET))
            return image.convert("RGB")

    def read(which: Split) -> Callable[[int], Image.Image]:
        return lambda position: which.read(position, least_side=transform.least_side)

    def transformed(way: Callable[[int], Image.Image]) -> Callable[[int], torch.Tensor]:
        return lambda position: transform(way(position), view=0, position=position)

    def look(position: int) -> object:
        with split.open(position) as image:
            return look_at(image)

    ways: dict[str, Callable[[int], object]] = {
        PLAIN: plain,
        DRAFT: read(split),
        CACHED: read(cached),
        SMALL: small,
        ALL_PLAIN: transformed(plain),
        ALL_DRAFT: transformed(read(split)),
        ALL_CACHED: transformed(read(cached)),
        LOOK: look,
    }
    return _median_ms(ways, len(paths))


def main() -> int:
    """Print the table; return 1 where the cache is slower than its floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=8, metavar="N", help="JPEGs of each size (default: 8)")
    num_images = parser.parse_args().num_images
    torch.set_num_threads(1)
    is_fast = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VITCTL_CACHE"] = str(Path(folder, "cache"))
        print(f"{num_images} JPEGs of each size, one thread, recipe transfer at {TARGET} px: short side kept ", end="")
        print(f"{_training_transform().least_side} px; ms per image, times as fast")
        for name, size in SIZES.items():
            paths = _write_photos(Path(folder), size, num_images)
            num_bits = 8 * sum(path.stat().st_size for path in paths) / (num_images * size[0] * size[1])
            print(f"{name:<7}{size[0]}x{size[1]} px, {num_bits:.1f} bits per pixel")
            ms = measure(paths)
            rows = [
                ("decode: Pillow, in full", PLAIN, PLAIN),
                ("decode: vitctl in training", DRAFT, PLAIN),
                ("decode: vitctl with --cache resized", CACHED, PLAIN),
                ("(Pillow's draft to once the target)", SMALL, PLAIN),
                ("check: vitctl's scan", LOOK, PLAIN),
                ("decode, crop, resize: Pillow", ALL_PLAIN, ALL_PLAIN),
                ("decode, crop, resize: vitctl", ALL_DRAFT, ALL_PLAIN),
                ("decode, crop, resize: --cache resized", ALL_CACHED, ALL_PLAIN),
            ]
            for text, way, peer in rows:
                print(f"{name:<7}{text:<38}{ms[way]:>9.2f}{ms[peer] / ms[way]:>8.1f}x")
            factor = ms[PLAIN] / ms[CACHED]
            if factor < FLOORS[name]:
                is_fast = False
                print(f"{name}: decoding with --cache resized is {factor:.2f}x as fast; the floor is {FLOORS[name]}x")
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
