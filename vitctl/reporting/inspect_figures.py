"""Pictures of what ``vitctl inspect`` finds: one PNG per analysis, of one or several models.

Drawn from arrays and facts alone, as the analyses name them.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from vitctl.reporting import inspect_attention_figures as attention
from vitctl.reporting import inspect_layer_figures as layers
from vitctl.reporting import inspect_patch_figures as patches
from vitctl.reporting.figures import fitted, save
from vitctl.reporting.inspect_panels import Limits, Shown, chosen

MAX_SIDE = 20.0  # inches
TITLE_HEIGHT = 0.6  # inches
CHARACTERS_PER_INCH = 13  # measured at 10 points

Model = tuple[str, Mapping[str, np.ndarray], Mapping[str, Any]]


def draw_findings(analysis: str, models: Sequence[Model], path: Path) -> None:
    """Write ``findings_figure`` as a PNG."""
    save(findings_figure(analysis, models), path)


def findings_figure(analysis: str, models: Sequence[Model]) -> Figure:
    """Return the picture of an analysis, each model in a sub-figure under its name, alike models on a shared scale.

    Where the models do not fit into 20 x 20 inches the first ones are shown, and the title says so.

    Args:
        analysis: Its name, one of ``DRAWINGS``.
        models: Name, arrays and facts of each, at least one.
    """
    drawing = DRAWINGS[analysis]
    all_shown = _with_limits(drawing, [Shown(arrays, facts) for _, arrays, facts in models])
    sizes = [drawing.size(shown) for shown in all_shown]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    num_columns = max(1, min(len(models), int(MAX_SIDE / width))) if drawing.is_beside else 1
    num_rows = max(1, min(-(-len(models) // num_columns), int((MAX_SIDE - TITLE_HEIGHT) / height)))
    heights = [max(size[1] for size in sizes[row * num_columns :][:num_columns]) for row in range(num_rows)]
    figure = Figure(figsize=(num_columns * width, TITLE_HEIGHT + sum(heights)), layout="constrained")
    panels = figure.subfigures(num_rows, num_columns, squeeze=False, height_ratios=heights).ravel()
    num_shown = min(len(models), num_rows * num_columns)
    for panel, (name, *_), shown in zip(panels, models[:num_shown], all_shown, strict=False):
        _set_title(panel, name, drawing.draw(panel, shown), longest=int(width * CHARACTERS_PER_INCH))
    left_out = chosen("models", num_shown, len(models))
    figure.suptitle(drawing.title + (f" ({left_out})" if left_out else ""), fontsize=12, fontweight="bold")
    return figure


def _with_limits(drawing: "_Drawing", all_shown: Sequence[Shown]) -> list[Shown]:
    """Return the findings, each with the limits of all that are on its scale."""
    scales = [drawing.scale(shown) for shown in all_shown]
    groups = [[other for other, its in zip(all_shown, scales, strict=True) if its == scale] for scale in scales]
    return [replace(shown, limits=drawing.limits(group)) for shown, group in zip(all_shown, groups, strict=True)]


def _set_title(panel: SubFigure, name: str, note: str, *, longest: int) -> None:
    """Set the model's name and, below it, what its picture says of itself, in lines of ``longest`` characters."""
    lines = [" ".join(fitted(name, longest).split()), *textwrap.wrap(note, longest, max_lines=3, placeholder=" …")]
    panel.suptitle("\n".join(lines), fontsize=10, parse_math=False)


def _no_limits(_: Sequence[Shown]) -> Limits:
    return 0.0, 1.0


def _one_scale(_: Shown) -> float | None:
    return None


@dataclass(frozen=True)
class _Drawing:
    """How an analysis is drawn.

    Attributes:
        title: Above the picture.
        size: Inches that a model needs, width and height.
        draw: Draws a model's findings; returns what it left out and other remarks.
        limits: The range that models on one scale share.
        scale: What models have in common that are on one scale; all of them, unless told otherwise.
        is_beside: Whether models stand side by side, as far as there is room, rather than below each other.
    """

    title: str
    size: Callable[[Shown], tuple[float, float]]
    draw: Callable[[SubFigure, Shown], str]
    limits: Callable[[Sequence[Shown]], Limits] = _no_limits
    scale: Callable[[Shown], float | None] = _one_scale
    is_beside: bool = False


DRAWINGS: dict[str, _Drawing] = {
    "filters": _Drawing("Patch embedding filters", patches.filters_size, patches.draw_filters, is_beside=True),
    "pos-embed": _Drawing(
        "Position embedding similarity", patches.pos_embed_size, patches.draw_pos_embed, is_beside=True
    ),
    "attention": _Drawing("Attention maps", attention.attention_size, attention.draw_attention),
    "rollout": _Drawing("Attention rollout", attention.rollout_size, attention.draw_rollout),
    "distance": _Drawing(
        "Mean attention distance",
        attention.distance_size,
        attention.draw_distance,
        attention.distance_limits,
        attention.distance_scale,
    ),
    "cka": _Drawing("Similarity of layers (CKA)", layers.cka_size, layers.draw_cka, is_beside=True),
    "heads-vs-cnn": _Drawing("Heads against a CNN", attention.heads_vs_cnn_size, attention.draw_heads_vs_cnn),
    "norm-ratio": _Drawing(
        "Skip connections against branches", layers.norm_ratio_size, layers.draw_norm_ratio, layers.norm_ratio_limits
    ),
    "localisation": _Drawing(
        "Token localisation",
        patches.localisation_size,
        patches.draw_localisation,
        patches.localisation_limits,
        is_beside=True,
    ),
    "features": _Drawing("Patch features", patches.features_size, patches.draw_features),
    "receptive-field": _Drawing(
        "Effective receptive field", patches.receptive_field_size, patches.draw_receptive_field
    ),
    "probe": _Drawing("Linear probes", layers.probe_size, layers.draw_probe, is_beside=True),
    "equivariance": _Drawing("Equivariance and invariance", layers.equivariance_size, layers.draw_equivariance),
}
