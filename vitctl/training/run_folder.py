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
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitctl.errors import SettingError
from vitctl.models.run_folders import is_run_folder
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

    Use as ``with new_run_folder(path) as run``. A run that fails before it has saved any weights leaves
    nothing behind, and a run that it was to replace stands as before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def has_weights(self) -> bool:
        """Whether any weights were saved."""
        return (self.path / "last").is_dir() or (self.path / "best").is_dir()

    def write_json(self, name: str, document: Any) -> None:
        """Write one JSON file, whole."""
        write_json(self.path / name, document)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one line to a ``.jsonl`` file; a line is written in one piece."""
        line = json.dumps(record, allow_nan=False) + "\n"
        handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


@contextmanager
def new_run_folder(path: Path, *, overwrite: bool) -> Iterator[RunFolder]:
    """Make the run folder ``path``; on failure before any weights were saved, put back what was there.

    Raises:
        SettingError: See ``check_out``.
    """
    check_out(path, overwrite=overwrite)
    replaced: Path | None = None
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and any(path.iterdir()):
            replaced = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.replaced")
            os.rename(path, replaced)
        path.mkdir(exist_ok=True)
    run = RunFolder(path)
    try:
        yield run
    except BaseException:
        if not run.has_weights:
            shutil.rmtree(path, ignore_errors=True)
            if replaced is not None:
                os.rename(replaced, path)
                replaced = None
        raise
    finally:
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
