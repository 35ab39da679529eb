"""Full memory in a step: half as many images at a time, the same gradients; several processes agree before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.micro_batches import agree_on_size
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.state import TrainingState

SCHEDULE = RateSchedule(num_steps=3, num_warmup_steps=0, peak=1.0, final=1.0)
FULL = "DefaultCPUAllocator: can't allocate memory"


class Heard(Conversation):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class Limited(nn.Module):
    """A linear model for which the memory is full at more than ``most`` images; counts those of every pass."""

    def __init__(self, most: int, error: Callable[[], Exception] = lambda: RuntimeError(FULL)) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(36.0).view(3, 12) / 36)
            self.head.bias.zero_()
        self.register_buffer("seen", torch.zeros(1))
        self.most, self.error, self.passes = most, error, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        self.passes.append(len(images))
        logits: Tensor = self.head(images.flatten(1))
        if len(images) > self.most:
            raise self.error()
        return logits


class LimitedNorm(Limited):
    """The same with a BatchNorm layer."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.norm = nn.BatchNorm1d(3)


def batches(*sizes: int, micro_batch: int = 100) -> list[TrainingBatch]:
    generator = torch.Generator().manual_seed(1)
    return [
        TrainingBatch(
            images=torch.rand(size, 3, 2, 2, generator=generator),
            labels=torch.arange(size) % 3,
            weights=torch.ones(size),
            num_global=size,
            weight_global=float(size),
            micro_batch=micro_batch,
        )
        for size in sizes
    ]


def trained(model: nn.Module, given: list[TrainingBatch], conversation: Conversation, **how: Any) -> TrainingState:
    groups = parameter_groups(model, weight_decay=0.0, layer_decay=1.0)
    state = TrainingState(model, build_optimizer(groups, name="sgd", lr=1.0, betas=(0.9, 0.9), momentum=0.0), **how)
    list(
        train_steps(
            state, model, given, SCHEDULE, accelerator=Accelerator(cpu=True), clip_norm=0.0, conversation=conversation
        )
    )
    return state


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError(FULL),
        pytest.param(MemoryError, marks=pytest.mark.slow),
        pytest.param(lambda: torch.OutOfMemoryError("full"), marks=pytest.mark.slow),
    ],
)
def test_full_memory__halves_what_is_computed_at_a_time_and_takes_the_step_again(
    error: Callable[[], Exception],
) -> None:
    heard, limited, free = Heard(), Limited(3, error), Limited(100)
    state = trained(limited, batches(8, 8), heard)
    whole = trained(free, batches(8, 8), heard)
    assert limited.passes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert (state.micro_batch, whole.micro_batch) == (2, 100)
    torch.testing.assert_close(limited.head.weight, free.head.weight, rtol=1e-6, atol=1e-7)
    assert limited.seen == free.seen == 16  # buffers are as if the passes in vain had not been
    assert heard.lines == [
        f"the memory was full at {before} images at a time; going on with {after} at a time: the batch and the result "
        "stay as they are"
        for before, after in ((8, 4), (4, 2))
    ]


def test_full_memory_later__what_was_added_of_the_step_is_taken_back() -> None:
    """The second step's third image of four does not fit, when two have added their gradients."""
    limited, free = Limited(2), Limited(100)
    given = batches(4, 4, micro_batch=2)
    passes = iter([2, 2, 2])

    def forward_pre(module: nn.Module, _inputs: object) -> None:
        module.most = next(passes, 1)  # the fourth pass is one too many

    limited.register_forward_pre_hook(forward_pre)
    assert trained(limited, given, Heard()).micro_batch == 1
    trained(free, given, Heard())
    assert limited.passes == [2, 2, 2, 2, 1, 1, 1, 1]
    torch.testing.assert_close(limited.head.weight, free.head.weight, rtol=1e-6, atol=1e-7)
    assert limited.seen == 8


@pytest.mark.slow
def test_full_memory_at_one_image__goes_on_as_an_error() -> None:
    limited = Limited(0)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(limited, batches(4), Heard())
    assert limited.passes[:3] == [4, 2, 1]


def test_full_memory_of_a_model_with_batch_norm__is_an_error_as_fewer_images_would_be_another_result() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(LimitedNorm(3), batches(8), Heard())


def test_other_errors__are_not_tried_again() -> None:
    limited = Limited(3, lambda: RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        trained(limited, batches(8), Heard())
    assert limited.passes == [8]


def test_a_state_that_is_restored__goes_on_with_its_own_size() -> None:
    limited = Limited(3)
    trained(limited, batches(8, micro_batch=8), Heard(), micro_batch=3)
    assert limited.passes == [3, 3, 2]


class TwoProcesses:
    """Stands in for Accelerate's view of two processes; the other one has no room for more than ``most`` images."""

    device = torch.device("cpu")

    def __init__(self, state: TrainingState, most: int) -> None:
        self.state, self.most = state, most

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return tensor + float(self.state.micro_batch > self.most)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (100, 100, 8),
        (100, 3, 2),
        pytest.param(3, 100, 2, marks=pytest.mark.slow),
        pytest.param(100, 0, 1, marks=pytest.mark.slow),
    ],
)
def test_several_processes__agree_on_what_fits_all_of_them(own: int, other: int, expected: int) -> None:
    model, heard = Limited(own), Heard()
    state = TrainingState(model, torch.optim.SGD(model.parameters(), lr=1.0), micro_batch=8)
    processes: Any = TwoProcesses(state, other)

    def add(size: int) -> Tensor:
        loss: Tensor = model(torch.ones(size, 12)).sum()
        loss.backward()
        return loss

    agree_on_size(state, add, accelerator=processes, conversation=heard)
    assert state.micro_batch == expected
    assert len(heard.lines) == {8: 0, 2: 2, 1: 3}[expected]
    assert model.seen == 0
    assert all(parameter.grad is None for parameter in model.parameters())
