"""Classes of unequal size: weights in the loss, and an order that shows every class equally often."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from vitctl.data.imbalance import balanced_class_weights, imbalance_ratio
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.data.order import BalancedOrder, BatchPlan
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages
from vitctl.data.transforms import TrainingTransform
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.state import TrainingState

PREPROCESSING = Preprocessing((8, 8), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
TRANSFORM = TrainingTransform(PREPROCESSING, crop="random-resized-crop", crop_area=(0.3, 1.0), flip=True, seed=0)


@pytest.fixture
def skewed_split() -> Split:
    """Noise of 40 px: 7 images of class a, 2 of b, 1 of c."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 40, 40), dtype=np.uint8)
    return split_from_names("train", ArrayImages("noise", pixels), list("aabaacaaba"))


# --- weights in the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 1, 2, 2], [6 / 9, 6 / 3, 6 / 6]),
        ([1, 0, 1, 1], [4 / 2, 4 / 6]),
        ([0, 1, 2, 2, 1, 0], [1.0, 1.0, 1.0]),
        ([0, 0], [1.0]),
    ],
)
def test_class_weights_are_n_over_c_times_the_images_of_the_class(labels: list[int], expected: list[float]) -> None:
    weights = balanced_class_weights(np.array(labels), len(expected))
    assert weights.dtype == np.float64
    assert weights.tolist() == pytest.approx(expected, rel=1e-15)
    assert weights[labels].mean() == pytest.approx(1.0, rel=1e-15)


def test_class_weights__of_equal_classes_are_exactly_one() -> None:
    for num_classes, each in itertools.product((1, 3, 7, 10), (1, 3, 49, 100)):
        labels = np.repeat(np.arange(num_classes), each)
        assert balanced_class_weights(labels, num_classes).tolist() == [1.0] * num_classes


def test_class_weights__a_class_without_an_image_has_none() -> None:
    assert balanced_class_weights(np.array([0, 0, 2]), 4).tolist() == [0.75, 0.0, 1.5, 0.0]


@pytest.mark.parametrize(
    ("counts", "expected"), [([12, 3, 6], 4.0), ([5, 5], 1.0), ([9, 0, 3], 3.0), ([7], 1.0), ([0, 0], 1.0)]
)
def test_imbalance_ratio_is_largest_over_smallest(counts: list[int], expected: float) -> None:
    assert imbalance_ratio(np.array(counts)) == expected


def _small_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
        nn.init.normal_(net[1].weight, std=0.3)
        return net


def _step(batch: TrainingBatch) -> tuple[float, list[torch.Tensor]]:
    """Return the loss of a step on ``batch`` and the gradient: what plain SGD of rate 1 moves the weights by."""
    model, start = _small_net(), _small_net()
    accelerator = Accelerator(cpu=True)
    state = TrainingState(model, torch.optim.SGD(model.parameters(), lr=1.0))
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1.0, final=0.0)
    (report,) = train_steps(
        state, accelerator.prepare(model), [batch], schedule, accelerator=accelerator, clip_norm=0.0
    )
    moves = [(old - new).detach() for old, new in zip(start.parameters(), model.parameters(), strict=True)]
    return report.loss.read(), moves


def _torchs_own(images: torch.Tensor, labels: torch.Tensor, weights: np.ndarray) -> tuple[float, list[torch.Tensor]]:
    model = _small_net()
    loss = nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))(model(images), labels)
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


def _shares(split: Split, plan: BatchPlan, weights: np.ndarray | None, num_processes: int) -> list[list[TrainingBatch]]:
    return [
        list(
            training_batches(
                split,
                TRANSFORM,
                plan,
                num_workers=0,
                class_weights=weights,
                process_index=index,
                num_processes=num_processes,
            )
        )
        for index in range(num_processes)
    ]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_weighted_loss_and_gradient_are_torchs_own_on_the_global_batch(skewed_split: Split, num_processes: int) -> None:
    weights = balanced_class_weights(skewed_split.labels, 3)
    plan = BatchPlan(10, 9, 19, seed=1)  # 9 images, 9 of two epochs, a last one that leaves processes without any
    (whole,) = _shares(skewed_split, plan, None, 1)
    shares = _shares(skewed_split, plan, weights, num_processes)
    gaps = []
    for step, batch in enumerate(whole):
        expected_loss, expected_gradient = _torchs_own(batch.images, batch.labels, weights)
        steps = [_step(share[step]) for share in shares]
        assert sum(loss for loss, _ in steps) == pytest.approx(expected_loss, rel=1e-6)
        for index, expected in enumerate(expected_gradient):
            total = sum(moves[index] for _, moves in steps)
            torch.testing.assert_close(total, expected, rtol=0, atol=1e-6)
            assert float(expected.abs().max()) > 0.01
        means = [
            _torchs_own(share[step].images, share[step].labels, weights)[0]
            for share in shares
            if share[step].weights.any()
        ]
        gaps.append(abs(np.mean(means) - expected_loss))
    assert max(gaps) > 0.05 or num_processes == 1  # the mean of the processes' means would have been seen


def test_weights_of_a_batch_are_those_of_its_labels_and_their_sum(skewed_split: Split) -> None:
    weights = np.array([0.5, 1.25, 3.0])
    plan = BatchPlan(10, 4, 30, seed=2)
    first, second = _shares(skewed_split, plan, weights, 2)
    for step, pairs in enumerate(plan.batches()):
        of_labels = weights[skewed_split.labels[[position for _, position in pairs]]]
        assert first[step].weights.tolist() == of_labels[: -(-len(pairs) // 2)].tolist()
        assert second[step].weights.tolist() == of_labels[-(-len(pairs) // 2) :].tolist()
        assert first[step].weight_global == second[step].weight_global == pytest.approx(of_labels.sum())
        assert first[step].num_global == second[step].num_global == len(pairs)


def test_without_class_weights_every_image_counts_one(skewed_split: Split) -> None:
    plan = BatchPlan(10, 4, 10, seed=2)
    (plain,) = _shares(skewed_split, plan, None, 1)
    (ones,) = _shares(skewed_split, plan, np.ones(3), 1)
    for batch, other in zip(plain, ones, strict=True):
        assert batch.weights.tolist() == other.weights.tolist() == [1.0] * len(batch.labels)
        assert batch.weight_global == batch.num_global == len(batch.labels)
        loss = nn.CrossEntropyLoss()(_small_net()(batch.images), batch.labels).item()
        assert _step(batch)[0] == _step(other)[0] == pytest.approx(loss, rel=1e-6)


# --- every class equally often -----------------------------------------------------------------------------


def test_balanced_batches_are_the_same_for_any_number_of_workers(skewed_split: Split) -> None:
    plan = BatchPlan(10, 4, 23, 1, BalancedOrder(skewed_split.labels, 1))
    here = list(training_batches(skewed_split, TRANSFORM, plan, num_workers=0))
    there = list(training_batches(skewed_split, TRANSFORM, plan, num_workers=2))
    assert len(here) == len(there) == 6
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.weights, other.weights)


def test_balanced_batches_hold_what_the_plan_says(skewed_split: Split) -> None:
    plan = BatchPlan(10, 4, 23, 1, BalancedOrder(skewed_split.labels, 1))
    batches = training_batches(skewed_split, TRANSFORM, plan, num_workers=0)
    for pairs, batch in zip(plan.batches(), batches, strict=True):
        images = [TRANSFORM(skewed_split.read(position), view=view, position=position) for view, position in pairs]
        assert torch.equal(batch.images, torch.stack(images))
        assert batch.labels.tolist() == [skewed_split.labels[position] for _, position in pairs]


def test_an_image_shown_twice_in_an_epoch_is_cut_differently(skewed_split: Split) -> None:
    plan = BatchPlan(10, 10, 10, 1, BalancedOrder(skewed_split.labels, 1))
    (batch,) = training_batches(skewed_split, TRANSFORM, plan, num_workers=0)
    rows = (batch.labels == 2).nonzero().flatten().tolist()  # class c has one image, shown three times
    assert len(rows) >= 3
    seen = {batch.images[row].numpy().tobytes() for row in rows}
    assert len(seen) == len(rows)
    assert [position for _, position in (plan.batch(0)[row] for row in rows)] == [5] * len(rows)


# --- whole runs --------------------------------------------------------------------------------------------


@pytest.fixture
def finetune(tiny_model_folder, tmp_path, no_rendering) -> Callable[..., Any]:
    """Fine-tune the tiny model for 3 steps of 8 on 4 red, 4 green and as many blue images as asked for."""
    from vitctl.conversation import Conversation
    from vitctl.settings.finetune import FinetuneConfig
    from vitctl.workflows import finetune as workflow

    def run(out: str, *, num_blue: int, **settings: object) -> Any:
        folder = tmp_path / f"{num_blue} blue"
        for label, (name, count) in enumerate((("red", 4), ("green", 4), ("blue", num_blue))):
            for index in range(count):
                pixels = np.random.default_rng([label, index]).integers(0, 90, (20, 20, 3), dtype=np.uint8)
                pixels[..., label] += 150
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name / f"{index}.png")
        settings |= {"steps": 3, "batch_size": 8, "val_fraction": 0, "num_workers": 0, "out": out}
        config = FinetuneConfig(data=str(folder), model=str(tiny_model_folder), **settings)
        return workflow.run(config, Conversation())

    return run


def test_run__class_weights_of_equal_classes_change_nothing(finetune: Callable[..., Any]) -> None:
    plain = finetune("a", num_blue=4).weights_sha256
    assert finetune("b", num_blue=4, class_weights="balanced").weights_sha256 == plain
    assert finetune("c", num_blue=4, sampler="balanced").weights_sha256 != plain  # another order


def test_run__balancing_unequal_classes_changes_the_weights_and_repeats(finetune: Callable[..., Any]) -> None:
    shas = [
        finetune(f"{number}", num_blue=1, **settings).weights_sha256
        for number, settings in enumerate(
            [{}, {"class_weights": "balanced"}, {"sampler": "balanced"}, {"sampler": "balanced"}]
        )
    ]
    assert len(set(shas)) == 3
    assert shas[2] == shas[3]
