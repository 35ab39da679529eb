"""Settings of ``vitctl compare``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.settings import words
from vitctl.settings.groups import BadImages, Columns, Compute, ExactBatches
from vitctl.settings.option import SEED, Opt, Settings


@dataclass(frozen=True, kw_only=True)
class _Runs(Settings):
    runs: Annotated[
        tuple[str, ...],
        Opt(
            "Run folders, or folders of runs; runs that differ in the seed alone are one row.",
            "RUN...",
            is_argument=True,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class _Images(Settings):
    on: Annotated[
        str | None, Opt("Evaluate all on these images; otherwise on their own validation images.", "SPEC")
    ] = None
    split: Annotated[
        str | None,
        Opt(
            "With --on: val, test, train or all; the first of test, val, all that it has.", "NAME", choices=words.SPLITS
        ),
    ] = None
    which: Annotated[str, Opt("Weights of the runs: best, last or average.", "WHICH", choices=words.WHICH)] = "best"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(_Runs, _Images, Columns, BadImages, ExactBatches, Compute):
    """Settings of ``vitctl compare``."""

    seed: Annotated[int, Opt("Of the bootstrap.", "N", limits=SEED)] = 0
    out: Annotated[str | None, Opt("Where to write pictures and tables (default: ./compare).", "DIR")] = None

    def check_together(self) -> None:
        """Check that there is something to compare, and that columns and a split are told of given images."""
        super().check_together()
        if not self.runs:
            raise SettingError(
                "Expected two or more run folders to compare; found none. 'vitctl runs' lists those there are.",
                field="runs",
            )
        self.refuse_columns_without_data(self.on, why="the runs' own images are known.", option="--on")
        if self.on is None:
            self.refuse("split", why="without --on SPEC")
