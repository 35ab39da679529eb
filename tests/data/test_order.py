"""The order of the training images: every image in turn, or every class; a batch is a function of (seed, step)."""

import itertools
from collections import Counter

import numpy as np
import pytest

from vitctl.data.order import BalancedOrder, BatchPlan
from vitctl.primitives.seeds import random_generator

LABELS = {
    "one class": [0, 0, 0, 0, 0],
    "one image": [0],
    "equal": [0, 1, 2, 0, 1, 2],
    "a rest": [0, 0, 0, 1, 1, 2, 2],
    "skewed": [1] * 40 + [0] + [2] * 3,
    "an image per class": [3, 1, 0, 2],
    "two classes, one image each": [1, 0],
}
PLANS = [
    BatchPlan(num_images, batch_size, num_images_seen, seed=5)
    for num_images, batch_size, num_images_seen in [
        (10, 4, 40),  # batches reach into the next epoch
        (10, 5, 20),
        (10, 4, 13),  # a short last batch
        (3, 8, 20),  # fewer images than a batch
        (3, 8, 5),
        (1, 4, 6),
        (7, 1, 15),
        (5, 5, 5),
    ]
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_batch_k_is_the_kth_of_all_batches(plan: BatchPlan) -> None:
    batches = list(plan.batches())
    assert len(batches) == plan.num_steps
    assert [plan.batch(step) for step in reversed(range(plan.num_steps))] == batches[::-1]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_batch_is_full_but_the_last(plan: BatchPlan) -> None:
    sizes = [len(batch) for batch in plan.batches()]
    assert set(sizes[:-1]) <= {plan.batch_size}
    assert 1 <= sizes[-1] <= plan.batch_size
    assert sum(sizes) == plan.num_images_seen


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_epoch_shows_every_image_once(plan: BatchPlan) -> None:
    pairs = list(itertools.chain.from_iterable(plan.batches()))
    assert [epoch for epoch, _ in pairs] == [index // plan.num_images for index in range(plan.num_images_seen)]
    for epoch, part in itertools.groupby(pairs, key=lambda pair: pair[0]):
        positions = [position for _, position in part]
        assert len(set(positions)) == len(positions)
        if (epoch + 1) * plan.num_images <= plan.num_images_seen:
            assert sorted(positions) == list(range(plan.num_images))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = set()
    for seed in range(3):
        for _, part in itertools.groupby(BatchPlan(20, 20, 60, seed).batch(0), key=lambda pair: pair[0]):
            orders.add(tuple(position for _, position in part))
        orders.add(tuple(position for _, position in BatchPlan(20, 20, 60, seed).batch(1)))
    assert len(orders) == 6


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    streams = [
        list(itertools.chain.from_iterable(BatchPlan(10, batch_size, 35, seed=2).batches()))
        for batch_size in (1, 4, 10, 64)
    ]
    assert all(stream == streams[0] for stream in streams)


def test_batches_from_a_step_on_are_the_rest_of_all_batches() -> None:
    plan = BatchPlan(7, 4, 30, seed=2)
    assert list(plan.batches(3)) == list(plan.batches())[3:]
    assert list(plan.batches(plan.num_steps)) == []


# --- every class equally often -----------------------------------------------------------------------------


def _labels(name: str) -> np.ndarray:
    return np.array(LABELS[name], dtype=np.int64)


def _simulate(labels: np.ndarray, seed: int, num_epochs: int) -> list[list[tuple[int, int]]]:
    """Return the epochs as (view, position) pairs, dealt one place at a time."""
    num_classes = max(labels) + 1

    def stream(label: int):
        members = [position for position, one in enumerate(labels) if one == label]
        for time in itertools.count():
            for index in random_generator(seed, "balance", label, time).permutation(len(members)):
                yield time, members[index]

    streams = [stream(label) for label in range(num_classes)]
    turn = itertools.cycle(range(num_classes))
    epochs = []
    for epoch in range(num_epochs):
        num_places = [len(labels) // num_classes] * num_classes
        for _ in range(len(labels) % num_classes):
            num_places[next(turn)] += 1
        dealt = [next(streams[label]) for label in range(num_classes) for _ in range(num_places[label])]
        order = random_generator(seed, "order", epoch).permutation(len(labels))
        epochs.append([dealt[index] for index in order])
    return epochs


def _plan(name: str, *, batch_size: int, num_images_seen: int, seed: int = 5) -> BatchPlan:
    labels = _labels(name)
    return BatchPlan(len(labels), batch_size, num_images_seen, seed, BalancedOrder(labels, seed))


@pytest.mark.parametrize("name", LABELS)
def test_balanced_order_is_that_of_dealing_one_place_at_a_time(name: str) -> None:
    plan = _plan(name, batch_size=1, num_images_seen=1)
    expected = _simulate(_labels(name), seed=5, num_epochs=8)
    assert [plan.epoch(epoch) for epoch in reversed(range(8))] == expected[::-1]


@pytest.mark.parametrize("name", LABELS)
def test_balanced_order_shows_every_class_equally_often(name: str) -> None:
    labels = _labels(name)
    in_all = np.zeros(max(labels) + 1, dtype=np.int64)
    for epoch in range(40):
        views, positions = BalancedOrder(labels, 3).epoch(epoch)
        assert len(views) == len(positions) == len(labels)
        counts = np.bincount(labels[positions], minlength=len(in_all))
        in_all += counts
        assert np.ptp(counts) <= 1
        assert np.ptp(in_all) <= 1
    assert in_all.sum() == 40 * len(labels)


@pytest.mark.parametrize("name", LABELS)
def test_balanced_order__no_image_is_ahead_of_another_of_its_class_and_views_count_its_showings(name: str) -> None:
    labels = _labels(name)
    shown: Counter[int] = Counter(dict.fromkeys(range(len(labels)), 0))
    for epoch in range(12):
        pairs = sorted(zip(*(column.tolist() for column in BalancedOrder(labels, 3).epoch(epoch)), strict=True))
        for view, position in pairs:
            assert view == shown[position]
            shown[position] += 1
        for label in set(labels.tolist()):
            times = [shown[position] for position in np.flatnonzero(labels == label).tolist()]
            assert max(times) - min(times) <= 1
    assert min(shown.values()) >= 1


def test_balanced_order__epochs_and_seeds_have_orders_of_their_own() -> None:
    labels = np.arange(40) % 4
    orders = {tuple(BalancedOrder(labels, seed).epoch(epoch)[1].tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_balanced_order__of_one_class_shows_every_image_once_per_epoch() -> None:
    for epoch in range(4):
        views, positions = BalancedOrder(_labels("one class"), 0).epoch(epoch)
        assert views.tolist() == [epoch] * 5
        assert sorted(positions.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("batch_size", [1, 4, 100])  # 100 is more than an epoch, often several
def test_balanced_batch_k_is_the_kth_of_all_batches(name: str, batch_size: int) -> None:
    plan = _plan(name, batch_size=batch_size, num_images_seen=230)
    batches = list(plan.batches())
    assert [plan.batch(step) for step in reversed(range(plan.num_steps))] == batches[::-1]
    stream = list(itertools.chain.from_iterable(_simulate(_labels(name), seed=5, num_epochs=230)))[:230]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert list(itertools.chain.from_iterable(batches)) == stream


def test_balanced_order__a_class_without_images_is_not_shown() -> None:
    order = BalancedOrder(np.array([0, 2, 2, 2, 3, 3]), 0)
    views, positions = (
        np.concatenate(parts) for parts in zip(*(order.epoch(epoch) for epoch in range(2)), strict=True)
    )
    assert np.bincount(order.labels[positions]).tolist() == [4, 0, 4, 4]
    assert len(set(zip(views.tolist(), positions.tolist(), strict=True))) == 12
