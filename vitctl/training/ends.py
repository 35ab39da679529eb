"""Ending a run before its last step: after a number of validations without a lower loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitctl.data.source import Split
from vitctl.errors import SettingError
from vitctl.results.finetune import Score


@dataclass
class Patience:
    """How many validations in a row have not been better than the best before them; of the weights as trained.

    The closed-form head that training starts from is no validation of it: a high rate may first make it worse.

    Attributes:
        most: After how many the run ends, >= 1.
        lowest: Of the lowest loss so far; None before the first validation.
        num_since: Validations since then.
    """

    most: int
    lowest: Score | None = None
    num_since: int = 0

    def note(self, score: Score) -> None:
        """Count a validation, which has a loss."""
        if self.lowest is None or _loss(score) < _loss(self.lowest):
            self.lowest, self.num_since = score, 0
        else:
            self.num_since += 1

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return self.num_since >= self.most

    def told(self, step: int) -> str:
        """Return the sentence on a run that ended so after ``step``."""
        validations = "1 validation" if self.most == 1 else f"{self.most} validations"
        lowest = "" if self.lowest is None else f" (lowest {_loss(self.lowest):.4f} at step {self.lowest.step})"
        return f"stopped early after step {step}: no lower loss in {validations}{lowest}"

    def facts(self) -> dict[str, Any]:
        """Return what a run goes on from, as JSON takes it."""
        return {"num_since": self.num_since, "lowest": None if self.lowest is None else self.lowest.as_json()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Become what ``facts()`` were of."""
        lowest = facts["lowest"]
        self.num_since, self.lowest = facts["num_since"], None if lowest is None else Score(**lowest)


def check_patience(patience: int | None, val: Split | None) -> None:
    """Check that there is something to be patient with.

    Raises:
        SettingError: There are no validation images.
    """
    if patience is not None and val is None:
        raise SettingError(
            f"--patience {patience} is given and there are no validation images; expected some whose loss can be "
            "watched. Give some with --val or --val-fraction, or leave it out.",
            field="patience",
        )


def _loss(score: Score) -> float:
    return float("inf") if score.loss is None else score.loss
