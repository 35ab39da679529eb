"""Going on from a checkpoint: whether the images are the run's, what computes otherwise, and the state itself."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.run_images import images_digest
from vitctl.errors import DataError, ModelError
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.documents import parse_document
from vitctl.results.finetune import FinetuneResult
from vitctl.run_folders.layout import is_being_written
from vitctl.training.checkpoint import Checkpoint, put_back
from vitctl.training.earlier import earlier_run
from vitctl.training.job import Job
from vitctl.training.micro_batches import kinds_by_division
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.run_folder import RunFolder, in_use
from vitctl.training.state import TrainingState
from vitctl.training.summary import PACKAGES

_IMAGES, _RUN, _FEATURES = "images", "run", "features"
_OF_THE_SHARE = ("num_processes", "micro_batch")  # with others a process has memory for others at a time


def made_with(run: PreparedRun) -> dict[str, Any]:
    """Return what a checkpoint says of what computed it: equal, the bytes are; the images, which must be; its run."""
    job = run.job
    return {
        "vitctl": __version__,
        **{package: version(package) for package in PACKAGES},
        "device": job.accelerator.device.type,
        "num_threads": run.plan.threads.value,
        "num_processes": job.accelerator.num_processes,
        "micro_batch": run.config.micro_batch,
        _IMAGES: images_digest(run.data),
        _RUN: str(run.plan.out.value),  # for who looks for its images after both were moved
        **({} if job.kept is None else {_FEATURES: "kept"}),  # they are not where the memory is too small
    }


@dataclass(frozen=True)
class Beginning:
    """Where a run begins.

    Attributes:
        summary: What it came to, of one that is finished already.
        checkpoint: Where it goes on; None of a new one.
        goes_on_in: The folder it has grown in so far; None of a new one.
        is_moved: Whether its images lie elsewhere than they did.
    """

    summary: FinetuneResult | None = None
    checkpoint: Checkpoint | None = None
    goes_on_in: Path | None = None
    is_moved: bool = False


def find_beginning(prepared: PreparedRun, made_with: Mapping[str, Any], conversation: Conversation) -> Beginning:
    """Return where the run begins, by what stands in its place: for all processes as the first one sees it.

    Args:
        prepared: What is to be trained.
        made_with: What computes it, and the images.
        conversation: Hears what stands there.

    Raises:
        SettingError: A run with other settings stands there.
        ModelError: Its checkpoints cannot be used.
        DataError: Its images are others.
    """
    found = dict[str, Any](prepared.job.processes.document(partial(_look, prepared, made_with, conversation)))
    if found["summary"] is not None:
        return Beginning(summary=parse_document(json.dumps(found["summary"]), FinetuneResult))
    if found["checkpoint"] is None:
        return Beginning()
    checkpoint = Checkpoint(**found["checkpoint"] | {"path": Path(found["checkpoint"]["path"])})
    return Beginning(None, checkpoint, Path(found["goes_on_in"]), found["is_moved"])


def _look(prepared: PreparedRun, made_with: Mapping[str, Any], conversation: Conversation) -> dict[str, Any]:
    """Return what ``find_beginning`` needs, as JSON has it."""
    nothing = {"summary": None, "checkpoint": None, "goes_on_in": None}
    earlier = earlier_run(prepared.config, prepared.plan.out.value)
    if earlier is None:
        return nothing
    if is_being_written(earlier.out):
        raise in_use(earlier.out)
    earlier.check_equal(prepared.config)
    if (summary := earlier.summary()) is not None:
        earlier.complete()
        conversation.line(
            f"{earlier.out} is finished, with these settings: this is its summary. --overwrite trains it anew."
        )
        return nothing | {"summary": summary.as_json()}
    checkpoint, damaged = earlier.newest()
    for sentence in damaged:
        conversation.warn(sentence)
    if checkpoint is None:
        conversation.line(f"{earlier.out} was ended before anything was saved; it begins again.")
        return nothing
    if made_with[_IMAGES] != checkpoint.made_with.get(_IMAGES):
        raise DataError(
            f"The images of {prepared.data.source.spec} are no longer those that the run was made with; expected the "
            "same images, wherever they lie. Bring them back, or train anew with --overwrite."
        )
    known = vars(checkpoint) | {"path": str(checkpoint.path)}
    now, then = ((config.data, config.val) for config in (prepared.config, earlier.config))
    return nothing | {"checkpoint": known, "goes_on_in": str(earlier.place), "is_moved": now != then}


def resumed_settings(run: PreparedRun, made_with: Mapping[str, Any], checkpoint: Checkpoint | None) -> list[Setting]:
    """Return the row of the header that says where a run goes on; none for a new one."""
    if checkpoint is None:
        return []
    differing = _differences(made_with, checkpoint.made_with)
    how = "byte for byte"
    if differing:
        is_divided_anew = any(made_with[name] != checkpoint.made_with.get(name) for name in _OF_THE_SHARE)
        kinds = kinds_by_division(run.job.model) if is_divided_anew else []
        close = f"not what it was for {' and '.join(kinds)}" if kinds else "equal to about 1e-5, not byte for byte"
        how = f"{close}: {', '.join(differing)}"
    place, out = checkpoint.path.parent.parent, run.plan.out.value
    beside = "" if place == Path(os.path.realpath(out)) else f", in {place}, until it replaces the run in {out}"
    return [Setting("goes on", f"after step {checkpoint.step:,} of {run.job.batches.num_steps:,}{beside}", how)]


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*now, _FEATURES])
    others = [name for name in names if name not in (_IMAGES, _RUN) and before.get(name) != now.get(name)]
    return [f"{name.removeprefix('num_')} {now.get(name)} instead of {before.get(name)}" for name in others]


@compiler_later()
def restore(
    state: TrainingState, checkpoint: Checkpoint, folder: RunFolder | None, job: Job, *, made_with: Mapping[str, Any]
) -> None:
    """Make ``state``, new, and the run folder what they were at ``checkpoint``.

    Args:
        state: Of ``job``.
        checkpoint: Where to go on.
        folder: The run's; None in a process that writes nothing.
        job: What is trained.
        made_with: What computes from here on.

    Raises:
        ModelError: It is of another model.
        OSError: The folder cannot be written.
    """
    # of several processes the first alone need see the disk
    arrays = job.processes.arrays(lambda: {name: one.numpy() for name, one in checkpoint.tensors().items()})
    job.model.to(job.accelerator.device)  # what the optimiser remembers goes where the parameters are
    try:
        state.restore({name: torch.from_numpy(one) for name, one in arrays.items()}, checkpoint.facts)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{checkpoint.path} is a checkpoint of another vitctl ({error}); go on with that, or train anew with "
            "--overwrite."
        ) from error
    if any(made_with[name] != checkpoint.made_with.get(name) for name in _OF_THE_SHARE):
        state.micro_batch = 0  # found anew
    if folder is not None:
        put_back(folder.path, checkpoint)
