"""What an analysis found: arrays for the .npz, scalars for the .json, a table for the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitctl.results.inspect_model import InspectedImages


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        arrays: By name; strings as numpy's unicode arrays, nothing that needs a pickle.
        meanings: One sentence for every array: its shape, its unit, what it is.
        facts: Scalars and short lists for JSON; None where a number is not defined, never NaN.
        header: Of the short table.
        rows: Of the short table, as text.
        notes: Sentences that the user should not miss.
        words: Fields of the analysis's ``Words`` that options made others, by name.
        images: Which it drew itself; None where it was shown them.
    """

    arrays: Mapping[str, np.ndarray]
    meanings: Mapping[str, str]
    facts: Mapping[str, Any]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())
    words: Mapping[str, Any] = field(default_factory=dict)
    images: InspectedImages | None = None

    def __post_init__(self) -> None:
        if set(self.arrays) != set(self.meanings):
            raise AssertionError(f"arrays {sorted(self.arrays)} and meanings {sorted(self.meanings)} differ")


def finite(value: float) -> float | None:
    """Return ``value`` as a Python float, None where it is not finite: JSON cannot say it."""
    number = float(value)
    return number if np.isfinite(number) else None
