"""Settings of ``vitctl evaluate``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.settings import words
from vitctl.settings.groups import BadImages, Columns, Compute, ExactBatches, ModelArguments, NamedModel, Processes, Run
from vitctl.settings.option import Opt, Settings


@dataclass(frozen=True, kw_only=True)
class _Images(Settings):
    data: Annotated[str | None, Opt("Images to evaluate on; otherwise the run's own validation images.", "SPEC")] = None


@dataclass(frozen=True, kw_only=True)
class _Split(Settings):
    split: Annotated[
        str | None,
        Opt(
            "val, test, train or all; of --data the first of test, val, all that it has, of a run's own images val.",
            "NAME",
            choices=words.SPLITS,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(
    Run, NamedModel, ModelArguments, _Images, Columns, _Split, BadImages, ExactBatches, Compute, Processes
):
    """Settings of ``vitctl evaluate``."""

    out: Annotated[str | None, Opt("Where to write (default: RUN/evaluate-SPLIT).", "DIR")] = None

    def check_together(self) -> None:
        """Check that there is one model, and that columns are told of given data."""
        super().check_together()
        self.check_one_model(self.run)
        self.refuse_columns_without_data(self.data, why="the run's own data know theirs.")
