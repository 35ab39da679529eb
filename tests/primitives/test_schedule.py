"""The learning rate at its corners and against PyTorch's own schedules."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.schedule import drop_steps, learning_rate

HOW = [
    {"schedule": kind, "decay_from": begin, "drop_at": (0.3, 0.9), "warmup_start": start}
    for kind in ("cosine", "linear", "constant", "step")
    for begin in ("warmup-end", "start")
    for start in (0.0, 0.2, 5.0)
]


def _rates(num_steps: int, num_warmup_steps: int, peak: float = 1.0, final: float = 0.0, **how: Any) -> list[float]:
    return [
        learning_rate(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps, peak=peak, final=final, **how)
        for step in range(1, num_steps + 1)
    ]


@compiler_later()
def _torchs(scheduler: Callable[[torch.optim.Optimizer], Any], *, peak: float, num_steps: int) -> list[float]:
    """Return the rates that a scheduler of torch's gives steps 1..num_steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    made, rates = scheduler(optimizer), []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        made.step()
    return rates


def test_warm_up_is_a_straight_line_from_above_zero_to_the_peak() -> None:
    assert _rates(100, 4, peak=0.8)[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_the_first_step_after_the_warm_up_is_the_peak() -> None:
    assert _rates(100, 10, peak=0.3)[10] == pytest.approx(0.3)


def test_the_middle_of_the_cosine_is_halfway_between_peak_and_final() -> None:
    # 4 warm-up steps, then 8 of the cosine: step 9 is the fifth of them, half of the way
    assert _rates(12, 4, peak=1.0, final=0.2)[8] == pytest.approx(0.6)


def test_the_last_step_is_just_above_the_final_rate() -> None:
    last = _rates(100, 0, peak=1.0, final=0.1)[-1]
    assert last == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    assert last > 0.1


@pytest.mark.parametrize(("num_steps", "num_warmup_steps"), [(50, 0), (50, 7), (50, 49)])
def test_the_rate_rises_then_never_rises_again(num_steps: int, num_warmup_steps: int) -> None:
    rates = _rates(num_steps, num_warmup_steps)
    assert all(a < b for a, b in zip(rates[:num_warmup_steps], rates[1:num_warmup_steps], strict=False))
    assert all(a >= b for a, b in zip(rates[num_warmup_steps:], rates[num_warmup_steps + 1 :], strict=False))
    assert max(rates) == pytest.approx(1.0)
    assert min(rates) > 0


@pytest.mark.parametrize(("num_steps", "num_warmup_steps"), [(1, 0), (1, 1), (3, 3)])
def test_no_cosine_or_a_single_step_uses_the_peak(num_steps: int, num_warmup_steps: int) -> None:
    assert _rates(num_steps, num_warmup_steps)[-1] == 1.0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_the_cosine_is_torchs() -> None:
    theirs = _torchs(partial(CosineAnnealingLR, T_max=20, eta_min=0.03), peak=0.3, num_steps=20)
    assert _rates(20, 0, peak=0.3, final=0.03) == pytest.approx(theirs, rel=1e-12)


# --- other shapes ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_the_line_is_torchs() -> None:
    theirs = _torchs(partial(LinearLR, start_factor=1, end_factor=0.1, total_iters=20), peak=0.3, num_steps=20)
    assert _rates(20, 0, peak=0.3, final=0.03, schedule="linear") == pytest.approx(theirs, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_the_drops_are_torchs() -> None:
    theirs = _torchs(partial(MultiStepLR, milestones=[6, 15], gamma=0.3), peak=0.3, num_steps=20)
    ours = _rates(20, 0, peak=0.3, schedule="step", drop_at=(0.3, 0.75), drop_factor=0.3)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours[5] == 0.3  # after step 6, not in it
    assert ours[6] == pytest.approx(0.09)


@compiler_later()
def _timms(scheduler: type, *, peak: float, num_steps: int, **how: Any) -> list[float]:
    made = scheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak), **how)
    return [made._get_lr(step)[0] for step in range(num_steps)]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("is_hidden", [True, False])
def test_a_decay_beneath_the_warm_up_is_timms(kind: str, is_hidden: bool) -> None:
    """timm begins the warm-up at its first rate, in step 1; here that is the rate before step 1."""
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler

    how: dict[str, Any] = {"lr_min": 0.03, "warmup_t": 5, "warmup_lr_init": 0.1, "warmup_prefix": not is_hidden}
    kinds: dict[str, tuple[type, dict[str, Any]]] = {
        "cosine": (CosineLRScheduler, {}), "linear": (PolyLRScheduler, {"power": 1.0})
    }  # fmt: skip
    scheduler, more = kinds[kind]
    theirs = _timms(scheduler, peak=0.3, num_steps=20, t_initial=20 if is_hidden else 15, **how, **more)
    begin = "start" if is_hidden else "warmup-end"
    ours = _rates(20, 5, peak=0.3, final=0.03, schedule=kind, decay_from=begin, warmup_start=0.1)
    assert ours[5:] == pytest.approx(theirs[5:], rel=1e-12)
    assert ours[:4] == pytest.approx(theirs[1:5], rel=1e-12)
    assert ours[4] == 0.3
    assert (ours[5] < 0.29) == is_hidden


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_first_rate_without_a_warm_up_is_the_peak_and_what_follows_the_last_is_the_final(schedule: str) -> None:
    rates = _rates(50, 0, peak=0.3, final=0.03, schedule=schedule)
    after = learning_rate(51, num_steps=50, num_warmup_steps=0, peak=0.3, final=0.03, schedule=schedule)
    assert rates[0] == pytest.approx(0.3)
    assert after == pytest.approx(0.03)
    assert rates[-1] > after


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("num_steps", "num_warmup_steps"), [(1, 0), (1, 1), (2, 1), (30, 0), (30, 7), (30, 30)])
def test_no_shape_goes_above_the_peak_or_below_its_end(
    num_steps: int, num_warmup_steps: int, how: dict[str, Any]
) -> None:
    rates = _rates(num_steps, num_warmup_steps, peak=0.9, final=0.1, **how)
    assert max(rates) <= 0.9 * (1 + 1e-15)
    assert min(rates) >= (0.9 * 0.1**2 if how["schedule"] == "step" else 0.9 / 30 if how["warmup_start"] == 0 else 0.1)
    after = rates[num_warmup_steps:]
    assert after == sorted(after, reverse=True)
    if num_steps == 1:
        assert rates == pytest.approx([0.9])  # a drop after a third of one step is after that step
    if num_warmup_steps:
        assert rates[num_warmup_steps - 1] == pytest.approx(0.9)


def test_a_warm_up_starts_above_its_first_rate() -> None:
    assert _rates(9, 4, peak=1.0, warmup_start=0.2)[:4] == pytest.approx([0.4, 0.6, 0.8, 1.0])


def test_constant_stays() -> None:
    assert _rates(6, 2, peak=0.4, final=0.1, schedule="constant") == [0.2, *[0.4] * 5]


def test_drops_are_whole_steps_whatever_the_share_rounds_to() -> None:
    assert drop_steps([share / 100 for share in range(101)], 100) == list(range(101))
    assert drop_steps([1 / 3, 2 / 3], 90_000) == [30_000, 60_000]
    assert drop_steps([0.0, 0.26, 1.0], 4) == [0, 2, 4]
