"""What a sweep would cost, and the smallest difference that it could tell; nothing is trained or written."""

import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitctl.conversation import Conversation
from vitctl.errors import VitctlError
from vitctl.evaluation.comparison import smallest_difference, variance_parts
from vitctl.evaluation.power import VarianceParts
from vitctl.primitives.children import PATIENT, vitctl_command
from vitctl.primitives.documents import UnusableDocument, parse_document
from vitctl.primitives.launched import KEEPER
from vitctl.results.sweep import SweepCost, SweepDryRunResult
from vitctl.settings.command_line import arguments_of
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import Cell
from vitctl.sweeping.failures import FailedRunError, own_sentence
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.scores import CellScores, cell_scores
from vitctl.sweeping.states import is_done, is_finished

# what changes neither steps, seconds nor memory; keys of the recipe that are rates, decays, probabilities
_FREE = ("lr", "seed", "split_seed", "out", "layer_decay", "lr_scale", "class_weights", "sampler", "patience", "flip")
_FREE_OF_RECIPE = ("rate.", "optimizer.weight_decay", "optimizer.betas", "optimizer.momentum", "optimizer.clip_norm")
DISAGREEMENT, SEED_SD = 0.1, 0.01
"""Guesses where no runs are finished: one image in ten is told otherwise, and seeds move a difference by a point."""


def price(
    cells: Sequence[Cell], runs: Sequence[PlannedRun], config: SweepConfig, out: Any, *, conversation: Conversation
) -> SweepDryRunResult:
    """Return what the runs that are left would cost, by a dry run of each kind of combination.

    Args:
        cells: The combinations.
        runs: All of their runs.
        config: Settled.
        out: The folder that would be filled, absolute.
        conversation: Shows how far it is.

    Raises:
        FailedRunError: A run cannot be: its own sentence.
    """
    left = Counter(run.cell for run in runs if not is_done(run))
    kinds: dict[str, dict[str, Any]] = {}
    firsts = {run.cell: run for run in reversed(runs)}
    keys = {cell.name: _kind(cell.given) for cell in cells}
    several = {keys[cell.name]: firsts[cell.name] for cell in reversed(cells)}
    for run in conversation.track([*several.values()][::-1], "dry runs", len(several), "combinations"):
        kinds[keys[run.cell]] = _dry_run(run)
    costs = tuple(_cost(cell, left[cell.name], kinds[keys[cell.name]]) for cell in cells)
    num_val = int(kinds[keys[cells[0].name]]["num_val"])
    if config.folds:  # each image is validated on once
        num_val += int(kinds[keys[cells[0].name]]["num_train"])
    found = measured(cells, runs)
    assumed = found or VarianceParts(disagreement=DISAGREEMENT, seed_sd=SEED_SD, shared=1.0)
    num_seeds = len({run.seed for run in runs})
    smallest = None
    if num_val:
        smallest = smallest_difference(
            num_runs=num_seeds,
            num_images=num_val,
            disagreement=assumed.disagreement,
            seed_sd=assumed.seed_sd,
            shared=assumed.shared,
        )
    return SweepDryRunResult(
        out=str(out),
        cells=costs,
        num_runs=sum(left.values()),
        training_s=float(sum(cost.num_runs * cost.training_s for cost in costs)),
        jobs=config.jobs,
        memory_at_a_time_bytes=min(config.jobs, max(1, sum(left.values()))) * max(one.memory_bytes for one in costs),
        num_seeds=num_seeds,
        num_val=num_val,
        smallest_difference=smallest,
        assumed={name: float(value) for name, value in assumed._asdict().items()},
        is_assumed_from_runs=found is not None,
    )


def _kind(given: Mapping[str, Any]) -> str:
    """Return what tells combinations apart whose runs cost differently."""
    deciding = {name: value for name, value in given.items() if name not in (*_FREE, "set")}
    overrides = [text for text in given.get("set") or () if not text.startswith(_FREE_OF_RECIPE)]
    return repr((sorted(deciding.items(), key=lambda item: item[0]), overrides))


def _dry_run(run: PlannedRun) -> dict[str, Any]:
    command = vitctl_command(["finetune", *arguments_of(FinetuneConfig, {**run.given, "dry_run": True}), "--json"])
    # in a session of its own, as who is lost kills its whole group
    done = subprocess.run(
        command,
        env=PATIENT | os.environ | {KEEPER: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,
    )
    if done.returncode == 0:
        try:
            return parse_document(done.stdout, dict[str, Any])
        except UnusableDocument as error:
            raise FailedRunError(f"The dry run of {run.title} printed no result: {error}.", exit_code=1) from error
    lines = done.stderr.splitlines()
    said = own_sentence(lines) or [f"The dry run of {run.title} ended with exit code {done.returncode}:", *lines[-20:]]
    raise FailedRunError(said[0], *said[1:], f"  It is {run.title}.", exit_code=max(1, done.returncode))


def _cost(cell: Cell, num_runs: int, found: Mapping[str, Any]) -> SweepCost:
    return SweepCost(
        name=cell.name,
        settings=cell.settings,
        num_runs=num_runs,
        steps=int(found["steps"]),
        training_s=float(found["training_s"]),
        memory_bytes=int(found["memory_bytes"]),
    )


def measured(cells: Sequence[Cell], runs: Sequence[PlannedRun]) -> VarianceParts | None:
    """Return how often two combinations disagree, and how far seeds move a difference; None without finished runs."""
    scores = [one for cell in cells if (one := _finished_scores([run for run in runs if run.cell == cell.name]))]
    found = list[VarianceParts]()
    for other in scores[1:]:
        first = scores[0]
        if [one.hashes for one in other.first] != [one.hashes for one in first.first]:
            continue
        for ours, theirs in zip(first.correct, other.correct, strict=True):
            shared = min(len(ours), len(theirs))
            found.append(variance_parts(theirs[:shared] - ours[:shared]))
    if not found:
        return None
    several = any(len(one.correct[0]) > 1 for one in scores)
    return VarianceParts(
        # where no image was told otherwise nothing would be too small to be told, which is too good to be true
        disagreement=max(float(np.mean([one.disagreement for one in found])), 1 / scores[0].num_images),
        seed_sd=float(np.mean([one.seed_sd for one in found])) if several else SEED_SD,
        shared=float(np.mean([one.shared for one in found])),
    )


def _finished_scores(runs: Sequence[PlannedRun]) -> CellScores | None:
    finished = {run.seed for run in runs} - {run.seed for run in runs if not is_finished(run)}
    some = [run for run in runs if run.seed in finished]
    try:
        return cell_scores(some) if some else None
    except VitctlError:
        return None
