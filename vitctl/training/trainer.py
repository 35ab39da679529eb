"""Train a model to the end of its schedule: steps, validations, weights, interruption.

Everything is decided before; see ``vitctl.training.plan`` and the finetune workflow.
"""

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from vitctl.conversation import Conversation, Progress
from vitctl.data.loader import TrainingBatch
from vitctl.data.workers import LostWorkerError
from vitctl.errors import DataError, InterruptedRun, SettingError, VitctlError
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.interrupts import StopNow, StopRequest
from vitctl.results.finetune import Score
from vitctl.run_folders.layout import command_to_go_on
from vitctl.training.averaging import AVERAGED, build_average
from vitctl.training.compiled import compiled_for_training
from vitctl.training.divergence import LossWatch
from vitctl.training.divergence_told import divergence_is_told
from vitctl.training.ends import Patience
from vitctl.training.first_batches import FIRST_BATCHES, Draw, FirstBatches
from vitctl.training.head_alone import head_batches, training_features
from vitctl.training.job import Job
from vitctl.training.job_steps import image_batches, steps_of
from vitctl.training.kept_features import KeptFeatures
from vitctl.training.loop import StepReport, UnreadReports
from vitctl.training.optimizer import build_optimizer
from vitctl.training.optimizer_choice import optimizer_settings
from vitctl.training.precision import build_scaler
from vitctl.training.recorder import Recorder
from vitctl.training.state import Best, TrainingState
from vitctl.training.validation import check_finite, is_best, validate, validation_steps


@compiler_later()  # torch's optimisers ask for it at every step
def train(
    job: Job,
    state: TrainingState,
    recorder: Recorder,
    stop: StopRequest,
    *,
    out: Path,
    conversation: Conversation,
    draw: Draw | None = None,
) -> None:
    """Train to the end, saving ``last/`` at each validation and ``best/`` when it is found.

    Args:
        job: What to train.
        state: Where to go on from; kept up to date.
        recorder: Writes metrics, weights and checkpoints.
        stop: Looked at after every step.
        out: The run folder, for messages.
        conversation: Shows progress.
        draw: Draws what the model is shown in the first steps; None draws nothing.

    Raises:
        InterruptedRun: ``stop`` was requested; all that was trained is saved.
        Diverged: The loss or a weight is no longer finite; what was saved before stands.
        DataError: An image cannot be read any more; all that was trained is saved.
    """
    pictures = FirstBatches(job, recorder.place(FIRST_BATCHES), draw)
    with divergence_is_told(job, state, recorder, out):
        _train(_Training(job, state, recorder, stop, out, conversation, pictures))


def _train(run: "_Training") -> None:
    job, state, recorder, stop, conversation = run.job, run.state, run.recorder, run.stop, run.conversation
    unread = UnreadReports()
    with conversation.progress("training", job.batches.num_steps, "steps") as bar:
        bar.begin_at(state.step)
        try:
            run.validate_if_due()  # where the run was stopped before it could
            run.show_earlier_batches()
            for report in run.steps():
                state.clock.count(report.num_images, step_s=report.step_s, data_s=report.data_s)
                # first: this step was taken, whether or not the run is stopped or spoilt below
                _record(unread.add(report), run, bar)
                run.pictures.draw_when_complete()
                if run.is_asked_to_stop():  # before validating, which may take minutes
                    raise StopNow
                if run.validate_if_due():
                    if run.is_out_of_patience:
                        break
                elif recorder.is_due(state.step):
                    _record(unread.rest(), run, bar)
                    run.save()
        except StopNow:  # here, out of a wait for images, or out of a validation
            _record(unread.rest(), run, bar)  # before saving: weights that are spoilt are refused
            run.save_at_the_end()
            job.processes.end_together()
            raise run.interrupted() from None
        except (DataError, LostWorkerError) as error:
            _record(unread.rest(), run, bar)
            run.save_at_the_end()
            raise type(error)(f"{error} {run.saved()}".rstrip(), **_field_of(error)) from error
        except Exception as error:
            if not stop or isinstance(error, VitctlError):
                raise
            raise run.interrupted() from error  # what broke (a compiler) was asked to stop as well
        finally:
            _record(unread.rest(), run, bar)  # no step is missing, whatever ended the run
    if state.patience is not None and state.patience.is_over and state.step < job.batches.num_steps:
        run.show_earlier_batches()  # where it ended before the last of them
        conversation.line(state.patience.told(state.step))
    # too few validation images to choose by: best/ is what the last step left, and is written once
    if not job.selects_best:
        recorder.save(state, ["best"])
    recorder.wait()
    if stop:
        conversation.line("The run had finished before it could be stopped.")


@dataclass
class _Training:
    """What ``train`` does between steps; its attributes are ``train``'s arguments."""

    job: Job
    state: TrainingState
    recorder: Recorder
    stop: StopRequest
    out: Path
    conversation: Conversation
    pictures: FirstBatches

    def __post_init__(self) -> None:
        self._is_alone = self.job.processes.count == 1
        self.pauses = set(validation_steps(self.job.batches.num_steps, self.job.recipe.evaluation.validations))

    @cached_property
    def watch(self) -> LossWatch:
        """Looks out for a loss that is finite and much too high."""
        return LossWatch(len(self.job.train.class_names), peak_lr=self.job.lr)

    def steps(self) -> Iterator[StepReport]:
        """Yield what each step did.

        Raises:
            StopNow: The user asked to stop while the model was compiled, or in a wait for images.
        """
        job, state = self.job, self.state
        if self.is_out_of_patience:  # it was stopped between its last validation and its end
            return
        model: nn.Module = job.model
        if job.is_compiled:
            model = compiled_for_training(job, state, self.stop, self.conversation)
        elif job.kept is not None:
            model = job.kept.head
        batches = (
            self.pictures.watched(self._batches())
            if job.kept is None
            else head_batches(job, self._features(job.kept), first_step=state.step)
        )
        yield from steps_of(job, state, model, batches, conversation=self.conversation, pauses=self.pauses)

    def _batches(self) -> Iterator[TrainingBatch]:
        """Yield this process's batches; of one process alone, a wait for one is broken off by ``stop``."""
        batches = image_batches(self.job, self.state.step)
        # of several processes none may leave a step that the others wait for
        return _until_stopped(batches, self.stop) if self._is_alone else batches

    def show_earlier_batches(self) -> None:
        """Draw the first batches where no step shows them: it stopped or ended too early, or features are kept."""
        is_past = self.state.step > 0 or self.job.kept is not None
        if is_past and self.pictures.num_missing:
            batches = self.pictures.watched(image_batches(self.job, self.pictures.num_seen, num_workers=0))
            deque(islice(batches, self.pictures.num_missing), maxlen=0)
            self.pictures.draw_when_complete()

    def _features(self, kept: KeptFeatures) -> Tensor:
        """Return the features of the training images, which are computed now, before the time of a step counts."""
        with self.stop.breaking() if self._is_alone else nullcontext():
            return training_features(self.job, kept, self.conversation, is_stopping=lambda: bool(self.stop))

    def is_asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop, the same answer in all of them, which end with its code."""
        number = self.job.processes.largest(self.stop.signal or 0)
        if number:
            self.stop.signal = signal.Signals(number)
        return bool(number)  # a signal that has come since is for the next step: the others do not know of it

    def validate_if_due(self) -> bool:
        """Validate, choose and save after the steps after which that is due; return whether it was.

        Raises:
            StopNow: The user asked to stop.
            Diverged: The weights are no longer finite; what was saved before stands.
        """
        job, state = self.job, self.state
        if state.step not in self.pauses or state.last.step == state.step:
            return False
        try:
            score, logits = self._validated()
            # before anything is saved: last/ and best/ stay those of an earlier validation, which can be used
            check_finite(job, score)
            average = self._validated_average()
        except StopNow:
            self.is_asked_to_stop()  # all of several come here, and not all have got the signal
            raise
        state.last = score
        if state.patience is not None:
            state.patience.note(score)
        self.recorder.validation(score, average)
        names = self._newest()
        if is_best(job, score, state.best):
            state.best = Best(score, logits)
            names += ["best"] * job.selects_best  # after last/: who is killed between them has the newest weights
        self.save(names)
        return True

    def _validated(self, whose: str = "") -> tuple[Score, np.ndarray | None]:
        with self.stop.breaking() if self._is_alone else nullcontext():
            stopping = partial(bool, self.stop)
            return validate(self.job, self.state.step, self.conversation, is_stopping=stopping, whose=whose)

    def _validated_average(self) -> Score | None:
        """Return how the mean of the weights does, where there is one."""
        average = self.state.average
        if average is None:
            return None
        average.after_validation(self.state.step)
        with average.in_use():  # which no signal breaks off half done
            average.score, _ = self._validated("averaged weights")
        return average.score

    def _newest(self) -> list[str]:
        """Return the folders of the newest weights: of a mean of them too, where there is one by now."""
        average = self.state.average
        return ["last", *([AVERAGED] if average is not None and average.count else [])]

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the validations so far end the run, the same answer in all processes."""
        return self.state.patience is not None and self.state.patience.is_over

    def save(self, names: Sequence[str] = (), *, is_ending: bool = False) -> None:
        """Save a checkpoint, and weights as the folders ``names``.

        Raises:
            Diverged: The weights are no longer finite.
        """
        check_finite(self.job, self.state.last, step=self.state.step)
        self.recorder.save(self.state, names, is_ending=is_ending)

    def save_at_the_end(self) -> None:
        """Save what was trained since the last time, if anything, and wait until it is on disk."""
        if self.state.step > (self.recorder.saved_step or 0):
            self.save(self._newest(), is_ending=True)
        self.recorder.wait()

    def saved(self) -> str:
        """Return a sentence on what is saved and how to go on; nothing where nothing is."""
        step = self.recorder.saved_step
        if step is None:
            return ""
        return f"Step {step} of {self.job.batches.num_steps} is saved; go on with: {command_to_go_on(self.out)}"

    def interrupted(self) -> InterruptedRun:
        """Return the error that ends a run that was asked to stop."""
        if self.recorder.saved_step is None:
            text = "Stopped before the first step; nothing was written."
        else:
            text = f"Stopped after step {self.state.step} of {self.job.batches.num_steps}. {self.saved()}"
        return InterruptedRun(text, exit_code=self.stop.exit_code)


@compiler_later()
def new_state(job: Job) -> TrainingState:
    """Return the state before the first step."""
    # before prepare(): timm groups parameters by the model's own names, which a wrapper for several processes changes
    device = job.accelerator.device
    optimizer = build_optimizer(job.groups(), lr=job.lr, device=device, **optimizer_settings(job.recipe))
    return TrainingState(
        job.model,
        optimizer,
        scaler=build_scaler(job.precision, device),
        average=build_average(job.model, job.recipe.averaging),
        patience=None if job.patience is None else Patience(job.patience),
    )


def _until_stopped(batches: Iterator[TrainingBatch], stop: StopRequest) -> Iterator[TrainingBatch]:
    """Yield the batches; a wait for one is broken off by ``stop``, with StopNow."""
    while True:
        with stop.breaking():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _record(reports: Iterable[StepReport], run: _Training, bar: Progress) -> None:
    for report in reports:
        run.recorder.step(report)
        if warning := run.watch.add(report.step, report.loss.read()):
            run.conversation.warn(warning)
        bar.advance(
            loss=f"loss {report.loss.read():.3f}",
            lr=f"lr {report.lr:.1e}",
            speed=f"{report.num_images / report.step_s:.0f} images/s",
            wait=f"data wait {report.data_s / report.step_s:.0%}",
        )


def _field_of(error: VitctlError) -> dict[str, str | None]:
    return {"field": error.field} if isinstance(error, SettingError) else {}
