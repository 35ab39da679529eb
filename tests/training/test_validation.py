"""Validation during a run: when, and which weights are the best."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vitctl.errors import SettingError
from vitctl.results.finetune import Score
from vitctl.training.state import Best
from vitctl.training.validation import check_finite, is_best, validation_steps


@pytest.mark.parametrize(("num_steps", "count"), [(1, 10), (3, 10), (10, 3), (390, 10), (7, 1), (1000, 999)])
def test_validation_steps__end_with_the_last_step_and_never_repeat(num_steps: int, count: int) -> None:
    steps = validation_steps(num_steps, count)
    assert steps[-1] == num_steps
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert len(steps) == min(num_steps, count)


def test_validation_steps__are_evenly_spaced() -> None:
    assert validation_steps(390, 10) == [39, 78, 117, 156, 195, 234, 273, 312, 351, 390]


@pytest.mark.parametrize(
    ("selects_best", "before", "loss", "expected"),
    [
        (True, None, 2.0, True),  # the first
        (True, 1.0, 0.9, True),
        (True, 1.0, 1.0, False),  # no better
        (True, 1.0, 1.1, False),
        (False, 1.0, 1.1, True),  # too few images to choose by: the last
        (False, None, None, True),
    ],
)
def test_is_best(selects_best: bool, before: float | None, loss: float | None, expected: bool) -> None:
    job: Any = SimpleNamespace(selects_best=selects_best)
    best = Best() if before is None else Best(Score(3, 0.5, before))
    assert is_best(job, Score(6, 0.5, loss), best) is expected


def test_check_finite__names_what_is_spoilt_and_the_step() -> None:
    job: Any = SimpleNamespace(model=nn.Linear(2, 2), lr=0.3)
    check_finite(job, Score(4, 0.5, 0.7))
    check_finite(job, Score(4, None, None))
    with pytest.raises(SettingError, match=r"The validation loss became nan at step 4 .*--lr 0\.1"):
        check_finite(job, Score(4, 0.5, float("nan")))
    with torch.no_grad():
        job.model.weight[0, 0] = torch.inf
    with pytest.raises(SettingError, match=r"The weights became nan at step 4"):
        check_finite(job, Score(4, None, None))
