"""Train a model to the end of its schedule: steps, validations, weights, interruption.

Everything is decided before; see ``vitctl.training.plan`` and the finetune workflow.
"""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from vitctl.conversation import Conversation, Progress
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.data.workers import LostWorkerError
from vitctl.errors import InterruptedRun
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.interrupts import StopNow, StopRequest
from vitctl.results.finetune import Score
from vitctl.training.compiled import compiled_for_training
from vitctl.training.job import Job
from vitctl.training.loop import StepReport, UnreadReports, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.precision import build_scaler
from vitctl.training.recorder import Recorder
from vitctl.training.state import Best, TrainingState
from vitctl.training.validation import check_finite, is_best, validate, validation_steps


@compiler_later()  # torch's optimisers ask for it at every step
def train(job: Job, recorder: Recorder, stop: StopRequest, *, out: Path, conversation: Conversation) -> TrainingState:
    """Train to the end, saving ``last/`` at each validation and ``best/`` when it is found.

    Args:
        job: What to train.
        recorder: Writes metrics and weights.
        stop: Looked at after every step.
        out: The run folder, for messages.
        conversation: Shows progress.

    Raises:
        InterruptedRun: ``stop`` was requested; ``last/`` is saved.
        SettingError: The loss is no longer finite.
    """
    num_steps, accelerator = job.batches.num_steps, job.accelerator
    state = new_state(job)
    # of several processes none may leave a step, or a validation, that the others wait for
    is_alone = accelerator.num_processes == 1
    pauses = set(validation_steps(num_steps, job.recipe.evaluation.validations))
    model = compiled_for_training(job, state, stop, conversation) if job.is_compiled else job.model
    reports = train_steps(
        state,
        accelerator.prepare(model),
        _until_stopped(_batches(job, state), stop) if is_alone else _batches(job, state),
        job.schedule,
        accelerator=accelerator,
        clip_norm=job.recipe.optimizer.clip_norm,
        precision=job.precision,
        is_filled=job.is_filled,
        pauses=pauses,
    )
    unread = UnreadReports()
    with conversation.progress("training", num_steps, "steps") as bar:
        try:
            for report in reports:
                state.clock.count(report.num_images, step_s=report.step_s, data_s=report.data_s)
                # first: this step was taken, whether or not the run is stopped or spoilt below
                _record(unread.add(report), recorder, bar)
                # before validating, which may take minutes; not after the last step, when nothing is left to stop
                if _anyone_asks(stop, accelerator) and state.step < num_steps:
                    _record(unread.rest(), recorder, bar)  # before saving: weights that are spoilt are refused
                    recorder.save(job.model, "last")
                    raise _interrupted(state.step, num_steps, out, stop)
                if state.step in pauses:
                    with stop.breaking() if is_alone and state.step < num_steps else nullcontext():
                        validated = validate(job, state.step, conversation)
                    _choose(job, state, recorder, validated)
        except StopNow:  # out of a wait for images
            if state.step < num_steps:
                _record(unread.rest(), recorder, bar)
                raise _stopped_waiting(job, state, recorder, out, stop) from None
        except LostWorkerError as error:
            _record(unread.rest(), recorder, bar)
            raise _lost(error, job, state, recorder, out) from error
        finally:
            _record(unread.rest(), recorder, bar)  # no step is missing, whatever ended the run
    # too few validation images to choose by: best/ is what the last step left, and is written once
    if not job.selects_best:
        recorder.save(job.model, "best")
    if stop:
        conversation.line("The run had finished before it could be stopped.")
    return state


def new_state(job: Job) -> TrainingState:
    """Return the state before the first step."""
    # before prepare(): timm groups parameters by the model's own names, which a wrapper for several processes changes
    how = job.recipe.optimizer
    groups = parameter_groups(job.model, weight_decay=how.weight_decay, layer_decay=how.layer_decay)
    device = job.accelerator.device
    optimizer = build_optimizer(groups, name=how.name, lr=job.lr, betas=how.betas, momentum=how.momentum, device=device)
    return TrainingState(job.model, optimizer, scaler=build_scaler(job.precision, device))


def _batches(job: Job, state: TrainingState) -> Iterator[TrainingBatch]:
    return training_batches(
        job.train,
        job.training_transform(),
        job.batches,
        num_workers=job.num_workers,
        class_weights=job.class_weights,
        first_step=state.step,
        process_index=job.accelerator.process_index,
        num_processes=job.accelerator.num_processes,
        device=job.accelerator.device,
    )


def _until_stopped(batches: Iterator[TrainingBatch], stop: StopRequest) -> Iterator[TrainingBatch]:
    """Yield the batches; a wait for one is broken off by ``stop``, with StopNow."""
    while True:
        with stop.breaking():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _record(reports: Iterable[StepReport], recorder: Recorder, bar: Progress) -> None:
    for report in reports:
        recorder.step(report)
        bar.advance(
            loss=f"loss {report.loss.read():.3f}",
            lr=f"lr {report.lr:.1e}",
            speed=f"{report.num_images / report.step_s:.0f} images/s",
            wait=f"data wait {report.data_s / report.step_s:.0%}",
        )


def _anyone_asks(stop: StopRequest, accelerator: Accelerator) -> bool:
    """Return whether any process was asked to stop, the same answer in all of them."""
    if accelerator.num_processes == 1:
        return bool(stop)
    asked = torch.tensor(float(bool(stop)), device=accelerator.device)
    return bool(accelerator.reduce(asked, reduction="sum") > 0)


def _interrupted(step: int, num_steps: int, out: Path, stop: StopRequest) -> InterruptedRun:
    return InterruptedRun(
        f"Stopped after step {step} of {num_steps}; its weights are in {out / 'last'}. Go on from them with --model "
        f"{shlex.quote(str(out))}, or start over with --config {shlex.quote(str(out / 'config.json'))}.",
        exit_code=stop.exit_code,
    )


def _stopped_waiting(
    job: Job, state: TrainingState, recorder: Recorder, out: Path, stop: StopRequest
) -> InterruptedRun:
    if not state.step:
        return InterruptedRun("Stopped before the first step; nothing was written.", exit_code=stop.exit_code)
    recorder.save(job.model, "last")
    return _interrupted(state.step, job.batches.num_steps, out, stop)


def _lost(error: LostWorkerError, job: Job, state: TrainingState, recorder: Recorder, out: Path) -> LostWorkerError:
    """Return ``error`` with what is left of the training, which is saved."""
    if not state.step:
        return error
    recorder.save(job.model, "last")
    return LostWorkerError(
        f"{error} The weights of step {state.step} of {job.batches.num_steps} are in {out / 'last'}.", field=error.field
    )


def _choose(job: Job, state: TrainingState, recorder: Recorder, validated: tuple[Score, np.ndarray | None]) -> None:
    """Save what was validated, and choose."""
    state.last, logits = validated
    # before saving: last/ and best/ stay those of an earlier validation, which can be used
    check_finite(job, state.last)
    recorder.validation(state.last)
    recorder.save(job.model, "last")
    # after last/: a run that is killed while best/ is written has its newest weights
    if is_best(job, state.last, state.best):
        state.best = Best(state.last, logits)
        if job.selects_best:
            recorder.save(job.model, "best")
