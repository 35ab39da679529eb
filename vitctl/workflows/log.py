"""``vitctl log``: a run, written for a tracker from its own files."""

import shlex
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.models.run_folders import run_of
from vitctl.primitives.files import user_path
from vitctl.reporting.trackers.folder import check_place, log_folder
from vitctl.reporting.trackers.replay import read_replay
from vitctl.reporting.trackers.tracker import find_tracker
from vitctl.results.log import LogResult
from vitctl.settings.log import LogConfig


def run(config: LogConfig, conversation: Conversation) -> LogResult:
    """Write a run, as far as it has come, to the folder of a tracker, in place of what was written there before.

    Raises:
        SettingError: There is no run, or the folder cannot be written or is not one of ``vitctl log``.
        DataError: The run has no step yet, or its files cannot be read.
        UnavailableError: The tracker is not installed.
    """
    folder = _find_run(str(config.run))
    tracker = find_tracker(config.to)
    out = folder / config.to if config.out is None else user_path(config.out).absolute()
    is_replacing = check_place(out, config.to)
    replay = read_replay(folder)
    for note in replay.notes:
        conversation.warn(note)
    with log_folder(out, config.to) as partial:
        points = conversation.track(replay.points, f"writing to {config.to}", len(replay.points), "steps")
        tracker.write(replay, partial, points)
    return LogResult(
        run=str(folder),
        to=config.to,
        out=str(out),
        num_steps=replay.num_steps,
        num_validations=replay.num_validations,
        num_pictures=len(replay.pictures),
        replaced=is_replacing,
        view=tracker.view.format(shlex.quote(str(out))),
    )


def _find_run(spec: str) -> Path:
    folder = run_of(spec)
    if folder is None:
        raise SettingError(f"{spec} is no run of vitctl; expected the folder of one, e.g. runs/photos.", field="run")
    return folder
