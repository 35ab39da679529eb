"""What ``vitctl runs`` returns: the runs below a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import Result


@dataclass(frozen=True, repr=False, kw_only=True)
class RunEntry(Result):
    """One run folder."""

    run: str
    """The run folder, absolute."""
    data: str | None
    """The data spec of its training images; None where config.json does not say."""
    model: str | None
    """What is fine-tuned; None where config.json does not say."""
    image_size: tuple[int, int] | None
    """(H, W) px; None where config.json does not say."""
    recipe: str | None
    """Its recipe; None where config.json does not say."""
    seed: int | None
    """Its seed; None where config.json does not say."""
    state: str
    """``finished``, ``running``, ``stopped``, ``diverged``, or ``unreadable``, with ``why``."""
    step: int
    """Optimiser steps taken; a run that was stopped goes on from here, its last checkpoint, or 0, the start."""
    steps: int | None
    """Optimiser steps planned; None where nobody knows yet."""
    top1: float | None
    """Accuracy of best/ on its validation images, 0-1; None where it is not finished, or has none."""
    top1_ci95: tuple[float, float] | None
    """Its 95 % Wilson interval."""
    loss: float | None
    """Mean negative log-likelihood of them, nats."""
    num_val: int | None
    """Validation images; None where it is not finished."""
    age_s: float
    """Seconds since anything was written in it, >= 0."""
    why: str | None = None
    """What is wrong with it, or that another run is to replace it; None where there is nothing to say."""


@dataclass(frozen=True, repr=False, kw_only=True)
class RunsResult(Result):
    """The runs below a folder, in the order asked for."""

    folders: tuple[str, ...]
    """Where they were looked for, absolute: the one given, or ``runs`` and ``sweeps``, those that exist."""
    runs: tuple[RunEntry, ...]
    """One entry each."""
    num_by_state: Mapping[str, int] = field(default_factory=dict)
    """How many are in each state that occurs."""
