"""Pictures of few-shot evaluations: accuracy over shots, penalties and layers, ways against shots.

A row is one result of ``vitctl fewshot-eval`` as its JSON has it; accuracies are fractions 0-1, the pictures show
percent. A function makes a picture of at least one row under a title of at most a line; of too much it shows the most
accurate part, and says so. Matplotlib's constrained layout finds the places; sizes are in inches, and guesses that the
pictures were looked at with.

Letters: N points of a series, R C rows and columns of a heat map.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.ticker import NullLocator

from vitctl.reporting.fewshot_rows import Row, grouped, label_of, names_of, places_of, series_of, shots_of, varying_keys
from vitctl.reporting.figures import GREY, series_style
from vitctl.reporting.inspect_panels import chosen, dress_lines, heat_map, joined, without_math, wrapped
from vitctl.settings.words import EMBED, FINAL, POOLS

MAX_PANELS, MAX_CURVES, MAX_ROWS, BEST = 6, 10, 12, ", the most accurate"
MAX_NUMBERED_COLUMNS = 16  # more layers than this leave no room for numbers in the cells
SHARE_OF_RANGE = 0.35  # guess: where the results would fill less of the axis than this, chance is not shown to scale

SERIES_KEYS = ("model", "layer", "pool", "classifier", "l2", "ways", "queries")
LABEL_KEYS = ("data", *SERIES_KEYS, "shots", "episodes")
BAND, BAR = "top1_ci95", "top1_ci95_support"  # the keys of both intervals; None where there is none
INTERVALS = {BAND: "light band: 95 % interval over supports and test images", BAR: "thin bar: over supports only"}


# --- accuracy over shots, accuracy over the penalty --------------------------------------------------------


def accuracy_vs_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the number of shots: a panel per data set, a line per model, layer, pool, classifier and l2.

    "all" stands at the right end, at the mean number of images per class.
    """
    return _curves_figure(rows, "shots", "shots (images per class)", title)


def accuracy_vs_l2_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over the l2 penalty: a panel per data set, a line per shots, model, layer, pool and classifier.

    A penalty of 0 stands a decade left of the smallest other; a classifier without one is a level line.
    """
    return _curves_figure(rows, "l2", "l2 penalty", title)


def _curves_figure(rows: Sequence[Row], over: str, x_label: str, title: str) -> Figure:
    """Return a panel per data set, a line per group of rows that differ in nothing but ``over``."""
    names, all_data = names_of(rows), grouped(rows, ["data"])
    keys = [key for key in ("shots", *SERIES_KEYS) if key != over]
    rows = [row for some in all_data[:MAX_PANELS] for row in some]
    rows, labels, num_all = series_of(rows, keys, names, most=MAX_CURVES)
    panels = grouped(rows, ["data"])
    figure, cells = _grid(len(panels), (6.4, 3.3) if len(panels) == 1 else (3.8, 2.6), most_columns=3, labels=labels)
    for panel, cell in zip(panels, cells, strict=True):
        axes, places = figure.add_subplot(cell), places_of(panel, over)
        _set_log_ticks(axes, dict(places.values()))
        for some in grouped(panel, ["series"]):
            # series of one point each would hide each other
            aside = 1.4 ** ((2 * some[0]["series"] + 1) / len(labels) - 1) if len(places) == 1 else 1.0
            _draw_series(axes, [(aside * places.get(row[over], (math.nan,))[0], row) for row in some], labels)
        name, is_left = names[panel[0]["data"]] if len(all_data) > 1 else "", cell.is_first_col()
        dress_lines(axes, title=name, x=x_label, y="top-1 (%)" if is_left else "")
        _set_accuracy_limits(axes, panel)
    _set_legend(figure)
    notes = chosen(f"series{BEST}", len(labels), num_all), chosen("data sets", len(panels), len(all_data))
    _set_title(figure, title, rows, names, [_intervals_in_words(rows), joined(notes)])
    return figure


def _set_log_ticks(axes: Axes, labels: Mapping[float, str]) -> None:
    """Set a logarithmic x axis with a tick per place; a label that would touch its right neighbour is left out."""
    places, shown, taken = sorted(labels), dict(labels), math.inf
    length = math.log(places[-1] / places[0])
    for place in reversed(places):
        half = length * (0.012 * max(map(len, labels[place].split("\n"))) + 0.004)
        fits = math.log(place) + half <= taken
        shown[place], taken = (labels[place], math.log(place) - half) if fits else ("", taken)
    axes.set_xscale("log")
    axes.set_xticks(places, [shown[place] for place in places])
    axes.xaxis.set_minor_locator(NullLocator())


# --- accuracy over layers ----------------------------------------------------------------------------------


def layers_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return top-1 over depth at the most shots: per data set and model a line and a heat map row for each pool.

    They are told apart by classifier, l2 and ways as well, where those differ. A layer without a result is grey.
    """
    names, all_panels = names_of(rows), grouped(rows, ("data", "model"))
    by_shots = [
        sorted(grouped(some, ["shots"]), key=lambda group: shots_of(group[0])) for some in all_panels[:MAX_PANELS]
    ]
    rows = sorted((row for groups in by_shots for row in groups[-1]), key=lambda row: POOLS.index(row["pool"]))
    keys = ("pool", "classifier", "l2", "ways", "queries")
    rows, labels, num_all = series_of(rows, keys, names, most=MAX_ROWS, least="pool")
    panels = grouped(rows, ("data", "model"))
    num_layers = max(len({row["layer"] for row in panel}) for panel in panels)
    cells_width = max(3.6, num_layers * (0.36 if num_layers <= MAX_NUMBERED_COLUMNS else 0.21))
    size = cells_width + 1.3 + 0.06 * max(map(len, labels)), 3.3 + 0.3 * len(labels)
    figure, cells = _grid(len(panels), size, most_columns=2, labels=labels)
    for panel, cell in zip(panels, cells, strict=True):
        words = label_of(panel[0], varying_keys(rows, ("data", "model", "shots")), names)
        of_data = [row for row in rows if row["data"] == panel[0]["data"]]
        _draw_layers_panel(cell, panel, labels, of_data=of_data, title=words)
    _set_legend(figure)
    notes = chosen(f"rows{BEST}", len(labels), num_all), chosen("panels", len(panels), len(all_panels))
    _set_title(figure, title, rows, names, [_intervals_in_words(rows), joined(notes)])
    return figure


def _draw_layers_panel(
    cell: SubplotSpec, rows: Sequence[Row], labels: Sequence[str], *, of_data: Sequence[Row], title: str
) -> None:
    """Draw a model's lines above, its heat map below, on the scale of all rows ``of_data``."""
    ends, heights = {EMBED: -1.0, FINAL: math.inf}, (2.1, 0.3 * len(labels))
    layers = sorted({row["layer"] for row in rows}, key=lambda layer: ends.get(layer, layer))
    inner = cell.subgridspec(2, 1, height_ratios=heights, hspace=0.02)
    line_axes, heat_axes = cast(np.ndarray, inner.subplots(sharex=True))
    values = np.full((len(labels), len(layers)), np.nan)
    for some in grouped(rows, ["series"]):
        points = [(layers.index(row["layer"]), row) for row in some]
        _draw_series(line_axes, points, labels)
        for place, row in points:
            values[row["series"], place] = 100 * row["top1_mean"]
    has_numbers = len(layers) <= MAX_NUMBERED_COLUMNS
    texts = [[f"{value:.1f}" * has_numbers for value in line] for line in values]
    image = _draw_heat_map(heat_axes, values, texts, of_data)
    heat_axes.set_yticks(range(len(labels)), labels, parse_math=False)
    heat_axes.set_xticks(range(len(layers)), list(map(str, layers)), rotation=0 if has_numbers else 90)
    heat_axes.set_xlabel("layer (grey: no result)" if np.isnan(values).any() else "layer")
    share = heights[1] / sum(heights)
    bar = {"fraction": 0.04, "pad": 0.02, "anchor": (0, 0), "shrink": share, "aspect": 25 * share}
    heat_axes.figure.colorbar(image, ax=[line_axes, heat_axes], label="top-1 (%)", **bar)  # takes of both alike
    line_axes.tick_params(which="minor", length=0)
    dress_lines(line_axes, title=title, y="top-1 (%)")
    _set_accuracy_limits(line_axes, of_data)


# --- ways against shots ------------------------------------------------------------------------------------


def ways_shots_figure(rows: Sequence[Row], *, title: str) -> Figure:
    """Return heat maps of ways against shots, with top-1 and half its 95 % interval in every cell.

    There is a panel per data set, model, layer, pool, classifier, l2 and number of queries; of too many the most
    accurate ones of each data set are shown. All share one range of colours.
    Results that are not of episodes are left out.
    """
    rows = [row for row in rows if row.get("ways") is not None]
    names, keys = names_of(rows), ("data", *(key for key in SERIES_KEYS if key != "ways"))
    rows, labels, num_all = series_of(rows, keys, names, most=MAX_PANELS)
    panels = grouped(rows, ["series"])
    most_ways, most_shots = (max(len({row[key] for row in panel}) for panel in panels) for key in ("ways", "shots"))
    size = max(2.9, 1.4 + 0.78 * most_shots), max(1.6, 1.1 + 0.42 * most_ways)
    figure, cells = _grid(len(panels), size, most_columns=3)
    for panel, cell in zip(panels, cells, strict=True):
        axes = figure.add_subplot(cell)
        image = _draw_ways_panel(axes, panel, rows)
        words = wrapped(labels[panel[0]["series"]], int(14 * size[0]), num_lines=3)
        axes.set_title(words, fontsize=9, parse_math=False)
        axes.set_ylabel("ways (classes)" if cell.is_first_col() else "")
    figure.colorbar(image, ax=figure.axes, label="top-1 (%)", fraction=0.05, pad=0.02, aspect=25)
    note = "cells: mean ± half width of the 95 % interval" if any(row.get(BAND) for row in rows) else ""
    _set_title(figure, title, rows, names, [note, chosen(f"panels{BEST}", len(panels), num_all)])
    return figure


def _draw_ways_panel(axes: Axes, rows: Sequence[Row], all_rows: Sequence[Row]) -> AxesImage:
    ways, shots = (sorted({row[key] for row in rows}) for key in ("ways", "shots"))
    values, texts = np.full((len(ways), len(shots)), np.nan), [[""] * len(shots) for _ in ways]
    for row in rows:
        place = down, right = ways.index(row["ways"]), shots.index(row["shots"])
        values[place] = 100 * row["top1_mean"]
        half = f" ± {50 * (row[BAND][1] - row[BAND][0]):.1f}" if row.get(BAND) else ""
        texts[down][right] = f"{values[place]:.1f}{half}"
    axes.set_xticks(range(len(shots)), list(map(str, shots)))
    axes.set_yticks(range(len(ways)), [f"{number} (chance {100 / number:.3g} %)" for number in ways])
    axes.set_xlabel("shots (images per class)")
    return _draw_heat_map(axes, values, texts, all_rows)


# --- lines, bands and heat maps ----------------------------------------------------------------------------


def _draw_series(axes: Axes, points: Iterable[tuple[float, Row]], labels: Sequence[str]) -> None:
    """Draw a line through (x, result), with its band and bars; a result whose x is NaN is a level line."""
    points = sorted(points, key=lambda point: point[0])
    style, label = series_style(points[0][1]["series"]), labels[points[0][1]["series"]]
    colour = style["color"]
    if math.isnan(points[0][0]):
        for _, row in points:
            axes.axhline(100 * row["top1_mean"], color=colour, linestyle="-.", linewidth=1.2, label=label)
        return
    x, means = zip(*((x, 100 * row["top1_mean"]) for x, row in points), strict=True)
    axes.plot(x, means, **style, label=label, zorder=3)
    band, bars = (_intervals(points, key) for key in (BAND, BAR))
    if len(points) > 1:
        axes.fill_between(*band, color=colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(*band, color=colour, alpha=0.25, linewidth=7)
    axes.vlines(*bars, color=colour, linewidth=1)


def _intervals(points: Iterable[tuple[float, Row]], key: str) -> np.ndarray:
    """Return x, low and high end in percent, (3, N), of the points that have the interval ``key``."""
    found = [(x, 100 * row[key][0], 100 * row[key][1]) for x, row in points if row.get(key)]
    return np.array(found, dtype=np.float64).reshape(-1, 3).T


def _set_accuracy_limits(axes: Axes, rows: Sequence[Row]) -> None:
    """Set the y axis to what ``rows`` need, with chance where it leaves the results room, else as a note."""
    values = [100 * value for row in rows for key in (BAND, BAR) for value in (row["top1_mean"], *(row.get(key) or ()))]
    low, high = min(values), max(values)
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


def _draw_heat_map(
    axes: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], all_rows: Sequence[Row]
) -> AxesImage:
    """Draw ``values`` (R, C) in percent, NaN grey, each with its text, in colours that have room for ``all_rows``."""
    every = [100 * row["top1_mean"] for row in all_rows]
    low, high = min(every), max(every)
    image = heat_map(axes, values, limits=(low, high))
    axes.set_aspect("auto")
    axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0, labelsize=8)
    for row, column in np.argwhere(~np.isnan(values)).tolist():
        is_dark = values[row, column] <= low + 0.6 * (high - low)
        axes.text(
            column,
            row,
            texts[row][column],
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if is_dark else "black",
        )
    return image


# --- sizes, titles and legends -----------------------------------------------------------------------------


def _grid(
    count: int, size: tuple[float, float], *, most_columns: int, labels: Sequence[str] = ()
) -> tuple[Figure, list[SubplotSpec]]:
    """Return a figure with ``count`` places of ``size`` (width, height) inches, and room for a legend of ``labels``."""
    columns = 2 if count == 4 else min(count, most_columns)
    rows = math.ceil(count / columns)
    legend = 0.6 + 0.065 * max(map(len, labels), default=0) if labels else 0.0
    figure = Figure(figsize=(max(5.5, 0.9 + columns * size[0] + legend), 1.1 + rows * size[1]), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    return figure, [grid[index // columns, index % columns] for index in range(count)]


def _set_title(figure: Figure, title: str, rows: Sequence[Row], names: Mapping[str, str], notes: Iterable[str]) -> None:
    """Set the title: what the caller says, what all results share, what intervals mean, what is left out."""
    constant, longest = [key for key in LABEL_KEYS if not varying_keys(rows, [key])], int(figure.get_figwidth() * 12)
    more = [wrapped(text, longest, num_lines=3) for text in (label_of(rows[0], constant, names), *notes)]
    lines = filter(None, [wrapped(title, longest, num_lines=1), *more])
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)


def _intervals_in_words(rows: Sequence[Row]) -> str:
    return joined(words for key, words in INTERVALS.items() if any(row.get(key) for row in rows))


def _set_legend(figure: Figure) -> None:
    """Set the legend beside the panels: what any of them shows, chance at the end."""
    both = (axes.get_legend_handles_labels() for axes in figure.axes)
    handles = {label: handle for pair in both for handle, label in zip(*pair, strict=True)}
    handles["chance"] = handles.pop("chance")
    without_math(figure.legend(handles.values(), handles, loc="outside right center", frameon=False, fontsize=8))
