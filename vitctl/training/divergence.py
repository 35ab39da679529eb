"""Numbers of a run that grow out of bounds: the error of those that are no longer finite, a warning before that."""

import math
from collections import deque

from vitctl.errors import SettingError

_NUM_STEPS = 50  # long enough that one odd batch says nothing
# guess: digits with a ridge head at 1.5e-3 after a warm-up of only 6 steps has a mean of 1.04 ln(C) in its first 50
_FACTOR = 3.0


class Diverged(SettingError):
    """A number of the run is no longer finite; the rate is what is to blame, as a rule.

    Attributes:
        what: Which number: ``loss``, ``validation loss`` or ``weights``.
        step: 1..num_steps; of weights and their validation the step that made them.
        lower_lr: A peak rate to try instead.
    """

    def __init__(self, message: str, *lines: str, what: str, step: int, lower_lr: str) -> None:
        super().__init__(message, *lines, field="lr")
        self.what, self.step, self.lower_lr = what, step, lower_lr


def lower(peak_lr: float) -> str:
    """Return a third of a rate, as one writes it."""
    return f"{peak_lr / 3:.1g}"


def diverged(what: str, value: float, *, step: int, peak_lr: float) -> Diverged:
    """Return the error for a run whose numbers are no longer finite."""
    found = f"The {what} became {value} at step {step} (peak learning rate {peak_lr:.3g}); expected a finite number."
    return Diverged(f"{found} Try a lower rate, e.g. --lr {lower(peak_lr)}.", what=what, step=step,
                    lower_lr=lower(peak_lr))  # fmt: skip


class LossWatch:
    """Says once that a run goes astray though its loss is still finite.

    The rule: the mean loss of the last 50 steps is more than three times ln(C), the loss of a model that gives each of
    C classes the same probability. A head that fits at first and is shaken up by the warm-up stays below, as do
    smoothed and mixed labels, for which ln(C) is the same. The mean over weighted classes is over their weights, and no
    exception.

    Args:
        num_classes: C, >= 2.
        peak_lr: The highest rate of the run, for the advice.
    """

    def __init__(self, num_classes: int, *, peak_lr: float) -> None:
        self._num_classes, self._peak_lr = num_classes, peak_lr
        self._losses: deque[float] = deque(maxlen=_NUM_STEPS)
        self._has_warned = False

    def add(self, step: int, loss: float) -> str | None:
        """Add the loss of a step, 1..num_steps, in order; return a sentence the first time that the rule holds."""
        self._losses.append(loss)
        if self._has_warned or len(self._losses) < _NUM_STEPS:
            return None
        mean, knows_nothing = math.fsum(self._losses) / _NUM_STEPS, math.log(self._num_classes)
        if mean <= _FACTOR * knows_nothing:
            return None
        self._has_warned = True
        return (
            f"the mean loss of steps {step - _NUM_STEPS + 1} to {step} is {mean:.3g}, more than three times that of "
            f"guessing among {self._num_classes} classes, {knows_nothing:.3g}: training goes astray. A lower rate may "
            f"help, e.g. --lr {lower(self._peak_lr)}; Ctrl-C stops this run."
        )
