"""Pictures of what ``vitctl inspect`` finds about layers: CKA, norm ratios, probes, symmetries.

Of each analysis: ``*_size`` says how many inches (width, height) it needs, ``draw_*`` draws it and returns what it
left out. Letters: A B layers of two models, K poolings, h w grid of patches.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from vitctl.reporting.figures import GREY, fitted, series_style
from vitctl.reporting.inspect_drawing import Drawing
from vitctl.reporting.inspect_panels import (
    BLUE,
    ORANGE,
    Limits,
    Shown,
    chosen,
    colour_bar,
    draw_level,
    dress,
    dress_lines,
    evenly,
    finite,
    grey_note,
    heat_map,
    hide_ticks,
    joined,
    largest,
    legend,
    legend_below,
    legend_of_all,
    lowest_and_evenly,
    map_height,
    set_layer_ticks,
    stacked,
    wrapped,
)

MAX_MAPS, MAPS_PER_ROW = 8, 4
MAX_SHIFTS = 6
SAME_PERCENT = 0.2  # percentage points, less than the width of a line
EXACT = 1e-9  # left end of the errors' axis
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
ROUNDING = 1e-6  # measured: two orders of the same float32 sums
CHECKS = {
    "permutation_error_without_pos": "patches permuted,\nwithout position embedding",
    "permutation_error_with_pos": "patches permuted,\nwith position embedding",
    "patch_embed_shift_error": "patch embedding of\na shifted image",
    "batch_invariance_eval": "alone or in a batch,\nevaluation mode",
    "batch_invariance_train": "alone or in a batch,\ntraining mode",
}


# --- layers ------------------------------------------------------------------------------------------------


def cka_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    if shown.arrays["cka"].ndim == 1:
        return 8.0, 4.2
    return (14.5, 5.2) if "layers_2" in shown.arrays else (6.0, 5.4)


def draw_cka(panel: SubFigure, shown: Shown) -> str:
    """Draw a heat map, or three of two models, or the line of two models with equal layers."""
    if shown.arrays["cka"].ndim == 1:
        _draw_cka_diagonal(panel.subplots(), shown)
    elif "layers_2" not in shown.arrays:
        layers = shown.names("layers_1")
        _draw_cka_maps(panel, [("", shown.arrays["cka"], ("layer", layers), ("layer", layers))])
    else:
        first, second = _model_names(shown)
        layers_1, layers_2 = shown.names("layers_1"), shown.names("layers_2")
        maps = [(_pair_title(first, second, 54), shown.arrays["cka"], (first, layers_1), (second, layers_2))]
        for name, layers, key in ((first, layers_1, "cka_self_1"), (second, layers_2, "cka_self_2")):
            if key in shown.arrays:
                maps.append((wrapped(name, 54), shown.arrays[key], ("layer", layers), ("layer", layers)))
        _draw_cka_maps(panel, maps)
    settings = [f"{key}: {shown.facts[key]}" for key in ("tokens", "num_images_used") if shown.facts.get(key)]
    return joined([*(text.replace("num_images_used", "images") for text in settings), _spread_note(shown)])


def _draw_cka_maps(
    panel: SubFigure, maps: Sequence[tuple[str, np.ndarray, tuple[str, list[str]], tuple[str, list[str]]]]
) -> None:
    """Draw maps side by side, lowest layer bottom left: title, (A, B) values, name and layers of rows and columns."""
    all_axes = panel.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, values, (row_name, rows), (column_name, columns)) in zip(all_axes, maps, strict=True):
        heat_map(axes, values, limits=(0, 1))
        axes.invert_yaxis()
        axes.set_aspect("auto")
        axes.set_box_aspect(1)
        dress(axes, title=joined([title, grey_note(values)]))
        axes.set_xlabel(_layer_label(column_name), fontsize=9, parse_math=False)
        axes.set_ylabel(_layer_label(row_name), fontsize=9, parse_math=False)
        set_layer_ticks(axes.xaxis, columns)
        set_layer_ticks(axes.yaxis, rows)
    colour_bar(panel, list(all_axes), "CKA")


def _layer_label(name: str) -> str:
    return "layer" if name == "layer" else wrapped(f"layer of {name}", 40)


def _draw_cka_diagonal(axes: Axes, shown: Shown) -> None:
    layers, values = shown.names("layers_1"), finite(shown.arrays["cka"])
    spread = finite(shown.arrays.get("batch_spread", np.array([])))
    if not np.isnan(spread).all():
        axes.fill_between(
            range(len(layers)), values - spread, values + spread, color=BLUE, alpha=0.2, linewidth=0,
            label="± standard deviation over minibatches",
        )  # fmt: skip
    axes.plot(values, "o-", color=BLUE, markersize=4, label="the same layer of both models")
    axes.set_ylim(min(0.0, -largest(-values, default=0.0)), 1.03)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    set_layer_ticks(axes.xaxis, layers, most=32)
    first, second = _model_names(shown)
    dress_lines(axes, title=_pair_title(first, second, 90), x="layer", y="CKA")
    legend(axes, place="lower left")


def _pair_title(first: str, second: str, longest: int) -> str:
    """Return "first x second", over two lines where it is longer than ``longest`` characters."""
    title = f"{first} x {second}"
    return title if len(title) <= longest else f"{fitted(first, longest)}\nx {fitted(second, longest - 2)}"


def _model_names(shown: Shown) -> tuple[str, str]:
    first, second = shown.facts.get("models") or ("first model", "second model")
    return str(first), str(second)


def _spread_note(shown: Shown) -> str:
    spread = finite(shown.arrays.get("batch_spread", np.array([])))
    known = spread[~np.isnan(spread)]
    return f"standard deviation over minibatches {np.median(known):.1g} (median)" if known.size else ""


def norm_ratio_size(_: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 13.0, 4.2


def norm_ratio_limits(all_shown: Sequence[Shown]) -> Limits:
    """Return a range for a logarithmic axis that holds every ratio."""
    values = np.concatenate([finite(shown.arrays["ratio"]).ravel() for shown in all_shown])
    known = values[~np.isnan(values) & (values > 0)]
    return (0.8 * float(known.min()), 1.25 * float(known.max())) if known.size else (0.1, 10.0)


def draw_norm_ratio(panel: SubFigure, shown: Shown) -> str:
    """Draw ratio and cosines over depth, a line per branch and kind of token."""
    branches, tokens = shown.names("branches"), shown.names("tokens")
    all_axes = panel.subplots(1, 3)
    labels = ("norm of the skip / norm of the branch", "cosine of skip and branch", "cosine of skip and output")
    for axes, name, label in zip(all_axes, ("ratio", "cosine_branch", "cosine_output"), labels, strict=True):
        values = finite(shown.arrays[name])
        for number, (branch, token) in enumerate(np.ndindex(values.shape[1:])):
            line = values[:, branch, token]
            if not np.isnan(line).all():
                style = series_style(token) | {"linestyle": "-" if branch == 0 else "--", "marker": "os^D"[number % 4]}
                axes.plot(line, label=f"{branches[branch]}, {tokens[token]}", **style)
        if not axes.get_lines():
            text = "every branch is 0: no " + ("ratio" if name == "ratio" else "cosine")
            axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, fontsize=9, bbox=WHITE)
        axes.set_xlim(-0.5, len(values) - 0.5)
        set_layer_ticks(axes.xaxis, [str(unit) for unit in range(len(values))])
        dress_lines(axes, title=label, x="block" if len(branches) > 1 else "residual unit", y=label.split(" of ")[0])
        axes.set_ylim(-1.05, 1.05)
    all_axes[0].set_ylabel("ratio (logarithmic)", fontsize=9)
    all_axes[0].set_yscale("log")
    all_axes[0].set_ylim(shown.limits)
    all_axes[0].axhline(1, color=GREY, linestyle=":", linewidth=1)
    fullest = max(all_axes, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    legend_of_all(panel, fullest, columns=4)
    num_infinite = int(shown.facts.get("num_infinite") or 0)
    return f"{num_infinite} tokens to which a branch adds nothing are left out" if num_infinite else ""


# --- probes and symmetries ---------------------------------------------------------------------------------


def probe_size(shown: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 9.5, 4.0 + _token_maps_height(shown)


def _token_map_layers(shown: Shown) -> tuple[list[int], list[int]]:
    """Return the layers whose tokens form a grid with known accuracies, and the others; both empty without maps."""
    maps = finite(shown.arrays.get("token_accuracy", np.zeros((0, 1, 1))))
    is_known = ~np.isnan(maps).all(axis=(1, 2))
    return np.flatnonzero(is_known).tolist(), np.flatnonzero(~is_known).tolist()


def _token_maps_height(shown: Shown) -> float:
    """Return inches."""
    num_rows = -(-min(MAX_MAPS, len(_token_map_layers(shown)[0])) // MAPS_PER_ROW)
    return num_rows * (0.35 + map_height(shown.arrays["token_accuracy"][0], 1.95)) + 0.15 if num_rows else 0.0


def draw_probe(panel: SubFigure, shown: Shown) -> str:
    """Draw accuracy over depth, a line per pooling; below, the accuracy of each patch token of some layers."""
    layers, (with_grid, without) = shown.names("layers"), _token_map_layers(shown)
    no_grid = f"on another grid: {', '.join(layers[place] for place in without)}" if without else ""
    parts = stacked(panel, (4.0, _token_maps_height(shown))) if with_grid else [panel]
    _draw_probe_lines(parts[0].subplots(), shown, layers)
    return joined([_draw_token_maps(parts[1], shown, with_grid), no_grid]) if with_grid else no_grid


def _draw_token_maps(panel: SubFigure, shown: Shown, with_grid: Sequence[int]) -> str:
    """Draw the accuracy of each patch token of some of the layers ``with_grid``."""
    layers, maps = shown.names("layers"), shown.arrays["token_accuracy"]
    places = [with_grid[number] for number in lowest_and_evenly(len(with_grid), MAX_MAPS)]
    num_rows = -(-len(places) // MAPS_PER_ROW)
    chance = shown.number("chance") or 0.0
    limits = (100 * min(chance, float(np.nanmin(finite(maps), initial=1.0))), 100 * largest(maps))
    all_axes = panel.subplots(num_rows, min(MAPS_PER_ROW, len(places)), squeeze=False)
    for axes, place in zip(all_axes.ravel(), places, strict=False):
        heat_map(axes, 100 * finite(maps[place]), limits=limits)
        dress(axes, title=joined([f"layer {fitted(layers[place], 24)}", grey_note(maps[place])]))
        hide_ticks(axes)
    for axes in all_axes.ravel()[len(places) :]:
        axes.set_axis_off()
    all_axes[-1, 0].set_xlabel("column (patches)", fontsize=9)
    all_axes[-1, 0].set_ylabel("row (patches)", fontsize=9)
    colour_bar(panel, list(all_axes.ravel()), "top-1 of a token (%)", limits=limits)
    text = chosen("layers", len(places), len(with_grid))
    return f"token maps of {text}" if text else ""


def _draw_probe_lines(axes: Axes, shown: Shown, layers: list[str]) -> None:
    accuracy = 100 * finite(shown.arrays["accuracy"])
    spread = 100 * finite(shown.arrays["accuracy_std"]) if "accuracy_std" in shown.arrays else np.zeros_like(accuracy)
    for number, pool in enumerate(shown.names("pools")):
        line, half = accuracy[:, number], spread[:, number]
        if np.isnan(line).all():
            continue
        style = series_style(number)
        num_hidden = sum(_is_same_line(line, accuracy[:, earlier]) for earlier in range(number))
        around = {"markerfacecolor": "none", "markersize": 4 + 4 * num_hidden, "linestyle": ":"} if num_hidden else {}
        axes.plot(line, label=fitted(pool, 24), **style | around)
        axes.fill_between(range(len(line)), line - half, line + half, color=style["color"], alpha=0.15, linewidth=0)
    chance = shown.number("chance")
    draw_level(axes, None if chance is None else 100 * chance, "chance")
    axes.set_ylim(0, min(102.0, 1.1 * largest(accuracy + spread) + 2))
    axes.set_xlim(-0.5, len(layers) - 0.5)
    set_layer_ticks(axes.xaxis, layers, most=28)
    dress_lines(axes, title="a line per pooling (band: ± standard deviation over seeds)", x="layer", y="top-1 (%)")
    legend_below(axes, columns=4)


def _is_same_line(line: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two lines (A,) in percent, NaN where there is no value, would hide each other."""
    apart = np.abs(line - other)
    return not np.isnan(apart).all() and bool(np.nanmax(apart) < SAME_PERCENT)


def equivariance_size(_: Shown) -> tuple[float, float]:
    """Return width and height in inches."""
    return 13.5, 4.2


def draw_equivariance(panel: SubFigure, shown: Shown) -> str:
    """Draw the error of shifted images and the similarity of neighbours over depth, and the exact symmetries."""
    layers, shifts = shown.names("layers"), shown.arrays["shifts"]
    error_axes, similarity_axes, check_axes = panel.subplots(1, 3)
    errors, places = finite(shown.arrays["translation_error"]), evenly(len(shifts), MAX_SHIFTS)
    for number, place in enumerate(places):
        down, right = (int(step) for step in shifts[place])
        error_axes.plot(errors[:, place], label=f"{down} down, {right} right", **series_style(number))
    error_axes.set_ylim(0, None)
    dress_lines(error_axes, title="image shifted by whole patches", x="layer", y="relative error (0: equivariant)")
    for name, label, number in (("neighbour", "neighbours", 0), ("random", "all pairs", 1)):
        similarity_axes.plot(finite(shown.arrays[f"{name}_similarity"]), label=label, **series_style(number))
    dress_lines(similarity_axes, title="similarity of two patches", x="layer", y="cosine")
    for axes in (error_axes, similarity_axes):
        axes.set_xlim(-0.5, len(layers) - 0.5)
        set_layer_ticks(axes.xaxis, layers, most=20)
        legend_below(axes)
    _draw_checks(check_axes, shown)
    norm = shown.facts.get("norm_kind")
    return joined([f"norm layers: {norm}" if norm else "", chosen("shifts", len(places), len(shifts))])


def _draw_checks(axes: Axes, shown: Shown) -> None:
    """Draw a bar per symmetry on a logarithmic axis, its number beside it."""
    values = [shown.number(name) for name in CHECKS]
    right = 300 * max([1.0, *(value for value in values if value is not None)])
    for place, value in enumerate(values):
        if value is not None and value > 0:
            colour = BLUE if value < 10 * ROUNDING else ORANGE
            axes.barh(place, max(value, 1.1 * EXACT), left=EXACT, color=colour, height=0.6)
        text = "not applicable" if value is None else "0 (exact)" if value == 0 else f"{value:.1e}"
        axes.text(max(value or 0, EXACT) * 1.5, place, text, va="center", fontsize=8, bbox=WHITE)
    axes.axvline(ROUNDING, color=GREY, linestyle=":", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(EXACT, right)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(values)), list(CHECKS.values()))
    dress_lines(
        axes, title="differences that could be 0 (exact symmetry)", x="relative difference (dotted: float32 rounding)"
    )


DRAWINGS = {
    "cka": Drawing("Similarity of layers (CKA)", cka_size, draw_cka, is_beside=True),
    "norm-ratio": Drawing("Skip connections against branches", norm_ratio_size, draw_norm_ratio, norm_ratio_limits),
    "probe": Drawing("Linear probes", probe_size, draw_probe, is_beside=True),
    "equivariance": Drawing("Equivariance and invariance", equivariance_size, draw_equivariance),
}
