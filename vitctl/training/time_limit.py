"""``--time-limit``: as many steps as there is time for, by steps that are taken and undone before the run begins.

The length of a run is decided before its first step, as the learning rate comes down to its end. So it is measured what
the run will do, with its batches, its readers of images and its processes: steps, validations, embedding for a ridge
head. Everything is put back, so that the run is the one that ``--steps`` with this number gives.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.data.source import Split
from vitctl.errors import SettingError
from vitctl.evaluation.classify import split_logits
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.decision import Decision
from vitctl.primitives.formatting import format_seconds
from vitctl.primitives.interrupts import StopRequest
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.parsing import seconds_text
from vitctl.training.compiled import compiled_for_training
from vitctl.training.earlier import earlier_run
from vitctl.training.head_alone import head_batches
from vitctl.training.image_cache import with_resized_images
from vitctl.training.job import Job
from vitctl.training.job_steps import image_batches, steps_of
from vitctl.training.kept_features import KeptFeatures
from vitctl.training.micro_batches import SavedBuffers
from vitctl.training.plan import Plan, evaluation_batch_size
from vitctl.training.resources import full_is_a_sentence
from vitctl.training.state import Clock
from vitctl.training.trainer import new_state

_MOST_STEPS = 10**9  # of what is measured; it ends long before
_SHARE, _LEAST_S, _MOST_S = 0.05, 1.0, 30.0  # of the limit that measured steps may take; guess
_LEAST_STEPS = 3  # that are measured, where they do not take a tenth of the limit
_LARGE = 4  # batches of the longer of two measured validations
_END_S = 2.0  # the pictures and the last weights of a small run; measured on the demo, 2026-11


@dataclass(frozen=True)
class Pace:
    """How long the parts of a run take.

    Attributes:
        step_s: Seconds of an optimiser step, waits for images included.
        start_s: What the first steps take beyond that, readers of images being started.
        validation_s: Seconds of one validation; of the averaged weights too.
        head_s: Seconds until the closed-form head is there; 0 without one.
    """

    step_s: float
    start_s: float = 0.0
    validation_s: float = 0.0
    head_s: float = 0.0

    def steps_in(self, left_s: float, *, num_validations: int) -> int:
        """Return how many steps there is time for, at least 1; where they are few, each is followed by a validation.

        Args:
            left_s: Seconds that are left.
            num_validations: Of a run that is long enough, >= 1.
        """
        rest_s = left_s - self.head_s - self.start_s - _END_S
        steps = int((rest_s - num_validations * self.validation_s) / self.step_s)
        if steps >= num_validations:
            return steps
        return max(1, min(num_validations, int(rest_s / (self.step_s + self.validation_s))))

    def run_s(self, num_steps: int, *, num_validations: int) -> float:
        """Return how many seconds a run of ``num_steps`` takes from here on."""
        validations_s = min(num_steps, num_validations) * self.validation_s
        return self.head_s + self.start_s + num_steps * self.step_s + validations_s + _END_S


def length_in_time(
    config: FinetuneConfig,
    plan: Plan,
    job: Job,
    clock: Clock,
    conversation: Conversation,
    *,
    sizes: np.ndarray,
    has_ridge_head: bool,
) -> tuple[Plan, Job]:
    """Return the plan and the job at the length that ``config.time_limit`` gives, the same in all processes.

    One that is known is kept: of ``config``, or of the run that stands in the place of this one. The others of several
    processes follow the first.

    Args:
        config: As it was given.
        plan: With a length that does not count.
        job: Likewise; it is as before afterwards.
        clock: When the command began.
        conversation: Hears that steps are measured.
        sizes: (N, 2) px of the training images.
        has_ridge_head: Whether a closed-form head is computed before training.

    Raises:
        SettingError: The time was over before the first step.
    """
    limit_s = config.time_limit or 0.0
    text = seconds_text(limit_s)
    known = config.steps or job.processes.document(partial(_steps_of_earlier, config, plan.out.value))
    if known is not None:
        return _at(plan, job, Decision(known, f"{text}, as measured when the run began"))
    conversation.line(f"measuring steps, which are undone, for --time-limit {text}")
    measured = job
    if config.cache == "resized" and not config.dry_run:
        measured = with_resized_images(job, sizes, conversation)
    with full_is_a_sentence(job, plan.out.value), _undone(measured):
        pace = _measured_pace(measured, limit_s, has_ridge_head=has_ridge_head, conversation=conversation)
    decide = partial(_decide, pace, limit_s, clock, job.recipe.evaluation.validations)
    steps, reason, doubt = job.processes.document(decide)
    if doubt:
        conversation.warn(doubt)
    return _at(plan, job, Decision(steps, reason))


def _at(plan: Plan, job: Job, steps: Decision[int]) -> tuple[Plan, Job]:
    length = Decision(steps.value * plan.batch.value, steps.reason)
    batches = replace(job.batches, num_images_seen=length.value)
    return replace(plan, length=length), replace(job, batches=batches)


def _steps_of_earlier(config: FinetuneConfig, out: Path) -> int | None:
    """Return the length of the run that stands at ``out``; None where none does. Whether it is this one is seen later.

    Raises:
        SettingError: Its settings cannot be used.
    """
    earlier = None if config.dry_run else earlier_run(config, out)
    return None if earlier is None else earlier.config.steps or 1


def _decide(pace: Pace, limit_s: float, clock: Clock, num_validations: int) -> tuple[int, str, str]:
    """Return steps, the reason for the header, and a doubt to be warned of, "" where there is none."""
    text, left_s = seconds_text(limit_s), limit_s - clock.wall_s
    if left_s <= 0:
        raise SettingError(
            f"--time-limit {text} was over before the first step: reading the images and the model, and measuring, "
            f"took {format_seconds(clock.wall_s)}. Expected a longer one.",
            field="time_limit",
        )
    steps = pace.steps_in(left_s, num_validations=num_validations)
    count = min(steps, num_validations)
    validations = f", {count} validation{'s' * (count > 1)} of {format_seconds(pace.validation_s)}"
    reason = f"{text} at {format_seconds(pace.step_s)} a step{validations * (pace.validation_s > 0)}"
    needed_s = clock.wall_s + pace.run_s(steps, num_validations=num_validations)
    is_short = needed_s > 1.1 * limit_s  # of one step only
    return (
        steps,
        reason,
        is_short
        * (
            f"--time-limit {text} is short for one step and what goes with it: the run will take about "
            f"{format_seconds(needed_s)}."
        ),
    )


# --- measuring ---------------------------------------------------------------------------------------------


@contextmanager
def _undone(job: Job) -> Iterator[None]:
    """Put the model of ``job``, on its device, back to what it was, whatever the block does with its numbers."""
    model = job.model.to(job.accelerator.device)
    own = [one.detach().clone() for one in model.parameters()]
    buffers, was_training = SavedBuffers(model), model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for one, before in zip(model.parameters(), own, strict=True):
                one.copy_(before)
        buffers.put_back()
        model.train(was_training)
        job.accelerator.free_memory()  # a wrapper for several processes has hooks on the parameters


def _measured_pace(job: Job, limit_s: float, *, has_ridge_head: bool, conversation: Conversation) -> Pace:
    sizes = job.batches.sizes  # each takes an equal share of the steps
    parts = [_at_size(job, size) for size in sizes] or [job]
    paces = [_measured_steps(part, limit_s / len(parts), conversation) for part in parts]
    step_s, start_s = float(np.mean([one for one, _ in paces])), sum(one for _, one in paces)
    validation_s = head_s = 0.0
    if job.val is not None:
        fixed_s, image_s = _measured_evaluation(job, job.val)
        validation_s = fixed_s + image_s * len(job.val)
    elif has_ridge_head or job.kept is not None:
        fixed_s, image_s = _measured_evaluation(job, job.train)
    if has_ridge_head:
        head_s = fixed_s + image_s * len(job.train) + validation_s
    if job.kept is not None:  # computed once; a validation of them takes no time
        head_s += fixed_s + image_s * len(job.train) + validation_s
        validation_s = 0.0
    has_average = job.recipe.averaging.method != "none"
    return Pace(step_s, start_s, validation_s * (2 if has_average else 1), head_s)


def _at_size(job: Job, size: int) -> Job:
    """Return the job with all of its images squares of ``size`` px."""
    return replace(job, batches=replace(job.batches, sizes=()), preprocessing=job.preprocessing.at((size, size)))


def _black_features(job: Job, kept: KeptFeatures) -> Iterator[TrainingBatch]:
    return head_batches(job, torch.zeros(len(job.train), *kept.shape), first_step=0)


@compiler_later()  # torch's optimisers ask for it at every step
def _measured_steps(job: Job, limit_s: float, conversation: Conversation) -> tuple[float, float]:
    """Take steps; return the seconds of one, and how much longer the first ones took in all.

    Not counted are the first step, in which much is done for the first time, and as many as there are readers of
    images, which have all read one batch by then. The mean of the others, not their median, is what many will take:
    batches come in bursts where reading them is the slowest.
    """
    batches = replace(job.batches, num_images_seen=_MOST_STEPS * job.batches.batch_size)
    endless = replace(job, batches=batches)
    state, processes, device = new_state(endless), job.processes, job.accelerator.device
    model: nn.Module = job.model
    if job.is_compiled:
        model = compiled_for_training(endless, state, StopRequest(), conversation)
    elif job.kept is not None:
        model = job.kept.head
    budget_s = min(max(_SHARE * limit_s, _LEAST_S), _MOST_S)
    begun = time.perf_counter()
    first_s, num_first, num_steps = 0.0, 0, 0
    shown = image_batches(endless) if job.kept is None else _black_features(endless, job.kept)
    reports = steps_of(endless, state, model, shown, conversation=conversation)
    for report in reports:
        taken_s = time.perf_counter() - begun
        if not num_first:
            if not processes.any(report.step <= job.num_workers and taken_s < budget_s):
                _finish(device)
                num_first, first_s = report.step, time.perf_counter() - begun
            continue
        num_steps = report.step - num_first
        is_enough = num_steps >= _LEAST_STEPS or taken_s > 2 * _SHARE * limit_s
        if processes.any(is_enough and taken_s - first_s >= budget_s):
            break
    _finish(device)
    step_s = (time.perf_counter() - begun - first_s) / num_steps
    return step_s, max(0.0, first_s - num_first * step_s)


def _measured_evaluation(job: Job, split: Split) -> tuple[float, float]:
    """Return the seconds of a validation that do not depend on the number of images, and those of each image."""
    each = evaluation_batch_size(job.batches.batch_size) * job.processes.count
    _evaluation_s(job, split, each)  # what is done once only
    small, large = (min(len(split), count * each) for count in (1, 1 + _LARGE))
    small_s = _evaluation_s(job, split, small)
    if small == large:
        return 0.0, small_s / small
    large_s = _evaluation_s(job, split, large)
    image_s = max(0.0, large_s - small_s) / (large - small)
    return max(0.0, small_s - image_s * small), image_s


def _evaluation_s(job: Job, split: Split, num_images: int) -> float:
    begun = time.perf_counter()
    split_logits(
        job.model,
        split.select(range(min(num_images, len(split)))),
        job.preprocessing,
        batch_size=evaluation_batch_size(job.batches.batch_size),
        num_workers=job.num_workers,
        device=job.accelerator.device,
        description="measuring",
        conversation=Conversation(),
        processes=job.processes,
    )
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
