"""Checkpoints of a run: ``RUN/checkpoints/step-N``, from which it goes on as if it had never stopped.

::

    weights.safetensors     the model, all of its state_dict
    optimizer.safetensors   what the optimiser remembers, ``PARAMETER|NAME``
    best.safetensors        what the chosen weights say of the validation images, where they were looked at
    average.safetensors     what a mean of the weights goes on from, where there is one
    last/ average/ best/    the run's as they were then (hard links)
    state.json              the rest, with length and checksum of each file above: written last

A folder is renamed to its name when all of it is on disk, so one that is there is complete. There is no state of random
generators: order, augmentation, noise and rate are functions of seed and step.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitctl.errors import ModelError
from vitctl.models.checkpoints import read_checkpoint, write_tensors
from vitctl.primitives.atomic import sync
from vitctl.primitives.cache import file_checksum
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import linked_copy, whole_folder, write_json
from vitctl.primitives.schemas import NotNegative, Schema
from vitctl.run_folders.layout import CHECKPOINTS, METRICS, checkpoint_of, steps_of
from vitctl.training.averaging import AVERAGED
from vitctl.training.state import AVERAGE, BEST, MODEL, OPTIMIZER, TrainingState

STATE = "state.json"
KEPT = 2  # one more than is needed, should the disk have spoilt the newest
WEIGHTS = ("last", AVERAGED, "best")
"""Folders of weights of a run, which a checkpoint keeps as they were."""
LOGS = (METRICS, "speed.jsonl")
"""Files of a run that only grow; a checkpoint knows how long they were."""
_FORMAT = 1
_FILES = {
    MODEL: "weights.safetensors",
    OPTIMIZER: "optimizer.safetensors",
    BEST: "best.safetensors",
    AVERAGE: "average.safetensors",
}


class _File(Schema):
    num_bytes: NotNegative
    crc32: NotNegative


class _Document(Schema):
    """A checkpoint's ``state.json``."""

    format: int
    step: NotNegative
    state: dict[str, Any]
    made_with: dict[str, Any]
    lengths: dict[str, NotNegative]
    files: dict[str, _File]
    weights: list[str]


@dataclass(frozen=True)
class Snapshot:
    """A state as it was, in the computer's memory; training may go on.

    Attributes:
        tensors: As ``TrainingState.tensors`` names them, copies.
        facts: As ``TrainingState.facts`` has them.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, state: TrainingState) -> "Snapshot":
        """Copy ``state``."""
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.tensors().items()}
        return cls(copies, state.facts())

    def weights(self) -> dict[str, Tensor]:
        """Return the model's tensors by their own names, each of its own shape, e.g. (C, D)."""
        return {name.removeprefix(MODEL): one for name, one in self.tensors.items() if name.startswith(MODEL)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files verify.

    Attributes:
        path: Its folder.
        step: Optimiser steps taken.
        facts: As ``TrainingState.facts`` had them.
        made_with: What computed it: versions, threads, processes; and which images.
        lengths: Bytes of the run's growing files.
        weights: Which folders of ``WEIGHTS`` the run had.
    """

    path: Path
    step: int
    facts: Mapping[str, Any]
    made_with: Mapping[str, Any]
    lengths: Mapping[str, int]
    weights: Sequence[str]

    def tensors(self) -> dict[str, Tensor]:
        """Return the state's tensors as ``TrainingState.tensors`` names them, each of its own shape, e.g. (C, D).

        Raises:
            ModelError: They cannot be read.
        """
        found: dict[str, Tensor] = {}
        for prefix, name in _FILES.items():
            if (self.path / name).is_file():
                tensors = read_checkpoint(self.path / name, "safetensors")
                # copies: what is read is the file itself, mapped into memory
                found |= {f"{prefix}{key}": tensor.clone() for key, tensor in tensors.items()}
        return found


def write_checkpoint(
    run: Path, snapshot: Snapshot, *, made_with: Mapping[str, Any], lengths: Mapping[str, int]
) -> None:
    """Write a checkpoint, whole, and remove those that are older than the newest two.

    Args:
        run: The run folder.
        snapshot: The state.
        made_with: What computes it.
        lengths: Bytes of the growing files that belong to it; they are on disk before it is.

    Raises:
        OSError: It cannot be written; those that are there stand.
    """
    for name in lengths:
        sync(run / name)
    step = int(snapshot.facts["step"])
    with whole_folder(checkpoint_of(run, step)) as partial:
        for prefix, name in _FILES.items():
            part = {
                key.removeprefix(prefix): tensor.contiguous()
                for key, tensor in snapshot.tensors.items()
                if key.startswith(prefix)
            }
            if part:
                write_tensors(partial / name, part)
        kept = [name for name in WEIGHTS if (run / name).is_dir()]
        for name in kept:
            linked_copy(run / name, partial / name)
        paths = sorted(path for path in partial.rglob("*") if path.is_file())
        files = {path.relative_to(partial).as_posix(): _described(path) for path in paths}
        document = {
            "format": _FORMAT,
            "step": step,
            "state": snapshot.facts,
            "made_with": made_with,
            "lengths": lengths,
            "files": files,
            "weights": kept,
        }
        write_json(partial / STATE, document)
    _keep_newest(run)


def _described(path: Path) -> dict[str, int]:
    return {"num_bytes": path.stat().st_size, "crc32": file_checksum(path)}


def _keep_newest(run: Path) -> None:
    for step in steps_of(run)[KEPT:]:
        path = checkpoint_of(run, step)
        removed = path.with_name(f".{path.name}.removed")  # half removed, it must not count as one that is there
        with suppress(OSError):
            shutil.rmtree(removed, ignore_errors=True)
            os.rename(path, removed)
            shutil.rmtree(removed, ignore_errors=True)


def clear_unfinished(run: Path) -> None:
    """Remove what killed processes left among the checkpoints; the run is ours."""
    with suppress(OSError):
        for path in (run / CHECKPOINTS).iterdir():
            if path.name.startswith(".") and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose files verify, None where there is none; and what is wrong with newer ones."""
    damaged: list[str] = []
    for step in steps_of(run):
        try:
            return _read(run, checkpoint_of(run, step)), damaged
        except ModelError as error:
            damaged.append(str(error))
    return None, damaged


def _read(run: Path, path: Path) -> Checkpoint:
    advice = "expected the state.json of a checkpoint"
    document = read_document(path / STATE, _Document, error=ModelError, advice=advice)
    if document.format != _FORMAT:
        raise ModelError(
            f"{path} is a checkpoint of another vitctl (format {document.format}); expected format {_FORMAT}."
        )
    for name, known in document.files.items():
        inner = path / name
        if ".." in inner.parts or not inner.is_file() or _described(inner) != known.model_dump():
            raise ModelError(f"{inner} is not as it was written; expected {known.num_bytes} bytes that verify.")
    for name, length in document.lengths.items():
        log = run / Path(name).name
        found = log.stat().st_size if log.is_file() else 0
        if found < length:
            raise ModelError(f"{log} has {found} bytes; expected the {length} that {path} knows of.")
    kept = [name for name in document.weights if name in WEIGHTS]
    return Checkpoint(path, document.step, document.state, document.made_with, document.lengths, kept)


def put_back(run: Path, checkpoint: Checkpoint) -> None:
    """Make the run folder what it was at the checkpoint: its weights, and how far its growing files reach.

    Killed in the middle it can be done again.

    Raises:
        OSError: It cannot be written.
    """
    clear_unfinished(run)
    for name in WEIGHTS:
        path, kept = run / name, checkpoint.path / name
        if name not in checkpoint.weights:
            shutil.rmtree(path, ignore_errors=True)
        elif not _is_the_same(path, kept):
            with whole_folder(path) as partial:
                for inner in kept.iterdir():
                    linked_copy(inner, partial / inner.name)
    for name in LOGS:
        length = checkpoint.lengths.get(name, 0)
        if (run / name).is_file():
            os.truncate(run / name, length)
            sync(run / name)
    for step in steps_of(run):
        if step > checkpoint.step:  # damaged ones
            shutil.rmtree(checkpoint_of(run, step), ignore_errors=True)


def _is_the_same(path: Path, kept: Path) -> bool:
    """Return whether two folders hold the same files, not only equal ones."""
    inner, other = (
        {one.name: one.stat().st_ino for one in folder.iterdir()} if folder.is_dir() else {} for folder in (path, kept)
    )
    return inner == other


def remove_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that is finished."""
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
