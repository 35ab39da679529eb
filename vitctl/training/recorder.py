"""What a run writes while it goes on: metrics, speeds, weights, checkpoints."""

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.order import BatchPlan
from vitctl.data.run_lists import VALIDATION, validation_document, write_training_list
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.atomic import partial_of
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.processes import Processes
from vitctl.results.finetune import Score
from vitctl.run_folders.layout import METRICS, command_to_go_on, newest_step
from vitctl.run_folders.selection import write_selection
from vitctl.settings.parsing import Interval
from vitctl.training.averaging import AVERAGED
from vitctl.training.checkpoint import LOGS, Snapshot, write_checkpoint
from vitctl.training.loop import StepReport
from vitctl.training.lora import merged, write_adapter
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.run_folder import RunFolder, new_run_folder
from vitctl.training.state import TrainingState
from vitctl.training.summary import config_document

NUM_RECENT = 10  # steps that a run which has diverged looks back on


@dataclass(frozen=True)
class WeightsIdentity:
    """What a saved model says about itself, besides its weights.

    Attributes:
        class_names: One per output.
        preprocessing: What it expects of an image.
        base_model: What it was made from.
        base_licence: Licence of those weights, where known.
    """

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    base_model: str
    base_licence: str | None


def identity_of(run: PreparedRun) -> WeightsIdentity:
    """Return what the weights of a run say about themselves."""
    return WeightsIdentity(run.data.train.class_names, run.job.preprocessing, run.loaded.name, run.loaded.licence)


def write_start(run: PreparedRun, folder: RunFolder | None) -> None:
    """Write what a run is to be: its settings, and which images it validates and trains on."""
    if folder is None:
        return
    if run.selection is not None:  # first: who finds a run without it takes it for one that was not chosen
        write_selection(folder.path, run.selection)
    folder.write_json("config.json", config_document(run.config))
    if (listing := validation_document(run.data, image_root=run.config.image_root)) is not None:
        folder.write_json(VALIDATION, listing)
    write_training_list(folder.path, run.data, image_root=run.config.image_root)


class Recorder:
    """Writes the metrics, weights and checkpoints of a run into its folder.

    Weights take a copy of the training's time: they are written in a thread, one save after the other. What goes wrong
    there is raised by the next save, or at the end. A context: left without an error, everything is on disk.

    Args:
        folder: The run folder; None in every process but the first, where nothing is written.
        identity: Goes beside the weights.
        batches: Turns steps into epochs.
        made_with: What computes, for who goes on from a checkpoint.
        save_every: How often a checkpoint is due.

    Attributes:
        saved_step: Of the newest checkpoint, on disk or on its way there; None before the first.
        recent: The last lines of ``metrics.jsonl`` on steps of this process; none where nothing is written.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        identity: WeightsIdentity,
        batches: BatchPlan,
        *,
        made_with: Mapping[str, Any],
        save_every: Interval,
        saved_step: int | None = None,
    ) -> None:
        self._folder, self._identity, self._batches = folder, identity, batches
        self._made_with, self._every, self._saved = made_with, save_every, time.monotonic()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._saving: Future[None] | None = None
        self.saved_step = saved_step
        self.recent: deque[Mapping[str, object]] = deque(maxlen=NUM_RECENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            with suppress(*([Exception] if error is not None else [])):  # the first thing that went wrong is said
                self.wait()
        finally:
            self._thread.shutdown()

    def step(self, report: StepReport) -> None:
        """Add an optimiser step to ``metrics.jsonl``, and its timing to ``speed.jsonl``."""
        if self._folder is None:
            return
        seen = min(report.step * self._batches.batch_size, self._batches.num_images_seen)
        epoch = round(seen / self._batches.num_images, 6)
        sizes = self._batches.sizes
        size = {"size": sizes[self._batches.stage(report.step - 1)]} if sizes else {}
        loss, norm = report.loss.read(), report.grad_norm.read()
        grad_norm = norm if math.isfinite(norm) else None
        record = {"step": report.step, "epoch": epoch, "loss": loss, "lr": report.lr, "grad_norm": grad_norm, **size}
        self._folder.append(METRICS, record)
        self.recent.append(record)
        speed = {
            "step": report.step,
            "step_s": round(report.step_s, 6),
            "data_wait_s": round(report.data_s, 6),
            "images_per_s": round(report.num_images / report.step_s, 3),
        }
        self._folder.append("speed.jsonl", speed)

    def validation(self, score: Score, average: Score | None = None) -> None:
        """Add a validation to ``metrics.jsonl``, if there were images to validate on: of a mean of the weights too."""
        if self._folder is None or score.loss is None:
            return
        line = {"step": score.step, "val_loss": score.loss, "val_top1": score.top1}
        if average is not None:
            line |= {"average_val_loss": average.loss, "average_val_top1": average.top1}
        self._folder.append(METRICS, line)

    def place(self, name: str) -> Path | None:
        """Return where in the run folder a file of that name is; None where nothing is written."""
        return None if self._folder is None else self._folder.path / name

    def remove(self, name: str) -> None:
        """Remove a file of the run folder, if it is there."""
        if self._folder is not None:
            (self._folder.path / name).unlink(missing_ok=True)

    def keep(self, name: str, document: object) -> bool:
        """Write one JSON file, when the run folder stays after an error; return whether."""
        if self._folder is None or not self.is_worth_keeping:
            return False
        self._folder.write_json(name, document)
        return True

    @property
    def is_worth_keeping(self) -> bool:
        """Whether the run folder stays after an error, as something is on disk or on its way there."""
        return self.saved_step is not None or (self._folder is not None and self._folder.is_worth_keeping)

    @property
    def has_last(self) -> bool:
        """Whether weights of a validation are in ``last/``, once what is on its way there is on disk."""
        with suppress(OSError):
            self.wait()
        return self._folder is not None and (self._folder.path / "last").is_dir()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is to be saved after ``step``, validations apart."""
        if self._folder is None:
            return False
        if self._every.steps is not None:
            return step % self._every.steps == 0
        return time.monotonic() - self._saved >= (self._every.seconds or 0)

    @compiler_later()  # torch's optimisers ask for it when they say what they remember
    def save(self, state: TrainingState, names: Sequence[str] = (), *, is_ending: bool = False) -> None:
        """Copy ``state`` and begin to write it: as the timm folders ``names``, then as a checkpoint.

        Args:
            state: Metrics of all its steps are written.
            names: Folders to replace: last and best with the weights, average with their mean.
            is_ending: The run is stopped: its checkpoint comes first, with the folders as they were, so that who goes
                on from it finds them so.

        Raises:
            OSError: What was saved before could not be written.
        """
        if self._folder is None:
            self.saved_step = state.step
            return
        self.wait()
        run, snapshot = self._folder.path, Snapshot.of(state)
        logs = (run / name for name in LOGS)
        lengths = {log.name: log.stat().st_size for log in logs if log.is_file()}
        weights = {name: _weights(state, snapshot, name) for name in names}
        parts = [partial(self._write, state.model, one, run / name) for name, one in weights.items()]
        save = partial(write_checkpoint, run, snapshot, made_with=self._made_with, lengths=lengths)
        parts.insert(0 if is_ending else len(parts), save)

        def write() -> None:
            for part in parts:
                part()

        self._saving, self._saved, self.saved_step = self._thread.submit(write), time.monotonic(), state.step

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: It could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
        save_timm_folder(
            model,
            folder,
            class_names=self._identity.class_names,
            preprocessing=self._identity.preprocessing,
            base_model=self._identity.base_model,
            base_licence=self._identity.base_licence,
            weights=merged(weights, model),
            add=partial(write_adapter, weights=weights, model=model),
        )


def _weights(state: TrainingState, snapshot: Snapshot, name: str) -> dict[str, Tensor]:
    """Return what the folder ``name`` is to hold, by the model's names, each of its own shape, e.g. (C, D); copies."""
    if name != AVERAGED or state.average is None:
        return snapshot.weights()
    return {key: tensor.to("cpu", copy=True) for key, tensor in state.average.weights().items()}


@contextmanager
def run_folder_of(
    processes: Processes, path: Path, *, overwrite: bool, goes_on_in: Path | None, conversation: Conversation
) -> Iterator[RunFolder | None]:
    """Make the run folder ``path`` in the first process, or go on in one; yield None in the others.

    A run that ends early beside the one that it was to replace says where both are.

    Raises:
        SettingError: See ``check_out``.
    """
    if not processes.is_first:
        yield None
        return
    given_up = newest_step(partial_of(Path(os.path.realpath(path)))) if goes_on_in is None and overwrite else None
    if given_up is not None:
        conversation.warn(f"the run that was to replace {path} before, stopped after step {given_up}, is given up.")
    with new_run_folder(path, overwrite=overwrite, goes_on_in=goes_on_in) as folder:
        try:
            yield folder
        except BaseException as error:
            if folder.replaces is not None and folder.is_worth_keeping:
                conversation.warn(f"{path} is the run that was there before; what was trained now is in {folder.path}.")
            # a second signal ends it wherever it is, before it could say so
            if not isinstance(error, Exception) and (step := newest_step(folder.path)) is not None:
                conversation.line(f"Step {step} is saved; go on with: {command_to_go_on(path)}")
            raise
