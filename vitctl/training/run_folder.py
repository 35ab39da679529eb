"""The folder of a run: made once, filled with whole files, never made over something else.

::

    config.json      every setting, resolved; --config on it repeats the run
    metrics.jsonl    one line per optimiser step and per validation; no clock in it
    speed.jsonl      one line per optimiser step: seconds, images per second
    validation.json  the validation images by name, so that evaluate finds them again
    summary.json     the result, as --json prints it
    last/ best/      timm folders
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
from vitctl.primitives.atomic import clear, is_in_use, own_folder, partial_of, put_in_place, recover, sync
from vitctl.primitives.files import write_json
from vitctl.primitives.outputs import check_writable, writing


def check_out(folder: Path, *, overwrite: bool) -> None:
    """Check that a run folder may be made at ``folder``; changes nothing.

    Raises:
        SettingError: It is a file, or not empty (and, with ``overwrite``, not a run folder), or cannot be
            written to.
    """
    with writing(folder):
        _check_out(folder, overwrite=overwrite)


def _check_out(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"--out {folder} is a file; expected a folder that does not exist yet.", field="out")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise SettingError(
                f"--out {folder} is not empty. Give another folder with --out, or replace the run in it with "
                "--overwrite.",
                field="out",
            )
        if not is_run_folder(folder):
            raise SettingError(
                f"--out {folder} is not empty and no run of vitctl; --overwrite replaces runs only. Give another "
                "folder with --out.",
                field="out",
            )
    check_writable(folder)


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
    def has_weights(self) -> bool:
        """Whether any weights were saved."""
        return (self.path / "last").is_dir() or (self.path / "best").is_dir()

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
def new_run_folder(path: Path, *, overwrite: bool) -> Iterator[RunFolder]:
    """Make the run folder ``path``, which grows there, or beside the run that it replaces.

    That one stands until the new one is complete. What a process that was killed has left of a new one is cleared. A
    run that fails before any weights were saved leaves nothing; later, it stays where it grew.

    Raises:
        SettingError: See ``check_out``, or another process writes there.
    """
    check_out(path, overwrite=overwrite)
    path = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    with ExitStack() as stack:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            recover(path)
            is_replacing = path.is_dir() and any(path.iterdir())
            place = partial_of(path) if is_replacing else path
            if is_in_use(path) or not stack.enter_context(own_folder(place)):
                raise SettingError(
                    f"--out {path} is being written by another vitctl. Wait for it, or give another folder.",
                    field="out",
                )
            if is_replacing:
                clear(place)
        run = RunFolder(place, replaces=path if is_replacing else None)
        try:
            yield run
        except BaseException:
            if not run.has_weights:
                shutil.rmtree(place, ignore_errors=True)
            raise
        with writing(path):
            sync(place)
            if is_replacing:
                put_in_place(place, path)
                run.path = path
