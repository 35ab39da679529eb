"""What the pictures of ``vitctl inspect`` share: axes, heat maps, maps with outlines, layer names, heads as dots.

Axes, heat maps and layer names are also those of ``vitctl fewshot-eval``.

Colours: Okabe and Ito's palette for lines, viridis for maps; what is not defined is grey, and said.
Letters: L layers, H heads, R C rows and columns of a map, h w grid of patches, Y X px of a picture.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from vitctl.reporting.figures import GREY, PALETTE, fitted
from vitctl.settings.words import EMBED

BLUE, ORANGE, GREEN = PALETTE[:3]
COLOUR_MAP = "viridis"
UNDEFINED = "#BBBBBB"  # in no part of viridis
MAX_PICTURES = 4
MAX_TICKS = 14
MAX_LAYER_NAME, MAX_PICTURE_NAME = 16, 22
FLATTEST_MAP = 0.25  # height by width of the flattest place of a map or picture
OUTLINE_LEVELS = (1 / 3, 2 / 3)  # between the darkest and the lightest grey of the smoothed picture
OUTLINE_BLUR = 0.02  # standard deviation, of the picture's longer side
LEAST_CONTRAST = 10  # grey levels of 255; less is noise
OUTLINE: dict[str, Any] = {"colors": "white", "alpha": 0.6, "linewidths": 0.6}
LABELS_HEIGHT = 0.42  # inches from an axes to below its x label
UPRIGHT_HEIGHT = 0.068  # inches that a letter of an upright tick label adds

Limits = tuple[float, float]
Place = Literal["best", "upper right", "lower right", "lower left"]


@dataclass(frozen=True)
class Shown:
    """One model's findings, as they are to be drawn.

    Attributes:
        arrays: Of the analysis, by name.
        facts: Scalars and short lists, by name; None where a number is not defined.
        limits: The range that all models drawn together share, for analyses that have one.
    """

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    limits: Limits = (0.0, 1.0)

    def number(self, name: str) -> float | None:
        """Return a fact as a number, None where it is not there or not defined."""
        value = self.facts.get(name)
        return None if value is None else float(value)

    def names(self, name: str) -> list[str]:
        """Return an array of names as text."""
        return [str(text) for text in self.arrays[name]]


# --- choosing ----------------------------------------------------------------------------------------------


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of 0..count-1, evenly apart, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()}) if count else []


def lowest_and_evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of 0..count-1: the first two (embedding and block 0), then evenly apart, the last too."""
    if most < 3 or count <= most:
        return evenly(count, most)
    return [0, *(1 + place for place in evenly(count - 1, most - 1))]


def chosen(what: str, shown: int, all_of_them: int) -> str:
    """Return e.g. "6 of 24 blocks", or nothing where all are shown."""
    return f"{shown} of {all_of_them} {what}" if shown < all_of_them else ""


def joined(parts: Iterable[str]) -> str:
    """Return the parts that say something, semicolons between."""
    return "; ".join(part for part in parts if part)


def finite(values: np.ndarray) -> np.ndarray:
    """Return ``values``, of any shape (N, ...), as float64 with NaN for what is not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def mean_of(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of (L, H), of what is defined, (L,); NaN where nothing is."""
    numbers = finite(values)
    is_known = ~np.isnan(numbers)
    counts = is_known.sum(axis=-1)
    totals = np.where(is_known, numbers, 0).sum(axis=-1)
    mean: np.ndarray = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    return mean


def wrapped(text: str, longest: int, *, num_lines: int = 2) -> str:
    """Return ``text`` over at most ``num_lines`` lines of ``longest`` characters, cut where it is still longer."""
    lines = textwrap.wrap(
        fitted(text, longest * num_lines), longest, max_lines=num_lines, placeholder="…", break_on_hyphens=False
    )
    return "\n".join(lines)


def largest(values: np.ndarray, default: float = 1.0) -> float:
    """Return the largest defined value of (N, ...), ``default`` where none is defined or above 0."""
    known = finite(values)
    known = known[~np.isnan(known)]
    return float(known.max()) if known.size and known.max() > 0 else default


def stacked(panel: SubFigure, heights: Sequence[float]) -> list[SubFigure]:
    """Return a part of ``panel`` for each of ``heights``, below each other."""
    parts: Any = panel.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    return list(parts[:, 0])


# --- axes --------------------------------------------------------------------------------------------------


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Set title, labels and font sizes of an axes with a map or picture."""
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xlabel(x, fontsize=9, parse_math=False)
    axes.set_ylabel(y, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)


def dress_lines(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Set title, labels, font sizes, grid and frame of an axes with lines, dots or bars."""
    dress(axes, title=title, x=x, y=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def legend(axes: Axes, *, columns: int = 1, place: Place = "best") -> None:
    """Set a legend without a frame, names as they are; none where nothing has a name."""
    if axes.get_legend_handles_labels()[1]:
        without_math(axes.legend(frameon=False, fontsize=8, ncols=columns, loc=place))


def legend_below(axes: Axes, *, columns: int = 2) -> None:
    """Set a legend below an axes, where it hides nothing."""
    if not axes.get_legend_handles_labels()[1]:
        return
    labels = axes.get_xticklabels()
    longest = max((len(text.get_text()) for text in labels if text.get_rotation()), default=1)
    drop = ScaledTranslation(0, -LABELS_HEIGHT - UPRIGHT_HEIGHT * (longest - 1), axes.figure.dpi_scale_trans)
    drawn = axes.legend(
        frameon=False, fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0,
        bbox_transform=axes.transAxes + drop,
    )  # fmt: skip
    without_math(drawn)


def legend_of_all(panel: SubFigure, axes: Axes, *, columns: int) -> None:
    """Set one legend below all axes of ``panel``, of the names on one of them."""
    handles, labels = axes.get_legend_handles_labels()
    drawn = panel.legend(handles, labels, frameon=False, fontsize=8, ncols=columns, loc="outside lower center")
    without_math(drawn)


def without_math(drawn: Legend) -> None:
    """Show the names in a legend as they are."""
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign


def set_layer_ticks(axis: Axis, names: Sequence[str], *, most: int = MAX_TICKS) -> None:
    """Name the places 0..L-1 of an axis after layers; with many layers only every so many, "embed" among them."""
    step = max(1, -(-len(names) // most))
    first = names.index(EMBED) if step > 1 and EMBED in names[:step] else 0
    places = range(first, len(names), step)
    labels = [fitted(names[place], MAX_LAYER_NAME) for place in places]
    is_upright = isinstance(axis, XAxis) and len(names) > 1 and max(map(len, labels)) > 3
    axis.set_ticks(places, labels, rotation=90 if is_upright else 0)
    for text in axis.get_ticklabels():
        text.set_parse_math(False)


def set_block_axis(axes: Axes, num_blocks: int) -> None:
    """Set an x axis of blocks, counted from 0."""
    axes.set_xlim(-0.5, num_blocks - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))


def draw_heads_over_depth(axes: Axes, values: np.ndarray, *, scale: float = 1.0) -> None:
    """Draw a dot per head and a line for their mean over the blocks.

    Args:
        axes: Where.
        values: (L, H); what is not finite is left out.
        scale: Factor for what is drawn, 100 for percent.
    """
    numbers = scale * finite(values)
    blocks = np.broadcast_to(np.arange(len(numbers))[:, None], numbers.shape)
    axes.scatter(blocks.ravel(), numbers.ravel(), s=14, color=BLUE, alpha=0.6, linewidths=0, label="a head", zorder=2)
    axes.plot(mean_of(numbers), "-", color=ORANGE, linewidth=1.6, label="mean of the heads", zorder=3)
    set_block_axis(axes, len(numbers))


def draw_level(axes: Axes, height: float | None, label: str) -> None:
    """Draw a dashed level line, where there is a height."""
    if height is not None:
        axes.axhline(height, color=GREY, linestyle="--", linewidth=1.2, zorder=1, label=label)


# --- maps and pictures -------------------------------------------------------------------------------------


def heat_map(axes: Axes, values: np.ndarray, *, limits: Limits, norm: Normalize | None = None) -> AxesImage:
    """Draw a map, first row on top; what is not finite is grey.

    Args:
        axes: Where.
        values: (R, C) rows and columns.
        limits: Values of the colours' ends.
        norm: Another scale of colours, in place of ``limits``.
    """
    axes.set_facecolor(UNDEFINED)
    scale: dict[str, Any] = {"norm": norm} if norm is not None else {"vmin": limits[0], "vmax": limits[1]}
    return axes.imshow(finite(values), cmap=mpl.colormaps[COLOUR_MAP], **scale)


def grey_note(values: np.ndarray) -> str:
    """Return the sentence that explains grey cells of (N, ...) values, nothing where there are none."""
    return "" if np.isfinite(values).all() else "grey: not defined"


def draw_overlay(axes: Axes, picture: np.ndarray, values: np.ndarray) -> None:
    """Draw values from 0 to their largest, each in its colour on the colour bar, and the outlines of a picture.

    Args:
        axes: Where.
        picture: (Y, X, 3) uint8.
        values: (h, w), at least 0; stretched to the picture's size bilinearly.
    """
    height, width = picture.shape[:2]
    image = heat_map(axes, finite(values) / largest(values), limits=(0, 1))
    image.set(interpolation="bilinear", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    _draw_outlines(axes, picture)
    hide_ticks(axes)


def _draw_outlines(axes: Axes, picture: np.ndarray) -> None:
    """Draw thin lines where a picture, (Y, X, 3) uint8, crosses two grey levels; none where it has no contrast."""
    if min(picture.shape[:2]) < 2:
        return
    from scipy.ndimage import gaussian_filter

    deviation = OUTLINE_BLUR * max(picture.shape[:2])
    grey = gaussian_filter(
        picture @ (0.299, 0.587, 0.114), deviation, mode="nearest", radius=max(1, round(3 * deviation))
    )
    low, high = float(grey.min()), float(grey.max())
    if high - low >= LEAST_CONTRAST:
        axes.contour(grey, levels=[low + share * (high - low) for share in OUTLINE_LEVELS], **OUTLINE)


def draw_picture(axes: Axes, picture: np.ndarray, name: str) -> None:
    """Draw a picture, (Y, X, 3) uint8, with its name at its side."""
    axes.imshow(picture)
    hide_ticks(axes)
    axes.set_ylabel(short_name(name), fontsize=8, parse_math=False)


def mark_cell(axes: Axes, cell: Sequence[int], cell_size: tuple[float, float] = (1.0, 1.0)) -> None:
    """Draw a frame around a cell of a grid.

    Args:
        axes: Where.
        cell: Row and column.
        cell_size: Height and width of a cell on the axes; a cell's middle lies at whole numbers where it is 1 x 1.
    """
    (row, column), (height, width) = cell, cell_size
    corner = column * width - 0.5, row * height - 0.5
    for colour, line in (("black", 3.0), ("white", 1.4)):
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line, zorder=5))


def colour_bar(
    panel: SubFigure,
    beside: Axes | Sequence[Axes],
    label: str,
    *,
    limits: Limits = (0.0, 1.0),
    norm: Normalize | None = None,
    is_column: bool = False,
) -> None:
    """Set a labelled colour bar to the right of one or several axes.

    Args:
        panel: That holds them.
        beside: The axes.
        label: What the colours say, with the unit.
        limits: Values of the colours' ends.
        norm: Another scale of colours, in place of ``limits``.
        is_column: Whether the axes are one column; the bar is then as high as it, however many they are.
    """
    scale = ScalarMappable(norm or Normalize(*limits), mpl.colormaps[COLOUR_MAP])
    all_axes = [beside] if isinstance(beside, Axes) else list(beside)
    aspect = 25 * (len(all_axes) if is_column else 1)
    bar = panel.colorbar(scale, ax=all_axes, fraction=0.046, pad=0.02, aspect=aspect)
    bar.set_label(label, fontsize=8, parse_math=False)
    bar.ax.tick_params(labelsize=8)


def hide_ticks(axes: Axes) -> None:
    """Leave the axes without ticks: a picture needs none."""
    axes.set_xticks([])
    axes.set_yticks([])


def short_name(name: str) -> str:
    """Return the last part of a picture's name, cut to what fits beside it."""
    return fitted(name.replace("\\", "/").rsplit("/", 1)[-1], MAX_PICTURE_NAME)


def pictures_of(shown: Shown) -> list[tuple[np.ndarray, str]]:
    """Return the first ``MAX_PICTURES`` pictures, (Y, X, 3) uint8, with their names; [] where there are none."""
    if "pictures" not in shown.arrays:
        return []
    pictures = shown.arrays["pictures"]
    names = shown.names("picture_names") if "picture_names" in shown.arrays else [""] * len(pictures)
    return list(zip(pictures, names, strict=True))[:MAX_PICTURES]


def picture_height(shown: Shown, width: float) -> float:
    """Return how many inches high the place of a picture is at ``width`` inches: never higher than wide."""
    pictures = shown.arrays.get("pictures")
    return width if pictures is None or not len(pictures) else map_height(pictures[0], width)


def map_height(values: np.ndarray, width: float) -> float:
    """Return how many inches high the place of a map, (R, C, ...), is at ``width`` inches: never higher than wide."""
    ratio: float = values.shape[0] / values.shape[1]
    return width * min(max(ratio, FLATTEST_MAP), 1.0)


def query_cell(shown: Shown) -> tuple[int, int] | None:
    """Return row and column of the query (or target), None where it is no patch."""
    query = shown.facts.get("query", shown.facts.get("target"))
    if isinstance(query, (list, tuple)) and len(query) == 2:
        return int(query[0]), int(query[1])
    return None


def query_name(shown: Shown) -> str:
    """Return what the query (or target) is called."""
    cell = query_cell(shown)
    if cell is not None:
        return f"patch ({cell[0]}, {cell[1]})"
    query = shown.facts.get("query", shown.facts.get("target"))
    return "the class token" if query in ("cls", None) else str(query)


def layer_note(shown: Shown) -> str:
    """Return which layer was looked at, nothing where the facts do not say."""
    layer = shown.facts.get("layer")
    return "" if layer is None else f"layer {layer}"
