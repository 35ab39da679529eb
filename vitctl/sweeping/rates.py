"""Learning rates of a grid: which cells differ in theirs alone, and what lies beyond the edge that wins."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vitctl.settings.words import MAX_LR

RATE_KEYS = ("lr", "rate.lr")
"""Keys of a grid that are learning rates."""
LEAST_FOR_AN_EDGE = 3
"""Rates that a grid must have for one of them to stand at an edge."""

Settings = Mapping[str, Any]


def rate_of(settings: Settings) -> float | None:
    """Return the learning rate among the settings of a cell, > 0; None where none is."""
    for key in RATE_KEYS:
        value = settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def preferences(cells: Sequence[Settings]) -> list[float]:
    """Return what is preferred among cells that cannot be told apart, lower first: rates, else the order given."""
    rates = [rate_of(settings) for settings in cells]
    known = [rate for rate in rates if rate is not None]
    return known if len(known) == len(cells) else [float(index) for index in range(len(cells))]


def rate_beyond(rates: Sequence[float], winner: float) -> float | None:
    """Return the rate that continues the grid where ``winner`` stands at its edge, by the ratio of the last step.

    Args:
        rates: Those of the grid, different, each > 0.
        winner: One of them.

    Returns:
        A rate to three digits; None where the winner stands between two, or the grid has fewer than three.
    """
    ordered = sorted(rates)
    if len(ordered) < LEAST_FOR_AN_EDGE or winner not in (ordered[0], ordered[-1]):
        return None
    neighbour = ordered[1] if winner == ordered[0] else ordered[-2]
    return float(f"{winner * winner / neighbour:.3g}")


def beyond(cells: Sequence[Settings], winner: Settings) -> dict[str, Any] | None:
    """Return the settings of the cell that continues the grid where ``winner`` stands at an edge of its rates.

    Rates are those of the cells with the winner's other settings.

    Returns:
        The winner's settings at another rate; None where it stands at no edge, or no rate lies beyond it.
    """
    key = next((key for key in RATE_KEYS if rate_of({key: winner.get(key)}) is not None), None)
    if key is None:
        return None
    others = {name: value for name, value in winner.items() if name != key}
    rates = [
        float(one[key])
        for one in cells
        if rate_of({key: one.get(key)}) is not None and {name: one[name] for name in one if name != key} == others
    ]
    rate = rate_beyond(rates, float(winner[key]))
    if rate is None or not 0 < rate <= MAX_LR or math.isclose(rate, float(winner[key])):
        return None
    return {**winner, key: rate}
