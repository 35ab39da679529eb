"""Pictures of ``vitctl compare``: how all runs learnt, in one picture; images on which rows disagree.

Letters: N optimiser steps, V validations, R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitctl.primitives.documents import UnusableDocument, parse_document
from vitctl.reporting.figures import GREY, draw_contact_sheet, fitted, save, series_style, smooth

LONGEST_LABEL = 48  # Latin letters of a name in the legend
MOST_DECADES = 1.0  # a loss that spans more powers of ten is drawn on a logarithmic axis: guess
SHEET_IMAGES, SHEET_COLUMNS, THUMBNAIL_PX = 40, 8, 120
MOST_ROWS_NAMED = 4  # more rows leave no room for their names below an image: classes are counted instead


class UnreadableLearning(Exception):
    """The files of a run that say how it learnt cannot be used; the text says why."""


@dataclass(frozen=True, eq=False)
class Learning:
    """How a run learnt.

    Attributes:
        row: Number of the row that it is of; runs of one row have one colour.
        images: (N,) float64, images seen until after each step.
        seconds: (N,) float64, of training, validation not counted.
        loss: (N,) float64, of the batch.
        val_images: (V,) float64, images seen until each validation.
        val_seconds: (V,) float64.
        val_loss: (V,) float64.
        val_top1: (V,) float64, 0-1.
    """

    row: int
    images: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    val_images: np.ndarray
    val_seconds: np.ndarray
    val_loss: np.ndarray
    val_top1: np.ndarray

    @classmethod
    def of(cls, run: Path, *, row: int, batch_size: int) -> "Learning":
        """Read ``metrics.jsonl`` and ``speed.jsonl`` of a run.

        Args:
            run: The run folder.
            row: See above.
            batch_size: Images of a step.

        Raises:
            UnreadableLearning: The files are not there, or damaged.
        """
        metrics = list(_records(run / "metrics.jsonl"))
        try:
            steps = [(record["step"], record["loss"]) for record in metrics if "loss" in record]
            validations = [
                (record["step"], record["val_loss"], record["val_top1"])
                for record in metrics
                if record.get("val_loss") is not None
            ]
            clock = [(record["step"], record["step_s"]) for record in _records(run / "speed.jsonl")]
            step, loss = _columns(steps, 2)
            at, val_loss, val_top1 = _columns(validations, 3)
            clock_step, step_s = _columns(clock, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableLearning(f"{run} does not say how it learnt: {error!r}") from error
        # step 0 is the start; a step whose time nobody noted takes as long as its neighbours
        ticks, passed = np.concatenate([[0], clock_step]), np.concatenate([[0], np.cumsum(step_s)])
        return cls(
            row,
            step * batch_size,
            np.interp(step, ticks, passed),
            loss,
            at * batch_size,
            np.interp(at, ticks, passed),
            val_loss,
            val_top1,
        )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield parse_document(line, dict[str, Any])
    except (OSError, ValueError) as error:  # UnusableDocument is a ValueError, as is text that is no UTF-8
        why = error if isinstance(error, UnusableDocument) else getattr(error, "strerror", None) or "no UTF-8"
        raise UnreadableLearning(f"{path} cannot be read: {why}") from error


def _columns(rows: Sequence[tuple[Any, ...]], number: int) -> np.ndarray:
    """Return ``number`` columns of numbers; None, a loss that was not finite, is a gap."""
    return np.array(rows, dtype=np.float64).reshape(-1, number).T


def draw_learning(runs: Sequence[Learning], names: Sequence[str], path: Path) -> None:
    """Draw losses and validation accuracy of all runs, over the images seen and over seconds.

    Args:
        runs: One or more.
        names: R, of the rows.
        path: PNG to write.
    """
    labels = [fitted(name, LONGEST_LABEL) for name in names]
    num_columns = _legend_columns(labels)
    lines = -(-len(labels) // num_columns)
    figure = Figure(figsize=(11, 8.2 + 0.22 * lines), layout="constrained")
    grid = figure.subplots(3, 2, sharex="col", sharey="row")
    for (by_images, by_time), (title, unit) in zip(grid, _PANELS, strict=True):
        for axes in (by_images, by_time):
            axes.set_title(title, fontsize=11)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        by_images.set_ylabel(unit)
    for run in runs:
        _draw_run(grid[:, 0], run, run.images, run.val_images)
        _draw_run(grid[:, 1], run, run.seconds, run.val_seconds)
    losses = ([run.loss for run in runs], [run.val_loss for run in runs])
    for row, values in zip(grid, losses, strict=False):
        _scale(row[0], np.concatenate(values))
    if not any(len(run.val_loss) for run in runs):
        for axes in grid[1:].flat:
            axes.text(0.5, 0.5, "no validation images", ha="center", color=GREY, transform=axes.transAxes)
    for axes, what in zip(grid[-1], ("images seen", "seconds of training, without validation"), strict=True):
        axes.set_xlabel(what)
        axes.set_xlim(left=0)
    handles = [Line2D([], [], **series_style(number)) for number in range(len(labels))]
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign
    save(figure, path)


_PANELS = (
    ("training loss, smoothed", "cross-entropy (nats)"),
    ("validation loss", "cross-entropy (nats)"),
    ("validation top-1", "%"),
)


def _legend_columns(labels: Sequence[str]) -> int:
    """Return how many labels stand beside each other in a picture of some 130 letters' width."""
    return max(1, min(len(labels), 130 // (max(map(len, labels)) + 8)))


def _draw_run(column: Sequence[Axes], run: Learning, x: np.ndarray, val_x: np.ndarray) -> None:
    style = series_style(run.row)
    line = {**style, "marker": None}
    if len(x):
        column[0].plot(x, smooth(run.loss), **line)
    column[1].plot(val_x, run.val_loss, **style)
    column[2].plot(val_x, 100 * run.val_top1, **style)


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Make the axis of a loss logarithmic where it spans several powers of ten."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) and np.log10(np.quantile(positive, 0.98) / np.quantile(positive, 0.02)) > MOST_DECADES:
        axes.set_yscale("log")


@dataclass(frozen=True)
class Opinion:
    """What a row says of an image.

    Attributes:
        name: Of the row.
        predicted: The class.
        confidence: Its probability, 0-1.
    """

    name: str
    predicted: str
    confidence: float


def draw_disagreements(
    pictures: Sequence[np.ndarray | None],
    truths: Sequence[str],
    opinions: Sequence[Sequence[Opinion]],
    path: Path,
    *,
    num_in_all: int,
) -> None:
    """Draw images on which rows disagree, each with its class and what every row says.

    Args:
        pictures: Of each image, (S, S, 3) uint8; None where it cannot be shown.
        truths: The true class of each.
        opinions: Of each image, one of every row.
        path: PNG to write.
        num_in_all: Images on which rows disagree.
    """
    captions = [_caption(truth, own) for truth, own in zip(truths, opinions, strict=True)]
    of = f"{len(pictures):,} of {num_in_all:,} images" if len(pictures) < num_in_all else f"{num_in_all:,} images"
    title = f"{of} on which rows disagree, the surest first"
    draw_contact_sheet(pictures, captions, path, columns=min(SHEET_COLUMNS, max(4, len(pictures))), title=title)


def _caption(truth: str, opinions: Sequence[Opinion]) -> str:
    lines = [f"true: {truth}"]
    if len(opinions) <= MOST_ROWS_NAMED:
        lines += [f"{one.predicted} ({one.confidence:.0%}): {one.name}" for one in opinions]
    else:
        by_class: dict[str, list[float]] = {}
        for one in opinions:
            by_class.setdefault(one.predicted, []).append(one.confidence)
        for name, sure in sorted(by_class.items(), key=lambda item: -len(item[1]))[:MOST_ROWS_NAMED]:
            lines.append(f"{name}: {len(sure)} of {len(opinions)}, up to {max(sure):.0%}")
    return "\n".join(lines)
