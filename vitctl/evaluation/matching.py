"""Which runs of two rows are compared with each other."""

from dataclasses import dataclass

import numpy as np

from vitctl.evaluation.row_tables import RowTables

_ONE_RUN = (
    "Intervals of differences between one run and a row of several cover other images and other seeds of the several, "
    "not of the one."
)


@dataclass(frozen=True)
class Matching:
    """Which run of a row is compared with which of another.

    Attributes:
        first: Positions of runs of the first.
        second: As many, of the second.
        note: What to know where not every run has its own counterpart; empty where it has.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    note: str = ""

    def table(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return second - first, run by run, of two tables (S, M) each."""
        difference: np.ndarray = second[list(self.second)] - first[list(self.first)]
        return difference


def match_runs(a: RowTables, b: RowTables) -> Matching:
    """Return which runs of two rows are compared with each other.

    Runs of the same seeds by seed. Seeds of one row that the other lacks make no pair, so a row of a single run is
    compared with every run of the other, as these weights and no others; of rows of several runs those are taken
    whose seeds both have, or, where there are not two, as many as both have, in their order: runs of other seeds are
    independent, and which of them meet does not matter.
    """
    all_a, all_b = tuple(range(len(a.seeds))), tuple(range(len(b.seeds)))
    if len(a.seeds) == 1 or len(b.seeds) == 1:
        most = max(len(a.seeds), len(b.seeds))
        first, second = (one if len(one) == most else one * most for one in (all_a, all_b))
        return Matching(first, second, _ONE_RUN if most > 1 else "")
    shared = [seed for seed in a.seeds if seed in b.seeds]
    if len(shared) >= 2:
        first, second = (tuple(row.seeds.index(seed) for seed in shared) for row in (a, b))
        is_whole = len(shared) == len(all_a) == len(all_b)
        listed = ", ".join(map(str, shared))
        note = "" if is_whole else f"{a.name} and {b.name} are compared by the seeds that both have: {listed}."
        return Matching(first, second, note)
    number = min(len(all_a), len(all_b))
    note = f"{a.name} and {b.name} have other seeds: their first {number} runs are compared in order."
    return Matching(all_a[:number], all_b[:number], note)
