"""What lies where in a run folder, and what its names alone tell: has it ended, who writes it, where it goes on.

``vitctl.training.run_folder`` lists all that is in one.
"""

import os
import re
import shlex
from pathlib import Path

from vitctl.primitives.atomic import is_in_use, partial_of

CONFIG, SUMMARY, METRICS, DIVERGENCE = "config.json", "summary.json", "metrics.jsonl", "diverged.json"
CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step-(\d{1,18})")


def checkpoint_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, or would be."""
    return run / CHECKPOINTS / f"step-{step}"


def steps_of(run: Path) -> list[int]:
    """Return the steps of which there are checkpoints in a run folder, newest first; reads none of them."""
    try:
        names = os.listdir(run / CHECKPOINTS)
    except OSError:
        return []
    return sorted((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), reverse=True)


def newest_step(run: Path) -> int | None:
    """Return the step of the newest checkpoint in a run folder, None where there is none; reads none of them."""
    return next(iter(steps_of(run)), None)


def has_checkpoint(run: Path) -> bool:
    """Return whether there is a checkpoint in a run folder."""
    return newest_step(run) is not None


def is_finished(run: Path) -> bool:
    """Return whether a run folder holds a run that has come to its end."""
    return (run / SUMMARY).is_file()


def is_being_written(path: Path) -> bool:
    """Return whether a process that is alive writes a run at ``path``, or beside it, to replace the one there."""
    return is_in_use(path) or is_in_use(partial_of(path))


def place_of(run: Path) -> Path:
    """Return where the files of a run are: beside ``run`` where one that is to replace it was stopped."""
    run = Path(os.path.realpath(run))
    return partial_of(run) if has_checkpoint(partial_of(run)) else run


def is_outdated(place: Path, run: Path) -> bool:
    """Return whether what was stopped at ``place``, and was to replace ``run``, is older than the finished run there.

    Then nobody can want to go on with it by that name.
    """
    step = newest_step(place)
    if step is None or place == Path(os.path.realpath(run)) or not is_finished(run):
        return False
    return (run / SUMMARY).stat().st_mtime > checkpoint_of(place, step).stat().st_mtime


def command_to_go_on(run: Path | str) -> str:
    """Return the command line that goes on with a run that was stopped."""
    return f"vitctl finetune --resume {shlex.quote(str(run))}"
