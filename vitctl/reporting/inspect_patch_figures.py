"""Pictures of what ``vitctl inspect`` finds about patches: filters, positions, localisation, features, receptive field.

Of each analysis: ``*_size`` says how many inches (width, height) it needs, ``draw_*`` draws it and returns what it
left out. Letters: I pictures, A layers, h w grid of patches, Y X px, n components, ph pw px of a patch.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import SubFigure

from vitctl.reporting.figures import GREY, fitted
from vitctl.reporting.inspect_drawing import Drawing
from vitctl.reporting.inspect_panels import (
    BLUE,
    ORANGE,
    Limits,
    Shown,
    chosen,
    colour_bar,
    draw_level,
    draw_picture,
    dress,
    dress_lines,
    evenly,
    finite,
    grey_note,
    heat_map,
    hide_ticks,
    joined,
    largest,
    layer_note,
    legend,
    legend_below,
    lowest_and_evenly,
    map_height,
    mark_cell,
    picture_height,
    pictures_of,
    query_cell,
    query_name,
    set_layer_ticks,
    stacked,
)

MAX_COMPONENTS, COMPONENTS_PER_ROW = 112, 7
MAX_BARS = 40
MAX_TILES = 14  # rows and columns of position embeddings, each with its map
MAX_MAPS, MAPS_PER_ROW = 8, 4
NORMS_HEIGHT = 1.8  # inches
LINES_HEIGHT = 3.3  # inches
LEAST_RANGE = 0.02  # of the middle, to both sides
GREY_LEVEL = 0.73  # of what is not defined, in pictures of colours


# --- the patch embedding -----------------------------------------------------------------------------------


def filters_size(_: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 9.5, 4.2


def draw_filters(panel: SubFigure, shown: Shown) -> str:
    """Draw the components in rows of seven, and what each explains."""
    all_components, ratio = shown.arrays["components"], shown.arrays["explained_variance_ratio"]
    components = all_components[:MAX_COMPONENTS]
    tile_axes, bar_axes = panel.subplots(1, 2, width_ratios=(1.5, 1))
    num_columns = COMPONENTS_PER_ROW if len(components) <= 42 else 2 * COMPONENTS_PER_ROW
    tile_axes.imshow(_component_tiles(components, num_columns), interpolation="nearest")
    hide_ticks(tile_axes)
    tile_axes.spines[:].set_visible(False)
    height, width = components.shape[-2:]
    dress(
        tile_axes,
        title=f"principal components 1 to {len(components)}, row by row",
        x=f"each {height} x {width} px, stretched to its own range",
    )
    num_bars = min(len(ratio), max(MAX_BARS, len(components)))
    colours = [BLUE if number < len(components) else GREY for number in range(num_bars)]
    bar_axes.bar(range(1, num_bars + 1), 100 * np.nan_to_num(finite(ratio[:num_bars])), color=colours, width=0.9)
    draw_level(bar_axes, 100 / len(ratio), "all alike (even spectrum)")
    bar_axes.set_yscale("log")
    heights = [1 / len(ratio), *(share for share in finite(ratio[:num_bars]).tolist() if share > 0)]
    bar_axes.set_ylim(max(1e-3, 70 * min(heights)), min(130, 200 * max(heights)))
    dress_lines(
        bar_axes,
        title=joined(["explained variance", chosen("components", num_bars, len(ratio))]),
        x="component",
        y="explained variance (%)",
    )
    legend(bar_axes, place="upper right")
    explained = shown.number("explained_by_components")
    return joined(
        [
            str(shown.facts.get("layer", "")),
            f"{len(components)} components explain {explained:.1%}" if explained is not None else "",
            chosen("components drawn", len(components), len(all_components)),
        ]
    )


def _component_tiles(components: np.ndarray, num_columns: int) -> np.ndarray:
    """Return (n, 3, ph, pw) components as one RGB picture, white between them; each stretched to 0-1."""
    number, _, height, width = components.shape
    gap = max(1, round(0.12 * max(height, width)))
    num_columns = min(num_columns, number)
    num_rows = -(-number // num_columns)
    picture = np.ones((num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, 3))
    for index, component in enumerate(finite(components)):
        low, high = component.min(), component.max()
        y, x = index // num_columns * (height + gap), index % num_columns * (width + gap)
        stretched = (component - low) / (high - low) if high > low else np.full_like(component, 0.5)
        picture[y : y + height, x : x + width] = np.nan_to_num(stretched.transpose(1, 2, 0), nan=GREY_LEVEL)
    return picture


def pos_embed_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return (11.5 if "similarity_resampled" in shown.arrays else 6.2), 5.8


def draw_pos_embed(panel: SubFigure, shown: Shown) -> str:
    """Draw the similarity of each position with all others, also after resampling."""
    kinds = {"similarity": "own grid", "similarity_resampled": "resampled"}
    names = [name for name in kinds if name in shown.arrays]
    all_axes = list(panel.subplots(1, len(names), squeeze=False)[0])
    notes = []
    for axes, name in zip(all_axes, names, strict=True):
        similarity = shown.arrays[name]
        height, width = similarity.shape[:2]
        title = joined([f"{kinds[name]}, {height} x {width} patches", grey_note(similarity)])
        if min(height, width) == 1:
            heat_map(axes, similarity.reshape(height * width, height * width), limits=(-1, 1))
            dress(axes, title=title, x="position", y="position of the row")
        else:
            notes.append(_draw_tiles(axes, similarity))
            dress(axes, title=title, x="column of the patch", y="row of the patch")
            axes.tick_params(length=0)
    colour_bar(panel, all_axes, "cosine with the position of the tile", limits=(-1, 1))
    return joined(dict.fromkeys(notes))


def _draw_tiles(axes: Axes, similarity: np.ndarray) -> str:
    """Draw (h, w, h, w) as tiles of maps, at the place that each tile stands for; return what was left out."""
    height, width = similarity.shape[:2]
    rows, columns = evenly(height, MAX_TILES), evenly(width, MAX_TILES)
    tiles = similarity[np.ix_(rows, columns)].transpose(0, 2, 1, 3)
    heat_map(axes, tiles.reshape(len(rows) * height, len(columns) * width), limits=(-1, 1))
    for edge in range(1, len(rows)):
        axes.axhline(edge * height - 0.5, color="white", linewidth=1.2)
    for edge in range(1, len(columns)):
        axes.axvline(edge * width - 0.5, color="white", linewidth=1.2)
    axes.set_xticks([(place + 0.5) * width - 0.5 for place in range(len(columns))], [str(c) for c in columns])
    axes.set_yticks([(place + 0.5) * height - 0.5 for place in range(len(rows))], [str(r) for r in rows])
    text = chosen("positions", len(rows) * len(columns), height * width)
    return f"tiles of {text}" if text else ""


# --- places ------------------------------------------------------------------------------------------------


def localisation_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    height, width = shown.arrays["own"].shape
    return 6.6, 1.2 + 2 * (0.25 + 1.7 * min(height / width, 1.0))


def localisation_limits(all_shown: Sequence[Shown]) -> Limits:
    """Return 0 and the largest CKA of all models."""
    return 0.0, max(largest(shown.arrays["cka"]) for shown in all_shown)


def draw_localisation(panel: SubFigure, shown: Shown) -> str:
    """Draw the maps of five tokens, each with its own place framed, and what each token shares with its own patch."""
    similarity = shown.arrays["cka"]
    height, width = similarity.shape[1:]
    cells = {"corner": (0, 0), "top edge": (0, width // 2), "right edge": (height // 2, width - 1)}
    cells |= {"between": (height // 4, width // MAPS_PER_ROW), "centre": (height // 2, width // 2)}
    all_axes = panel.subplots(2, 3).ravel()
    for axes, (where, (row, column)) in zip(all_axes, cells.items(), strict=False):
        heat_map(axes, similarity[row * width + column], limits=shown.limits)
        mark_cell(axes, (row, column))
        dress(axes, title=f"token ({row}, {column}), {where}")
    own = shown.arrays["own"]
    heat_map(all_axes[-1], own, limits=shown.limits)
    dress(all_axes[-1], title="each token, its own patch")
    for axes in all_axes:
        hide_ticks(axes)
    all_axes[3].set_xlabel("column (patches)", fontsize=9)
    all_axes[3].set_ylabel("row (patches)", fontsize=9)
    colour_bar(panel, list(all_axes), "CKA with the pixels of a patch", limits=shown.limits)
    accuracy, chance = shown.number("argmax_accuracy"), shown.number("chance")
    texts = [layer_note(shown)]
    if accuracy is not None:
        texts.append(f"{accuracy:.1%} of tokens are most like their own patch")
    if chance is not None:
        texts.append(f"chance {chance:.1%}")
    return joined([*texts, grey_note(similarity)])


def features_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    num_rows = len(pictures_of(shown))
    return 9.5, NORMS_HEIGHT + 0.8 + num_rows * (picture_height(shown, 2.0) + 0.2)


def draw_features(panel: SubFigure, shown: Shown) -> str:
    """Draw a row per picture: it, three components as colours, similarity to the query, norms; below, all norms."""
    pictures, height = pictures_of(shown), features_size(shown)[1]
    lower = panel
    if pictures:
        upper, lower = stacked(panel, (height - NORMS_HEIGHT, NORMS_HEIGHT))
        _draw_feature_maps(upper, shown)
    _draw_norm_range(lower.subplots(), shown)
    explained = shown.number("explained_by_three")
    return joined(
        [
            layer_note(shown),
            f"three components explain {explained:.0%}" if explained is not None else "",
            chosen("pictures", len(pictures), len(shown.arrays["rgb"])),
        ]
    )


def _draw_feature_maps(panel: SubFigure, shown: Shown) -> None:
    pictures, cell = pictures_of(shown), query_cell(shown)
    similarity, norms = shown.arrays["similarity"], shown.arrays["token_norm"]
    all_axes = panel.subplots(len(pictures), 4, squeeze=False)
    lowest = min(0.0, -largest(-similarity, default=0.0))
    norm_limits = (0.0, largest(norms[: len(pictures)]))
    for row, (picture, name) in enumerate(pictures):
        draw_picture(all_axes[row, 0], picture, name)
        all_axes[row, 1].imshow(np.clip(np.nan_to_num(shown.arrays["rgb"][row], nan=GREY_LEVEL), 0, 1))
        heat_map(all_axes[row, 2], similarity[row], limits=(lowest, 1))
        heat_map(all_axes[row, 3], norms[row], limits=norm_limits)
        for axes in all_axes[row]:
            hide_ticks(axes)
        if cell is not None:
            height, width = similarity.shape[1:]
            mark_cell(all_axes[row, 0], cell, (picture.shape[0] / height, picture.shape[1] / width))
            mark_cell(all_axes[row, 2], cell)
    titles = ("picture", "three components", f"similarity to {query_name(shown)}", "norms of the tokens")
    for axes, title in zip(all_axes[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    colour_bar(panel, list(all_axes[:, 2]), "cosine", limits=(lowest, 1), is_column=True)
    colour_bar(panel, list(all_axes[:, 3]), "norm", limits=norm_limits, is_column=True)


def _draw_norm_range(axes: Axes, shown: Shown) -> None:
    """Draw the quantiles of all patch tokens' norms as a box, and the prefix tokens' norms as dots."""
    low, quarter, middle, three_quarters, high = (float(value) for value in finite(shown.arrays["norm_quantiles"]))
    box = {"whislo": low, "q1": quarter, "med": middle, "q3": three_quarters, "whishi": high, "fliers": []}
    axes.bxp([box], positions=[1], widths=0.5, orientation="horizontal", patch_artist=True, showfliers=False,
             boxprops={"facecolor": "white", "edgecolor": BLUE}, medianprops={"color": ORANGE})  # fmt: skip
    places = {1: "patches"}
    prefix = finite(shown.arrays.get("prefix_norm", np.zeros((0, 0))))
    if prefix.size:
        axes.plot(prefix.ravel(), np.zeros(prefix.size), "o", color=BLUE, alpha=0.5, markersize=5)
        places[0] = "prefix tokens"
    axes.set_yticks(list(places), list(places.values()))
    axes.set_ylim(min(places) - 0.5, 1.5)
    axes.set_xlim(_range_of([low, high, *prefix.ravel().tolist()]))
    axes.ticklabel_format(axis="x", useOffset=False)
    dress_lines(axes, title="all images (box: quarters; whiskers: smallest and largest)", x="Euclidean norm of a token")


def _range_of(norms: Sequence[float]) -> Limits:
    """Return the limits of an axis that holds all ``norms``, at least ``LEAST_RANGE`` of their middle from it."""
    known = [norm for norm in norms if math.isfinite(norm)] or [0.0, 1.0]
    middle = (min(known) + max(known)) / 2
    half = max(0.55 * (max(known) - min(known)), LEAST_RANGE * abs(middle), 1e-6)
    return middle - half, middle + half


def receptive_field_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 11.0, LINES_HEIGHT + 0.5 + _fields_height(shown)


def _fields_height(shown: Shown) -> float:
    """Return inches."""
    num_rows = -(-min(MAX_MAPS, len(shown.arrays["layers"])) // MAPS_PER_ROW)
    return num_rows * (0.45 + map_height(shown.arrays["field"][0], 2.1))


def draw_receptive_field(panel: SubFigure, shown: Shown) -> str:
    """Draw the fields of some layers; below them extent, half area and own share over depth."""
    layers, fields = shown.names("layers"), shown.arrays["field"]
    places = lowest_and_evenly(len(layers), MAX_MAPS)
    num_rows = -(-len(places) // MAPS_PER_ROW)
    upper, lower = stacked(panel, (_fields_height(shown), LINES_HEIGHT))
    norm = PowerNorm(0.5, 0, 1)
    cells, grids = shown.facts.get("cells"), shown.facts.get("grids")
    all_axes = upper.subplots(num_rows, min(MAPS_PER_ROW, len(places)), squeeze=False)
    for axes, place in zip(all_axes.ravel(), places, strict=False):
        heat_map(axes, fields[place], limits=(0, 1), norm=norm)
        if cells and grids:
            mark_cell(axes, cells[place], (fields.shape[1] / grids[place][0], fields.shape[2] / grids[place][1]))
        dress(axes, title=joined([f"layer {fitted(layers[place], 24)}", grey_note(fields[place])]))
    for axes in all_axes.ravel()[len(places) :]:
        axes.set_axis_off()
    all_axes[-1, 0].set_xlabel("x (px)", fontsize=9)
    all_axes[-1, 0].set_ylabel("y (px)", fontsize=9)
    colour_bar(upper, list(all_axes.ravel()), "gradient / its largest\n(square-root scale)", norm=norm)
    _draw_field_lines(lower.subplots(1, 3), shown, layers)
    where = {"post": "after the residual sum", "pre": "before the residual sum"}.get(str(shown.facts.get("where")), "")
    return joined([where, f"maps of {text}" if (text := chosen("layers", len(places), len(layers))) else ""])


def _draw_field_lines(all_axes: Sequence[Axes], shown: Shown, layers: list[str]) -> None:
    share = shown.facts.get("centre_patch_share")
    known = [math.nan if value is None else float(value) for value in share or []]
    lines = (
        ("extent of the field", "root mean squared distance (px)", shown.arrays["extent_px"]),
        ("smallest area with half of the gradient", "share of all pixels (%)", 100 * finite(shown.arrays["area_half"])),
        ("gradient inside the own patch", "share of the gradient (%)", 100 * np.array(known)),
    )
    for axes, (title, label, values) in zip(all_axes, lines, strict=True):
        axes.plot(finite(values), "o-", color=BLUE, markersize=4)
        uniform = shown.number("uniform_extent_px") if title.startswith("extent") else None
        draw_level(axes, uniform, "even over the image")
        axes.set_ylim(0, 1.06 * max(largest(values), uniform or 0.0))
        axes.set_xlim(-0.5, len(layers) - 0.5)
        set_layer_ticks(axes.xaxis, layers)
        dress_lines(axes, title=title, x="layer", y=label)
        legend_below(axes)


DRAWINGS = {
    "filters": Drawing("Patch embedding filters", filters_size, draw_filters, is_beside=True),
    "pos-embed": Drawing("Position embedding similarity", pos_embed_size, draw_pos_embed, is_beside=True),
    "localisation": Drawing(
        "Token localisation",
        localisation_size,
        draw_localisation,
        localisation_limits,
        is_beside=True,
    ),
    "features": Drawing("Patch features", features_size, draw_features),
    "receptive-field": Drawing("Effective receptive field", receptive_field_size, draw_receptive_field),
}
