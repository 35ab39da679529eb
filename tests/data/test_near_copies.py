"""Near copies: found whatever became of the photo, and nothing else is taken for one.

Measured (2026-11) on 85 of 1,313 photos of clothing, each saved as JPEG of quality 30, 60 and 90, WebP and PNG, at 1/2,
1/3, 0.77 and 2 times its size, squashed to 224 and to 64 px: hashes differ in 4 bits at most, pictures correlate by
0.9987 or more and differ by 1.0 levels or less. Of all pairs of different photos none has 4 bits or fewer and 0.97 or
more; of the 1,797 digits none has 4 bits and 0.99, nor 0.98 and less than 7 levels.
"""

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from vitctl.data.copies import copy_groups, near_leaks
from vitctl.data.near_copies import _MOST_BITS, SIDE, _candidates, near_pairs, perceptual_hashes
from vitctl.data.scan import Look, look_at, thumbnails
from vitctl.data.source import SourceOptions
from vitctl.data.sources import open_source


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """10 parts of scikit-learn's two photos, 300x260 px, none with a third of it in another."""
    from sklearn.datasets import load_sample_images

    parts = []
    for photo in load_sample_images().images:  # 427x640 px
        parts += [Image.fromarray(photo[top : top + 260, left : left + 300])
                  for top, left in ((0, 0), (0, 170), (0, 340), (167, 0), (167, 340))]  # fmt: skip
    return parts


def saved(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def resized(factor: float, kind: str, **options: Any) -> Callable[[Image.Image], Image.Image]:
    return lambda image: saved(
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS),
        kind,
        **options,
    )


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg 30": lambda image: saved(image, "JPEG", quality=30),
    "jpeg 90": lambda image: saved(image, "JPEG", quality=90),
    "webp": lambda image: saved(image, "WEBP", quality=60),
    "half": resized(0.5, "JPEG", quality=85),
    "odd": resized(0.77, "PNG"),
    "double": resized(2, "JPEG", quality=85),
    "square": lambda image: saved(image.resize((224, 224)), "JPEG", quality=85),
    "tiny": lambda image: saved(image.resize((64, 64)), "PNG"),
}


@pytest.mark.parametrize("how", COPIES)
def test_near_pairs__every_copy_is_found_and_no_other_photo(photos: list[Image.Image], how: str) -> None:
    looks = [look_at(image) for image in photos] + [look_at(COPIES[how](image)) for image in photos]
    expected = [[index, index + len(photos)] for index in range(len(photos))]
    assert near_pairs(thumbnails(looks)).tolist() == expected


def test_near_pairs__copies_of_12_bits_in_16_are_found(photos: list[Image.Image]) -> None:
    rng = np.random.default_rng(0)
    grey = [np.asarray(photo.convert("L"), dtype=np.float64) for photo in photos]
    dark = [np.clip(levels * 16 + rng.integers(0, 16, levels.shape), 0, 4095).astype(np.uint16) for levels in grey]
    doubled = [values.repeat(2, axis=0).repeat(2, axis=1) for values in dark]
    looks = [look_at(saved(Image.fromarray(values), "PNG")) for values in (*dark, *doubled)]
    assert near_pairs(thumbnails(looks)).tolist() == [[index, index + len(photos)] for index in range(len(photos))]


def test_near_pairs__handwritten_digits_of_one_class_are_no_copies() -> None:
    split = open_source("digits", SourceOptions()).splits["train"]
    looks = [look_at(split.open(position)) for position in range(len(split))]
    assert near_pairs(thumbnails(looks)).tolist() == []


def test_near_pairs__flat_images_and_noise_are_no_copies() -> None:
    rng = np.random.default_rng(0)
    flat = np.repeat(rng.integers(0, 256, (200, 1, 1), dtype=np.uint8), SIDE, axis=1).repeat(SIDE, axis=2)
    nearly = np.clip(128 + rng.normal(0, 2, (200, SIDE, SIDE)), 0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, (500, SIDE, SIDE), dtype=np.uint8)
    assert near_pairs(np.concatenate([flat, nearly, noise])).tolist() == []
    assert near_pairs(np.zeros((0, SIDE, SIDE), dtype=np.uint8)).shape == (0, 2)
    assert near_pairs(noise[:1]).shape == (0, 2)


def test_near_pairs__another_brightness_or_contrast_is_another_image(photos: list[Image.Image]) -> None:
    picture = thumbnails([look_at(photos[0])])[0]
    darker, duller = (picture * 0.8).astype(np.uint8), (128 + (picture.astype(float) - 128) * 0.7).astype(np.uint8)
    assert near_pairs(np.stack([picture, darker])).tolist() == near_pairs(np.stack([picture, duller])).tolist() == []
    assert near_pairs(np.stack([picture, np.clip(picture + 1.0, 0, 255).astype(np.uint8)])).tolist() == [[0, 1]]


def test_hashes__are_those_of_scipys_transform() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, SIDE, SIDE), dtype=np.uint8)
    for picture, found in zip(pictures, perceptual_hashes(pictures).tolist(), strict=True):
        # type 2 and unscaled is what the fixed factors of each row make no other order of
        spectrum = scipy.fft.dctn(picture.astype(np.float64), type=2, norm=None)[:8, :8].ravel()
        spectrum[0] = 0
        expected = "".join("1" if value > np.median(spectrum) else "0" for value in spectrum)
        assert f"{found:064b}" == expected


def pairs_of(found: Iterator[tuple[np.ndarray, np.ndarray]]) -> set[tuple[int, int]]:
    return {
        (min(one, other), max(one, other))
        for left, right in found
        for one, other in zip(left.tolist(), right.tolist(), strict=True)
    }


def test_candidates__are_all_pairs_that_differ_in_few_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    for number in range(400):  # another's, with 0 to 6 bits changed
        changed = rng.choice(64, number % 7, replace=False).astype(np.uint64)
        hashes[number] = hashes[999 - number] ^ np.bitwise_or.reduce(np.uint64(1) << changed)
    differences = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {(one, other) for one, other in np.argwhere(differences <= _MOST_BITS).tolist() if one < other}
    assert len(expected) > 250
    assert pairs_of(_candidates(hashes)) == expected


@pytest.mark.parametrize("crowd", [0, 2000])
def test_near_pairs__a_crowd_of_copies_is_joined_in_no_time(crowd: int) -> None:
    """As of a video that stands still; all pairs would be 2 million."""
    rng = np.random.default_rng(0)
    scene = rng.integers(30, 220, (SIDE, SIDE))
    frames = (scene + rng.integers(-1, 2, (crowd, SIDE, SIDE))).astype(np.uint8)
    others = rng.integers(0, 256, (2000, SIDE, SIDE), dtype=np.uint8)
    start = time.process_time()
    looks = [Look(9, 9, "L", "", False, "", _base64(picture)) for picture in np.concatenate([frames, others])]
    groups = copy_groups(looks, [str(number) for number in range(len(looks))])
    assert time.process_time() - start < 5
    assert sorted(position for group in groups for position in group) == list(range(crowd))
    assert len(groups) <= 3


def _base64(picture: np.ndarray) -> str:
    from base64 import b64encode

    return b64encode(picture.tobytes()).decode()


@pytest.mark.slow
def test_near_pairs__of_100000_and_twice_as_many_take_twice_the_time() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (200_000, 4, 4), dtype=np.uint8)  # as coarse as photos are
    pictures = coarse.repeat(3, axis=1).repeat(3, axis=2) + rng.integers(0, 30, (200_000, SIDE, SIDE), dtype=np.uint8)
    pictures[100:200] = pictures[:100] + rng.integers(0, 3, (100, SIDE, SIDE), dtype=np.uint8)
    spent = []
    for count in (100_000, 200_000):
        start = time.process_time()
        found = near_pairs(pictures[:count])
        spent.append(time.process_time() - start)
        planted = {(number, number + 100) for number in range(100)}
        assert len(planted & set(map(tuple, found.tolist()))) >= 98
    assert spent[0] < 30
    assert spent[1] < 3 * spent[0]


def test_copy_groups__a_copy_of_a_copy_with_their_equals_and_without_bad_images(photos: list[Image.Image]) -> None:
    first, other = photos[0], photos[3]
    looks = [look_at(image) for image in (
        other, first, saved(first, "JPEG", quality=80), resized(0.6, "PNG")(first), first, other)]  # fmt: skip
    assert copy_groups([*looks, None], ["o", "a", "b", "c", "a", "o", ""]) == [[1, 2, 3, 4]]
    assert copy_groups([None], [""]) == copy_groups([], []) == []


def test_near_leaks__counts_validation_images_that_are_near_and_not_equal_to_training_images() -> None:
    digests = list("aabcdde")
    groups = [[0, 1, 2], [3, 4], [5, 6]]
    validates = np.array([False, True, True, True, True, True, False])
    (sentence,) = near_leaks(groups, digests, validates)
    # 2 of 0, and 5 of 6; 1 is equal to 0, and 3 and 4 have each other alone
    assert sentence.startswith("2 of the 5 validation images are near copies of training images")
    assert sentence.endswith("'vitctl data' lists them.")
    (sentence,) = near_leaks(groups, digests, validates, name_of="0123456".__getitem__)
    assert sentence.endswith("too good to be true. The first is 2, of 0.")
    assert near_leaks(groups[1:2], digests, validates) == near_leaks([], digests, validates) == []
