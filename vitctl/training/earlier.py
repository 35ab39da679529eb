"""What stands where a run is to be written: the same run, stopped or finished, or another one."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitctl.errors import DataError, ModelError, SettingError
from vitctl.models.run_folders import is_run_folder
from vitctl.primitives.atomic import partial_of
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import user_path
from vitctl.recipes import Recipe, keys_of, recipe_from_settings
from vitctl.recipes.keys import Option
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import HOW_COMPUTED, NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.option import option_of
from vitctl.training.checkpoint import Checkpoint, folder_of, has_checkpoint, newest_checkpoint, newest_step
from vitctl.training.run_folder import SUMMARY, RunFolder, in_use, is_being_written, is_finished, new_run_folder

_SAID_BY_VALUES = ("recipe", "set")  # names of what recipe_settings holds
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


def command_to_go_on(run: Path) -> str:
    """Return the command line that goes on with a run that was stopped."""
    return f"vitctl finetune --resume {shlex.quote(str(run))}"


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


def place_of(run: Path) -> Path:
    """Return where the files of a run are: beside ``run`` where one that is to replace it was stopped."""
    run = Path(os.path.realpath(run))
    return partial_of(run) if has_checkpoint(partial_of(run)) else run


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
    settings = merge(config_from_file(place / "config.json"), given)
    if config.num_processes is not None and "num_threads" not in given:
        settings = replace(settings, num_threads=None)  # each takes its share of the processors
    return replace(settings, **moved, resume=str(run), out=str(run))


def _check_newest(run: Path, place: Path) -> None:
    """Check that a run which was stopped when it was to replace ``run`` is newer than that.

    Raises:
        SettingError: It is not, so that nobody can want to go on with it by that name.
    """
    step = newest_step(place)
    if step is None or place == Path(os.path.realpath(run)) or not is_finished(run):
        return
    if (run / SUMMARY).stat().st_mtime > folder_of(place, step).stat().st_mtime:
        raise SettingError(
            f"--resume {run} is finished. Beside it, {place} holds an older run, stopped after step {step}, that was "
            "to replace it; remove that, or train anew with --overwrite.",
            field="resume",
        )


def earlier_run(config: FinetuneConfig, out: Path) -> EarlierRun | None:
    """Return the run that stands at ``out``, None where there is none or it is to be replaced."""
    out = Path(os.path.realpath(out))
    place = place_of(out) if config.resume is not None else out
    if config.overwrite or not is_run_folder(place):
        return None
    return EarlierRun(out, place, config_from_file(place / "config.json"))


def _differences(now: FinetuneConfig, before: FinetuneConfig, *, is_resumed: bool) -> Iterator[str]:
    skipped = (*NOT_OF_A_RUN, *HOW_COMPUTED, *_SAID_BY_VALUES, *(_WHERE_IT_LIES if is_resumed else ()))
    mine, theirs = (dict(_by_name(config, without=skipped)) for config in (now, before))
    for name in dict.fromkeys((*theirs, *mine)):
        if mine.get(name) != theirs.get(name):
            yield f"{name}: {_told(theirs.get(name))} there, {_told(mine.get(name))} now"


def _by_name(config: FinetuneConfig, *, without: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield every setting by the name a person gives it: an option, or SECTION.KEY of the recipe."""
    recipe = None
    if config.recipe_settings is not None:
        recipe = recipe_from_settings(config.recipe_settings, where="recipe_settings")
    for name, value in config.as_json(without=(*without, "recipe_settings")).items():
        yield option_of(name), _of_recipe(recipe, name) if value is None and recipe is not None else value
    if recipe is not None:
        for path, key in keys_of(Recipe).items():
            yield path, getattr(getattr(recipe, key.section) if key.section else recipe, key.name)


def _of_recipe(recipe: Recipe, name: str) -> Any:
    """Return what stands for an option that a run of before the option has not: its key of the recipe, if it is one."""
    keys = [key for key in keys_of(Recipe).values() if any(name in option.names for option in key.marks(Option))]
    if len(keys) != 1 or keys[0].marks(Option)[0].names != (name,):
        return None
    value = getattr(getattr(recipe, keys[0].section), keys[0].name)
    return (list(value) or None) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
