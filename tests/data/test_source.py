"""Splits, their class maps, and what happens when two splits disagree."""

from collections.abc import Callable

import numpy as np
import pytest

from vitctl.data.source import Source, Split, align_classes, split_from_names
from vitctl.errors import DataError


class _NoImages:
    """Names without pixels."""

    def __len__(self) -> int:
        return 100

    def read(self, row: int) -> None:
        raise AssertionError("nothing needs the pixels")

    def name(self, row: int) -> str:
        return f"image {row}"


def _split(*label_names: str) -> Split:
    return split_from_names("val", _NoImages(), label_names)


def _names(split: Split) -> list[str]:
    return [split.class_names[label] for label in split.labels]


def test_split_from_names_sorts_classes_naturally() -> None:
    split = _split("10", "2", "1", "B", "a", "2")
    assert split.class_names == ("1", "2", "10", "a", "B")
    assert split.labels.tolist() == [2, 1, 0, 4, 3, 1]
    assert split.labels.dtype == np.int64
    assert split.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_split_from_names__names_that_sort_alike_have_one_order() -> None:
    names = ["a", "A", "01", "1"]
    assert _split(*names).class_names == _split(*reversed(names)).class_names


def test_select_keeps_the_order_and_the_class_map() -> None:
    split = _split("a", "b", "c", "a").select([3, 1], name="part")
    assert (split.name, split.class_names) == ("part", ("a", "b", "c"))
    assert split.image_names() == ["image 3", "image 1"]
    assert _names(split) == ["a", "b"]
    again = split.select(np.array([1]))
    assert (again.name, again.image_name(0), _names(again)) == ("part", "image 1", ["b"])


def test_select__nothing() -> None:
    split = _split("a", "b").select([])
    assert len(split) == 0
    assert split.counts().tolist() == [0, 0]


def test_counts_has_a_number_for_classes_without_images() -> None:
    assert _split("a", "c", "a", "b").select([0, 1, 2]).counts().tolist() == [2, 0, 1]


def test_read_goes_through_the_rows(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(5).select([4, 2]).select([1])
    assert split.read(0).getpixel((0, 0)) == (2, 2, 2)
    assert split.image_name(0) == "drawn/2"


def test_align_classes__a_missing_class_shifts_nothing() -> None:
    split = _split("cat", "dog", "cat")  # in its own map cat is 0 and dog is 1
    aligned = align_classes(split, ("bird", "cat", "cow", "dog"), where="there")
    assert aligned.labels.tolist() == [1, 3, 1]
    assert aligned.class_names == ("bird", "cat", "cow", "dog")
    assert _names(aligned) == _names(split)
    assert split.labels.tolist() == [0, 1, 0]  # the original is as it was


def test_align_classes__any_order_of_the_map_keeps_the_names() -> None:
    split = _split("a", "b", "c", "b")
    assert _names(align_classes(split, ("c", "a", "b"), where="there")) == ["a", "b", "c", "b"]


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_split_from_names__composed_and_decomposed_letters_are_one_class() -> None:
    split = _split(NFD, "tea", NFC, NFD)
    assert (split.class_names, split.labels.tolist()) == ((NFC, "tea"), [0, 1, 0, 0])
    (note,) = split.notes
    assert note.startswith(f"1 class is spelt with letters taken apart (Unicode NFD, as macOS does), '{NFC}' first")
    assert _split(NFC, "tea").notes == ()
    assert "2 classes are spelt" in _split(NFD, f"{NFD} au lait").notes[0]


def test_align_classes__a_map_of_an_older_run_may_be_decomposed() -> None:
    split = _split(NFC, "tea")
    assert align_classes(split, ("tea", NFD), where="there").labels.tolist() == [1, 0]
    both = align_classes(split, (NFC, NFD, "tea"), where="there")  # as two classes, which they once were
    assert both.labels.tolist() == [0, 2]


def test_sentences_are_those_of_source_and_splits_each_once() -> None:
    train, val = (_split(NFD), _split(NFD))
    source = Source("here", "two splits", {"train": train, "val": val}, notes=("Something.",))
    assert source.sentences(train, val) == ["Something.", *train.notes]
    assert source.told_split("val").notes == ("Something.", *val.notes)


def test_align_classes__extra_classes_are_listed() -> None:
    with pytest.raises(DataError) as caught:
        align_classes(_split("cat", "dgo", "cow"), ("cat", "dog"), where="the validation split")
    assert str(caught.value).startswith("the validation split has 2 classes unknown in training: 'cow', 'dgo';")
    assert "the 2 known are cat, dog." in str(caught.value)


def test_align_classes__one_extra_class_among_many() -> None:
    known = [f"k{number}" for number in range(20)]
    with pytest.raises(DataError, match=r"has 1 class unknown in training: 'x'; the 20 known are k0, .*k4 and others"):
        align_classes(_split("x", *known), known, where="it")
    with pytest.raises(DataError, match=r"has 20 classes unknown.*'k9', \.\.\.; the 1 known"):
        align_classes(_split(*known), ["x"], where="it")


def test_align_classes__an_extra_class_without_images_is_no_error() -> None:
    split = _split("cat", "cow").select([0])
    assert align_classes(split, ("bird", "cat"), where="it").labels.tolist() == [1]


def test_a_split_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    source = Source("spec", "words", {"train": _split("a"), "test": _split("a")})
    with pytest.raises(DataError, match="spec has no split 'val'; it has train, test"):
        source.split("val")


def test_training_split_is_train_or_everything_and_never_test() -> None:
    train, test, everything = _split("a"), _split("a", "a"), _split("a", "a", "a")
    assert Source("", "", {"test": test, "train": train}).training_split() is train
    assert Source("", "", {"all": everything}).training_split() is everything
    with pytest.raises(DataError, match="has no training images, only the split test"):
        Source("", "", {"test": test}).training_split()


def test_may_flip__told_by_the_source_or_by_class_names() -> None:
    assert Source("", "", {}).may_flip(["cat", "dog"])
    assert Source("", "", {}).may_flip(["1", "2", "10"])
    assert not Source("", "", {}).may_flip(["0", "1", "2"])
    assert not Source("", "", {}).may_flip(["a", "b"])
    assert Source("", "", {}, is_flippable=True).may_flip(["0", "1"])
    assert not Source("", "", {}, is_flippable=False).may_flip(["cat", "dog"])
