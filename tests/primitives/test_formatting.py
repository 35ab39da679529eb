"""Numbers as people read them; the examples in docstrings are true."""

import doctest

import pytest

import vitctl.evaluation.metrics
import vitctl.primitives.formatting
import vitctl.primitives.image_sizes
import vitctl.primitives.schedule
from vitctl.primitives.formatting import format_bytes, format_count, format_rounded, format_seconds

MODULES_WITH_EXAMPLES = [
    (vitctl.primitives.formatting, 4),
    (vitctl.primitives.image_sizes, 1),
    (vitctl.primitives.schedule, 1),
    (vitctl.evaluation.metrics, 1),
]


@pytest.mark.parametrize(("module", "least"), MODULES_WITH_EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_examples_in_docstrings_are_true(module: object, least: int) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.failed == 0
    assert result.attempted >= least


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10 * 2**20, "10 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (3 * 2**40, "3 TiB"),
    ],
)
def test_format_bytes(num_bytes: float, expected: str) -> None:
    assert format_bytes(num_bytes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.123, "0.12 s"),
        (9.97, "10 s"),
        (45.4, "45 s"),
        (59.6, "1 min 00 s"),  # never "60 s"
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),  # never "60 min"
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_format_seconds(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1 k"),
        (686_000, "686 k"),
        (85_798_656, "85.8 M"),
        (17.6e9, "17.6 G"),
        (2e12, "2 T"),
        (-5000, "-5 k"),
    ],
)
def test_format_count(number: float, expected: str) -> None:
    assert format_count(number) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.001, "0.001"), (2.666, "2.67"), (533.3, "533"), (999.4, "999"), (999.6, "1,000"), (2666.7, "2,667")],
)
def test_format_rounded(number: float, expected: str) -> None:
    assert format_rounded(number) == expected


def test_rounding_up_to_a_thousand_moves_to_the_next_unit() -> None:
    assert format_bytes(1000) == "0.977 KiB"
    assert format_bytes(1010 * 1024) == "0.986 MiB"
    assert format_count(999_999) == "1 M"
