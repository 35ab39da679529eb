"""Optimiser steps: equal to a hand-written loop, whatever the shares of a batch, and never on a broken loss."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from vitctl.data.loader import TrainingBatch
from vitctl.errors import SettingError
from vitctl.training.loop import RateSchedule, StepReport, UnreadReports, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.state import TrainingState
from vitctl.training.step import add_gradients

NUM_CLASSES = 3


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def small_vit() -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=NUM_CLASSES,
        )  # fmt: skip
    return model


def random_batches(*sizes: int) -> list[TrainingBatch]:
    generator = torch.Generator().manual_seed(1)
    return [
        TrainingBatch(
            images=torch.randn(size, 3, 16, 16, generator=generator),
            labels=torch.randint(NUM_CLASSES, (size,), generator=generator),
            weights=torch.ones(size),
            num_global=size,
            weight_global=float(size),
        )
        for size in sizes
    ]


def train(
    model: nn.Module,
    batches: list[TrainingBatch],
    accelerator: Accelerator,
    *,
    schedule: RateSchedule,
    optimizer_name: str = "adamw",
    clip_norm: float = 0.0,
    layer_decay: float = 1.0,
    weight_decay: float = 0.05,
) -> list[StepReport]:
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    optimizer = build_optimizer(groups, name=optimizer_name, lr=schedule.peak, betas=(0.9, 0.999), momentum=0.0)
    state = TrainingState(model, optimizer)
    prepared = accelerator.prepare(model)
    reports = list(train_steps(state, prepared, batches, schedule, accelerator=accelerator, clip_norm=clip_norm))
    assert state.step == len(reports)
    return reports


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_steps__equal_a_hand_written_loop_bit_for_bit(accelerator: Accelerator, clip_norm: float) -> None:
    model, batches = small_vit(), random_batches(4, 4, 4, 4, 4, 2)
    by_hand = copy.deepcopy(model)
    schedule = RateSchedule(num_steps=6, num_warmup_steps=2, peak=1e-2, final=1e-4)
    reports = train(model, batches, accelerator, schedule=schedule, clip_norm=clip_norm, layer_decay=0.75)

    rates = [0.5e-2, 1e-2] + [1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    optimizer = torch.optim.AdamW(parameter_groups(by_hand, weight_decay=0.05, layer_decay=0.75), lr=1e-2)
    losses = []
    by_hand.train()
    for report, batch, rate in zip(reports, batches, rates, strict=True):
        assert report.lr == pytest.approx(rate, rel=1e-12)
        for group in optimizer.param_groups:
            group["lr"] = report.lr * group["lr_scale"]
        loss = F.cross_entropy(by_hand(batch.images), batch.labels, reduction="none").sum() / len(batch.labels)
        loss.backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [report.loss.read() for report in reports] == losses
    for (name, trained), expected in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(trained, expected), name


def test_clipping__changes_the_result(accelerator: Accelerator) -> None:
    free, clipped = small_vit(), small_vit()
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1.0, final=0.0)
    start = copy.deepcopy(free)
    for model, clip_norm in ((free, 0.0), (clipped, 0.01)):
        train(model, random_batches(4), accelerator, schedule=schedule, optimizer_name="sgd", clip_norm=clip_norm,
              weight_decay=0.0)  # fmt: skip
    assert moved(start, clipped) == pytest.approx(0.01, rel=1e-3)
    assert moved(start, free) > 0.1


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_grad_norm__is_that_of_all_gradients_before_clipping(accelerator: Accelerator, clip_norm: float) -> None:
    (batch,), model = random_batches(4), small_vit()
    model.get_parameter("pos_embed").requires_grad_(False)
    by_hand = copy.deepcopy(model).train()
    F.cross_entropy(by_hand(batch.images), batch.labels).backward()
    gradients = [one.grad.double() for one in by_hand.parameters() if one.grad is not None]
    expected = math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in gradients))
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1e-3, final=0.0)
    (report,) = train(model, [batch], accelerator, schedule=schedule, clip_norm=clip_norm)
    assert report.grad_norm.read() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1


def moved(before: nn.Module, after: nn.Module) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return math.sqrt(sum(float((b - a).detach().pow(2).sum()) for b, a in pairs))


def share_of(batch: TrainingBatch, process_index: int, num_processes: int) -> TrainingBatch:
    """Return what one of several processes sees: its share, or a filling image of weight 0."""
    own = slice(*(-(-len(batch.labels) * index // num_processes) for index in (process_index, process_index + 1)))
    if len(batch.labels[own]):
        return batch._replace(images=batch.images[own], labels=batch.labels[own], weights=batch.weights[own])
    return batch._replace(images=batch.images[:1], labels=batch.labels[:1], weights=torch.zeros(1))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_shares__their_gradients_and_losses_sum_to_those_of_the_whole_batch(
    accelerator: Accelerator, size: int
) -> None:
    """One plain SGD step of rate 1 moves the weights by the gradient.

    5 images give unequal shares, 1 leaves the second process a filling image only. Largest difference seen: 1e-7.
    """
    (batch,) = random_batches(size)
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1.0, final=0.0)

    def gradient(part: TrainingBatch) -> tuple[list[torch.Tensor], float]:
        model, start = small_vit(), small_vit()
        (report,) = train(model, [part], accelerator, schedule=schedule, optimizer_name="sgd", weight_decay=0.0)
        assert report.num_images == size
        pairs = zip(start.parameters(), model.parameters(), strict=True)
        return [(before - after).detach() for before, after in pairs], report.loss.read()

    whole, whole_loss = gradient(batch)
    parts = [gradient(share_of(batch, index, 2)) for index in (0, 1)]
    assert sum(loss for _, loss in parts) == pytest.approx(whole_loss, abs=1e-6)
    assert max(float(tensor.abs().max()) for tensor in whole) > 0.01
    for index, expected in enumerate(whole):
        torch.testing.assert_close(parts[0][0][index] + parts[1][0][index], expected, rtol=0, atol=1e-6)


def test_filling__of_weight_zero_counts_for_nothing(accelerator: Accelerator) -> None:
    (batch,) = random_batches(3)
    filled = batch._replace(
        images=torch.cat([batch.images, torch.full((1, 3, 16, 16), 5.0)]),
        labels=torch.cat([batch.labels, torch.tensor([0])]),
        weights=torch.tensor([1.0, 1.0, 1.0, 0.0]),
    )
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1.0, final=0.0)
    plain, with_filling = small_vit(), small_vit()
    (one,) = train(plain, [batch], accelerator, schedule=schedule, optimizer_name="sgd")
    (other,) = train(with_filling, [filled], accelerator, schedule=schedule, optimizer_name="sgd")
    assert one.loss.read() == pytest.approx(other.loss.read(), abs=1e-6)
    for a, b in zip(plain.parameters(), with_filling.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_reports__count_steps_and_images_and_time(accelerator: Accelerator) -> None:
    schedule = RateSchedule(num_steps=3, num_warmup_steps=0, peak=1e-3, final=0.0)
    reports = train(small_vit(), random_batches(4, 4, 2), accelerator, schedule=schedule)
    assert [(report.step, report.num_images) for report in reports] == [(1, 4), (2, 4), (3, 2)]
    assert all(0 <= report.data_s <= report.step_s for report in reports)


def test_loss__is_that_of_the_weights_before_the_step(accelerator: Accelerator) -> None:
    (batch,) = random_batches(4)
    model = small_vit()
    expected = F.cross_entropy(model(batch.images), batch.labels).item()
    schedule = RateSchedule(num_steps=1, num_warmup_steps=0, peak=1.0, final=0.0)
    (report,) = train(model, [batch], accelerator, schedule=schedule)
    assert report.loss.read() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss__not_finite_stops_with_advice(accelerator: Accelerator, value: float) -> None:
    good, bad = random_batches(2, 2)
    bad.images[0, 0, 0, 0] = value
    schedule = RateSchedule(num_steps=2, num_warmup_steps=0, peak=0.3, final=0.0)
    with pytest.raises(SettingError, match=r"The loss became nan at step 2 .* Try a lower rate, e\.g\. --lr 0\.1\."):
        train(small_vit(), [good, bad], accelerator, schedule=schedule)


def test_model__is_back_in_training_mode_after_the_consumer_evaluated_it(accelerator: Accelerator) -> None:
    model = small_vit()
    optimizer = build_optimizer(
        parameter_groups(model, weight_decay=0.0, layer_decay=1.0), name="sgd", lr=0.1, betas=(0.9, 0.9), momentum=0.0
    )
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, _inputs: modes.append(module.training))
    schedule = RateSchedule(num_steps=2, num_warmup_steps=0, peak=0.1, final=0.0)
    state = TrainingState(model, optimizer)
    steps = train_steps(
        state, accelerator.prepare(model), random_batches(2, 2), schedule, accelerator=accelerator, clip_norm=0.0
    )
    for _ in steps:
        model.eval()
    assert modes == [True, True]


# --- a device that is still computing when a step is reported ------------------------------------------------


class StillComputing:
    """Stands in for ``LateNumber`` on a device that stays behind: it is here once it was waited for."""

    waited_for: list[float]

    def __init__(self, value: torch.Tensor) -> None:
        self._value, self.is_here = float(value), False

    def read(self) -> float:
        if not self.is_here:
            self.waited_for.append(self._value)
        self.is_here = True
        return self._value


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make the device stay behind; return the losses that Python has waited for, in the order it did."""
    StillComputing.waited_for = []
    monkeypatch.setattr("vitctl.training.loop.LateNumber", StillComputing)
    return StillComputing.waited_for


def test_device_behind__only_the_step_before_is_waited_for_but_at_pauses(
    accelerator: Accelerator, behind: list[float]
) -> None:
    schedule = RateSchedule(num_steps=5, num_warmup_steps=0, peak=1e-2, final=0.0)
    expected = [
        report.loss.read() for report in train(small_vit(), random_batches(*[4] * 5), accelerator, schedule=schedule)
    ]
    behind.clear()
    model = small_vit()
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=1.0)
    state = TrainingState(model, build_optimizer(groups, name="adamw", lr=1e-2, betas=(0.9, 0.999), momentum=0.0))
    steps = train_steps(
        state, model, random_batches(*[4] * 5), schedule, accelerator=accelerator, clip_norm=0.0, pauses={3, 5}
    )
    unread, recorded, waited = UnreadReports(), [], []
    for report in steps:
        waited.append(len(behind))
        recorded.append([known.step for known in unread.add(report)])
    assert waited == [0, 1, 3, 3, 5]
    assert recorded == [[], [1], [2, 3], [], [4, 5]]
    assert behind == expected
    assert list(unread.rest()) == []


def test_device_behind__what_is_left_can_be_waited_for(accelerator: Accelerator, behind: list[float]) -> None:
    schedule = RateSchedule(num_steps=2, num_warmup_steps=0, peak=1e-2, final=0.0)
    unread, known = UnreadReports(), []
    for report in train(small_vit(), random_batches(2, 2), accelerator, schedule=schedule):
        known += unread.add(report)
    assert [report.step for report in known] == [1]
    (last,) = unread.rest()
    assert (last.step, len(behind)) == (2, 1)
    assert last.loss.read() == behind[1]


def test_device_behind__a_spoilt_loss_stops_at_the_step_it_is_of(accelerator: Accelerator, behind: list[float]) -> None:
    good, bad, *more = random_batches(2, 2, 2, 2)
    bad.images[0, 0, 0, 0] = math.nan
    schedule = RateSchedule(num_steps=4, num_warmup_steps=0, peak=0.3, final=0.0)
    with pytest.raises(SettingError, match=r"The loss became nan at step 2 "):
        train(small_vit(), [good, bad, *more], accelerator, schedule=schedule)
    assert len(behind) == 2


# --- micro-batches --------------------------------------------------------------------------------------------


def gradients(model: nn.Module, batch: TrainingBatch, accelerator: Accelerator, micro_batch: int) -> torch.Tensor:
    """Return the gradient of one step, all parameters in a row, and last the loss."""
    model.zero_grad()
    loss = add_gradients(model, batch, micro_batch, accelerator=accelerator, precision="fp32")
    return torch.cat([*(one.grad.flatten() for one in model.parameters() if one.grad is not None), loss[None]])


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 7, 8, 100])
def test_micro_batches__give_the_gradient_of_the_whole(accelerator: Accelerator, micro_batch: int) -> None:
    """Of an odd batch of weighted images. Largest relative difference seen: 2e-7."""
    (batch,) = random_batches(7)
    batch = batch._replace(weights=torch.arange(1.0, 8.0), weight_global=28.0)
    model = small_vit().train()
    whole = gradients(model, batch, accelerator, 7)
    parts = gradients(model, batch, accelerator, micro_batch)
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    assert micro_batch < 7 or torch.equal(parts, whole)


def test_dropout__is_keyed_by_seed_step_process_and_micro_batch(accelerator: Accelerator) -> None:
    model, (batch,) = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3)), random_batches(4)

    def drawn(micro_batch: int = 4, **key: int) -> torch.Tensor:
        torch.rand(3)  # what was drawn before is of no effect
        return gradients(model, batch._replace(**key), accelerator, micro_batch)

    assert torch.equal(drawn(), drawn())
    others = [drawn(seed=1), drawn(step=1), drawn(2), drawn(1)]
    assert all(
        not torch.allclose(one, other, atol=1e-3) for one, other in itertools.combinations([drawn(), *others], 2)
    )
    alone = [gradients(model, part, accelerator, 2) for part in batch.parts(2)]
    assert not torch.allclose(drawn(2), alone[0] + alone[1], atol=1e-3)  # the second micro-batch draws for itself


def test_parts_of_a_batch__are_its_images_in_order_with_their_slots() -> None:
    (batch,) = random_batches(5)
    parts = batch._replace(first_slot=10).parts(2)
    assert [(len(part.images), len(part.labels), len(part.weights), part.first_slot) for part in parts] == [
        (2, 2, 2, 10), (2, 2, 2, 12), (1, 1, 1, 14)
    ]  # fmt: skip
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert {part.weight_global for part in parts} == {5.0}
