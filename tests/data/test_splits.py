"""The drawn validation split: stratified, exact, seeded, and duplicates on one side."""

from fractions import Fraction

import numpy as np
import pytest

from vitctl.data.splits import default_num_validation, draw_validation


def _alone(num_images: int) -> list[str]:
    """Return a group of its own for every image."""
    return [str(position) for position in range(num_images)]


def _labels(*counts: int) -> np.ndarray:
    """Return shuffled labels with these counts."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [
        (0, 0),
        (4, 0),
        (5, 1),
        (36, 7),
        (999, 199),  # a fifth
        (1_000, 200),
        (1_437, 200),
        (2_000, 200),
        (2_010, 201),  # a tenth
        (50_000, 5_000),
        (1_281_167, 5_000),
    ],
)
def test_default_number_is_a_tenth_between_200_and_5000_but_never_over_a_fifth(num_images: int, expected: int) -> None:
    assert default_num_validation(num_images) == expected


@pytest.mark.parametrize("counts", [(50, 50), (97, 3, 41, 12), (10,), (7, 7, 7, 7, 7, 7, 7), (400, 2, 2, 2, 2)])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_the_total_is_exact_and_every_class_gives_its_share(counts: tuple[int, ...], fraction: float) -> None:
    labels = _labels(*counts)
    wanted = round(fraction * len(labels))
    train, val = draw_validation(labels, _alone(len(labels)), num_validation=wanted, seed=0)
    assert len(val) == wanted
    drawn = np.bincount(labels[val], minlength=len(counts))
    for count, number in zip(counts, drawn.tolist(), strict=True):
        assert abs(number - Fraction(count * wanted, len(labels))) < 1  # rounded, up or down
    assert np.all(np.bincount(labels[train], minlength=len(counts)) > 0)


def test_the_largest_remainders_are_rounded_up() -> None:
    # 10 of 100 from 57, 26, 17: shares 5.7, 2.6, 1.7; the floors leave two, for the two classes with 0.7
    labels = _labels(57, 26, 17)
    _, val = draw_validation(labels, _alone(100), num_validation=10, seed=0)
    assert np.bincount(labels[val]).tolist() == [6, 2, 2]


def test_training_and_validation_are_sorted_and_together_everything() -> None:
    labels = _labels(30, 20)
    train, val = draw_validation(labels, _alone(50), num_validation=10, seed=1)
    assert train.dtype == val.dtype == np.int64
    assert sorted([*train, *val]) == list(range(50))
    assert train.tolist() == sorted(train)
    assert val.tolist() == sorted(val)


def test_the_same_seed_gives_the_same_split_and_others_give_others() -> None:
    labels = _labels(60, 40)

    def drawn(seed: int) -> tuple[int, ...]:
        return tuple(draw_validation(labels, _alone(100), num_validation=20, seed=seed)[1].tolist())

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(5)}) == 5


def test_every_image_can_be_drawn_and_none_is_preferred() -> None:
    labels = _labels(10, 10)
    times = np.zeros(20)
    for seed in range(300):
        times[draw_validation(labels, _alone(20), num_validation=6, seed=seed)[1]] += 1
    # 300 draws with probability 0.3: 90 times each, standard deviation 7.9
    assert np.abs(times - 90).max() < 5 * 7.9


def test_duplicates_stay_on_one_side() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.integers(0, 3, size=120)
        groups = [f"{label}-{rng.integers(0, 15)}" for label in labels]
        train, val = draw_validation(labels, groups, num_validation=24, seed=seed)
        assert not {groups[position] for position in train} & {groups[position] for position in val}
        assert 12 <= len(val) <= 24  # some groups no longer fit at the end


def test_duplicates__the_number_drawn_is_never_above_what_was_asked() -> None:
    labels = np.zeros(40, dtype=np.int64)
    groups = [str(position // 4) for position in range(40)]  # ten groups of four
    for seed in range(5):
        _, val = draw_validation(labels, groups, num_validation=10, seed=seed)
        assert len(val) == 8


def test_duplicates__a_group_too_large_is_passed_over() -> None:
    labels = np.zeros(20, dtype=np.int64)
    groups = ["large"] * 10 + _alone(10)
    for seed in range(10):
        _, val = draw_validation(labels, groups, num_validation=5, seed=seed)
        assert len(val) == 5
        assert val.min() >= 10


def test_duplicates_in_two_classes_stay_in_training() -> None:
    labels = np.array([0, 1] * 20)
    groups = ["same", "same", *_alone(38)]
    for seed in range(20):
        train, _ = draw_validation(labels, groups, num_validation=30, seed=seed)
        assert {0, 1} <= set(train.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_class_never_loses_its_last_group(seed: int) -> None:
    labels = np.array([0] * 50 + [1] + [2] * 6)  # class 1 has one image, class 2 six copies of one
    groups = [*_alone(51), *["copies"] * 6]
    train, val = draw_validation(labels, groups, num_validation=len(labels), seed=seed)
    assert np.bincount(labels[train]).tolist() == [1, 1, 6]
    assert len(val) == 49


def test_a_class_with_images_that_train_anyway_may_lose_all_others() -> None:
    labels = np.array([0, 1, 0, 1])
    train, val = draw_validation(labels, ["same", "same", "a", "b"], num_validation=4, seed=0)
    assert (train.tolist(), val.tolist()) == ([0, 1], [2, 3])


def test_a_label_without_images_is_skipped() -> None:
    labels = np.array([0] * 10 + [2] * 10)
    _, val = draw_validation(labels, _alone(20), num_validation=4, seed=0)
    assert np.bincount(labels[val]).tolist() == [2, 0, 2]
