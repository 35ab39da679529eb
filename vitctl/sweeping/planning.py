"""The runs of a sweep: which there are, where, by which command; what a sweep that goes on shares with before."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl import __version__
from vitctl.errors import SettingError
from vitctl.primitives.children import vitctl_command
from vitctl.primitives.cpus import num_cpus, num_threads_asked_for
from vitctl.primitives.documents import peek_document, why_unreadable
from vitctl.primitives.files import user_path, write_json, write_text
from vitctl.run_folders import layout
from vitctl.settings.command_line import arguments_of
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.option import described
from vitctl.settings.parsing import Fold
from vitctl.settings.sweep import SweepConfig
from vitctl.settings.words import DEMO, DIGITS
from vitctl.sweeping.cells import Cell, base_of

PLAN, COMMANDS, RUNS, LOGS = "plan.json", "commands.txt", "runs", "logs"
_DIVERGED = ".diverged.json"  # what the name of a run's log becomes
# where and how fast, not what
_MAY_CHANGE = ("num_workers", "device", "save_every", "num_processes", "micro_batch", "checkpointing", "num_threads")


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be, or is there already.

    Attributes:
        cell: Name of its combination.
        seed: Its seed.
        fold: The part of a cross-validation that it validates on, from 1; None without.
        out: Its folder, absolute.
        given: Its settings, by field of ``FinetuneConfig``.
        log: The file of what it says on stdout and stderr.
    """

    cell: str
    seed: int
    fold: int | None
    out: Path
    given: Mapping[str, Any]
    log: Path

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        return f"{self.cell}, seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``vitctl`` that make it."""
        return ["finetune", *arguments_of(FinetuneConfig, self.given)]

    @property
    def diverged(self) -> Path:
        """The file that says so where its loss is no longer finite; the run folder may not stay."""
        return self.log.with_suffix(_DIVERGED)


def out_of(config: SweepConfig) -> Path:
    """Return the folder of a sweep, absolute."""
    if config.out is not None:
        return user_path(config.out).absolute()
    names = (Path(spec).absolute().name for spec in (config.data or DIGITS, config.model or DEMO))
    return (Path("sweeps") / "-".join(names)).absolute()


def seeds_of(config: SweepConfig) -> tuple[int, ...]:
    """Return the seeds of each combination."""
    return tuple(range(config.seed, config.seed + (config.seeds or 1)))


def split_seed_of(config: SweepConfig) -> int:
    """Return the seed of the split that all runs share."""
    return config.seed if config.split_seed is None else config.split_seed


def planned_runs(cells: Sequence[Cell], config: SweepConfig, out: Path) -> tuple[PlannedRun, ...]:
    """Return the runs of all combinations, by seed, then by fold, in the order of starting: every first seed first.

    Args:
        cells: The combinations.
        config: Settled.
        out: Folder of the sweep, absolute; a plan that is there says how many threads each run has.
    """
    threads = threads_of(config, out)
    folds: Sequence[int | None] = [None] if config.folds is None else range(1, config.folds + 1)
    return tuple(
        _planned(cell, seed, fold, config, out, threads)
        for seed in seeds_of(config)
        for cell in cells
        for fold in folds
    )


def _planned(cell: Cell, seed: int, fold: int | None, config: SweepConfig, out: Path, threads: int) -> PlannedRun:
    parts = [f"seed-{seed}", *([] if fold is None else [f"fold-{fold}"])]
    place = (out / RUNS / cell.name).joinpath(*parts)
    given = {"num_threads": threads} | dict(cell.given)
    given |= {"seed": seed, "split_seed": split_seed_of(config), "out": str(place)}
    if fold is not None:
        given["fold"] = Fold(fold, config.folds or fold)
    return PlannedRun(cell.name, seed, fold, place, given, out / LOGS / f"{'-'.join([cell.name, *parts])}.txt")


def threads_of(config: SweepConfig, out: Path) -> int:
    """Return the threads of each run: as given, as a plan that is there has it, as OMP_NUM_THREADS says, or a share."""
    if config.num_threads is not None:
        return config.num_threads
    before = peek_document(out / PLAN).get("threads")
    if isinstance(before, int) and before >= 1:
        return before
    if (asked := num_threads_asked_for()) is not None:
        return asked
    num_processes = config.num_processes if isinstance(config.num_processes, int) else 1
    return max(1, num_cpus() // (config.jobs * num_processes))


def command_of(run: PlannedRun) -> list[str]:
    """Return the command line of a run, as a process starts it.

    One that was killed, or had no space left, between its first weights and its first checkpoint has nothing to go on
    from: it is trained anew, which ``vitctl finetune`` alone does for who says so.
    """
    anew = ["--overwrite"] if has_nothing_to_go_on_from(run) else []
    return vitctl_command([*run.arguments, *anew])


def has_nothing_to_go_on_from(run: PlannedRun) -> bool:
    """Return whether a run has begun, but is not finished, and has no checkpoint."""
    is_unfinished = (run.out / layout.CONFIG).is_file() and not layout.is_finished(run.out)
    return is_unfinished and not layout.has_checkpoint(layout.place_of(run.out))


def check_place(out: Path, config: SweepConfig) -> None:
    """Check that the sweep may be written to ``out``: there is nothing, or a sweep of the same settings; changes none.

    Raises:
        SettingError: There is something else; what differs is named. Or it lies inside a run.
    """
    inside = next((parent for parent in out.parents if "vitctl" in peek_document(parent / layout.CONFIG)), None)
    if inside is not None:
        raise SettingError(
            f"--out {out} lies inside the run {inside}, where 'vitctl runs' looks for no others, and --overwrite of "
            "that run would remove them. Give a folder elsewhere with --out.",
            field="out",
        )
    if (out / PLAN).exists():
        before = peek_document(out / PLAN).get("settings")
        if not isinstance(before, dict):
            why = why_unreadable(out / PLAN) or "it is no plan of a sweep"
            raise SettingError(f"{out / PLAN} cannot be read: {why}; give another folder with --out.", field="out")
        now = _shared(config)
        differing = [
            f"  {name}: {_told(before.get(name))} there, {_told(now.get(name))} now"
            for name in dict.fromkeys((*before, *now))
            if before.get(name) != now.get(name) and name not in _MAY_CHANGE
        ]
        # a first command that was mistaken leaves a plan, and nothing to be kept; that a run diverged is a result
        if differing and (any((out / RUNS).glob("**/config.json")) or any((out / LOGS).glob(f"*{_DIVERGED}"))):
            raise SettingError(
                f"{out} is a sweep with other settings; more values and seeds may be added, but what all runs share "
                "stays. Give another folder with --out. What differs:",
                *differing,
                field="out",
            )
    elif out.is_dir() and any(not inner.name.startswith(".") for inner in out.iterdir()):
        raise SettingError(f"--out {out} is not empty and no sweep. Give another folder with --out.", field="out")


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)


def _shared(config: SweepConfig) -> dict[str, Any]:
    """Return what all runs share, as JSON holds it."""
    known = described(FinetuneConfig)
    shared = {name: known[name].as_json(value) for name, value in base_of(config).items()}
    return shared | {"split_seed": split_seed_of(config), "folds": config.folds}


def write_plan(out: Path, config: SweepConfig, cells: Sequence[Cell], runs: Sequence[PlannedRun]) -> None:
    """Write what the sweep is into its folder, before anything runs, and the command of each run for a person."""
    out.mkdir(parents=True, exist_ok=True)
    threads = threads_of(config, out)
    write_json(
        out / PLAN,
        {
            "vitctl": __version__,
            "settings": _shared(config),
            "cells": [{"name": cell.name, "settings": cell.settings} for cell in cells],
            "seeds": list(seeds_of(config)),
            "folds": config.folds,
            "threads": threads,
        },
    )
    lines = [f"cd {shlex.quote(str(Path.cwd()))}", *(shlex.join(["vitctl", *run.arguments]) for run in runs)]
    write_text(out / COMMANDS, "\n".join(lines) + "\n")
