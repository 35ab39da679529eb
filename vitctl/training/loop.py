"""Optimiser steps over a state, one report per step.

The loop knows nothing of files, validation or screens: it yields after every step, and whoever consumes
it may evaluate the model, save it, or stop.
"""

import math
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.primitives.late_number import LateNumber
from vitctl.primitives.schedule import drop_steps, learning_rate
from vitctl.training.divergence import diverged
from vitctl.training.optimizer import set_learning_rate
from vitctl.training.state import TrainingState
from vitctl.training.step import rehearse, take_step

SILENT = Conversation()


@dataclass(frozen=True)
class RateSchedule:
    """A linear warm-up, then what ``kind`` says; see ``vitctl.primitives.schedule``, also for the attributes."""

    num_steps: int
    num_warmup_steps: int
    peak: float
    final: float
    kind: str = "cosine"
    warmup_start: float = 0.0
    decay_from: str = "warmup-end"
    drop_at: tuple[float, ...] = ()
    drop_factor: float = 0.1

    def at(self, step: int) -> float:
        """Return the rate of step 1..num_steps."""
        return learning_rate(
            step,
            num_steps=self.num_steps,
            num_warmup_steps=self.num_warmup_steps,
            peak=self.peak,
            final=self.final,
            schedule=self.kind,
            warmup_start=self.warmup_start,
            decay_from=self.decay_from,
            drop_at=self.drop_at,
            drop_factor=self.drop_factor,
        )

    def described(self) -> str:
        """Return it in words, from its peak on: ``0.001, linear to 0 after 50 steps of warm-up``."""
        text, warmup = f"{self.peak:.3g}, {self.kind}", self.num_warmup_steps
        if self.kind == "step":
            steps = [f"{step:,}" for step in drop_steps(self.drop_at, self.num_steps)]
            after = f"{'step' if len(steps) == 1 else 'steps'} {', '.join(steps)}"
            text = f"{self.peak:.3g}, times {self.drop_factor:g} after {after}"
        elif self.kind != "constant":
            text += f" to {min(self.final, self.peak):.3g}"
        if not warmup:
            return text
        is_hidden = self.decay_from == "start" and self.kind in ("cosine", "linear")
        link = ", begun beneath" if is_hidden else ", with" if self.kind == "step" else " after"
        start = f" from {self.warmup_start:.3g}" if self.warmup_start else ""
        return f"{text}{link} {warmup:,} {'step' if warmup == 1 else 'steps'} of warm-up{start}"


@dataclass(frozen=True)
class StepLoss:
    """Mean cross-entropy over the global batch, before the step, against the labels as they are trained on.

    It is weighted where classes have weights; labels may be mixed and smoothed.

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
            Diverged: It is no longer a finite number.
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
        grad_norm: Global norm of the gradient before clipping, which the device may still be computing; it is here
            when the loss is. Not finite in a step that fp16 skipped.
        num_images: Images in the global batch.
        data_s: Seconds spent waiting for images.
        step_s: Seconds of the whole step, waiting included; on CUDA until the step before it was done.
    """

    step: int
    loss: StepLoss
    lr: float
    grad_norm: LateNumber
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
    label_smoothing: float = 0.0,
    largest: tuple[int, int] | None = None,
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
        label_smoothing: Share of each label that is spread over all classes, 0 to below 1.
        largest: (H, W) px of the largest images of the run; None where all are of one size.
        pauses: Steps after which somebody looks at the model.
        conversation: Hears of a micro-batch that became smaller, as the memory was full.

    Raises:
        Diverged: The loss is no longer a finite number.
    """
    if state.average is not None:
        state.average.start()
    before: StepLoss | None = None
    step_start = time.perf_counter()
    for batch in batches:
        data_s = time.perf_counter() - step_start
        lr = schedule.at(state.step + 1)
        set_learning_rate(state.optimizer, lr)
        state.micro_batch = state.micro_batch or batch.micro_batch
        how: dict[str, Any] = {
            "accelerator": accelerator, "precision": precision, "is_filled": is_filled, "conversation": conversation,
            "label_smoothing": label_smoothing,
        }  # fmt: skip
        if before is None and accelerator.num_processes > 1:
            rehearse(state, model, batch, largest=largest, **how)
        mean, norm = take_step(state, model, batch, clip_norm=clip_norm, **how)
        state.step += 1
        grad_norm = LateNumber(norm)
        if state.average is not None:
            state.average.after_step()
        loss = StepLoss(LateNumber(mean), state.step, schedule.peak)
        # first the older one, so that a run that diverged says at which step
        if before is not None:
            before.read()
        if loss.number.is_here or state.step in pauses:
            loss.read()
        step_s = time.perf_counter() - step_start
        yield StepReport(state.step, loss, lr, grad_norm, batch.num_global, data_s, step_s)
        before, step_start = loss, time.perf_counter()
