"""What stands where a run is to be written: the same run, stopped or finished, or another one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitctl.errors import DataError, ModelError, SettingError
from vitctl.models.run_folders import is_run_folder
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import user_path
from vitctl.results.finetune import FinetuneResult
from vitctl.run_folders.differing import SAID_BY_VALUES, every_setting
from vitctl.run_folders.layout import (
    CONFIG,
    SUMMARY,
    command_to_go_on,
    has_checkpoint,
    is_being_written,
    is_finished,
    is_outdated,
    newest_step,
    place_of,
)
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import HOW_COMPUTED, NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.option import described, option_of
from vitctl.training.checkpoint import Checkpoint, newest_checkpoint
from vitctl.training.run_folder import RunFolder, in_use, new_run_folder

_WHERE_IT_LIES = ("data", "val")  # with --resume images are known by their content


@dataclass(frozen=True)
class EarlierRun:
    """A run that stands where one is to be written.

    Attributes:
        out: The run folder, absolute.
        place: Where its files are: there, or beside it, where it grows to replace another.
        config: Its settings.
    """

    out: Path
    place: Path
    config: FinetuneConfig

    def check_equal(self, config: FinetuneConfig) -> None:
        """Check that this is the run that ``config``, resolved, would make.

        Raises:
            SettingError: It is another; all that differs is named.
        """
        differing = list(_differences(config, self.config, is_resumed=config.resume is not None))
        if differing:
            how = (
                "" if config.resume is not None else ", replace it with --overwrite, or give another folder with --out"
            )
            raise SettingError(
                f"{self.out} is a run with other settings. Go on with it with '{command_to_go_on(self.out)}' "
                f"alone{how}. What differs:",
                *(f"  {line}" for line in differing),
                field="out",
            )

    def summary(self) -> FinetuneResult | None:
        """Return what it has come to, None where it is not finished.

        Raises:
            SettingError: Another version of vitctl wrote it otherwise.
        """
        if not is_finished(self.place):
            return None
        found = read_document(
            self.place / SUMMARY,
            FinetuneResult,
            error=SettingError,
            advice="expected the summary of a finished run of this version; --overwrite trains it anew",
        )
        return replace(found, run=str(self.out))

    def complete(self) -> None:
        """Do what a finished run has left to do that was killed at its very end: take its place, clear away."""
        if self.place != self.out or has_checkpoint(self.out):
            with new_run_folder(self.out, overwrite=False, goes_on_in=self.place):
                pass

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the checkpoint to go on from, None where nothing was saved; and what is wrong with newer ones.

        Raises:
            ModelError: None of those that are there can be used.
            SettingError: There are weights, but no checkpoint.
        """
        checkpoint, damaged = newest_checkpoint(self.place)
        if checkpoint is None and damaged:
            raise ModelError(f"{self.out} has no checkpoint to go on from. Train anew with --overwrite.", *damaged)
        if checkpoint is None and RunFolder(self.place).is_worth_keeping:
            raise SettingError(
                f"{self.out} has weights of a run that was stopped, but no checkpoint to go on from: removed, or of a "
                "vitctl that made none. Train anew with --overwrite, or give another folder with --out.",
                field="out",
            )
        return checkpoint, damaged


@contextmanager
def moved_data_are_told(config: FinetuneConfig) -> Iterator[None]:
    """Add to an error of the block how to go on, where the images of a run that goes on are gone.

    Raises:
        DataError: That of the block.
    """
    try:
        yield
    except DataError as error:
        gone = [name for name in _WHERE_IT_LIES if _is_gone(getattr(config, name))]
        if config.resume is None or not gone:
            raise
        command = " ".join((command_to_go_on(Path(config.resume)), *(f"--{name} NEW" for name in gone)))
        raise DataError(f"{error.args[0]} Where the data have moved: {command}", *error.args[1:]) from error


def _is_gone(spec: str | None) -> bool:
    """Return whether there is nothing at the path that ``spec`` is; a pattern of names is none."""
    return spec is not None and os.path.isabs(spec) and set(spec).isdisjoint("*?[{") and not os.path.exists(spec)


def settings_to_go_on(config: FinetuneConfig) -> FinetuneConfig:
    """Return the settings of the run that ``config.resume`` names, with what else ``config`` was given.

    Raises:
        SettingError: There is no run, or its settings cannot be used, or another place is given.
    """
    run = user_path(config.resume or "").absolute()
    place = place_of(run)
    if not is_run_folder(place):
        raise SettingError(f"--resume {run} is no run of vitctl; expected the folder of one.", field="resume")
    config.refuse("out", "overwrite", "dry_run", why="beside --resume, which names the run")
    if is_being_written(Path(os.path.realpath(run))):
        raise in_use(run, option="--resume")
    _check_newest(run, place)
    given = {name: getattr(config, name) for name in config.given if name != "resume"}
    moved = {name: given.pop(name) for name in _WHERE_IT_LIES if name in given}
    settings = merge(config_from_file(place / CONFIG), given)
    if config.num_processes is not None and "num_threads" not in given:
        settings = replace(settings, num_threads=None)  # each takes its share of the processors
    return replace(settings, **moved, resume=str(run), out=str(run))


def _check_newest(run: Path, place: Path) -> None:
    """Check that a run which was stopped when it was to replace ``run`` is newer than that.

    Raises:
        SettingError: It is not, so that nobody can want to go on with it by that name.
    """
    if is_outdated(place, run):
        raise SettingError(
            f"--resume {run} is finished. Beside it, {place} holds an older run, stopped after step "
            f"{newest_step(place)}, that was to replace it; remove that, or train anew with --overwrite.",
            field="resume",
        )


def earlier_run(config: FinetuneConfig, out: Path) -> EarlierRun | None:
    """Return the run that stands at ``out``, None where there is none or it is to be replaced."""
    out = Path(os.path.realpath(out))
    place = place_of(out) if config.resume is not None else out
    if config.overwrite or not is_run_folder(place):
        return None
    return EarlierRun(out, place, config_from_file(place / CONFIG))


def _differences(now: FinetuneConfig, before: FinetuneConfig, *, is_resumed: bool) -> Iterator[str]:
    skipped = (*NOT_OF_A_RUN, *HOW_COMPUTED, *SAID_BY_VALUES, *(_WHERE_IT_LIES if is_resumed else ()))
    mine, theirs = (dict(every_setting(config, without=skipped)) for config in (now, before))
    for name in dict.fromkeys((*theirs, *mine)):
        if mine.get(name) != theirs.get(name):
            spelled = option_of(name) if name in described(FinetuneConfig) else name
            yield f"{spelled}: {_told(theirs.get(name))} there, {_told(mine.get(name))} now"


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
