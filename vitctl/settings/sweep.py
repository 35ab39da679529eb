"""Settings of ``vitctl sweep``: those of every run, and what differs between runs."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.settings import words
from vitctl.settings.finetune import TrainingSettings
from vitctl.settings.option import Opt, Settings, at_least, at_most, option_of
from vitctl.settings.parsing import GRID, rates_spelt


@dataclass(frozen=True, kw_only=True)
class _Sweep(Settings):
    plan: Annotated[
        str | None, Opt("A TOML file of a sweep, instead of or beside --grid.", "FILE", is_argument=True)
    ] = None
    grid: Annotated[
        tuple[str, ...] | None,
        Opt(
            "An option without its dashes, or SECTION.KEY of the recipe, and its values; repeat for every combination.",
            "KEY=V1,V2,...",
        ),
    ] = None
    seeds: Annotated[
        int | None,
        Opt(
            "Runs of each combination: seeds --seed and up, on the same split.",
            "N",
            limits=(at_least(1), at_most(words.MAX_SEEDS, f"at most {words.MAX_SEEDS:,}.")),
        ),
    ] = None
    folds: Annotated[
        int | None,
        Opt(
            "Cross-validation: of the training images each of N parts is validated on once.",
            "N",
            limits=(at_least(2), at_most(words.MAX_FOLDS, f"at most {words.MAX_FOLDS}.")),
        ),
    ] = None
    select: Annotated[
        str | None,
        Opt(
            "Choose a combination on development images cut from the training images, by nll or top1.",
            "HOW",
            choices=words.SELECT_BY,
        ),
    ] = None
    retrain: Annotated[bool, Opt("Train the one that --select chose again on all training images.")] = False
    soup: Annotated[
        bool, Opt("Average the weights of the runs, all and greedily, judged on the development images.")
    ] = False
    jobs: Annotated[int, Opt("Runs at a time; they share the processors, or the GPUs.", "N", limits=(at_least(1),))] = 1


@dataclass(frozen=True, kw_only=True)
class SweepConfig(_Sweep, TrainingSettings):
    """Settings of ``vitctl sweep``: its own, and those of ``vitctl finetune`` for every run."""

    out: Annotated[
        str | None, Opt("Folder of the runs and of what they come to (default: sweeps/DATA-MODEL).", "DIR")
    ] = None
    dry_run: Annotated[
        bool, Opt("Show the runs, what they cost, and the difference that they can tell; train and write nothing.")
    ] = False

    def check_together(self) -> None:
        """Refuse two sources of validation images beside each other, and several rates for each run."""
        super().check_together()
        for name in ("val", "val_fraction", "fold", "dev_fraction"):
            if self.folds is not None and getattr(self, name) is not None:
                raise SettingError(
                    f"--folds and {option_of(name)} are both given; each part is validated on in turn. Keep one.",
                    field=name,
                )
        if self.tries_rates:
            spelt = rates_spelt(self.lr or "")
            how = "leave it out: with --select the recipe's rates are tried" if spelt == GRID else f"--grid lr={spelt}"
            raise SettingError(
                f"--lr is {spelt}; expected one rate, of all runs. To try several: {how}; --select nll chooses.",
                field="lr",
            )


OF_THE_SWEEP = ("plan", "grid", "seeds", "folds", "select", "retrain", "soup", "jobs", "out", "dry_run")
"""Settings of a sweep that no run has, or has otherwise."""
