"""Optimiser steps over a state, one report per step.

The loop knows nothing of files, validation or screens: it yields after every step, and whoever consumes
it may evaluate the model, save it, or stop.
"""

import math
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from accelerate import Accelerator
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.errors import SettingError
from vitctl.primitives.late_number import LateNumber
from vitctl.primitives.schedule import learning_rate
from vitctl.training.optimizer import set_learning_rate
from vitctl.training.state import TrainingState
from vitctl.training.step import rehearse, take_step

SILENT = Conversation()


@dataclass(frozen=True)
class RateSchedule:
    """Linear warm-up, then a cosine; see ``vitctl.primitives.schedule``."""

    num_steps: int
    num_warmup_steps: int
    peak: float
    final: float

    def at(self, step: int) -> float:
        """Return the rate of step 1..num_steps."""
        return learning_rate(
            step,
            num_steps=self.num_steps,
            num_warmup_steps=self.num_warmup_steps,
            peak=self.peak,
            final=self.final,
        )


def diverged(what: str, value: float, *, step: int, peak_lr: float) -> SettingError:
    """Return the error for a run whose numbers are no longer finite."""
    return SettingError(
        f"The {what} became {value} at step {step} (peak learning rate {peak_lr:.3g}); expected a finite number. Try a "
        f"lower rate, e.g. --lr {peak_lr / 3:.1g}.",
        field="lr",
    )


@dataclass(frozen=True)
class StepLoss:
    """Mean cross-entropy over the global batch, before the step; weighted where classes have weights.

    Attributes:
        number: The loss, which the device may still be computing.
        step: 1..num_steps.
        peak_lr: The highest rate of the run, for the message.
    """

    number: LateNumber
    step: int
    peak_lr: float

    def read(self) -> float:
        """Return it, waiting for the device if need be.

        Raises:
            SettingError: It is no longer a finite number.
        """
        loss = self.number.read()
        if not math.isfinite(loss):
            raise diverged("loss", loss, step=self.step, peak_lr=self.peak_lr)
        return loss


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: 1..num_steps.
        loss: Of the global batch, before the step.
        lr: Peak group's learning rate in this step.
        num_images: Images in the global batch.
        data_s: Seconds spent waiting for images.
        step_s: Seconds of the whole step, waiting included; on CUDA until the step before it was done.
    """

    step: int
    loss: StepLoss
    lr: float
    num_images: int
    data_s: float
    step_s: float


class UnreadReports:
    """Reports in the order of the steps, held until their losses have come."""

    def __init__(self) -> None:
        self._held: deque[StepReport] = deque()

    def add(self, report: StepReport) -> Iterator[StepReport]:
        """Hold ``report``; yield those that can be read without waiting."""
        self._held.append(report)
        while self._held and self._held[0].loss.number.is_here:
            yield self._held.popleft()

    def rest(self) -> Iterator[StepReport]:
        """Yield what is still held; reading it may take a step's time."""
        while self._held:
            yield self._held.popleft()


def train_steps(
    state: TrainingState,
    model: nn.Module,
    batches: Iterable[TrainingBatch],
    schedule: RateSchedule,
    *,
    accelerator: Accelerator,
    clip_norm: float,
    precision: str = "fp32",
    is_filled: bool = False,
    pauses: Container[int] = (),
    conversation: Conversation = SILENT,
) -> Iterator[StepReport]:
    """Train, yielding after each optimiser step.

    A CUDA device stays up to one step behind, so that it need not wait for Python: nobody reads a loss on the way, but
    that of the step before. After the steps ``pauses``, and on other devices, nothing is under way.

    Args:
        state: Where to go on from; kept up to date.
        model: Its model as ``accelerator.prepare`` returned it.
        batches: This process's share of each global batch, on its device, from the state's step on.
        schedule: The learning rate of each step.
        accelerator: Device and processes.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the forward pass; weights and loss are fp32 in all of them.
        is_filled: Compute with as many images every time, the missing ones of weight 0.
        pauses: Steps after which somebody looks at the model.
        conversation: Hears of a micro-batch that became smaller, as the memory was full.

    Raises:
        SettingError: The loss is no longer a finite number.
    """
    before: StepLoss | None = None
    step_start = time.perf_counter()
    for batch in batches:
        data_s = time.perf_counter() - step_start
        lr = schedule.at(state.step + 1)
        set_learning_rate(state.optimizer, lr)
        state.micro_batch = state.micro_batch or batch.micro_batch
        how = {
            "accelerator": accelerator, "precision": precision, "is_filled": is_filled, "conversation": conversation
        }  # fmt: skip
        if before is None and accelerator.num_processes > 1:
            rehearse(state, model, batch, **how)
        mean = take_step(state, model, batch, clip_norm=clip_norm, **how)
        state.step += 1
        if state.average is not None:
            state.average.after_step()
        loss = StepLoss(LateNumber(mean), state.step, schedule.peak)
        # first the older one, so that a run that diverged says at which step
        if before is not None:
            before.read()
        if loss.number.is_here or state.step in pauses:
            loss.read()
        yield StepReport(state.step, loss, lr, batch.num_global, data_s, time.perf_counter() - step_start)
        before, step_start = loss, time.perf_counter()
