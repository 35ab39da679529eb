"""Run folders that a person names: each must be a finished run; a folder of runs stands for those in it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import SettingError, did_you_mean
from vitctl.models.run_folders import is_run_folder, run_of
from vitctl.primitives.files import user_path
from vitctl.run_folders.finding import find_runs
from vitctl.run_folders.layout import command_to_go_on
from vitctl.run_folders.seen import DIVERGED, FINISHED, RUNNING, UNREADABLE, SeenRun, look_at


def finished_runs(given: Sequence[str], conversation: Conversation) -> list[SeenRun]:
    """Return the runs that ``given`` names, in this order; of a folder of runs those that are finished.

    Raises:
        SettingError: One is no run, is not finished, or is named twice; or there are fewer than two.
    """
    found: dict[str, SeenRun] = {}
    for text in given:
        for run in _runs_at(text, conversation):
            place = os.path.realpath(run.path)
            if place in found:
                raise SettingError(f"{run.path} is given twice; expected runs that differ.", field="runs")
            found[place] = run
    if len(found) < 2:
        only = next(iter(found.values()))
        raise SettingError(
            f"Expected two or more run folders to compare; found {only.path} alone. 'vitctl runs' lists those there "
            "are.",
            field="runs",
        )
    return list(found.values())


def _runs_at(text: str, conversation: Conversation) -> Iterator[SeenRun]:
    path = Path(os.path.abspath(user_path(text)))
    if is_run_folder(path):
        yield _finished(look_at(path))
        return
    if (parent := run_of(text)) is not None:
        raise SettingError(
            f"{path} holds weights of the run {parent}; expected the run itself. Which weights are meant says --which "
            f"{path.name}.",
            field="runs",
        )
    seen = [look_at(run) for run in find_runs(path)] if path.is_dir() else []
    if [run.path for run in seen] == [path]:  # the config.json of the run itself cannot be read
        yield _finished(seen[0])
        return
    finished = [run for run in seen if run.state == FINISHED]
    if not finished:
        raise SettingError(_no_run(path, text, num_unfinished=len(seen)), field="runs")
    if len(finished) < len(seen):
        others = len(seen) - len(finished)
        are = "1 run is" if others == 1 else f"{others:,} runs are"
        conversation.warn(f"{path}: {are} not finished and left out. 'vitctl runs {shlex.quote(text)}' lists them.")
    yield from finished


def _finished(run: SeenRun) -> SeenRun:
    if run.state == FINISHED:
        return run
    at = f"at step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
    states = {
        RUNNING: f"is still running, {at}. Wait for its end, or leave it out",
        DIVERGED: f"diverged {at}: its loss is no longer finite. Leave it out, or train it again with a lower --lr",
        UNREADABLE: f"cannot be read: {run.why}. Leave it out",
    }
    told = states.get(run.state, f"was stopped {at}. Go on with '{command_to_go_on(run.path)}', or leave it out")
    raise SettingError(f"{run.path} {told}; expected a finished run.", field="runs")


def _no_run(path: Path, text: str, *, num_unfinished: int) -> str:
    if num_unfinished:
        return f"None of the {num_unfinished:,} runs in {path} is finished; expected finished runs to compare."
    if path.is_dir():
        found = f"{path} is no run of vitctl, and holds none"
    else:
        found = f"{path} is a file" if path.exists() else f"There is no run at {path}"
    return f"{found}; expected a run folder.{_near(path, text)} 'vitctl runs' lists those there are."


def _near(path: Path, text: str) -> str:
    """Return a sentence with the runs beside ``path`` that are spelt alike; empty where none is."""
    try:
        names = [child.name for child in path.parent.iterdir() if is_run_folder(child)]
    except OSError:
        return ""
    return did_you_mean(os.path.basename(text.rstrip("/")), names)
