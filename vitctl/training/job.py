"""Train a model to the end of its schedule: steps, validations, weights, interruption.

Everything is decided before; see ``vitctl.training.decisions`` and the finetune workflow.
"""

import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.source import Split
from vitctl.data.transforms import TrainingTransform
from vitctl.errors import InterruptedRun
from vitctl.primitives.interrupts import StopRequest
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes import Recipe
from vitctl.results.finetune import Score
from vitctl.training.decisions import validation_steps
from vitctl.training.loop import RateSchedule, diverged, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.recorder import Recorder

Validate = Callable[[int], tuple[Score, np.ndarray | None]]
"""Scores the model as it is after a step; also its logits on the validation images, (N, C) float32."""


@dataclass(frozen=True)
class Job:
    """A model, its images and how to train it.

    Attributes:
        model: A timm model with its new head, at its new size. It is trained in place.
        train: Training images.
        val: Validation images, or None.
        preprocessing: Of validation; size, mean and std of training.
        recipe: Optimiser, schedule, augmentation, selection.
        batches: Which images make up each step.
        lr: Peak rate as used.
        flip: Mirror half of the training images.
        num_workers: Processes that read images.
        accelerator: Device and processes.
        precision: ``fp32`` or ``bf16``.
        class_weights: (C,) float64 weights of the classes in the loss; None is 1 each.
    """

    model: nn.Module
    train: Split
    val: Split | None
    preprocessing: Preprocessing
    recipe: Recipe
    batches: BatchPlan
    lr: float
    flip: bool
    num_workers: int
    accelerator: Accelerator
    precision: str
    class_weights: np.ndarray | None = None

    @property
    def selects_best(self) -> bool:
        """Whether there are enough validation images to choose the best weights by."""
        return self.val is not None and len(self.val) >= self.recipe.evaluation.select_best_from

    @property
    def schedule(self) -> RateSchedule:
        """The learning rate of every step."""
        rate, num_steps = self.recipe.rate, self.batches.num_steps
        return RateSchedule(num_steps, round(rate.warmup_fraction * num_steps), self.lr, rate.final_lr)

    def training_transform(self) -> TrainingTransform:
        """Return the random transform of the training images."""
        return TrainingTransform(
            self.preprocessing,
            crop=self.recipe.images.crop,
            crop_area=self.recipe.images.crop_area,
            flip=self.flip,
            seed=self.batches.seed,
        )


@dataclass(frozen=True)
class Outcome:
    """What a finished job led to.

    Attributes:
        last: Score of the weights after the last step.
        best: Score of the chosen weights.
        best_logits: (N, C) float32 of the chosen weights on the validation images, or None.
        images_per_s: Training images per second, validations not counted.
        data_wait_fraction: Share of that time spent waiting for images, 0-1.
    """

    last: Score
    best: Score
    best_logits: np.ndarray | None
    images_per_s: float
    data_wait_fraction: float


def train(
    job: Job,
    recorder: Recorder,
    stop: StopRequest,
    validate: Validate,
    *,
    out: Path,
    conversation: Conversation,
) -> Outcome:
    """Train to the end, saving ``last/`` at each validation and ``best/`` when it is found.

    Args:
        job: What to train.
        recorder: Writes metrics and weights.
        stop: Looked at after every step.
        validate: Called after the steps of ``validation_steps``.
        out: The run folder, for messages.
        conversation: Shows progress.

    Raises:
        InterruptedRun: ``stop`` was requested; ``last/`` is saved.
        SettingError: The loss is no longer finite.
    """
    recipe, num_steps = job.recipe, job.batches.num_steps
    # before prepare(): timm groups parameters by the model's own names, which a wrapper for several processes changes
    how = recipe.optimizer
    groups = parameter_groups(job.model, weight_decay=how.weight_decay, layer_decay=how.layer_decay)
    optimizer = build_optimizer(groups, name=how.name, lr=job.lr, betas=how.betas, momentum=how.momentum)
    model, optimizer = job.accelerator.prepare(job.model, optimizer)
    reports = train_steps(
        model,
        optimizer,
        _batches(job),
        job.schedule,
        accelerator=job.accelerator,
        clip_norm=how.clip_norm,
        precision=job.precision,
    )
    validate_after = set(validation_steps(num_steps, recipe.evaluation.validations))
    last = best = Score(0, None, None)
    logits: np.ndarray | None = None
    best_logits: np.ndarray | None = None
    num_images, training_s, data_s = 0, 0.0, 0.0
    with conversation.progress("training", num_steps, "steps") as bar:
        for report in reports:
            num_images += report.num_images
            training_s, data_s = training_s + report.step_s, data_s + report.data_s
            # first: this step was taken, whether or not the run is stopped or spoilt below
            recorder.step(report)
            bar.advance(
                loss=f"loss {report.loss:.3f}",
                lr=f"lr {report.lr:.1e}",
                speed=f"{report.num_images / report.step_s:.0f} images/s",
                wait=f"data wait {report.data_s / report.step_s:.0%}",
            )
            # before validating, which may take minutes; not after the last step, when there is nothing left to stop
            if _anyone_asks(stop, job.accelerator) and report.step < num_steps:
                recorder.save(job.model, "last")
                raise InterruptedRun(
                    f"Stopped after step {report.step} of {num_steps}; its weights are in {out / 'last'}. Go on from "
                    f"them with --model {shlex.quote(str(out))}, or start over with --config "
                    f"{shlex.quote(str(out / 'config.json'))}.",
                    exit_code=stop.exit_code,
                )
            if report.step in validate_after:
                last, logits = validate(report.step)
                # before saving: last/ and best/ stay those of an earlier validation, which can be used
                _check_finite(job, last)
                if last.loss is not None:
                    recorder.validation(last)
                recorder.save(job.model, "last")
                # after last/: a run that is killed while best/ is written has its newest weights
                is_first = best.step == 0
                if not job.selects_best or is_first or _loss(last) < _loss(best):
                    best, best_logits = last, logits
                    if job.selects_best:
                        recorder.save(job.model, "best")
    # too few validation images to choose by: best/ is what the last step left, and is written once
    if not job.selects_best:
        recorder.save(job.model, "best")
    if stop:
        conversation.line("The run had finished before it could be stopped.")
    return Outcome(last, best, best_logits, num_images / training_s, data_s / training_s)


def _anyone_asks(stop: StopRequest, accelerator: Accelerator) -> bool:
    """Return whether any process was asked to stop, the same answer in all of them."""
    if accelerator.num_processes == 1:
        return bool(stop)
    asked = torch.tensor(float(bool(stop)), device=accelerator.device)
    return bool(accelerator.reduce(asked, reduction="sum") > 0)


def _check_finite(job: Job, score: Score) -> None:
    """Refuse weights that a last, too long step has spoilt; the loss of a step is from before it."""
    if score.loss is not None and not math.isfinite(score.loss):
        raise diverged("validation loss", score.loss, step=score.step, peak_lr=job.lr)
    if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
        raise diverged("weights", math.nan, step=score.step, peak_lr=job.lr)


def _loss(score: Score) -> float:
    return float("inf") if score.loss is None else score.loss


def _batches(job: Job) -> Iterable[TrainingBatch]:
    return training_batches(
        job.train,
        job.training_transform(),
        job.batches,
        num_workers=job.num_workers,
        class_weights=job.class_weights,
        process_index=job.accelerator.process_index,
        num_processes=job.accelerator.num_processes,
        pin_memory=job.accelerator.device.type == "cuda",
    )
