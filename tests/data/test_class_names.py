"""Class names that look like a mistake, and classes that a split lacks."""

import numpy as np
import pytest

from vitctl.data.class_names import classes_without_images, doubtful_names
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages


def split_of(*labels: str) -> Split:
    return split_from_names("all", ArrayImages("drawn", np.zeros((len(labels), 2, 2), dtype=np.uint8)), labels)


def test_classes_that_differ_by_spaces_or_case_only_are_pointed_out() -> None:
    (sentence,) = doubtful_names(split_of("apple", " Apple ", "pear", "Big  Cat", "big cat"))
    assert sentence.startswith("4 classes differ from another by spaces or letter case only, ")
    assert "'apple'" in sentence.partition(" first")[0]
    assert doubtful_names(split_of("apple", "apples", "pear")) == []


def test_cells_that_hold_several_labels_are_counted() -> None:
    (sentence,) = doubtful_names(split_of("shoes", "brown", "shoes;brown", "shoes;brown", "hat | brown", "hat"))
    assert sentence.startswith("3 of 6 labels look like several: ';' or '|' between names that occur elsewhere too, ")
    assert "'hat | brown' first" in sentence


def test_cells_that_hold_several_labels__of_which_none_stands_alone() -> None:
    (sentence,) = doubtful_names(split_of("shoes;brown", "shoes;red", "hat;blue"))
    assert sentence.startswith("2 of 3 labels look like several")


@pytest.mark.parametrize(
    "labels", [("a;b", "c"), ("tail;", "tail2;"), ("R|D", "D2"), ("shoes, brown", "shoes"), ("a;a", "b")]
)
def test_marks_between_what_is_no_other_label_are_part_of_a_name(labels: tuple[str, ...]) -> None:
    assert doubtful_names(split_of(*labels)) == []


def test_classes_without_images__in_the_order_asked_whatever_the_splits_own() -> None:
    split = split_of("b", "c", "b").select([0, 2])
    assert classes_without_images(split, ("z", "c", "b", "a")) == ("z", "c", "a")
