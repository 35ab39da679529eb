"""Results of few-shot evaluations before they are drawn: grouped, the best of them chosen, named in few words."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vitctl.primitives.formatting import cut_middle
from vitctl.reporting.figures import fitted

Row = Mapping[str, Any]
"""A result, with the keys that ``fewshot_figures`` lists."""

MAX_NAME_LENGTH = 48
RIGHT_END = 1.5  # "all" stands at least this factor to the right of the largest number of shots
NAMED = ("model", "data")
FORMS = {
    "shots": "shots {}", "layer": "layer {}", "pool": "{} pool", "l2": "l2 {:g}", "ways": "{}-way",
    "queries": "{} queries per class", "episodes": "{} episodes",
}  # fmt: skip


def grouped(rows: Iterable[Row], keys: Iterable[str]) -> list[list[Row]]:
    """Return rows of equal ``keys`` together, in the order in which the groups first appear."""
    keys = tuple(keys)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())


def varying_keys(rows: Sequence[Row], keys: Iterable[str]) -> list[str]:
    """Return those of ``keys`` in which the rows differ."""
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def shots_of(row: Row) -> float:
    """Return the number of shots, infinity for all images."""
    return math.inf if row["shots"] == "all" else float(row["shots"])


def best(groups: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """Return at most ``most`` groups, in their order: the most accurate of each data set, then the second, and so on.

    A group is as accurate as its best top-1 at its most shots, on average over its data sets.
    """

    def accuracy(index: int) -> float:
        last = [
            max(some, key=lambda row: (shots_of(row), row["top1_mean"])) for some in grouped(groups[index], ["data"])
        ]
        return float(np.mean([row["top1_mean"] for row in last]))

    ranks, taken = dict[int, int](), Counter[frozenset[str]]()
    for index in sorted(range(len(groups)), key=accuracy, reverse=True):
        data = frozenset(row["data"] for row in groups[index])
        ranks[index] = taken[data]
        taken[data] += 1
    return [groups[index] for index in sorted(sorted(ranks, key=ranks.__getitem__)[:most])]


def series_of(
    rows: Sequence[Row], keys: Sequence[str], names: Mapping[str, str], *, most: int, least: str | None = None
) -> tuple[list[Row], list[str], int]:
    """Return the rows of the best series, each with the number of its "series", their labels, and how many there are.

    Args:
        rows: All of them.
        keys: What tells series apart; a label says those that differ.
        names: Of models and data sets.
        most: How many series are kept.
        least: The key of the labels where none differs; None leaves them empty.
    """
    groups, varying = grouped(rows, keys), varying_keys(rows, keys) or ([least] if least else [])
    kept = best(groups, most)
    numbered: list[Row] = [{**row, "series": number} for number, some in enumerate(kept) for row in some]
    return numbered, [label_of(some[0], varying, names) for some in kept], len(groups)


def places_of(rows: Sequence[Row], over: str) -> dict[object, tuple[float, str]]:
    """Return where the values of ``over`` stand on a logarithmic axis, and what stands below them."""
    numbers = {row[over] for row in rows} - {None, "all"}
    lowest = min(numbers - {0}, default=1.0) / 10
    places: dict[object, tuple[float, str]] = {number: (number or lowest, f"{number:g}") for number in numbers}
    if everything := [row["num_support"] / row["num_classes"] for row in rows if row[over] == "all"]:
        places["all"] = max(*everything, RIGHT_END * max(numbers, default=0)), f"all\n≈ {max(everything):.0f}"
    return places or {"": (1.0, "none")}


def label_of(row: Row, keys: Iterable[str], names: Mapping[str, str]) -> str:
    """Return what ``keys`` of the row say, dots between; nothing of a value that is not there."""
    said = [(key, row[key]) for key in keys if row.get(key) is not None]
    return " · ".join(
        names[value] if key in NAMED else _short(FORMS.get(key, "{}").format(value)) for key, value in said
    )


def names_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return models and data sets by the last two parts between slashes, or as many as tell them apart."""
    short: dict[str, str] = {}
    for key in NAMED:
        parts = {name: re.findall(r"[^/\\]+", name) or [name] for name in {str(row[key]) for row in rows}}
        for count in range(2, max(map(len, parts.values())) + 2):
            found = {name: _short("/".join(parts[name][-count:])) for name in parts}
            if len(set(found.values())) == len(found):
                break
        short |= found
    return short


def _short(text: str) -> str:
    """Return ``text`` on one line, without its middle if it is too long."""
    return cut_middle(" ".join(fitted(text, 10 * MAX_NAME_LENGTH).split()), MAX_NAME_LENGTH)
