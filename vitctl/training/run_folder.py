"""The folder of a run: made once, filled with whole files, never made over something else.

::

    config.json      every setting, resolved; --config on it repeats the run
    metrics.jsonl    one line per optimiser step and per validation; no clock in it
    speed.jsonl      one line per optimiser step: seconds, images per second
    first-batches.png  what the model is shown in the first steps
    validation.json  the validation images by name and content, so that evaluate finds them again
    training-images.txt  the training images likewise, so that evaluate recognises them
    checkpoints/     the newest two states to go on from; gone when the run is finished
    diverged.json    of a run whose loss is no longer finite: the step, the images of its batch, the steps until then
    val-logits.safetensors  what best/ says of the validation images, so that runs can be compared
    selection.json   of a run whose rate was chosen among several: which, and how
    summary.json     the result, as --json prints it: there when the run is finished
    last/ best/      timm folders; average/ too where a mean of the weights was asked for
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vitctl.errors import SettingError
from vitctl.models.run_folders import is_run_folder
from vitctl.primitives.atomic import clear, own_folder, partial_of, put_in_place, recover, sync
from vitctl.primitives.files import write_json
from vitctl.primitives.outputs import check_writable, writing
from vitctl.run_folders.layout import has_checkpoint, is_being_written, is_finished
from vitctl.training.checkpoint import WEIGHTS, remove_checkpoints


def check_out(folder: Path, *, overwrite: bool) -> None:
    """Check that a run folder may be made at ``folder``, or that there is one; changes nothing.

    Raises:
        SettingError: It is a file, or not empty and not a run folder, or cannot be written to.
    """
    with writing(folder):
        _check_out(folder, overwrite=overwrite)


def _check_out(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"--out {folder} is a file; expected a folder that does not exist yet.", field="out")
    if not _is_empty(folder) and not is_run_folder(folder):
        runs_only = "; --overwrite replaces runs only" * overwrite
        raise SettingError(
            f"--out {folder} is not empty and no run of vitctl{runs_only}. Give another folder with --out.",
            field="out",
        )
    check_writable(folder)


def _is_empty(folder: Path) -> bool:
    """Return whether there is nothing at ``folder``, or only what a run left that was killed when it began."""
    return not folder.is_dir() or all(
        inner.name.startswith(".") and inner.name.endswith(".partial") for inner in folder.iterdir()
    )


def in_use(path: Path, *, option: str = "--out") -> SettingError:
    """Return the error of a run folder that another process writes."""
    return SettingError(
        f"{option} {path} is being written by another vitctl. Wait for it, or give another folder.",
        field=option.removeprefix("--"),
    )


class RunFolder:
    """A run folder that is being filled.

    Attributes:
        path: Where it is now.
        replaces: The run whose place it takes when it is complete; None where there is none.
    """

    def __init__(self, path: Path, *, replaces: Path | None = None) -> None:
        self.path = path
        self.replaces = replaces

    @property
    def is_worth_keeping(self) -> bool:
        """Whether any weights were saved, or a state to go on from."""
        return has_checkpoint(self.path) or any((self.path / name).is_dir() for name in WEIGHTS)

    def write_json(self, name: str, document: Any) -> None:
        """Write one JSON file, whole."""
        write_json(self.path / name, document)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one line to a ``.jsonl`` file; a line is written in one piece."""
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            while line:  # on a disk that is nearly full a part of it fits, and only the rest is an error
                line = line[os.write(handle, line) :]
        finally:
            os.close(handle)


@contextmanager
def new_run_folder(path: Path, *, overwrite: bool, goes_on_in: Path | None = None) -> Iterator[RunFolder]:
    """Make the run folder ``path``, which grows there, or beside the run that it replaces; or go on with one.

    The run that it replaces stands until the new one is complete. What a process that was killed has left of a new one
    is cleared. A run that fails before anything was saved leaves nothing; later, it stays where it grew.

    Args:
        path: Where it is when it is complete.
        overwrite: Replace the run that is there; without, what is there has saved nothing, and is begun again.
        goes_on_in: Where the run has grown so far; it stays as it is.

    Raises:
        SettingError: See ``check_out``, or another process writes there.
    """
    check_out(path, overwrite=overwrite)
    path = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    with ExitStack() as stack:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            recover(path)
            is_replacing = overwrite and not _is_empty(path) if goes_on_in is None else goes_on_in != path
            place = partial_of(path) if is_replacing else path
            # also by one that is to replace it: who ends first would be lost
            if is_being_written(path) or not stack.enter_context(own_folder(place)):
                raise in_use(path)
            if goes_on_in is None:
                if not overwrite and (RunFolder(path).is_worth_keeping or is_finished(path)):
                    raise SettingError(
                        f"--out {path} is not empty. Give another folder with --out, or replace the run in it with "
                        "--overwrite.",
                        field="out",
                    )
                clear(place)
        run = RunFolder(place, replaces=path if is_replacing else None)
        try:
            yield run
        except BaseException:
            if not run.is_worth_keeping:
                shutil.rmtree(place, ignore_errors=True)
            raise
        with writing(path):
            sync(place)
            if is_replacing:
                put_in_place(place, path)
                run.path = path
            remove_checkpoints(path)
