"""What ``vitctl log`` returns: where a run was written for a tracker, and how much of it."""

from dataclasses import dataclass

from vitctl.results.result import Result


@dataclass(frozen=True, repr=False, kw_only=True)
class LogResult(Result):
    """A run as its tracker has it now."""

    run: str
    """The run folder."""
    to: str
    """The tracker."""
    out: str
    """The folder that was written."""
    num_steps: int
    """Optimiser steps in it."""
    num_validations: int
    """Validations in it."""
    num_pictures: int
    """Pictures in it: curves.png, confusion.png, first-batches.png, those that are there."""
    replaced: bool
    """Whether an earlier log of the same tracker stood there."""
    view: str
    """The command that shows it (tensorboard), or sends it (wandb)."""
