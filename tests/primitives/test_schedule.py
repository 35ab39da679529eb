"""The learning rate at its corners and against PyTorch's own schedules."""

import math

import pytest
import torch

from vitctl.primitives.schedule import learning_rate


def _rates(num_steps: int, num_warmup_steps: int, peak: float = 1.0, final: float = 0.0) -> list[float]:
    return [
        learning_rate(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps, peak=peak, final=final)
        for step in range(1, num_steps + 1)
    ]


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
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.03)
    theirs = []
    for _ in range(20):
        theirs.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert _rates(20, 0, peak=0.3, final=0.03) == pytest.approx(theirs, rel=1e-12)
