"""What classifiers say of the same images is put in one order, by content and class; other images are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitctl.errors import DataError, ModelError
from vitctl.run_folders.kept_logits import KeptLogits, read_logits, write_logits
from vitctl.run_folders.same_images import on_same_images

NAMES = ["runs/a", "runs/b"]


def said(num_images: int = 6, *, seed: int = 0) -> KeptLogits:
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images, dtype=np.int64) % 3
    hashes = tuple(f"{number:032x}" for number in range(num_images))
    logits = rng.normal(size=(num_images, 3)).astype(np.float32)
    return KeptLogits(logits, labels, hashes, ("cat", "dog", "owl"))


def shuffled(one: KeptLogits, order: list[int], classes: list[int]) -> KeptLogits:
    """The same said of the same images, which come in another order, as do the classes."""
    place = np.argsort(classes)
    return KeptLogits(
        one.logits[order][:, classes],
        place[one.labels[order]],
        tuple(one.hashes[index] for index in order),
        tuple(one.class_names[index] for index in classes),
    )


def test_order__of_images_and_classes_is_the_first_runs() -> None:
    a, b = said(), said(seed=1)
    same = on_same_images([a, shuffled(b, [3, 5, 0, 1, 4, 2], [2, 0, 1])], NAMES, advice="")
    np.testing.assert_array_equal(same.logits[0], a.logits)
    np.testing.assert_array_equal(same.logits[1], b.logits)
    np.testing.assert_array_equal(same.labels, a.labels)
    assert same.class_names == ("cat", "dog", "owl")
    assert same.hashes == a.hashes


def test_equal_images__are_told_apart_by_their_class_and_taken_in_order() -> None:
    a = replace(said(), hashes=("aa", "bb", "aa", "aa", "cc", "dd"))  # classes cat, dog, owl, cat, dog, owl
    same = on_same_images([a, shuffled(a, [5, 4, 2, 1, 0, 3], [0, 1, 2])], NAMES, advice="")
    np.testing.assert_array_equal(same.logits[1], a.logits)


def test_other_images__say_how_many_are_in_both_and_what_to_try() -> None:
    a, b = said(6), said(8)
    b.labels[0] = 1
    words = r"runs/a and runs/b .* 6 and 8, of which 5 are in both \(1 more, of which the classes differ\)\. Try this\."
    with pytest.raises(DataError, match=words):
        on_same_images([a, b], NAMES, advice="Try this.")


def test_an_image_twice__is_no_other_set_of_the_same_images() -> None:
    a = replace(said(3), hashes=("aa", "bb", "cc"), labels=np.zeros(3, dtype=np.int64))
    b = replace(a, hashes=("aa", "bb", "bb"))
    with pytest.raises(DataError, match="3 and 3, of which 2 are in both"):
        on_same_images([a, b], NAMES, advice="")


def test_other_classes__are_named() -> None:
    a = said()
    with pytest.raises(DataError, match=r"runs/b knows the class 'bee', which runs/a does not"):
        on_same_images([a, replace(a, class_names=("cat", "bee", "owl"))], NAMES, advice="")


def test_what_is_not_finite__is_refused() -> None:
    b = said()
    b.logits[2:4, 0] = np.nan
    with pytest.raises(ModelError, match=r"runs/b says numbers that are not finite of 2 of 6 images"):
        on_same_images([said(), b], NAMES, advice="")


@pytest.mark.parametrize("labels", [[0, 3], [0, -1], []])
def test_kept_logits__of_classes_that_are_none(labels: list[int], tmp_path: Path) -> None:
    hashes = tuple("ab" * 16 for _ in labels)
    logits = np.zeros((len(labels), 3), dtype=np.float32)
    write_logits(tmp_path, KeptLogits(logits, np.array(labels, dtype=np.int64), hashes, ("cat", "dog", "owl")))
    with pytest.raises(DataError, match="is damaged"):
        read_logits(tmp_path)
