"""Pictures of what ``vitctl inspect`` finds about attention: maps, rollout, distance, heads against a CNN.

Of each analysis: ``*_size`` says how many inches (width, height) it needs, ``draw_*`` draws it and returns what it
left out. Letters: I pictures, L blocks, H heads, S subsets of heads, C layers of a CNN, h w grid of patches.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from vitctl.reporting.figures import PALETTE, series_style
from vitctl.reporting.inspect_drawing import Drawing
from vitctl.reporting.inspect_panels import (
    BLUE,
    GREEN,
    Limits,
    Shown,
    chosen,
    colour_bar,
    draw_heads_over_depth,
    draw_level,
    draw_overlay,
    draw_picture,
    dress,
    dress_lines,
    evenly,
    finite,
    grey_note,
    heat_map,
    joined,
    largest,
    legend,
    legend_below,
    mark_cell,
    mean_of,
    picture_height,
    pictures_of,
    query_cell,
    query_name,
    set_block_axis,
    stacked,
)

MAX_LAYERS = 6  # beside a picture
MAX_HEADS, HEADS_PER_ROW = 16, 8
MAX_LINES = 8
MAP_WIDTH = 1.65  # inches
OVERLAY_LABEL = "attention / the largest of the map"


# --- attention ---------------------------------------------------------------------------------------------


def attention_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 13.0, 0.4 + sum(_attention_heights(shown))


def _attention_heights(shown: Shown) -> list[float]:
    """Return the heights of the statistics, of the maps over depth and of the heads' maps."""
    pictures = pictures_of(shown)
    if not pictures:
        return [3.2]
    num_heads = min(MAX_HEADS, shown.arrays["maps"].shape[2])
    height = picture_height(shown, MAP_WIDTH)
    return [3.2, len(pictures) * (height + 0.3) + 0.6, -(-num_heads // HEADS_PER_ROW) * (height * 0.92 + 0.3) + 0.5]


def draw_attention(panel: SubFigure, shown: Shown) -> str:
    """Draw entropy, similarity of heads and prefix attention; below them maps over depth and of one block's heads."""
    parts = stacked(panel, _attention_heights(shown))
    _draw_attention_statistics(parts[0], shown)
    error = largest(shown.arrays["row_sum_error"], default=0.0)
    notes = [f"query: {query_name(shown)}", f"rows of every map sum to 1 within {error:.0e}"]
    if len(parts) > 1:
        notes.append(grey_note(shown.arrays["maps"]))
        notes += [_draw_maps_over_depth(parts[1], shown), _draw_head_maps(parts[2], shown)]
    return joined(notes)


def _draw_attention_statistics(panel: SubFigure, shown: Shown) -> None:
    prefix = shown.arrays["prefix_attention"]
    has_prefix = prefix.size > 0 and bool(np.any(prefix))
    all_axes = panel.subplots(1, 4 if has_prefix else 3)
    entropy = shown.arrays["entropy"]
    draw_heads_over_depth(all_axes[0], entropy)
    draw_level(all_axes[0], shown.number("max_entropy"), "even attention")
    all_axes[0].set_ylim(0, None)
    dress_lines(all_axes[0], title="entropy of a query's attention", x="block", y="entropy (nats)")
    legend_below(all_axes[0])
    _draw_head_similarity(all_axes[1], shown.arrays["head_similarity"])
    if has_prefix:
        draw_heads_over_depth(all_axes[2], prefix.mean(axis=0), scale=100)
        all_axes[2].set_ylim(0, None)
        dress_lines(all_axes[2], title="attention of the query to prefix tokens", x="block", y="attention (%)")
        legend_below(all_axes[2])
    layer = _layer(shown)
    matrix = shown.arrays["head_similarity"][layer]
    heat_map(all_axes[-1], matrix, limits=(0, 1))
    for axis in (all_axes[-1].xaxis, all_axes[-1].yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    dress(all_axes[-1], title=joined([f"heads of block {layer}", grey_note(matrix)]), x="head", y="head")
    colour_bar(panel, all_axes[-1], "cosine between the heads' maps")


def _draw_head_similarity(axes: Axes, similarity: np.ndarray) -> None:
    """Draw the mean and the range of the heads' similarity, (L, H, H), over the blocks, each head with the others."""
    num_blocks, num_heads = similarity.shape[:2]
    dress_lines(axes, title="similarity of the heads' maps", x="block", y="cosine between two heads")
    set_block_axis(axes, num_blocks)
    if num_heads == 1:
        axes.text(0.5, 0.5, "one head only", ha="center", transform=axes.transAxes, fontsize=9)
        return
    pairs = finite(similarity)[:, ~np.eye(num_heads, dtype=bool)]
    blocks = np.arange(num_blocks)
    low, high = np.fmin.reduce(pairs, axis=1), np.fmax.reduce(pairs, axis=1)
    axes.fill_between(blocks, low, high, color=BLUE, alpha=0.2, linewidth=0, label="all pairs")
    axes.plot(blocks, mean_of(pairs), "o-", color=BLUE, markersize=3, label="mean of the pairs")
    axes.set_ylim(min(0.0, -largest(-pairs, default=0.0)), 1.02)
    legend_below(axes)


def _draw_maps_over_depth(panel: SubFigure, shown: Shown) -> str:
    maps, head = shown.arrays["maps"], shown.facts.get("head")
    of_layers = maps.mean(axis=2) if head is None else maps[:, :, int(head)]
    prefix = shown.arrays["prefix_attention"]
    to_prefix = prefix.mean(axis=2) if head is None else prefix[:, :, int(head)]
    layers = evenly(maps.shape[1], MAX_LAYERS)
    _draw_overlays(panel, shown, of_layers, layers, "block {}", to_prefix if np.any(prefix) else None)
    which = "mean of the heads" if head is None else f"head {head}"
    panel.suptitle(f"attention of the query, {which}", fontsize=10)
    return joined([chosen("blocks", len(layers), maps.shape[1]), _left_out_pictures(shown)])


def _draw_overlays(
    panel: SubFigure, shown: Shown, maps: np.ndarray, layers: list[int], title: str, to_prefix: np.ndarray | None
) -> None:
    """Draw a row per picture: it, then its maps (I, L, h, w) of some layers, with what goes to the prefix (I, L)."""
    pictures = pictures_of(shown)
    all_axes = panel.subplots(len(pictures), 1 + len(layers), squeeze=False)
    for row, (picture, name) in enumerate(pictures):
        draw_picture(all_axes[row, 0], picture, name)
        _mark_query(all_axes[row, 0], shown, maps.shape[-2:])
        for axes, layer in zip(all_axes[row, 1:], layers, strict=True):
            draw_overlay(axes, picture, maps[row, layer])
            _mark_query(axes, shown, maps.shape[-2:])
            if to_prefix is not None:
                axes.set_xlabel(f"to prefix: {to_prefix[row, layer]:.0%}", fontsize=8)
            if row == 0:
                axes.set_title(title.format(layer), fontsize=9)
    colour_bar(panel, list(all_axes.ravel()), OVERLAY_LABEL)


def _draw_head_maps(panel: SubFigure, shown: Shown) -> str:
    """Draw the maps of one block's heads over the first picture."""
    maps, layer, special = shown.arrays["maps"], _layer(shown), shown.facts.get("head")
    (picture, name), *_ = pictures_of(shown)
    heads = evenly(maps.shape[2], MAX_HEADS)
    all_axes = panel.subplots(-(-len(heads) // HEADS_PER_ROW), HEADS_PER_ROW, squeeze=False)
    head_axes = list(all_axes.ravel()[: len(heads)])
    for axes, head in zip(head_axes, heads, strict=True):
        draw_overlay(axes, picture, maps[0, layer, head])
        _mark_query(axes, shown, maps.shape[-2:])
        axes.set_title(f"head {head}", fontsize=9, fontweight="bold" if head == special else "normal")
    for axes in all_axes.ravel()[len(heads) :]:
        axes.set_axis_off()
    title = f"heads of block {layer}, first picture"
    panel.suptitle(title, fontsize=10, x=0.5 * min(1.0, len(heads) / HEADS_PER_ROW))
    colour_bar(panel, head_axes, OVERLAY_LABEL)
    return chosen("heads", len(heads), maps.shape[2])


def _layer(shown: Shown) -> int:
    """Return the block that the user chose, else the last."""
    layer = shown.facts.get("layer")
    return len(shown.arrays["entropy"]) - 1 if layer is None else int(layer)


def _mark_query(axes: Axes, shown: Shown, grid: tuple[int, ...]) -> None:
    cell = query_cell(shown)
    if cell is not None:
        height, width = shown.arrays["pictures"].shape[1:3]
        mark_cell(axes, cell, (height / grid[0], width / grid[1]))


def _left_out_pictures(shown: Shown) -> str:
    return chosen("pictures", len(pictures_of(shown)), len(shown.arrays["pictures"]))


# --- rollout -----------------------------------------------------------------------------------------------


def rollout_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    num_columns = 1 + min(MAX_LAYERS, shown.arrays["per_layer"].shape[1])
    num_rows = max(1, len(pictures_of(shown)))
    return max(7.0, 1.4 + num_columns * MAP_WIDTH), 0.8 + num_rows * (picture_height(shown, MAP_WIDTH) + 0.1)


def draw_rollout(panel: SubFigure, shown: Shown) -> str:
    """Draw a row per picture: it, the rollout of the first few blocks, of more, and of all, the last in bold."""
    pictures, per_layer = pictures_of(shown), shown.arrays["per_layer"]
    layers = evenly(per_layer.shape[1], MAX_LAYERS)
    grid = per_layer.shape[-2:]
    all_axes = panel.subplots(max(1, len(pictures)), 1 + len(layers), squeeze=False)
    for row, (picture, name) in enumerate(pictures):
        draw_picture(all_axes[row, 0], picture, name)
        for axes, layer in zip(all_axes[row, 1:], layers, strict=True):
            is_last = layer == layers[-1]
            draw_overlay(axes, picture, shown.arrays["rollout"][row] if is_last else per_layer[row, layer])
            if row == 0:
                title = "all blocks" if is_last else f"blocks 0 to {layer}" if layer else "block 0"
                axes.set_title(title, fontsize=9, fontweight="bold" if is_last else "normal")
        for axes in all_axes[row]:
            _mark_query(axes, shown, grid)
    colour_bar(panel, list(all_axes.ravel()), "share of the token / the largest of the map")
    settings = ", ".join(f"{key} {shown.facts[key]}" for key in ("fusion", "discard", "residual") if key in shown.facts)
    left_out = [chosen("blocks", len(layers), per_layer.shape[1]), _left_out_pictures(shown)]
    return joined([f"of {query_name(shown)}", settings, *left_out, grey_note(per_layer)])


# --- distance ----------------------------------------------------------------------------------------------


def distance_size(_: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 13.0, 4.2


def distance_limits(all_shown: Sequence[Shown]) -> Limits:
    """Return 0 and the largest distance in px, of heads or of even attention."""
    highest = max(max(largest(shown.arrays["distance_px"]), shown.number("uniform_px") or 0.0) for shown in all_shown)
    return 0.0, 1.05 * highest


def distance_scale(shown: Shown) -> float | None:
    """Return the distance in px of even attention: models of other image sizes have another."""
    return shown.number("uniform_px")


def draw_distance(panel: SubFigure, shown: Shown) -> str:
    """Draw the sorted heads of the lowest and highest blocks, all heads over depth, and what prefix tokens get."""
    distance, uniform = shown.arrays["distance_px"], shown.number("uniform_px")
    sorted_axes, depth_axes, prefix_axes = panel.subplots(1, 3)
    num_blocks, num_heads = distance.shape
    blocks = sorted({0, 1, num_blocks - 2, num_blocks - 1} & set(range(num_blocks)))
    colours = dict(zip((0, 1, num_blocks - 2, num_blocks - 1), (BLUE, PALETTE[4], PALETTE[5], PALETTE[1]), strict=True))
    for block, marker in zip(blocks, "os^D", strict=False):
        heads = np.sort(finite(distance[block]))
        sorted_axes.plot(
            range(1, num_heads + 1), heads, color=colours[block], marker=marker, markersize=4, label=f"block {block}"
        )
    draw_level(sorted_axes, uniform, "even attention")
    sorted_axes.set_ylim(shown.limits)
    sorted_axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    dress_lines(sorted_axes, title="lowest and highest blocks", x="heads, nearest first", y="mean distance (px)")
    legend_below(sorted_axes, columns=3)
    draw_heads_over_depth(depth_axes, distance)
    draw_level(depth_axes, uniform, "even attention")
    depth_axes.set_ylim(shown.limits)
    dress_lines(depth_axes, title="all blocks", x="block", y="mean distance (px)")
    legend_below(depth_axes, columns=3)
    draw_heads_over_depth(prefix_axes, shown.arrays["prefix_mass"], scale=100)
    prefix_axes.set_ylim(0, max(1.0, 105 * largest(shown.arrays["prefix_mass"], default=0.0)))
    dress_lines(prefix_axes, title="attention of patches to prefix tokens", x="block", y="attention (%)")
    legend_below(prefix_axes)
    size = shown.facts.get("image_size")
    return joined(
        [
            f"images of {size[0]} x {size[1]} px" if size else "",
            "attention among patches renormalised" if shown.facts.get("is_renormalised") else "",
        ]
    )


# --- heads against a CNN -----------------------------------------------------------------------------------


def heads_vs_cnn_size(_: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 11.0, 4.6


def draw_heads_vs_cnn(panel: SubFigure, shown: Shown) -> str:
    """Draw CKA over the distance of the heads' subsets, a line per CNN layer, and the distance of each head."""
    cka, layers = shown.arrays["cka"], shown.names("cnn_layers")
    cka_axes, head_axes = panel.subplots(1, 2, width_ratios=(1.5, 1))
    lines = evenly(len(layers), MAX_LINES)
    order = np.argsort(shown.arrays["subset_distance_px"], kind="stable")
    for number, line in enumerate(lines):
        distances, values = finite(shown.arrays["subset_distance_px"][order]), finite(cka[order, line])
        cka_axes.plot(distances, values, label=layers[line], **series_style(number))
    low, high = min(0.0, -largest(-cka, default=0.0)), largest(cka)
    cka_axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    num_heads, layer = shown.arrays["subsets"].shape[1], shown.facts.get("layer")
    of_block = "" if layer is None else f" of block {layer}"
    dress_lines(
        cka_axes,
        title=f"subsets of {num_heads} head{'s' * (num_heads != 1)}{of_block} against the CNN's lower layers",
        x="mean attention distance of the subset (px)",
        y="CKA",
    )
    legend(cka_axes, columns=2)
    heads = np.argsort(shown.arrays["head_distance_px"], kind="stable")
    head_axes.bar(range(len(heads)), np.nan_to_num(finite(shown.arrays["head_distance_px"][heads])), color=GREEN)
    shown_heads = evenly(len(heads), MAX_HEADS)
    head_axes.set_xticks(shown_heads, [str(heads[place]) for place in shown_heads])
    dress_lines(
        head_axes,
        title=f"heads{of_block or ' of the block'}",
        x="head, nearest first",
        y="mean attention distance (px)",
    )
    return chosen("CNN layers", len(lines), len(layers))


DRAWINGS = {
    "attention": Drawing("Attention maps", attention_size, draw_attention),
    "rollout": Drawing("Attention rollout", rollout_size, draw_rollout),
    "distance": Drawing(
        "Mean attention distance",
        distance_size,
        draw_distance,
        distance_limits,
        distance_scale,
    ),
    "heads-vs-cnn": Drawing("Heads against a CNN", heads_vs_cnn_size, draw_heads_vs_cnn),
}
