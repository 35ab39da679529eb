"""Pictures of few-shot evaluations: accuracy over shots, penalties and layers, ways against shots.

A row is one result of ``vitctl fewshot-eval``, with the keys "data", "model", "layer" ("embed", a block's index or
"final"), "pool", "classifier", "shots" (images per class, or "all"), "l2" (or None), "top1_mean", the intervals
"top1_ci95" (supports and test images) and "top1_ci95_support" (supports only; [low, high] or None), "num_support",
"num_classes", and for episodes "ways", "queries" and "episodes". Accuracies are fractions 0-1; the pictures show
percent. ``*_figure`` makes a picture, ``draw_*`` writes it.

Colours: Okabe and Ito's palette without its yellow, which is faint on white; viridis for heat maps.
Letters: N points of a series, R C rows and columns of a heat map.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.ticker import NullLocator

from vitctl.reporting.figures import GREY, fitted, save
from vitctl.settings.words import POOLS

Row = Mapping[str, Any]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX<>*"
LINES: tuple[Literal["-", "--"], ...] = ("-", "--")  # dashed: the second time round the palette
COLOUR_MAP = "viridis"
MISSING = "#DDDDDD"
MAX_PANELS = 6
MAX_SERIES = 10
MAX_HEAT_ROWS = 12
MAX_DEPTH_LINES = 8  # more lines than this hide one another above the heat map
MAX_NUMBERED_COLUMNS = 16  # more layers than this leave no room for numbers in the cells
MAX_NAME_LENGTH = 48
SHARE_OF_RANGE = 0.35  # guess: where the results would fill less of the axis than this, chance is not shown to scale
RIGHT_END = 1.5  # "all" stands at least this factor to the right of the largest number of shots

SERIES_KEYS = ("model", "layer", "pool", "classifier", "l2", "ways", "queries")
LABEL_KEYS = ("data", *SERIES_KEYS, "shots", "episodes")


# --- accuracy over shots, accuracy over the penalty --------------------------------------------------------


def draw_accuracy_vs_shots(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Write ``accuracy_vs_shots_figure`` as a PNG."""
    save(accuracy_vs_shots_figure(rows, title=title), path)


def accuracy_vs_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the number of shots: a panel per data set, a line per model, layer, pool, classifier and l2.

    A light band is the 95 % interval over supports and test images, a thin bar that over supports only. "all" stands
    at the right end, at the mean number of images per class.

    Args:
        rows: Results, at least one.
        title: What they are, at most a line.
    """

    def place(axes: Axes, of_data: Sequence[Row]) -> Callable[[Row], float]:
        places = _shot_places(of_data)
        labels = {x: _shots_label(shots, of_data) for shots, x in places.items()}
        _set_log_ticks(axes, labels, "shots (images per class)")
        return lambda row: places[row["shots"]]

    return _curves_figure(rows, SERIES_KEYS, place, title)


def draw_accuracy_vs_l2(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Write ``accuracy_vs_l2_figure`` as a PNG."""
    save(accuracy_vs_l2_figure(rows, title=title), path)


def accuracy_vs_l2_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the l2 penalty: a panel per data set, a line per shots, model, layer, pool and classifier.

    A penalty of 0 stands a decade left of the smallest other; a classifier without one is a level line.

    Args:
        rows: Results, at least one.
        title: What they are, at most a line.
    """

    def place(axes: Axes, of_data: Sequence[Row]) -> Callable[[Row], float]:
        penalties = sorted({row["l2"] for row in of_data if row["l2"] is not None})
        left = next((l2 for l2 in penalties if l2 > 0), 1.0) / 10
        places = {l2: l2 or left for l2 in penalties}
        _set_log_ticks(axes, {x: f"{l2:g}" for l2, x in places.items()} or {1.0: "none"}, "l2 penalty")
        return lambda row: math.nan if row["l2"] is None else places[row["l2"]]

    keys = ("shots", *(key for key in SERIES_KEYS if key != "l2"))
    return _curves_figure(rows, keys, place, title)


def _curves_figure(
    rows: Sequence[Row],
    keys: Sequence[str],
    place: Callable[[Axes, Sequence[Row]], Callable[[Row], float]],
    title: str,
) -> Figure:
    """Return a panel per data set; ``keys`` tell the series apart, ``place`` sets a panel's x axis and returns x."""
    names = _Names.of(rows)
    all_data = list(dict.fromkeys(row["data"] for row in rows))
    rows = [row for row in rows if row["data"] in all_data[:MAX_PANELS]]
    all_series = _grouped(rows, keys)
    varying = _varying(rows, keys)
    series = [
        _Series(names.label(group[0], varying), _Style.of(number), group)
        for number, group in enumerate(_best_series(all_series, MAX_SERIES))
    ]
    panels = [here for data in all_data if (here := [row for one in series for row in one.rows if row["data"] == data])]
    num_columns = _num_columns(len(panels))
    figure = Figure(figsize=_curves_size(len(panels), [one.label for one in series]), layout="constrained")
    grid = figure.add_gridspec(-(-len(panels) // num_columns), num_columns)
    for index, of_data in enumerate(panels):
        axes = figure.add_subplot(grid[index // num_columns, index % num_columns])
        x_of = place(axes, of_data)
        has_one_place = len({x_of(row) for row in of_data}) == 1
        for number, one in enumerate(one.among(of_data) for one in series):
            dodge = _dodge(number, len(series)) if has_one_place else 1.0
            _draw_series(axes, one, [x_of(row) * dodge for row in one.rows])
        _set_accuracy_axis(axes, of_data, with_label=index % num_columns == 0)
        if len(all_data) > 1:
            axes.set_title(names.text(of_data[0], "data"), fontsize=10, parse_math=False)
    left_out = [
        f"the {len(series)} most accurate of {len(all_series)} series" * (len(series) < len(all_series)),
        f"the first {len(panels)} of {len(all_data)} data sets" * (len(panels) < len(all_data)),
    ]
    _set_title(figure, title, names.label(rows[0], _constant(rows)), left_out)
    _set_legend(figure, series if varying else [], rows)
    return figure


def _num_columns(num_panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(num_panels, 3)


def _curves_size(num_panels: int, labels: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches, with room for the legend below the panels."""
    num_columns = _num_columns(num_panels)
    width = {1: 6.4, 2: 8.0, 3: 11.0}[num_columns]
    legend_rows = -(-len(labels) // _legend_columns(width, labels))
    return width, 1.1 + (3.3 if num_panels == 1 else 2.6) * -(-num_panels // num_columns) + 0.2 * legend_rows


def _best_series(series: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """Return at most ``most`` series, in their order: those with the best top-1 at their most shots, on average."""

    def accuracy(group: list[Row]) -> float:
        last = [
            max(of_data, key=lambda row: (_shots_order(row), row["top1_mean"])) for of_data in _grouped(group, ["data"])
        ]
        return float(np.mean([row["top1_mean"] for row in last]))

    best = sorted(range(len(series)), key=lambda i: -accuracy(series[i]))[:most]
    return [series[i] for i in sorted(best)]


def _shot_places(rows: Sequence[Row]) -> dict[Any, float]:
    """Return the x of each number of shots, in rising order."""
    numbers = sorted({row["shots"] for row in rows if row["shots"] != "all"})
    places: dict[Any, float] = {number: float(number) for number in numbers}
    if any(row["shots"] == "all" for row in rows):
        places["all"] = max(_mean_support(rows), RIGHT_END * (numbers or [0])[-1])
    return places


def _mean_support(rows: Sequence[Row]) -> float:
    """Return how many images a class has where all are taken."""
    return float(max(row["num_support"] / row["num_classes"] for row in rows if row["shots"] == "all"))


def _shots_label(shots: int | str, rows: Sequence[Row]) -> str:
    return f"all\n≈ {_mean_support(rows):.0f}" if shots == "all" else str(shots)


def _set_log_ticks(axes: Axes, labels: Mapping[float, str], name: str) -> None:
    """Set a logarithmic x axis with a tick per place; a label that would touch its right neighbour is left out."""
    places = sorted(labels)
    margin = 1.12 * (places[-1] / places[0]) ** 0.03 if len(places) > 1 else 1.6
    low, high = places[0] / margin, places[-1] * margin
    shown: list[str] = []
    right, right_half = math.inf, 0.0
    for place in reversed(places):
        half = 0.012 * max(map(len, labels[place].split("\n"))) + 0.008  # of the axis' width
        share = math.log(place / low) / math.log(high / low)
        fits = right - share >= right_half + half
        shown.append(labels[place] if fits else "")
        if fits:
            right, right_half = share, half
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(places, shown[::-1])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name)


def _dodge(number: int, num_series: int) -> float:
    """Return the factor that moves a series aside on a logarithmic axis with a single place."""
    return float(1.4 ** ((number + 0.5) / num_series * 2 - 1)) if num_series > 1 else 1.0


# --- accuracy over layers ----------------------------------------------------------------------------------


def draw_layers(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Write ``layers_figure`` as a PNG."""
    save(layers_figure(rows, title=title), path)


def layers_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over depth at the most shots: per data set and model a line and a heat map row for each pool.

    Rows are told apart by classifier, l2 and ways as well, where those differ. A layer without a result is hatched.

    Args:
        rows: Results, at least one.
        title: What they are, at most a line.
    """
    names = _Names.of(rows)
    all_panels = [_at_most_shots(group) for group in _grouped(rows, ["data", "model"])]
    rows = [row for panel in all_panels[:MAX_PANELS] for row in panel]
    keys = ("pool", "classifier", "l2", "ways", "queries")
    all_series = sorted(_grouped(rows, keys), key=lambda group: _pool_order(group[0]))
    best = _best_series(all_series, MAX_HEAT_ROWS)
    with_line = _best_series(best, MAX_DEPTH_LINES)
    varying = _varying(rows, keys) or ["pool"]
    series = [
        _Series(names.label(group[0], varying), _Style.of(number), group, with_line=group in with_line)
        for number, group in enumerate(best)
    ]
    panels = [
        [one.among(panel) for one in series]
        for panel in all_panels[:MAX_PANELS]
        if any(one.among(panel).rows for one in series)
    ]
    panel_keys = _varying(rows, ("data", "model", "shots"))
    figure = Figure(figsize=_layers_size(panels), layout="constrained")
    grid = figure.add_gridspec(-(-len(panels) // 2), min(2, len(panels)))
    for index, panel in enumerate(panels):
        first = next(row for one in panel for row in one.rows)
        of_data = [row for row in rows if row["data"] == first["data"]]
        axes = _draw_layers_panel(figure, grid[index // 2, index % 2], panel, of_data)
        if panel_keys:
            axes.set_title(names.label(first, panel_keys), fontsize=10, parse_math=False)
    left_out = [
        f"the {len(series)} most accurate of {len(all_series)} rows" * (len(series) < len(all_series)),
        f"lines: the {len(with_line)} most accurate" * (len(with_line) < len(series)),
        f"the first {len(panels)} of {len(all_panels)} panels" * (len(panels) < len(all_panels)),
    ]
    _set_title(figure, title, names.label(rows[0], _constant(rows)), left_out)
    _set_legend(figure, [one for one in series if one.with_line], rows)
    return figure


def _layers_size(panels: Sequence[Sequence["_Series"]]) -> tuple[float, float]:
    """Return width and height in inches."""
    num_layers = max(len(_layers(row for one in panel for row in one.rows)) for panel in panels)
    labels = [one.label for one in panels[0]]
    cells = max(3.6, num_layers * (0.36 if num_layers <= MAX_NUMBERED_COLUMNS else 0.21))
    width = min(2, len(panels)) * (cells + 1.3 + 0.06 * max(map(len, labels)))
    legend_rows = -(-len(labels) // _legend_columns(width, labels))
    return width, 1.0 + 0.2 * legend_rows + (3.3 + 0.3 * len(labels)) * -(-len(panels) // 2)


def _draw_layers_panel(figure: Figure, place: SubplotSpec, panel: Sequence["_Series"], of_data: Sequence[Row]) -> Axes:
    """Draw a model's lines above, its heat map below, on the scale of all rows ``of_data``; return the upper axes."""
    inner = place.subgridspec(2, 2, height_ratios=(2.1, 0.3 * len(panel)), width_ratios=(40, 1), hspace=0.02)
    line_axes, heat_axes = figure.add_subplot(inner[0, 0]), figure.add_subplot(inner[1, 0])
    layers = _layers(row for one in panel for row in one.rows)
    values = np.full((len(panel), len(layers)), np.nan)
    for number, one in enumerate(panel):
        places = [layers.index(row["layer"]) for row in one.rows]
        values[number, places] = [100 * row["top1_mean"] for row in one.rows]
        if one.with_line:
            _draw_series(line_axes, one, places)
    _set_accuracy_axis(line_axes, of_data, with_label=True)
    line_axes.set_xlim(-0.5, len(layers) - 0.5)
    line_axes.set_xticks(range(len(layers)), [""] * len(layers))
    has_numbers = len(layers) <= MAX_NUMBERED_COLUMNS
    texts = [[f"{value:.1f}" for value in line] for line in values] if has_numbers else None
    image = _draw_heat_map(heat_axes, values, texts, limits=_limits(of_data), font_size=7)
    heat_axes.set_yticks(range(len(panel)), [one.label for one in panel])
    _without_math(heat_axes.get_yticklabels())
    heat_axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    for text, layer in zip(heat_axes.get_xticklabels(), layers, strict=True):
        text.set_rotation(90 if isinstance(layer, str) and not has_numbers else 0)
    heat_axes.set_xlabel("layer (hatched: no result)" if np.isnan(values).any() else "layer")
    bar_axes = figure.add_subplot(inner[1, 1], label="<colorbar>")  # as matplotlib calls those that it makes
    figure.colorbar(image, cax=bar_axes, label="top-1 (%)")
    return line_axes


def _layers(rows: Iterable[Row]) -> list[str | int]:
    """Return the layers of ``rows``: embed, the blocks, final."""
    return [row["layer"] for row in sorted({row["layer"]: row for row in rows}.values(), key=_layer_order)]


def _layer_order(row: Row) -> float:
    return {"embed": -1.0, "final": math.inf}.get(row["layer"]) or float(row["layer"])


def _pool_order(row: Row) -> int:
    return POOLS.index(row["pool"]) if row["pool"] in POOLS else len(POOLS)


def _at_most_shots(rows: Sequence[Row]) -> list[Row]:
    most = max(map(_shots_order, rows))
    return [row for row in rows if _shots_order(row) == most]


# --- ways against shots ------------------------------------------------------------------------------------


def draw_ways_shots(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Write ``ways_shots_figure`` as a PNG."""
    save(ways_shots_figure(rows, title=title), path)


def ways_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return heat maps of ways against shots, with top-1 and half its 95 % interval in every cell.

    There is a panel per data set, model, layer, pool, classifier, l2 and number of queries; of too many the most
    accurate ones of each data set are shown. All share one range of colours.

    Args:
        rows: Results, at least one of episodes; others are left out.
        title: What they are, at most a line.
    """
    rows = [row for row in rows if row.get("ways") is not None]
    names = _Names.of(rows)
    keys = ("data", *(key for key in SERIES_KEYS if key != "ways"))
    all_panels = _grouped(rows, keys)
    panels = _best_panels(all_panels, MAX_PANELS)
    rows = [row for panel in panels for row in panel]
    varying = _varying(rows, keys)
    num_columns = _num_columns(len(panels))
    figure = Figure(figsize=_ways_size(panels), layout="constrained")
    grid = figure.add_gridspec(-(-len(panels) // num_columns), num_columns)
    all_axes = []
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(grid[index // num_columns, index % num_columns])
        image = _draw_ways_panel(axes, panel, limits=_limits(rows))
        axes.set_title(_wrapped(names.label(panel[0], varying), MAX_NAME_LENGTH), fontsize=9, parse_math=False)
        if index % num_columns == 0:
            axes.set_ylabel("ways (classes)")
        all_axes.append(axes)
    figure.colorbar(image, ax=all_axes, label="top-1 (%)", fraction=0.05, pad=0.02, aspect=25)
    left_out = [f"the {len(panels)} most accurate of {len(all_panels)} panels" * (len(panels) < len(all_panels))]
    note = "cells: mean ± half width of the 95 % interval" if any(row.get("top1_ci95") for row in rows) else ""
    _set_title(figure, title, names.label(rows[0], _constant(rows)), [note, *left_out])
    return figure


def _ways_size(panels: Sequence[Sequence[Row]]) -> tuple[float, float]:
    """Return width and height in inches."""
    num_columns = _num_columns(len(panels))
    most_shots = max(len({row["shots"] for row in panel}) for panel in panels)
    most_ways = max(len({row["ways"] for row in panel}) for panel in panels)
    width = 0.9 + num_columns * max(2.9, 1.4 + 0.78 * most_shots)
    return max(width, 5.5), 1.0 + -(-len(panels) // num_columns) * max(1.6, 1.1 + 0.42 * most_ways)


def _draw_ways_panel(axes: Axes, rows: Sequence[Row], *, limits: tuple[float, float]) -> AxesImage:
    ways = sorted({row["ways"] for row in rows})
    shots = [row["shots"] for row in sorted({row["shots"]: row for row in rows}.values(), key=_shots_order)]
    values = np.full((len(ways), len(shots)), np.nan)
    texts = [[""] * len(shots) for _ in ways]
    for row in rows:
        place = ways.index(row["ways"]), shots.index(row["shots"])
        values[place] = 100 * row["top1_mean"]
        texts[place[0]][place[1]] = f"{values[place]:.1f}" + _half_width(row)
    image = _draw_heat_map(axes, values, texts, limits=limits, font_size=8)
    axes.set_xticks(range(len(shots)), [str(number) for number in shots])
    axes.set_yticks(range(len(ways)), [f"{number} (chance {100 / number:.3g} %)" for number in ways])
    axes.set_xlabel("shots (images per class)")
    return image


def _half_width(row: Row) -> str:
    interval = row.get("top1_ci95")
    return f" ± {100 * (interval[1] - interval[0]) / 2:.1f}" if interval else ""


def _best_panels(panels: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """Return at most ``most`` panels, in their order: the most accurate of each data set, then the second, ..."""
    rank: dict[int, int] = {}
    for data in {panel[0]["data"] for panel in panels}:
        of_data = [i for i, panel in enumerate(panels) if panel[0]["data"] == data]
        best = sorted(of_data, key=lambda i: -float(np.mean([row["top1_mean"] for row in panels[i]])))
        rank |= {index: place for place, index in enumerate(best)}
    chosen = sorted(rank, key=lambda i: (rank[i], i))[:most]
    return [panels[i] for i in sorted(chosen)]


# --- lines, bands and heat maps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Style:
    """How a series looks; no two of the first 14 look alike, and the first ten differ by their marker alone."""

    colour: str
    marker: str
    line: Literal["-", "--"]

    @classmethod
    def of(cls, number: int) -> "_Style":
        line = LINES[number // len(PALETTE) % len(LINES)]
        return cls(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)], line)


@dataclass(frozen=True)
class _Series:
    """Results that belong together."""

    label: str
    style: _Style
    rows: Sequence[Row]
    with_line: bool = True
    """Whether a line is drawn of them."""

    def among(self, rows: Sequence[Row]) -> "_Series":
        """Return the series with those of its results that are in ``rows``."""
        wanted = set(map(id, rows))
        return replace(self, rows=[row for row in self.rows if id(row) in wanted])


def _draw_series(axes: Axes, series: _Series, x: Sequence[float]) -> None:
    """Draw a line over ``x``, with its band and bars; a result whose x is NaN is a level line across the panel."""
    rows, style, label = series.rows, series.style, series.label
    level = [100 * row["top1_mean"] for row, place in zip(rows, x, strict=True) if math.isnan(place)]
    for value in level:
        axes.axhline(value, color=style.colour, linestyle="-.", linewidth=1.2, label=label)
    points = sorted(
        ((place, row) for place, row in zip(x, rows, strict=True) if not math.isnan(place)), key=lambda p: p[0]
    )
    if not points:
        return
    places = np.array([place for place, _ in points])
    in_order = [row for _, row in points]
    means = [100 * row["top1_mean"] for row in in_order]
    axes.plot(
        places, means, color=style.colour, marker=style.marker, linestyle=style.line, label=label,
        linewidth=1.4, markersize=5, markeredgecolor="white", markeredgewidth=0.5, zorder=3,
    )  # fmt: skip
    band, bars = _intervals(in_order, "top1_ci95"), _intervals(in_order, "top1_ci95_support")
    if len(points) > 1:
        axes.fill_between(places, band[:, 0], band[:, 1], color=style.colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(places[~np.isnan(band[:, 0])], *_known(band), color=style.colour, alpha=0.25, linewidth=7)
    axes.vlines(places[~np.isnan(bars[:, 0])], *_known(bars), color=style.colour, linewidth=1)


def _intervals(rows: Sequence[Row], key: str) -> np.ndarray:
    """Return the interval of every row in percent, (N, 2); NaN where there is none."""
    return 100 * np.array([row.get(key) or (np.nan, np.nan) for row in rows], dtype=float)


def _known(intervals: np.ndarray) -> np.ndarray:
    """Return lower and upper ends, (2, N), without the rows of ``intervals`` that are NaN."""
    known: np.ndarray = intervals[~np.isnan(intervals[:, 0])].T
    return known


def _set_accuracy_axis(axes: Axes, rows: Sequence[Row], *, with_label: bool) -> None:
    """Set the y axis to what ``rows`` need, with chance where it leaves the results room, else as a note."""
    ends = np.concatenate([_known(_intervals(rows, key)).ravel() for key in ("top1_ci95", "top1_ci95_support")])
    values = np.concatenate([ends, [100 * row["top1_mean"] for row in rows]])
    low, high = float(values.min()), float(values.max())
    all_chances = sorted({100 / (row.get("ways") or row["num_classes"]) for row in rows})
    for chance in all_chances:
        axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, zorder=1, label="chance")
    nearest = all_chances[-1]
    if nearest < low and high - low < SHARE_OF_RANGE * (high - nearest):
        texts = [f"{chance:.3g} %" for chance in all_chances]
        axes.text(
            0.985, 0.02, f"chance {', '.join(texts)} (below)", transform=axes.transAxes, ha="right", va="bottom",
            fontsize=8, color=GREY,
        )  # fmt: skip
        low -= 0.12 * max(high - low, 1)  # room for the note
    else:
        low, high = min(low, all_chances[0]), max(high, nearest)
    margin = 0.05 * max(high - low, 2)
    axes.set_ylim(max(low - margin, -2), min(high + margin, 102))
    if with_label:
        axes.set_ylabel("top-1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _draw_heat_map(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]] | None,
    *,
    limits: tuple[float, float],
    font_size: int,
) -> AxesImage:
    """Draw ``values`` (R, C) in percent, NaN hatched, each with its text; return the image."""
    rows, columns = values.shape
    axes.add_patch(
        Rectangle(
            (-0.5, -0.5), columns, rows, facecolor=MISSING, edgecolor="white", hatch="////", linewidth=0, zorder=0
        )
    )
    image = axes.imshow(
        values, cmap=mpl.colormaps[COLOUR_MAP], vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
    )
    for edges, line in ((np.arange(columns + 1), axes.axvline), (np.arange(rows + 1), axes.axhline)):
        for edge in edges:
            line(edge - 0.5, color="white", linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        if texts is not None:
            is_dark = values[row, column] < limits[0] + 0.6 * (limits[1] - limits[0])
            axes.text(
                column, row, texts[row][column], ha="center", va="center", fontsize=font_size,
                color="white" if is_dark else "black",
            )  # fmt: skip
    return image


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the range of colours, in percent, at least one point wide."""
    values = [100 * row["top1_mean"] for row in rows]
    middle, half = (max(values) + min(values)) / 2, max(1.0, max(values) - min(values)) / 2
    return middle - half, middle + half


# --- titles, legends and names -----------------------------------------------------------------------------


def _set_title(figure: Figure, title: str, constant: str, notes: Sequence[str]) -> None:
    """Set the title: what the caller says, what all results share, what is left out."""
    longest = int(figure.get_figwidth() * 12)
    lines = [_one_line(title), constant, "; ".join(note for note in notes if note)]
    text = "\n".join(fitted(lines[0], longest) if i == 0 else _wrapped(lines[i], longest) for i in range(3) if lines[i])
    figure.suptitle(text, fontsize=10, parse_math=False)


def _set_legend(figure: Figure, series: Sequence[_Series], rows: Sequence[Row]) -> None:
    """Set the legend below the panels: the series, then what band, bar and dots mean."""
    handles: list[Artist] = []
    for style in (one.style for one in series):
        handles.append(Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.line, markersize=5))
    texts = [one.label for one in series]
    if any(row.get("top1_ci95") for row in rows):
        handles.append(Patch(color=GREY, alpha=0.25, linewidth=0))
        texts.append("95 % interval: supports and test images")
    if any(row.get("top1_ci95_support") for row in rows):
        handles.append(Line2D([], [], color=GREY, marker="|", markersize=9, linestyle=""))
        texts.append("95 % interval: supports only")
    handles.append(Line2D([], [], color=GREY, linestyle=":"))
    texts.append("chance")
    legend = figure.legend(
        handles, texts, loc="outside lower center", ncols=_legend_columns(figure.get_figwidth(), texts),
        frameon=False, fontsize=8,
    )  # fmt: skip
    _without_math(legend.get_texts())


def _without_math(texts: Iterable[Text]) -> None:
    for text in texts:
        text.set_parse_math(False)  # a name may hold a dollar sign


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    """Return how many columns of ``labels`` fit into ``width`` inches, 1-4."""
    return max(1, min(4, int(width / (0.053 * max(map(len, labels), default=1) + 0.5))))


@dataclass(frozen=True)
class _Names:
    """What a row's values are called in a picture."""

    short: Mapping[str, str]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "_Names":
        rows = list(rows)
        models, data = ({str(row[key]) for row in rows} for key in ("model", "data"))
        return cls({**_shortened(models), **_shortened(data)})

    def label(self, row: Row, keys: Iterable[str]) -> str:
        """Return what ``keys`` of the row say, dots between."""
        return " · ".join(text for text in (self.text(row, key) for key in keys) if text)

    def text(self, row: Row, key: str) -> str:
        """Return what one value says by itself; nothing for a value that is not there."""
        value = row.get(key)
        if value is None:
            return ""
        if key in ("data", "model"):
            return self.short[str(value)]
        if key == "shots":
            return "all images" if value == "all" else f"{value} shot{'s' * (value != 1)}"
        forms = {"layer": "layer {}", "pool": "{} pool", "l2": "l2 {:g}", "ways": "{}-way"}
        forms |= {"queries": "{} queries per class", "episodes": "{} episodes"}
        return _middle_cut(_one_line(forms.get(key, "{}").format(value)), MAX_NAME_LENGTH)


def _shortened(names: Iterable[str]) -> dict[str, str]:
    """Return each name's last two parts between slashes, or as many as tell the names apart."""
    parts = {name: [part for part in re.split(r"[/\\]", name) if part] or [name] for name in names}
    most = max(map(len, parts.values()), default=0)
    for count in range(2, max(most, 2) + 1):
        short = {name: _middle_cut(_one_line("/".join(parts[name][-count:])), MAX_NAME_LENGTH) for name in parts}
        if len(set(short.values())) == len(short):
            break
    return short


def _one_line(text: str) -> str:
    return " ".join(fitted(text, 10 * MAX_NAME_LENGTH).split())


def _middle_cut(text: str, longest: int) -> str:
    """Return ``text`` without its middle if it is too long: models of one family differ at the end of their names."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _wrapped(text: str, width: int) -> str:
    """Return ``text`` in at most three lines of ``width`` characters, broken after a dot or semicolon."""
    tied = "\N{NO-BREAK SPACE}"
    text = text.replace(" ", tied).replace(f"{tied}·{tied}", f"{tied}· ").replace(f";{tied}", "; ")
    lines = textwrap.wrap(text, width, max_lines=3, placeholder=" …", break_on_hyphens=False)
    return "\n".join(lines).replace(tied, " ")


def _grouped(rows: Iterable[Row], keys: Iterable[str]) -> list[list[Row]]:
    """Return rows of equal ``keys`` together, in the order in which the groups first appear."""
    keys = tuple(keys)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())


def _varying(rows: Sequence[Row], keys: Iterable[str]) -> list[str]:
    """Return those of ``keys`` in which the rows differ."""
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def _constant(rows: Sequence[Row]) -> list[str]:
    """Return the keys, of those a label may hold, in which all rows agree."""
    return [key for key in LABEL_KEYS if key not in _varying(rows, LABEL_KEYS)]


def _shots_order(row: Row) -> float:
    return math.inf if row["shots"] == "all" else float(row["shots"])
