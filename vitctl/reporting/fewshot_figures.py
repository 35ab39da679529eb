"""Pictures of few-shot evaluations: accuracy over shots, penalties and layers, ways against shots.

A row is one result of ``vitctl fewshot-eval``, with the keys "data", "model", "layer" ("embed", a block's index or
"final"), "pool", "classifier", "shots" (images per class, or "all"), "l2" (or None), "top1_mean", the intervals
"top1_ci95" (supports and test images) and "top1_ci95_support" (supports only; [low, high] or None), "num_support",
"num_classes", and for episodes "ways", "queries" and "episodes". Accuracies are fractions 0-1; the pictures show
percent. ``*_figure`` makes a picture of at least one row under a title of at most a line, ``draw_*`` writes it; of too
much it shows the most accurate part, and says so.
Matplotlib's constrained layout finds the places; the sizes in inches are guesses that the pictures were looked at with.

Letters: N points of a series, R C rows and columns of a heat map.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from vitctl.reporting.fewshot_rows import (
    MAX_NAME_LENGTH,
    Row,
    best,
    best_of_each_data,
    grouped,
    label_of,
    one_line,
    short_names,
    shots_of,
    varying_keys,
    wrapped_label,
)
from vitctl.reporting.figures import GREY, fitted, save, series_style
from vitctl.settings.words import POOLS

MISSING: dict[str, Any] = {"facecolor": "#DDDDDD", "edgecolor": "white", "hatch": "////"}
MAX_PANELS = 6
MAX_SERIES = 10
MAX_HEAT_ROWS = 12
MAX_DEPTH_LINES = 8  # more lines than this hide one another above the heat map
MAX_NUMBERED_COLUMNS = 16  # more layers than this leave no room for numbers in the cells
SHARE_OF_RANGE = 0.35  # guess: where the results would fill less of the axis than this, chance is not shown to scale
RIGHT_END = 1.5  # "all" stands at least this factor to the right of the largest number of shots

SERIES_KEYS = ("model", "layer", "pool", "classifier", "l2", "ways", "queries")
LABEL_KEYS = ("data", *SERIES_KEYS, "shots", "episodes")


@dataclass(frozen=True)
class _Series:
    """Results that belong together, under one label in one style; some of a heat map have no line."""

    label: str
    style: Mapping[str, Any]
    rows: Sequence[Row]
    has_line: bool = True

    def within(self, panel: Row) -> list[Row]:
        """Return those results that are of the data set, and where it says one the model, of ``panel``."""
        return [row for row in self.rows if all(row[key] == value for key, value in panel.items())]


# --- accuracy over shots, accuracy over the penalty --------------------------------------------------------


def accuracy_vs_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the number of shots: a panel per data set, a line per model, layer, pool, classifier and l2.

    A light band is the 95 % interval over supports and test images, a thin bar that over supports only. "all" stands
    at the right end, at the mean number of images per class.
    """

    def place(axes: Axes, of_data: Sequence[Row]) -> Callable[[Row], float]:
        places = {shots: float(shots) for shots in sorted({row["shots"] for row in of_data} - {"all"})}
        labels = {x: str(shots) for shots, x in places.items()}
        if everything := [row["num_support"] / row["num_classes"] for row in of_data if row["shots"] == "all"]:
            places["all"] = max(*everything, RIGHT_END * max(places.values(), default=0))
            labels[places["all"]] = f"all\n≈ {max(everything):.0f}"
        _set_log_ticks(axes, labels, "shots (images per class)")
        return lambda row: places[row["shots"]]

    return _curves_figure(rows, SERIES_KEYS, place, title)


def accuracy_vs_l2_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the l2 penalty: a panel per data set, a line per shots, model, layer, pool and classifier.

    A penalty of 0 stands a decade left of the smallest other; a classifier without one is a level line.
    """

    def place(axes: Axes, of_data: Sequence[Row]) -> Callable[[Row], float]:
        penalties = {row["l2"] for row in of_data if row["l2"] is not None}
        places = {l2: l2 or min(penalties - {0}, default=1.0) / 10 for l2 in penalties}
        _set_log_ticks(axes, {x: f"{l2:g}" for l2, x in places.items()} or {1.0: "none"}, "l2 penalty")
        return lambda row: places.get(row["l2"], math.nan)

    return _curves_figure(rows, ["shots", *(key for key in SERIES_KEYS if key != "l2")], place, title)


def _curves_figure(
    rows: Sequence[Row],
    keys: Sequence[str],
    place: Callable[[Axes, Sequence[Row]], Callable[[Row], float]],
    title: str,
) -> Figure:
    """Return a panel per data set; ``keys`` tell the series apart, ``place`` sets a panel's x axis and returns x."""
    names = short_names(rows)
    all_data = list(dict.fromkeys(row["data"] for row in rows))
    rows = [row for row in rows if row["data"] in all_data[:MAX_PANELS]]
    all_series, varying = grouped(rows, keys), varying_keys(rows, keys)
    shown = best(all_series, MAX_SERIES)
    series = [_Series(label_of(group[0], varying, names), series_style(n), group) for n, group in enumerate(shown)]
    panels = [data for data in all_data if any(one.within({"data": data}) for one in series)]
    size = (6.4, 3.3) if len(panels) == 1 else (3.8, 2.6)
    figure, grid = _grid(len(panels), size, most_columns=3, labels=[one.label for one in series])
    for data, cell in zip(panels, grid, strict=True):
        axes = figure.add_subplot(cell)
        here = [one.within({"data": data}) for one in series]
        of_data = [row for some in here for row in some]
        x_of = place(axes, of_data)
        is_single = len({x_of(row) for row in of_data}) == 1
        for n, (one, some) in enumerate(zip(series, here, strict=True)):
            aside = 1.4 ** ((2 * n + 1) / len(series) - 1) if is_single else 1.0
            _draw_series(axes, one, [(x_of(row) * aside, row) for row in some])
        _set_accuracy_axis(axes, of_data, has_label=cell.is_first_col())
        if len(all_data) > 1:
            axes.set_title(names[data], fontsize=10, parse_math=False)
    notes = [
        _cut("the {} most accurate of {} series", series, all_series),
        _cut("the first {} of {} data sets", panels, all_data),
    ]
    _set_title(figure, title, rows, names, notes)
    _set_legend(figure, series if varying else [], rows)
    return figure


def _set_log_ticks(axes: Axes, labels: Mapping[float, str], name: str) -> None:
    """Set a logarithmic x axis with a tick per place; a label that would touch its right neighbour is left out."""
    places = sorted(labels)
    margin = 1.12 * (places[-1] / places[0]) ** 0.03 if len(places) > 1 else 1.6
    low, high = places[0] / margin, places[-1] * margin
    shown, taken = dict(labels), math.inf
    for place in reversed(places):
        half = 0.012 * max(map(len, labels[place].split("\n"))) + 0.004  # of the axis' width, like the next two
        middle = math.log(place / low) / math.log(high / low)
        shown[place], taken = (labels[place], middle - half) if middle + half <= taken else ("", taken)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(places, [shown[place] for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name)


# --- accuracy over layers ----------------------------------------------------------------------------------


def layers_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over depth at the most shots: per data set and model a line and a heat map row for each pool.

    Rows are told apart by classifier, l2 and ways as well, where those differ. A layer without a result is hatched.
    """
    names = short_names(rows)
    groups = grouped(rows, ("data", "model"))
    most = [max(map(shots_of, group)) for group in groups]
    rows = [
        row for group, shots in zip(groups[:MAX_PANELS], most, strict=False) for row in group if shots_of(row) == shots
    ]
    keys = ("pool", "classifier", "l2", "ways", "queries")
    all_series = sorted(grouped(rows, keys), key=lambda group: [*POOLS, group[0]["pool"]].index(group[0]["pool"]))
    shown = best(all_series, MAX_HEAT_ROWS)
    with_line = best(shown, MAX_DEPTH_LINES)
    varying = varying_keys(rows, keys) or ["pool"]
    series = [
        _Series(label_of(group[0], varying, names), series_style(n), group, group in with_line)
        for n, group in enumerate(shown)
    ]
    panels = [{key: group[0][key] for key in ("data", "model")} for group in groups[:MAX_PANELS]]
    panels = [panel for panel in panels if any(one.within(panel) for one in series)]
    labels = [one.label for one in series]
    num_layers = max(len(_layers(row for one in series for row in one.within(panel))) for panel in panels)
    cells = max(3.6, num_layers * (0.36 if num_layers <= MAX_NUMBERED_COLUMNS else 0.21))
    size = cells + 1.3 + 0.06 * max(map(len, labels)), 3.3 + 0.3 * len(labels)
    figure, grid = _grid(len(panels), size, most_columns=2, labels=labels)
    for panel, cell in zip(panels, grid, strict=True):
        of_data = [row for row in rows if row["data"] == panel["data"]]
        here = [(one, one.within(panel)) for one in series]
        first = next(row for _, some in here for row in some)
        words = label_of(first, varying_keys(rows, ("data", "model", "shots")), names)
        _draw_layers_panel(cell, here, of_data, words)
    lines = [one for one in series if one.has_line]
    notes = [
        _cut("the {} most accurate of {} rows", series, all_series),
        _cut("lines: the {} most accurate", lines, series),
        _cut("the first {} of {} panels", panels, groups),
    ]
    _set_title(figure, title, rows, names, notes)
    _set_legend(figure, lines, rows)
    return figure


def _draw_layers_panel(
    cell: SubplotSpec, series: Sequence[tuple[_Series, Sequence[Row]]], of_data: Sequence[Row], title: str
) -> None:
    """Draw a model's lines above, its heat map below, on the scale of all rows ``of_data``."""
    layers = _layers(row for _, rows in series for row in rows)
    inner = cell.subgridspec(2, 1, height_ratios=(2.1, 0.3 * len(series)), hspace=0.02)
    line_axes, heat_axes = cast(np.ndarray, inner.subplots(sharex=True))
    line_axes.tick_params(which="minor", length=0)
    values = np.full((len(series), len(layers)), np.nan)
    for number, (one, rows) in enumerate(series):
        points = [(layers.index(row["layer"]), row) for row in rows]
        for place, row in points:
            values[number, place] = 100 * row["top1_mean"]
        if one.has_line:
            _draw_series(line_axes, one, points)
    has_numbers = len(layers) <= MAX_NUMBERED_COLUMNS
    texts = [[f"{value:.1f}" * has_numbers for value in line] for line in values]
    image = _draw_heat_map(heat_axes, values, texts, limits=_limits(of_data))
    _set_accuracy_axis(line_axes, of_data, has_label=True)
    heat_axes.set_yticks(range(len(series)), [one.label for one, _ in series], parse_math=False)
    heat_axes.set_xticks(range(len(layers)), list(map(str, layers)))
    for text, layer in zip(heat_axes.get_xticklabels(), layers, strict=True):
        text.set_rotation(90 if isinstance(layer, str) and not has_numbers else 0)
    heat_axes.set_xlabel("layer (hatched: no result)" if np.isnan(values).any() else "layer")
    bar_axes = heat_axes.inset_axes((1.012, 0, 0.022, 1))  # beside the map alone, so that its columns keep their places
    heat_axes.figure.colorbar(image, cax=bar_axes, label="top-1 (%)")
    line_axes.set_title(title, fontsize=10, parse_math=False)


def _layers(rows: Iterable[Row]) -> list[str | int]:
    """Return the layers of ``rows``: embed, the blocks, final."""
    ends = {"embed": -1.0, "final": math.inf}
    return sorted({row["layer"] for row in rows}, key=lambda layer: ends[layer] if layer in ends else float(layer))


# --- ways against shots ------------------------------------------------------------------------------------


def ways_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return heat maps of ways against shots, with top-1 and half its 95 % interval in every cell.

    There is a panel per data set, model, layer, pool, classifier, l2 and number of queries; of too many the most
    accurate ones of each data set are shown. All share one range of colours.
    Results that are not of episodes are left out.
    """
    rows = [row for row in rows if row.get("ways") is not None]
    names = short_names(rows)
    keys = ("data", *(key for key in SERIES_KEYS if key != "ways"))
    all_panels = grouped(rows, keys)
    panels = best_of_each_data(all_panels, MAX_PANELS)
    rows = [row for panel in panels for row in panel]
    most_ways, most_shots = (max(len({row[key] for row in panel}) for panel in panels) for key in ("ways", "shots"))
    size = max(2.9, 1.4 + 0.78 * most_shots), max(1.6, 1.1 + 0.42 * most_ways)
    figure, grid = _grid(len(panels), size, most_columns=3)
    for panel, cell in zip(panels, grid, strict=True):
        axes = figure.add_subplot(cell)
        image = _draw_ways_panel(axes, panel, limits=_limits(rows))
        words = wrapped_label(label_of(panel[0], varying_keys(rows, keys), names), MAX_NAME_LENGTH)
        axes.set_title(words, fontsize=9, parse_math=False)
        axes.set_ylabel("ways (classes)" if cell.is_first_col() else "")
    figure.colorbar(image, ax=figure.axes, label="top-1 (%)", fraction=0.05, pad=0.02, aspect=25)
    note = "cells: mean ± half width of the 95 % interval" if any(row.get("top1_ci95") for row in rows) else ""
    _set_title(figure, title, rows, names, [note, _cut("the {} most accurate of {} panels", panels, all_panels)])
    return figure


def _draw_ways_panel(axes: Axes, rows: Sequence[Row], *, limits: tuple[float, float]) -> AxesImage:
    ways = sorted({row["ways"] for row in rows})
    shots = list(dict.fromkeys(row["shots"] for row in sorted(rows, key=shots_of)))
    values = np.full((len(ways), len(shots)), np.nan)
    texts = [[""] * len(shots) for _ in ways]
    for row in rows:
        down, right = ways.index(row["ways"]), shots.index(row["shots"])
        low, high = row.get("top1_ci95") or (0, 0)
        values[down, right] = 100 * row["top1_mean"]
        texts[down][right] = f"{values[down, right]:.1f}" + f" ± {50 * (high - low):.1f}" * bool(row.get("top1_ci95"))
    axes.set_xticks(range(len(shots)), list(map(str, shots)))
    axes.set_yticks(range(len(ways)), [f"{number} (chance {100 / number:.3g} %)" for number in ways])
    axes.set_xlabel("shots (images per class)")
    return _draw_heat_map(axes, values, texts, limits=limits)


# --- files -------------------------------------------------------------------------------------------------


def _write(figure: Callable[..., Figure], rows: Sequence[Row], path: Path, *, title: str) -> None:
    save(figure(rows, title=title), path)


draw_accuracy_vs_shots = partial(_write, accuracy_vs_shots_figure)
draw_accuracy_vs_l2 = partial(_write, accuracy_vs_l2_figure)
draw_layers = partial(_write, layers_figure)
draw_ways_shots = partial(_write, ways_shots_figure)


# --- lines, bands and heat maps ----------------------------------------------------------------------------


def _draw_series(axes: Axes, series: _Series, points: Iterable[tuple[float, Row]]) -> None:
    """Draw a line through (x, result), with its band and bars; a result whose x is NaN is a level line."""
    colour = series.style["color"]
    in_order = sorted((point for point in points if not math.isnan(point[0])), key=lambda point: point[0])
    for value in (100 * row["top1_mean"] for x, row in points if math.isnan(x)):
        axes.axhline(value, color=colour, linestyle="-.", linewidth=1.2, label=series.label)
    if not in_order:
        return
    x, means = np.array([x for x, _ in in_order]), [100 * row["top1_mean"] for _, row in in_order]
    axes.plot(x, means, **series.style, label=series.label, markeredgecolor="white", markeredgewidth=0.5, zorder=3)
    band, bars = (_intervals([row for _, row in in_order], key) for key in ("top1_ci95", "top1_ci95_support"))
    if len(in_order) > 1:
        axes.fill_between(x, *band.T, color=colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(x[_known(band)], *band[_known(band)].T, color=colour, alpha=0.25, linewidth=7)
    axes.vlines(x[_known(bars)], *bars[_known(bars)].T, color=colour, linewidth=1)


def _intervals(rows: Sequence[Row], key: str) -> np.ndarray:
    """Return the interval of every row in percent, (N, 2); NaN where there is none."""
    return 100 * np.array([row.get(key) or (np.nan, np.nan) for row in rows], dtype=float)


def _known(intervals: np.ndarray) -> np.ndarray:
    """Return which rows of ``intervals`` (N, 2) there are, (N,) bool."""
    known: np.ndarray = ~np.isnan(intervals[:, 0])
    return known


def _set_accuracy_axis(axes: Axes, rows: Sequence[Row], *, has_label: bool) -> None:
    """Set the y axis to what ``rows`` need, with chance where it leaves the results room, else as a note."""
    ends = [_intervals(rows, key) for key in ("top1_ci95", "top1_ci95_support")]
    values = np.concatenate([*map(np.ravel, ends), [100 * row["top1_mean"] for row in rows]])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    chances = sorted({100 / (row.get("ways") or row["num_classes"]) for row in rows})
    for chance in chances:
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, zorder=1, label="chance")
    if chances[-1] < low and high - low < SHARE_OF_RANGE * (high - chances[-1]):
        note = f"chance {', '.join(f'{chance:.3g} %' for chance in chances)} (below)"
        axes.text(0.985, 0.02, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)
        low -= 0.12 * max(high - low, 1)  # room for the note
    else:
        low, high = min(low, chances[0]), max(high, chances[-1])
    margin = 0.05 * max(high - low, 2)
    axes.set_ylim(max(low - margin, -2), min(high + margin, 102))
    axes.set_ylabel("top-1 (%)" if has_label else "")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _draw_heat_map(
    axes: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], *, limits: tuple[float, float]
) -> AxesImage:
    """Draw ``values`` (R, C) in percent, NaN hatched, each with its text; return the image."""
    axes.patch.set(**MISSING)
    low, high = limits
    image = axes.imshow(values, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=8)
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        if texts[row][column]:
            colour = "white" if values[row, column] < low + 0.6 * (high - low) else "black"
            axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=7.5, color=colour)
    return image


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the range of colours, in percent, at least one point wide."""
    values = [100 * row["top1_mean"] for row in rows]
    middle, half = (max(values) + min(values)) / 2, max(1.0, max(values) - min(values)) / 2
    return middle - half, middle + half


# --- sizes, titles and legends -----------------------------------------------------------------------------


def _grid(
    count: int, size: tuple[float, float], *, most_columns: int, labels: Sequence[str] = ()
) -> tuple[Figure, list[SubplotSpec]]:
    """Return a figure with ``count`` places of ``size`` (width, height) inches, and room for a legend of ``labels``."""
    columns = 2 if count == 4 else min(count, most_columns)
    rows = math.ceil(count / columns)
    width = max(5.5, 0.9 + columns * size[0])
    legend = 0.2 * math.ceil(len(labels) / _legend_columns(width, labels))
    figure = Figure(figsize=(width, 1.1 + rows * size[1] + legend), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    return figure, [grid[index // columns, index % columns] for index in range(count)]


def _set_title(figure: Figure, title: str, rows: Sequence[Row], names: Mapping[str, str], notes: Sequence[str]) -> None:
    """Set the title: what the caller says, what all results share, what is left out."""
    constant = [key for key in LABEL_KEYS if not varying_keys(rows, [key])]
    longest = int(figure.get_figwidth() * 12)
    more = [label_of(rows[0], constant, names), "; ".join(filter(None, notes))]
    lines = [fitted(one_line(title), longest), *(wrapped_label(line, longest) for line in more)]
    figure.suptitle("\n".join(filter(None, lines)), fontsize=10, parse_math=False)


def _set_legend(figure: Figure, series: Sequence[_Series], rows: Sequence[Row]) -> None:
    """Set the legend below the panels: the series, then what band, bar and dots mean."""
    handles: dict[str, Artist] = {}
    if any(row.get("top1_ci95") for row in rows):
        handles["95 % interval: supports and test images"] = Patch(color=GREY, alpha=0.25, linewidth=0)
    if any(row.get("top1_ci95_support") for row in rows):
        handles["95 % interval: supports only"] = Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="")
    handles["chance"] = Line2D([], [], color=GREY, linestyle=":")
    texts = [*(one.label for one in series), *handles]
    legend = figure.legend(
        [*(Line2D([], [], **one.style) for one in series), *handles.values()], texts, loc="outside lower center",
        ncols=_legend_columns(figure.get_figwidth(), texts), frameon=False, fontsize=8,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    """Return how many columns of ``labels`` fit into ``width`` inches, 1-4."""
    return max(1, min(4, int(width / (0.053 * max(map(len, labels), default=1) + 0.5))))


def _cut(words: str, shown: Sequence[object], all_of_them: Sequence[object]) -> str:
    """Return ``words`` with both numbers, nothing where nothing is left out."""
    return words.format(len(shown), len(all_of_them)) if len(shown) < len(all_of_them) else ""
