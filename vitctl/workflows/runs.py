"""``vitctl runs``: the runs below a folder, as far as each has come. Imports no torch."""

import os
import time
from collections import Counter
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.primitives.files import user_path
from vitctl.results.runs import RunsResult
from vitctl.run_folders.entries import ORDERS, entry_of
from vitctl.run_folders.finding import find_runs
from vitctl.run_folders.seen import look_at
from vitctl.settings.runs import RunsConfig

USUAL = ("runs", "sweeps")
"""Where finetune and sweep put runs when nothing else is said."""
_MOST_SAID = 5  # folders that cannot be read: a whole disk has hundreds


def run(config: RunsConfig, conversation: Conversation) -> RunsResult:
    """Return the runs below a folder; changes nothing.

    Raises:
        SettingError: There is no such folder.
    """
    folders = _folders(config.folder)
    unread: list[OSError] = []
    paths = [path for folder in folders for path in find_runs(folder, unread.append)]
    for error in unread[:_MOST_SAID]:
        conversation.warn(f"{error.filename} cannot be read: {error.strerror}; runs in it are not listed.")
    if len(unread) > _MOST_SAID:
        conversation.warn(f"{len(unread) - _MOST_SAID:,} folders more cannot be read.")
    seen = list(map(look_at, conversation.track(paths, "looking at runs", len(paths), "runs")))
    if not seen:
        conversation.line(f"There are no runs below {' and '.join(map(str, folders))}; 'vitctl finetune' makes one.")
    now = time.time()
    return RunsResult(
        folders=tuple(map(str, folders)),
        runs=tuple(sorted((entry_of(one, now=now) for one in seen), key=ORDERS[config.sort])),
        num_by_state=dict(Counter(one.state for one in seen)),
    )


def _folders(given: str | None) -> list[Path]:
    if given is not None:
        folder = Path(os.path.abspath(user_path(given)))
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise SettingError(f"{given} {found}; expected a folder with runs of vitctl below it.", field="folder")
        return [folder]
    folders = [Path(name).absolute() for name in USUAL if Path(name).is_dir()]
    if not folders:
        raise SettingError(
            f"Neither {' nor '.join(USUAL)} is a folder in {Path.cwd()}; expected runs there. Give the folder to look "
            "in, or make a run with 'vitctl finetune'.",
            field="folder",
        )
    return folders
