"""The picture of a sweep: mean accuracy of each combination with its interval, and its difference from the first.

A cell is one combination as ``sweep.json`` has it; accuracies are fractions 0-1, the picture shows percent. Over a
number that varies it is a line, or one line for each value of a second key; else each combination has a row. Sizes are
in inches, and guesses that the pictures were looked at with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import offset_copy

from vitctl.reporting.figures import BLUE, GREY, fitted, save, series_style
from vitctl.shown import shown

Cell: TypeAlias = Mapping[str, Any]
MAX_ROWS, MAX_LINES = 30, 7
LONGEST_NAME = 44  # Latin letters at the side
_LOG_FROM = 8.0  # a number that varies by more than this factor is on a logarithmic axis
_MEAN, _DIFFERENCE = ("top1_mean", "top1_ci95"), ("difference", "difference_ci95")


@dataclass(frozen=True)
class _Over:
    """What lines are drawn over.

    Attributes:
        key: The key whose values are the places.
        by: The key with a line for each value; None where there is one line.
        lines: The cells of each line by its name, in the order of their places.
        is_log: Whether the axis is logarithmic.
    """

    key: str
    by: str | None
    lines: Mapping[str, Sequence[Cell]]
    is_log: bool


def draw_sweep(cells: Sequence[Cell], path: Path, *, title: str) -> None:
    """Draw the combinations of a sweep as a PNG.

    Args:
        cells: As ``sweep.json`` has them, one or more; of very many the most accurate are shown.
        path: PNG to write.
        title: What was measured on what.
    """
    has_differences = any(cell["difference"] is not None for cell in cells)
    over = _over(cells)
    figure = _rows_figure(cells, title, has_differences) if over is None else _lines_figure(over, title, cells)
    save(figure, path)


# --- over a number --------------------------------------------------------------------------------------------


def _over(cells: Sequence[Cell]) -> _Over | None:
    """Return what lines can be drawn over: one number that varies, or one beside another key; else None."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell["settings"]))
    values = {key: list(dict.fromkeys(str(cell["settings"].get(key)) for cell in cells)) for key in keys}
    varying = [key for key in keys if len(values[key]) > 1]
    numbers = [key for key in varying if all(_is_number(cell["settings"].get(key)) for cell in cells)]
    if not numbers or len(varying) > 2:
        return None
    key = max(numbers, key=lambda one: len(values[one]))  # the first of those with most values
    by = next((one for one in varying if one != key), None)
    if by is not None and len(values[by]) > MAX_LINES:
        return None
    lines: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda one: one["settings"][key]):
        lines.setdefault("" if by is None else f"{by}={_word(cell['settings'].get(by))}", []).append(cell)
    if by is not None:  # in the order of the grid
        order = list(dict.fromkeys(f"{by}={_word(cell['settings'].get(by))}" for cell in cells))
        lines = {name: lines[name] for name in order}
    places = [float(cell["settings"][key]) for cell in cells]
    is_log = min(places) > 0 and max(places) / min(places) >= _LOG_FROM
    return _Over(key, by, lines, is_log)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _lines_figure(over: _Over, title: str, cells: Sequence[Cell]) -> Figure:
    panels = [_MEAN] + [_DIFFERENCE] * any(cell["difference"] is not None for cell in cells)
    figure = Figure(figsize=(5.2 * len(panels) + 0.4, 3.9), layout="constrained")
    titles = (title, _from_first(cells))
    for axes, panel, heading in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, titles, strict=False):
        _draw_lines(axes, over, panel, is_first=panel == _MEAN)
        _set_places(axes, over, cells)
        axes.set_title(heading, fontsize=10, parse_math=False)
        axes.set_ylabel("top-1 (%)" if panel == _MEAN else "points of top-1", fontsize=9)
        _dress(axes)
    if over.by is not None:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        legend = figure.legend(
            handles, [fitted(label, 30) for label in labels], loc="outside lower center", ncols=4, frameon=False,
            fontsize=8,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _draw_lines(axes: Axes, over: _Over, panel: tuple[str, str], *, is_first: bool) -> None:
    mean_key, interval_key = panel
    num_lines = len(over.lines)
    for number, (name, line) in enumerate(over.lines.items()):
        style = series_style(number)
        places = np.array([_place(cell, over, number, num_lines) for cell in line])
        means = np.array([np.nan if cell[mean_key] is None else 100 * cell[mean_key] for cell in line])
        intervals = np.array([[100 * end for end in cell[interval_key] or (np.nan, np.nan)] for cell in line])
        reach = np.abs(intervals.T - means)
        if not is_first:  # the first is no distance from itself
            is_base = np.array([cell["difference"] is None and cell["top1_mean"] is not None for cell in line])
            axes.plot(places[is_base], np.zeros(is_base.sum()), "o", mfc="white", mec=style["color"], zorder=3)
        axes.errorbar(places, means, yerr=reach, capsize=2.5, elinewidth=1, label=name, **style)
        if is_first:
            for place, cell in zip(places, line, strict=True):
                runs = [100 * one for one in cell["top1_per_run"]]
                _draw_runs(axes, [place] * len(runs), runs, aside=(5, 0), colour=style["color"])
        for place, cell in zip(places, line, strict=True):
            if cell["state"] == "diverged":
                axes.text(place, 0.02, "diverged", rotation=90, transform=axes.get_xaxis_transform(), fontsize=8,
                          color=style["color"], ha="center", va="bottom")  # fmt: skip
    if not is_first:
        axes.axhline(0, color=GREY, linewidth=0.8)


def _place(cell: Cell, over: _Over, number: int, num_lines: int) -> float:
    """Return the place of a cell, a little aside where several lines would hide each other's intervals."""
    value, aside = float(cell["settings"][over.key]), (number - (num_lines - 1) / 2)
    if over.is_log:
        return float(value * 1.03**aside)
    places = sorted({float(one["settings"][over.key]) for line in over.lines.values() for one in line})
    nearest = min((b - a for a, b in zip(places, places[1:], strict=False)), default=1.0)
    return value + 0.04 * nearest * aside


def _set_places(axes: Axes, over: _Over, cells: Sequence[Cell]) -> None:
    """Give the axis a tick for each value; labels that would touch stand aslant."""
    if over.is_log:
        axes.set_xscale("log")
    places = sorted({float(cell["settings"][over.key]) for cell in cells})
    labels = [f"{place:.6g}" for place in places]
    is_tight = sum(map(len, labels)) > 44
    axes.set_xticks(places, labels, rotation=40 if is_tight else 0, ha="right" if is_tight else "center", fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = places[0], places[-1]
    if over.is_log:
        aside = (high / low) ** 0.06
        axes.set_xlim(low / aside, high * aside)
    else:
        axes.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.set_xlabel(over.key, fontsize=9)


# --- a row for each -------------------------------------------------------------------------------------------


def _rows_figure(cells: Sequence[Cell], title: str, has_differences: bool) -> Figure:
    chosen = _most_accurate(cells)
    names = [_shortened(cell["name"]) for cell in chosen]
    width = 3.9 * (1 + has_differences) + 0.085 * max(map(len, names)) + 0.6
    figure = Figure(figsize=(width, 1.1 + 0.3 * len(chosen)), layout="constrained")
    panels = [_MEAN] + [_DIFFERENCE] * has_differences
    more = "" if len(chosen) == len(cells) else f" ({len(chosen)} of {len(cells)}, the most accurate)"
    titles = (title + more, _from_first(cells))
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, panel, heading in zip(all_axes, panels, titles, strict=False):
        _draw_rows(axes, chosen, panel)
        axes.set_title(heading, fontsize=10, parse_math=False)
        axes.set_xlabel("top-1 (%)" if panel == _MEAN else "points of top-1", fontsize=9)
        _dress(axes)
    all_axes[0].set_yticks(range(len(chosen)), names, fontsize=8)
    for text in all_axes[0].get_yticklabels():
        text.set_parse_math(False)
    all_axes[0].set_ylim(len(chosen) - 0.4, -0.6)
    return figure


def _most_accurate(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that fit into a picture, in their order; the first, which others differ from, is among them."""
    if len(cells) <= MAX_ROWS:
        return list(cells)
    best = sorted(cells[1:], key=lambda cell: -(cell["top1_mean"] or 0))[: MAX_ROWS - 1]
    kept = {cell["name"] for cell in (cells[0], *best)}
    return [cell for cell in cells if cell["name"] in kept]


def _draw_rows(axes: Axes, cells: Sequence[Cell], panel: tuple[str, str]) -> None:
    mean_key, interval_key = panel
    for row, cell in enumerate(cells):
        if cell[mean_key] is not None:
            low, high = cell[interval_key] or (cell[mean_key],) * 2
            axes.plot([100 * low, 100 * high], [row, row], color=BLUE, linewidth=1.4)
            axes.plot(100 * cell[mean_key], row, "o", color=BLUE, markersize=5)
        elif cell["state"] == "diverged" and panel == _MEAN:
            axes.text(0.02, row, "diverged", transform=axes.get_yaxis_transform(), fontsize=8, color=GREY, va="center")
        if panel == _MEAN:
            runs = [100 * one for one in cell["top1_per_run"]]
            _draw_runs(axes, runs, [row] * len(runs), aside=(0, -6))
    if panel == _DIFFERENCE:
        axes.axvline(0, color=GREY, linewidth=0.8)


def _draw_runs(
    axes: Axes, x: Sequence[float], y: Sequence[float], *, aside: tuple[float, float], colour: str = GREY
) -> None:
    """Draw each run as a faint dot, ``aside`` points from where its mean is."""
    if len(x) > 1:
        beside = offset_copy(axes.transData, fig=axes.get_figure(root=True), x=aside[0], y=aside[1], units="points")
        axes.plot(x, y, "o", color=colour, markersize=3.2, alpha=0.45, markeredgewidth=0, transform=beside)


def _from_first(cells: Sequence[Cell]) -> str:
    return f"difference from {_shortened(cells[0]['name'])}"


def _shortened(name: str) -> str:
    """Return a name without its middle where it is long: combinations differ at both ends."""
    half = LONGEST_NAME // 2
    return shown(name) if len(name) <= LONGEST_NAME else f"{fitted(name, half)}{shown(name[-half + 1 :])}"


def _dress(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
