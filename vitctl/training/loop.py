"""Optimiser steps with Accelerate, one report per step.

The loop knows nothing of files, validation or screens: it yields after every step, and whoever consumes
it may evaluate the model, save it, or stop. The loss of a step is the mean over the *global* batch, so it
does not depend on how many processes share the batch.

Letters: B images, C classes.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from vitctl.data.loader import TrainingBatch
from vitctl.errors import SettingError
from vitctl.primitives.schedule import learning_rate
from vitctl.training.optimizer import set_learning_rate


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: 1..num_steps.
        loss: Mean cross-entropy over the global batch, before the step; weighted where classes have weights.
        lr: Peak group's learning rate in this step.
        num_images: Images in the global batch.
        data_s: Seconds spent waiting for images.
        step_s: Seconds of the whole step, waiting included.
    """

    step: int
    loss: float
    lr: float
    num_images: int
    data_s: float
    step_s: float


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


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[TrainingBatch],
    schedule: RateSchedule,
    *,
    accelerator: Accelerator,
    clip_norm: float,
    precision: str = "fp32",
) -> Iterator[StepReport]:
    """Train, yielding after each optimiser step.

    Args:
        model: As ``accelerator.prepare`` returned it.
        optimizer: Likewise.
        batches: This process's share of each global batch.
        schedule: The learning rate of each step.
        accelerator: Device and processes.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
        precision: ``fp32``, or ``bf16`` for the forward pass; weights and loss are fp32 in both.

    Raises:
        SettingError: The loss is no longer a finite number.
    """
    step_start = time.perf_counter()
    for step, batch in enumerate(batches, start=1):
        images = batch.images.to(accelerator.device, non_blocking=True)
        labels = batch.labels.to(accelerator.device, non_blocking=True)
        weights = batch.weights.to(accelerator.device, non_blocking=True)
        data_s = time.perf_counter() - step_start
        model.train()
        lr = schedule.at(step)
        set_learning_rate(optimizer, lr)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)  # (B, C)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")  # (B,)
        share = (losses * weights).sum() / batch.weight_global
        # processes average their gradients; times their number, that is the mean over the global batch
        accelerator.backward(share * accelerator.num_processes)
        if clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = float(accelerator.reduce(share.detach(), reduction="sum"))
        if not math.isfinite(loss):
            raise diverged("loss", loss, step=step, peak_lr=schedule.peak)
        now = time.perf_counter()
        yield StepReport(step, loss, lr, batch.num_global, data_s, now - step_start)
        step_start = time.perf_counter()
