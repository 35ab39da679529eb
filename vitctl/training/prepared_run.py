"""A run with nothing left to decide."""

from dataclasses import dataclass, replace
from typing import Self

from vitctl.data.training_data import TrainingData
from vitctl.models.build import LoadedModel
from vitctl.models.geometry import Resolution
from vitctl.primitives.decision import Decision
from vitctl.run_folders.selection import KeptSelection
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.job import Job
from vitctl.training.plan import Plan


@dataclass(frozen=True)
class PreparedRun:
    """Everything decided, checked and loaded; nothing trained or written.

    Attributes:
        config: Every setting resolved: ``--config`` on it repeats the run.
        plan: Every value with its reason.
        data: Images, checked and split.
        loaded: The model at its new size, with its new head.
        resolution: What changing the size did; None for random weights, built at the size.
        job: What to train and how.
        has_ridge_head: Whether the head is to be computed from the frozen features before training.
        selection: How its rate was chosen among several; None where it was not.
    """

    config: FinetuneConfig
    plan: Plan
    data: TrainingData
    loaded: LoadedModel
    resolution: Resolution | None
    job: Job
    has_ridge_head: bool
    selection: KeptSelection | None = None

    def by_choice(self, selection: KeptSelection | None) -> Self:
        """Return it with the choice that its rate comes from."""
        if selection is None:
            return self
        rate = Decision(self.plan.lr.value, selection.selected.why)
        return replace(self, plan=replace(self.plan, lr=rate), selection=selection)
