"""Steps, images seen and batch sizes, against numbers worked out by hand."""

import pytest

from vitctl.primitives.durations import (
    batch_size_for,
    bit_hyperrule_steps,
    images_seen_transfer,
    steps_for_images,
)


@pytest.mark.parametrize(
    ("num_images_seen", "batch_size", "expected"), [(0, 8, 0), (1, 8, 1), (8, 8, 1), (9, 8, 2), (100, 1, 100)]
)
def test_steps_for_images_counts_a_short_last_batch(num_images_seen: int, batch_size: int, expected: int) -> None:
    assert steps_for_images(num_images_seen, batch_size=batch_size) == expected


@pytest.mark.parametrize(
    ("num_train", "expected"),
    [
        (1, 32_000),
        (500, 32_000),  # 30 epochs would be 15,000
        (1_067, 32_010),  # the first that 30 epochs lift over the floor
        (5_000, 150_000),
        (8_533, 255_990),
        (8_534, 256_000),  # the ceiling of small sets
        (25_600, 256_000),
        (50_000, 500_000),  # 10 epochs
        (1_281_167, 12_811_670),
    ],
)
def test_transfer_shows_30_epochs_between_its_floor_and_its_ceiling(num_train: int, expected: int) -> None:
    assert images_seen_transfer(num_train) == expected


@pytest.mark.parametrize(
    ("num_train", "expected"),
    [(1, 500), (19_999, 500), (20_000, 10_000), (499_999, 10_000), (500_000, 20_000), (14_000_000, 20_000)],
)
def test_bit_hyperrule_steps_are_the_papers(num_train: int, expected: int) -> None:
    assert bit_hyperrule_steps(num_train) == expected


@pytest.mark.parametrize(
    ("num_train", "largest", "expected"),
    [
        (1, 64, 1),
        (3, 64, 1),
        (7, 64, 1),
        (8, 64, 2),
        (15, 64, 2),
        (16, 64, 4),
        (255, 64, 32),
        (256, 64, 64),
        (500, 512, 64),
        (1_000_000, 512, 512),
        (400, 100, 100),  # the largest need not be a power of two
        (399, 100, 64),
    ],
)
def test_batch_size_is_a_quarter_of_a_small_set_down_to_a_power_of_two(
    num_train: int, largest: int, expected: int
) -> None:
    assert batch_size_for(num_train, largest=largest) == expected
