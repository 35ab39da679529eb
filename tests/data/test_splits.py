"""The drawn validation split: stratified, exact, seeded, and what belongs together on one side."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from vitctl.data.splits import default_num_validation, draw_validation, merge_groups
from vitctl.primitives.seeds import random_generator


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


@pytest.mark.parametrize("counts", [(50, 50), (97, 3, 41, 12), (10,), (7, 7, 7, 7, 7, 7, 7), (400, 3, 3, 3, 3)])
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


def test_classes_of_two_images_are_on_both_sides_and_the_others_are_drawn_as_ever() -> None:
    counts = (90, 2, 40, 2, 2, 7, 1)
    labels = _labels(*counts)
    training, validation = draw_validation(labels, _alone(len(labels)), num_validation=20, seed=3)
    for label in (1, 3, 4):
        assert (np.sum(labels[training] == label), np.sum(labels[validation] == label)) == (1, 1)
    assert np.sum(labels[validation] == 6) == 0  # one image cannot be
    for label in (0, 2, 5):  # drawn by (seed, split, class) alone, its share as before
        members = np.flatnonzero(labels == label)
        share = {0: 13, 2: 6, 5: 1}[label]
        first = members[random_generator(3, "split", label).permutation(len(members))[:share]]
        assert sorted(first) == sorted(set(validation) & set(members))
    assert len(validation) == 20 + 3


def test_classes_of_two_images__seeded_none_preferred_and_none_where_none_is_asked_for() -> None:
    labels = _labels(30, 2)
    drawn = {tuple(draw_validation(labels, _alone(32), num_validation=3, seed=seed)[1]) for seed in range(20)}
    assert {sum(labels[position] == 1 for position in one) for one in drawn} == {1}
    pair = np.flatnonzero(labels == 1)
    assert {position for one in drawn for position in one} >= set(pair)
    assert len(draw_validation(labels, _alone(32), num_validation=0, seed=0)[1]) == 0


def test_classes_of_two_images__that_belong_together_train() -> None:
    labels = np.array([0] * 20 + [1, 1])
    groups = [*_alone(20), "twins", "twins"]
    _, validation = draw_validation(labels, groups, num_validation=4, seed=0)
    assert not set(validation) & {20, 21}


def test_classes_of_two_images__of_which_there_are_very_many_do_not_eat_up_training() -> None:
    labels = np.repeat(np.arange(1000), 2)
    training, validation = draw_validation(labels, _alone(2000), num_validation=200, seed=0)
    assert len(validation) == 2 * 200
    assert len(np.unique(labels[validation])) == 400
    assert set(labels[training]) == set(range(1000))


def test_duplicates_stay_on_one_side() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.integers(0, 3, size=120)
        groups = [f"{label}-{rng.integers(0, 15)}" for label in labels]
        train, val = draw_validation(labels, groups, num_validation=24, seed=seed)
        assert not {groups[position] for position in train} & {groups[position] for position in val}
        for label in range(3):  # 45 groups of 2.7 images on average: off by half a group per class, at most
            sizes = np.unique([g for g in groups if g.startswith(f"{label}-")], return_counts=True)[1]
            share = np.sum(labels == label) / 5
            assert abs(np.sum(labels[val] == label) - share) <= sizes.max() / 2 + 1  # 1: the share is rounded


@pytest.mark.parametrize(("asked", "drawn"), [(0, 0), (1, 0), (2, 0), (3, 4), (8, 8), (9, 8), (10, 8), (11, 12)])
def test_duplicates__whole_groups_come_as_near_as_they_can_and_a_tie_is_below(asked: int, drawn: int) -> None:
    labels = np.zeros(40, dtype=np.int64)
    groups = [str(position // 4) for position in range(40)]  # ten groups of four
    for seed in range(5):
        _, val = draw_validation(labels, groups, num_validation=asked, seed=seed)
        assert len(val) == drawn


def test_duplicates__a_group_too_large_is_passed_over() -> None:
    labels = np.zeros(20, dtype=np.int64)
    groups = ["large"] * 10 + _alone(10)
    for seed in range(10):
        _, val = draw_validation(labels, groups, num_validation=5, seed=seed)
        assert len(val) == 5
        assert val.min() >= 10


def test_a_group_of_several_classes_is_drawn_as_often_as_others() -> None:
    labels = np.array([0, 1] * 20)
    groups = [str(position // 2) for position in range(40)]  # twenty pairs of one image of each class
    times = np.zeros(20)
    for seed in range(200):
        train, val = draw_validation(labels, groups, num_validation=12, seed=seed)
        assert np.bincount(labels[val]).tolist() == [6, 6]
        assert not {groups[position] for position in train} & {groups[position] for position in val}
        times[np.unique(val // 2)] += 1
    # 200 draws with probability 0.3: 60 times each, standard deviation 6.5
    assert np.abs(times - 60).max() < 5 * 6.5


def test_groups_of_several_classes_and_of_one_are_both_drawn() -> None:
    labels = np.array([0, 1] * 100)
    groups = [f"pair {position // 2}" if position < 100 else str(position) for position in range(200)]
    for seed in range(10):
        _, val = draw_validation(labels, groups, num_validation=40, seed=seed)
        assert np.bincount(labels[val]).tolist() == [20, 20]
        assert np.sum(val < 100) == 20  # 100 of the 200 images are in pairs: half of those drawn too


def test_a_group_that_holds_the_only_images_of_a_class_trains() -> None:
    labels = np.array([0, 1] + [0] * 30)
    groups = ["same", "same", *_alone(30)]
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


@pytest.mark.parametrize("seed", range(5))
def test_everything_asked__each_class_trains_on_one_group(seed: int) -> None:
    labels = np.array([0, 1, 0, 1])
    train, val = draw_validation(labels, ["same", "same", "a", "b"], num_validation=4, seed=seed)
    assert (len(train), len(val)) == (2, 2)
    assert sorted(labels[train]) == [0, 1]


def test_a_label_without_images_is_skipped() -> None:
    labels = np.array([0] * 10 + [2] * 10)
    _, val = draw_validation(labels, _alone(20), num_validation=4, seed=0)
    assert np.bincount(labels[val]).tolist() == [2, 0, 2]


def _old_draw(labels: np.ndarray, num_validation: int, seed: int) -> list[int]:
    """Draw images that are each alone: of every class the first of a random order, but not its last image."""
    counts = np.bincount(labels)
    exact = counts * (num_validation / len(labels))
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: num_validation - quotas.sum()]] += 1
    chosen: list[int] = []
    for label, quota in enumerate(quotas.tolist()):
        members = np.flatnonzero(labels == label)
        if len(members):
            order = random_generator(seed, "split", label).permutation(len(members))
            chosen += members[order[: min(quota, len(members) - 1)]].tolist()
    return sorted(chosen)


def test_images_that_are_alone_are_drawn_as_ever() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        counts = rng.integers(1, 30, size=rng.integers(1, 8))
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        asked = int(rng.integers(0, len(labels) + 1))
        train, val = draw_validation(labels, _alone(len(labels)), num_validation=asked, seed=seed)
        old = _old_draw(labels, asked, seed)
        pairs = (
            set(np.flatnonzero(counts == 2)) - set(labels[old]) if asked else set()
        )  # two images, none of them drawn
        assert [position for position in val if labels[position] not in pairs] == old
        assert sorted(labels[position] for position in val if labels[position] in pairs) == sorted(pairs)
        assert len(train) + len(val) == len(labels)


def test_the_split_of_two_classes_is_the_one_it_always_was() -> None:
    labels = np.array([0, 0, 1, 0, 1, 1, 0, 0, 1, 0])
    _, val = draw_validation(labels, _alone(10), num_validation=4, seed=0)
    assert val.tolist() == [1, 2, 7, 8]  # resuming an old run draws this again


def test_whatever_the_groups_both_sides_are_everything_and_each_class_trains() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        num_classes, num_groups = int(rng.integers(1, 8)), int(rng.integers(1, 40))
        labels = rng.integers(0, num_classes, size=rng.integers(1, 120))
        groups = [f"g{group}" for group in rng.integers(0, num_groups, size=len(labels))]
        if seed % 3 == 0:  # groups of one class only
            groups = [f"{group} {label}" for group, label in zip(groups, labels, strict=True)]
        asked = int(rng.integers(0, len(labels) + 1))
        train, val = draw_validation(labels, groups, num_validation=asked, seed=seed)
        again = draw_validation(labels, groups, num_validation=asked, seed=seed)
        assert (train.tolist(), val.tolist()) == (again[0].tolist(), again[1].tolist())
        assert train.tolist() == sorted(train)
        assert val.tolist() == sorted(val)
        assert sorted([*train, *val]) == list(range(len(labels)))
        assert not {groups[position] for position in train} & {groups[position] for position in val}
        assert set(labels[train]) == set(labels)


def test_groups_of_one_class__each_class_is_off_by_half_a_group_at_most() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        labels, groups = [], []
        for label in range(int(rng.integers(1, 6))):
            for number, size in enumerate(rng.integers(1, 10, size=20)):
                labels += [label] * int(size)
                groups += [f"{label}-{number}"] * int(size)
        asked = int(rng.uniform(0, 0.5) * len(labels))
        _, val = draw_validation(np.array(labels), groups, num_validation=asked, seed=seed)
        for label in range(max(labels) + 1):
            share = Fraction(labels.count(label) * asked, len(labels))
            drawn = sum(labels[position] == label for position in val.tolist())
            # while a group of s images is passed over, less than s / 2 are lacking; one taken overshoots by less
            assert abs(drawn - share) <= Fraction(9, 2) + 1  # 1: the share is rounded


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize(
    ("num_images", "num_classes", "num_groups"),
    [
        pytest.param(1_000, 2, 100, id="patients, two diagnoses"),
        pytest.param(3_000, 3, 30, id="few large groups"),
        pytest.param(1_000, 10, 200, id="videos, ten classes"),
        pytest.param(1_000, 100, 100, id="as many classes as groups"),
        pytest.param(1_000, 250, 100, id="four images per class"),
        pytest.param(500, 100, 20, id="groups of a quarter of all classes"),
    ],
)
def test_groups_of_several_classes__the_number_drawn_is_near_the_number_asked(
    num_images: int, num_classes: int, num_groups: int, fraction: float
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(num_images) % num_classes)
    groups = [str(group) for group in rng.integers(0, num_groups, size=num_images)]
    largest = max(np.unique(groups, return_counts=True)[1])
    asked = round(fraction * num_images)
    _, val = draw_validation(labels, groups, num_validation=asked, seed=0)
    assert abs(len(val) - asked) <= max(largest / 2, asked / 4)  # groups in any order, while they fit, come that near


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_groups_of_several_classes__rare_classes_are_not_forgotten(fraction: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, p=[0.7, 0.2, 0.07, 0.03], size=2_000)
    groups = [str(group) for group in rng.integers(0, 200, size=2_000)]
    for seed in range(5):
        _, val = draw_validation(labels, groups, num_validation=round(fraction * 2_000), seed=seed)
        shares = np.bincount(labels) * fraction
        assert np.all(np.abs(np.bincount(labels[val], minlength=4) - shares) <= np.maximum(8, 0.3 * shares))


def _merged_slowly(groupings: Sequence[Sequence[str]]) -> set[frozenset[int]]:
    """Return connected components: merge any two parts that share an image, until there are none."""
    parts = [{p for p, name in enumerate(names) if name == one} for names in groupings for one in set(names)]
    merged = True
    while merged:
        merged = False
        for first in range(len(parts)):
            for second in range(first + 1, len(parts)):
                if parts[first] & parts[second]:
                    parts[first] |= parts.pop(second)
                    merged = True
                    break
            if merged:
                break
    return {frozenset(part) for part in parts}


def test_merge_groups_ties_whatever_any_chain_ties() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(100):
        number = int(rng.integers(1, 25))
        groupings = [
            [f"{kind}{group}" for group in rng.integers(0, rng.integers(1, 2 * number + 1), size=number)]
            for kind in "abc"[: rng.integers(1, 4)]
        ]
        merged = merge_groups(*groupings)
        parts = {frozenset(p for p, other in enumerate(merged) if other == name) for name in merged}
        assert parts == _merged_slowly(groupings)
        assert all(groupings[0][min(part)] == merged[min(part)] for part in parts)  # the name of its first image
        sizes.add(len(parts))
    assert len(sizes) > 5


@pytest.mark.parametrize(
    ("groupings", "expected"),
    [
        ([["a", "b", "a"]], ["a", "b", "a"]),
        ([["a", "a", "b", "c"], ["x", "y", "y", "z"]], ["a", "a", "a", "c"]),
        ([["a", "b", "c", "d"], ["x", "x", "y", "y"], ["1", "2", "2", "3"]], ["a", "a", "a", "a"]),
        ([["b", "a"], ["a", "b"]], ["b", "a"]),  # names of two groupings have nothing to do with each other
        ([[], []], []),
    ],
)
def test_merge_groups_by_hand(groupings: list[list[str]], expected: list[str]) -> None:
    assert merge_groups(*groupings) == expected


def test_merge_groups__a_long_chain() -> None:
    number = 50_000
    pairs = [str(position // 2) for position in range(number)]
    shifted = [str((position + 1) // 2) for position in range(number)]
    assert set(merge_groups(pairs, shifted)) == {"0"}
    assert set(merge_groups(pairs[::-1], shifted[::-1])) == {pairs[-1]}
