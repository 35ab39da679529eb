"""Whether a model shows what the papers found: over all of its layers, and more than with random weights.

**yes**: it does. **partly**: it does, but over a part of the depth only, or random weights show it as well, so that
training has not brought it. **no**: it does not. **cannot be said**: a number is missing (the control, say), or values
are too close. The papers' figures are of large models and much data; here only directions are judged.

A trend over layers is Kendall's tau between depth and value: the share of pairs of layers that are in the order claimed
minus the share that are not, -1 to 1. It sees every layer where two ends see two; unlike a slope it does not depend on
one layer far off; and unlike Spearman's coefficient it can be read as a number of pairs. How large a trend is, is said
by the slope that goes with it (Theil and Sen's, the median over the same pairs).

Importing this imports neither numpy nor scipy: help pages read the modules that use it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vitctl.inspecting.findings import Findings

YES, PARTLY, NO, UNKNOWN = "yes", "partly", "no", "cannot be said"

NOTICEABLE = 0.02  # of the larger value: what is closer together than that cannot be told apart; a guess
LEAST_LAYERS = 4  # three are in order by chance in one case of six
STRONG = 0.7  # six of seven pairs in order; of four layers or more, by chance in less than one case of twenty
WEAK = 0.2  # three of five pairs; a guess


@dataclass(frozen=True)
class Judged:
    """One claim, held against what was found.

    Attributes:
        claim: What the papers found.
        verdict: ``YES``, ``PARTLY``, ``NO`` or ``UNKNOWN``.
        numbers: What was found here.
    """

    claim: str
    verdict: str
    numbers: str


def no_claims(_found: "Findings", _control: "Findings | None") -> list[Judged]:
    """Return nothing: the ``judge`` of an analysis that pictures, not numbers, decide."""
    return []


def fact(findings: "Findings | None", name: str) -> float | None:
    """Return a scalar of findings; None without it, or without findings."""
    value: Any = None if findings is None else findings.facts.get(name)
    return None if value is None else float(value)


def decided(claim: str, values: Mapping[str, float | None], holds: Callable[..., bool]) -> Judged:
    """Return whether a claim holds of ``values``; it cannot be said where one is missing or not finite."""
    numbers = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
    if not all(map(_is_known, values.values())):
        return Judged(claim, UNKNOWN, numbers)
    return Judged(claim, YES if holds(*values.values()) else NO, numbers)


def larger(
    claim: str, large: tuple[str, float | None], small: tuple[str, float | None], *, margin: float | None = None
) -> Judged:
    """Return whether one value is larger than another; closer than ``margin`` it cannot be said.

    Args:
        claim: What is claimed.
        large: Name and value of what the claim says is larger.
        small: Likewise of what it says is smaller.
        margin: In the unit of the values; None is ``NOTICEABLE`` of the larger one.
    """
    found = decided(claim, dict([large, small]), lambda first, second: first > second)
    first, second = large[1], small[1]
    if found.verdict == UNKNOWN or first is None or second is None:
        return found
    least = NOTICEABLE * max(abs(first), abs(second)) if margin is None else margin
    return replace(found, verdict=UNKNOWN) if abs(first - second) <= least else found


def more_than_random(
    claim: str, own: tuple[str, float | None], random: float | None, *, least: float, beside: str = ""
) -> Judged:
    """Return whether a value is above ``least``, and above that of random weights.

    Args:
        claim: What is claimed.
        own: Name and value.
        random: That of random weights.
        least: What is below shows nothing.
        beside: Of the numbers, what to compare with.
    """
    numbers = ", ".join(filter(None, (f"{own[0]} {_number(own[1])}", beside, f"random weights {_number(random)}")))
    if own[1] is None or not math.isfinite(own[1]):
        return Judged(claim, UNKNOWN, numbers)
    return Judged(claim, NO if own[1] < least else _beside(YES, own[1], random), numbers)


def everywhere(claim: str, what: str, own: "np.ndarray | None", random: "np.ndarray | None") -> Judged:
    """Return whether values are above 0 in every layer, and in the lowest above those of random weights.

    Args:
        claim: What is claimed.
        what: Of the values.
        own: (L,); NaN where a layer has none.
        random: (L,) of random weights.
    """
    values, others = (
        [] if one is None else [float(value) for value in one if math.isfinite(value)] for one in (own, random)
    )
    if not values:
        return Judged(claim, UNKNOWN, f"smallest {what} not defined")
    count = sum(value > 0 for value in values)
    least = min(others) if others else None
    numbers = (
        f"{count} of {len(values)} layers, smallest {what} {_number(min(values))}, random weights {_number(least)}"
    )
    if count < len(values):
        return Judged(claim, PARTLY if count else NO, numbers)
    return Judged(claim, _beside(YES, min(values), least), numbers)


def _beside(verdict: str, own: float, random: float | None) -> str:
    """Return ``verdict`` where a value is noticeably above that of random weights."""
    if random is None or not math.isfinite(random):
        return UNKNOWN
    return verdict if own - random > NOTICEABLE * max(abs(own), abs(random)) else PARTLY


@dataclass(frozen=True)
class Trend:
    """How values go over layers.

    Attributes:
        tau: Kendall's, -1 to 1; above 0 they rise.
        change: From the first layer to the last by the median slope, in the unit of the values.
        span: From the lowest value to the highest.
        turn: How far the last value is below the highest.
        num_layers: How many have a value.
    """

    tau: float
    change: float
    span: float
    turn: float
    num_layers: int


def trend(values: "Sequence[float] | np.ndarray") -> Trend | None:
    """Return the trend of (L,) values over layers; None with fewer than four. Those not finite are left out."""
    import numpy as np
    from scipy.stats import kendalltau, theilslopes

    array = np.asarray(values, dtype=np.float64)
    depth = np.flatnonzero(np.isfinite(array))
    array = array[depth]
    if len(array) < LEAST_LAYERS:
        return None
    span = float(np.ptp(array))
    tau = float(kendalltau(depth, array).statistic) if span > 0 else 0.0
    change = float(theilslopes(array, depth).slope) * float(depth[-1] - depth[0])
    return Trend(tau, change, span, float(array.max() - array[-1]), len(array))


def rises(
    claim: str,
    unit: str,
    own: "np.ndarray | None",
    random: "np.ndarray | None",
    *,
    margin: float = 0.0,
    falls: bool = False,
) -> Judged:
    """Return whether values rise (or fall) over all layers, and more than with random weights.

    Yes is a strong trend that does not turn back by more than ``margin`` before the last layer.

    Args:
        claim: What is claimed.
        unit: Of the values.
        own: (L,).
        random: (L,) of random weights.
        margin: Values closer together than this are alike.
        falls: Whether the claim is that they fall.
    """
    sign = -1 if falls else 1
    trends = [None if one is None else trend(sign * one) for one in (own, random)]
    numbers = f"{_course(own, trends[0], unit, sign)}; random weights {_course(random, trends[1], unit, sign)}"
    mine, other = trends
    if mine is None or mine.span <= margin:
        return Judged(claim, UNKNOWN, numbers)
    if mine.tau < WEAK:
        return Judged(claim, NO, numbers)
    if other is None:
        return Judged(claim, UNKNOWN, numbers)
    is_of_random = other.span > margin and other.tau >= WEAK and other.change >= mine.change
    is_full = mine.tau >= STRONG and mine.turn <= margin
    return Judged(claim, YES if is_full and not is_of_random else PARTLY, numbers)


def _course(values: "np.ndarray | None", found: Trend | None, unit: str, sign: int) -> str:
    """Return how values go, in words; ``found`` is the trend of ``sign`` times them."""
    if values is None or not len(values):
        return "not defined"
    ends = f"{_number(float(values[0]))} to {_number(float(values[-1]))} {unit}"
    if found is None:
        return f"{ends} ({len(values)} layers, too few for a trend)"
    extreme = max(sign * float(value) for value in values if math.isfinite(value)) * sign
    is_between = extreme not in (float(values[0]), float(values[-1]))
    peak = f", {'highest' if sign > 0 else 'lowest'} {_number(extreme)}" if is_between else ""
    return f"{ends}{peak} (tau {sign * found.tau:.2f})"


def mean_over(values: "np.ndarray", axis: int) -> "np.ndarray":
    """Return the mean over one axis of (L, ...) values, NaN left out; NaN where there is nothing else."""
    import numpy as np

    is_known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(is_known, values, 0.0).sum(axis) / is_known.sum(axis)
    return means


def mean_off_diagonal(similarities: "np.ndarray") -> float:
    """Return the mean of (L, L) similarities beside the diagonal, NaN left out; NaN where there is nothing else."""
    import numpy as np

    values = similarities[~np.eye(len(similarities), dtype=bool)]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> str:
    return "not defined" if value is None or not math.isfinite(value) else f"{value:.3g}"
