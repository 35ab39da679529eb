"""Results of few-shot evaluations before they are drawn: grouped, the best of them chosen, named in few words."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from vitctl.reporting.figures import fitted

Row = Mapping[str, Any]
"""A result, with the keys that ``fewshot_figures`` lists."""

MAX_NAME_LENGTH = 48
FORMS = {
    "shots": "{} shots", "layer": "layer {}", "pool": "{} pool", "l2": "l2 {:g}", "ways": "{}-way",
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
    """Return at most ``most`` groups, in their order: those with the best top-1 at their most shots, on average."""

    def accuracy(index: int) -> float:
        all_data = grouped(groups[index], ["data"])
        last = [max(of_data, key=lambda row: (shots_of(row), row["top1_mean"])) for of_data in all_data]
        return float(np.mean([row["top1_mean"] for row in last]))

    return [groups[i] for i in sorted(sorted(range(len(groups)), key=accuracy, reverse=True)[:most])]


def best_of_each_data(panels: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """Return at most ``most`` panels, in their order: the most accurate of each data set, then the second, ..."""

    def accuracy(panel: list[Row]) -> float:
        return float(np.mean([row["top1_mean"] for row in panel]))

    by_data = [
        [panel for panel in panels if panel[0]["data"] == data] for data in {panel[0]["data"]: 0 for panel in panels}
    ]
    in_turn = zip_longest(*(sorted(some, key=accuracy, reverse=True) for some in by_data))
    chosen = [panel for nth in in_turn for panel in nth if panel][:most]
    return [panel for panel in panels if panel in chosen]


def label_of(row: Row, keys: Iterable[str], names: Mapping[str, str]) -> str:
    """Return what ``keys`` of the row say, dots between; nothing of a value that is not there."""
    texts = []
    for key in keys:
        value = row.get(key)
        if key in ("data", "model"):
            texts.append(names[str(value)])
        elif key == "shots" and value in (1, "all"):
            texts.append("1 shot" if value == 1 else "all images")
        elif value is not None:
            texts.append(_middle_cut(one_line(FORMS.get(key, "{}").format(value))))
    return " · ".join(filter(None, texts))


def short_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return models and data sets by the last two parts between slashes, or as many as tell them apart."""
    short: dict[str, str] = {}
    for key in ("model", "data"):
        parts = {name: re.findall(r"[^/\\]+", name) or [name] for name in {str(row[key]) for row in rows}}
        for count in range(2, max(map(len, parts.values())) + 2):
            found = {name: _middle_cut(one_line("/".join(parts[name][-count:]))) for name in parts}
            if len(set(found.values())) == len(found):
                break
        short |= found
    return short


def one_line(text: str) -> str:
    """Return ``text`` on one line, cut where it is far too long."""
    return " ".join(fitted(text, 10 * MAX_NAME_LENGTH).split())


def _middle_cut(text: str) -> str:
    """Return ``text`` without its middle if it is too long: models of one family differ at the end of their names."""
    half = (MAX_NAME_LENGTH - 1) // 2
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:half]}…{text[-half:]}"


def wrapped_label(text: str, width: int) -> str:
    """Return ``text`` in at most three lines of ``width`` characters, broken after a dot or semicolon."""
    tied = "\N{NO-BREAK SPACE}"
    text = re.sub(r"(?<![·;]) ", tied, text)
    return textwrap.fill(text, width, max_lines=3, placeholder=" …", break_on_hyphens=False).replace(tied, " ")
