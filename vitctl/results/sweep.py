"""What ``vitctl sweep`` returns: many runs, one row for each combination of settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitctl.results.result import JsonValue, Result


@dataclass(frozen=True, repr=False, kw_only=True)
class SweepCell(Result):
    """One combination of settings, over its runs. Intervals are of 95 %: other seeds (or folds) and other images."""

    name: str
    """What it is called in tables, e.g. ``lr=0.0001``; its folder below ``runs/`` is of that name."""
    settings: Mapping[str, JsonValue]
    """What of its settings differs from other cells, by KEY of the grid."""
    runs: tuple[str, ...]
    """Its run folders, absolute, by seed, and of each by fold."""
    state: str
    """``finished``; ``diverged`` where the loss of one of its runs is no longer finite."""
    top1_mean: float | None
    """Accuracy, mean over the runs, 0-1; None where it diverged, or nothing is validated."""
    top1_ci95: tuple[float, float] | None
    """Its interval."""
    top1_per_run: tuple[float, ...]
    """Of each run; none where it diverged, or nothing is validated."""
    nll_mean: float | None
    """Mean negative log-likelihood, nats."""
    nll_ci95: tuple[float, float] | None
    """Its interval."""
    difference: float | None
    """Of accuracies from the first cell, paired, -1 to 1; None of the first, and where images are not the same."""
    difference_ci95: tuple[float, float] | None
    """Its interval."""
    p: float | None
    """Two-sided, that the first cell is as good, 0-1."""
    p_holm: float | None
    """The same after Holm's correction for the number of cells, 0-1."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Selected(Result):
    """The combination that was chosen, by development images that no run trained on."""

    cell: str
    """Its name."""
    settings: Mapping[str, Any]  # as JsonValue it could not be read back: pydantic does not follow that alias
    """Its settings, by KEY of the grid."""
    by: str
    """nll or top1."""
    score: float
    """Its score on the development images: chosen, and so too good to be true."""
    best: str
    """Name of the cell with the best score."""
    standard_error: float
    """Paired, of the difference between the two; 0 where they are one."""
    is_at_edge: bool
    """Whether it stands at an edge of the grid, so that better settings may lie beyond."""
    extended: tuple[str, ...]
    """Names of cells that were added beyond an edge."""
    num_dev: int
    """Development images."""
    why: str
    """The choice in a sentence."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Retrained(Result):
    """The combination that was chosen, trained again on all training images and scored on the validation images."""

    runs: tuple[str, ...]
    """Its run folders, absolute, by seed."""
    top1_mean: float | None
    """Accuracy on the validation images, 0-1; None without them."""
    top1_ci95: tuple[float, float] | None
    """Its interval."""
    num_val: int
    """Validation images; 0 where there are none."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Soup(Result):
    """Averages of the weights of runs (Model soups, arXiv 2203.05482), judged on the development images."""

    out: str
    """Folder of what was chosen, absolute: a timm folder."""
    chosen: str
    """``greedy`` or ``uniform``; ``single`` where no soup is better than the best run, whose weights these are then."""
    by: str
    """nll or top1: what decides, over the development images."""
    num_runs: int
    """Runs in the uniform soup: all that did not diverge."""
    greedy_runs: tuple[str, ...]
    """Runs in the greedy soup, absolute, the best first."""
    greedy_top1: float
    """Its accuracy on the development images, 0-1."""
    greedy_nll: float
    """Its mean negative log-likelihood, nats."""
    uniform_top1: float
    """Accuracy of the mean of all."""
    uniform_nll: float
    """Its mean negative log-likelihood."""
    single_run: str
    """The best run alone, absolute; as all, by the weights of its last/."""
    single_top1: float
    """Its accuracy."""
    single_nll: float
    """Its mean negative log-likelihood."""
    num_dev: int
    """Development images."""


@dataclass(frozen=True, repr=False, kw_only=True)
class SweepResult(Result):
    """A sweep: the content of its ``sweep.json``."""

    out: str
    """Its folder, absolute."""
    cells: tuple[SweepCell, ...]
    """One each, in the order of the grid."""
    seeds: tuple[int, ...]
    """Seeds of the runs of each cell."""
    folds: int | None
    """Parts of a cross-validation; None without."""
    num_val: int
    """Images that every run of a cell, or all its folds together, were validated on; 0 where none were."""
    validated_on: str
    """``val``, ``dev`` or ``folds``: validation images, development images, each part in turn."""
    selected: Selected | None = None
    """What ``--select`` chose; None without."""
    retrained: Retrained | None = None
    """What ``--retrain`` came to; None without."""
    soup: Soup | None = None
    """What ``--soup`` came to; None without."""
    notes: tuple[str, ...] = ()
    """What to know about the table."""


@dataclass(frozen=True, repr=False, kw_only=True)
class SweepCost(Result):
    """What one combination of settings would cost."""

    name: str
    """Its name."""
    settings: Mapping[str, JsonValue]
    """Its settings, by KEY of the grid."""
    num_runs: int
    """Runs of it."""
    steps: int
    """Optimiser steps of each."""
    training_s: float
    """Seconds of each, estimated, alone on the machine."""
    memory_bytes: int
    """Of each, estimated."""


@dataclass(frozen=True, repr=False, kw_only=True)
class SweepDryRunResult(Result):
    """What a sweep would cost, and what it could tell; nothing was trained or written."""

    dry_run: bool = True
    """Always true: what tells this document from a sweep's result."""
    out: str
    """Folder that it would fill, absolute."""
    cells: tuple[SweepCost, ...]
    """One each."""
    num_runs: int
    """Runs in all, those that are finished already left out."""
    training_s: float
    """Seconds of training that are left, estimated, one run after the other."""
    jobs: int
    """Runs at a time."""
    memory_at_a_time_bytes: int
    """Of as many runs, of those that need most; estimated."""
    num_seeds: int
    """Runs of each combination, or of each of its folds."""
    num_val: int
    """Images to validate on; of a cross-validation, in all parts together."""
    smallest_difference: float | None
    """Of accuracies, that these seeds and images would tell in four of five sweeps, 0-1; None without validation."""
    assumed: Mapping[str, float] = field(default_factory=dict)
    """What it rests on, each 0-1: ``disagreement`` of two combinations, ``seed_sd`` of their difference, what of the
    disagreement is ``shared`` by all seeds."""
    is_assumed_from_runs: bool = False
    """Whether that is from finished runs of this sweep; else it is guessed."""
