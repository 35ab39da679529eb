"""Pictures of what ``vitctl inspect`` finds: one PNG per analysis, of one or several models.

Drawn from arrays and facts alone, as the analyses name them.
"""

import pkgutil
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from vitctl import reporting
from vitctl.reporting.figures import fitted, save
from vitctl.reporting.inspect_drawing import Drawing
from vitctl.reporting.inspect_panels import Shown, chosen

MAX_SIDE = 20.0  # inches
TITLE_HEIGHT = 0.6  # inches
CHARACTERS_PER_INCH = 13  # measured at 10 points

Model = tuple[str, Mapping[str, np.ndarray], Mapping[str, Any]]


@cache
def drawings() -> Mapping[str, Drawing]:
    """Return how each analysis is drawn, by name: the ``DRAWINGS`` of every module ``inspect_*_figures`` here."""
    names = (info.name for info in pkgutil.iter_modules(reporting.__path__))
    modules = (
        import_module(f"{reporting.__name__}.{name}") for name in names if re.fullmatch("inspect_.+_figures", name)
    )
    return {name: drawing for module in modules for name, drawing in module.DRAWINGS.items()}


def draw_findings(analysis: str, models: Sequence[Model], path: Path) -> None:
    """Write ``findings_figure`` as a PNG."""
    save(findings_figure(analysis, models), path)


def findings_figure(analysis: str, models: Sequence[Model]) -> Figure:
    """Return the picture of an analysis, each model in a sub-figure under its name, alike models on a shared scale.

    Where the models do not fit into 20 x 20 inches the first ones are shown, and the title says so.

    Args:
        analysis: Its name, one of ``drawings()``.
        models: Name, arrays and facts of each, at least one.
    """
    drawing = drawings()[analysis]
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


def _with_limits(drawing: Drawing, all_shown: Sequence[Shown]) -> list[Shown]:
    """Return the findings, each with the limits of all that are on its scale."""
    scales = [drawing.scale(shown) for shown in all_shown]
    groups = [[other for other, its in zip(all_shown, scales, strict=True) if its == scale] for scale in scales]
    return [replace(shown, limits=drawing.limits(group)) for shown, group in zip(all_shown, groups, strict=True)]


def _set_title(panel: SubFigure, name: str, note: str, *, longest: int) -> None:
    """Set the model's name and, below it, what its picture says of itself, in lines of ``longest`` characters."""
    lines = [" ".join(fitted(name, longest).split()), *textwrap.wrap(note, longest, max_lines=3, placeholder=" …")]
    panel.suptitle("\n".join(lines), fontsize=10, parse_math=False)
