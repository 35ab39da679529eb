"""Names in natural order: numbers as numbers, no ties, every text."""

import doctest

from vitctl.primitives import natural_order
from vitctl.primitives.natural_order import natural_key


def test_numbers_compare_as_numbers() -> None:
    assert sorted(["10", "2", "1", "a10b2", "a10b1", "a9"], key=natural_key) == ["1", "2", "10", "a9", "a10b1", "a10b2"]


def test_different_texts_never_tie() -> None:
    texts = ["1", "01", "A", "a", "1\u00b2", ""]
    assert len({natural_key(text) for text in texts}) == len(texts)


def test_doctest() -> None:
    assert doctest.testmod(natural_order).failed == 0
