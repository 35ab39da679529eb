"""How an analysis of ``vitctl inspect`` is drawn: what a module of drawings says of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import SubFigure

from vitctl.reporting.inspect_panels import Limits, Shown


def _no_limits(_: Sequence[Shown]) -> Limits:
    return 0.0, 1.0


def _one_scale(_: Shown) -> float | None:
    return None


@dataclass(frozen=True)
class Drawing:
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
