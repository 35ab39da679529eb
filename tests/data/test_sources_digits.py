"""The embedded digits: always the same test split, a stratified fifth."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vitctl.data.source import Source, SourceOptions
from vitctl.data.sources import digits, open_source


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("digits")


def test_digits_have_1437_training_and_360_test_images(source: Source) -> None:
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 1437, "test": 360}
    assert source.splits["test"].class_names == tuple("0123456789")


def test_train_and_test_are_all_images_once(source: Source) -> None:
    rows = np.concatenate([source.splits["train"].rows, source.splits["test"].rows])
    assert sorted(rows.tolist()) == list(range(1797))


def test_the_test_split_is_stratified(source: Source) -> None:
    total = np.bincount(load_digits().target)
    assert np.abs(source.splits["test"].counts() - total * 360 / 1797).max() < 1


def test_the_test_split_is_always_the_same(source: Source) -> None:
    again = digits.open_source("digits", SourceOptions())
    for name in ("train", "test"):
        np.testing.assert_array_equal(again.splits[name].rows, source.splits[name].rows)
    # recorded once (scikit-learn 1.9); results can be compared across versions only while this holds
    assert source.splits["test"].rows[:8].tolist() == [21, 24, 28, 34, 35, 37, 39, 42]
    assert int(source.splits["test"].rows.sum()) == 337_944


def test_pixels_are_the_16_grey_levels_over_the_whole_range(source: Source) -> None:
    bunch = load_digits()
    split = source.splits["test"]
    for position in (0, 100, 359):
        row = int(split.rows[position])
        image = split.read(position)
        assert (image.mode, image.size) == ("RGB", (8, 8))
        np.testing.assert_allclose(np.asarray(image)[..., 1] / 255 * 16, bunch.images[row], atol=0.5 * 16 / 255 + 1e-9)
        assert split.labels[position] == bunch.target[row]
        assert split.image_name(position) == f"digits/{row}"


def test_digits_are_not_to_be_mirrored(source: Source) -> None:
    assert not source.is_flippable
    assert source.is_in_memory


@pytest.mark.parametrize(("spec", "expected"), [("digits", True), ("Digits", False), ("./digits", False), ("", False)])
def test_only_the_word_stands_for_the_digits(spec: str, expected: bool) -> None:
    assert digits.recognises(spec) is expected
