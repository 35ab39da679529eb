"""Pictures: learning curves, the confusion matrix, contact sheets of images; and what all pictures share.

Colours: Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, faint on white.
"""

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vitctl.primitives.documents import parse_document
from vitctl.primitives.files import whole_file
from vitctl.reporting.fonts import use_fonts_with_all_letters
from vitctl.shown import shown

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX<>*"
BLUE, ORANGE, GREEN, GREY = *PALETTE[:3], "#777777"
MAX_LABELLED_CLASSES = 40  # more names than this cannot be read on the axes
MAX_CELL_NUMBERS = 20  # more classes than this leave no room for numbers in the cells
MAX_LABEL_LENGTH = 18


def draw_curves(metrics: Path, path: Path, *, baseline_top1: float | None = None) -> None:
    """Draw loss, validation accuracy, learning rate and norm of the gradient over the steps of a ``metrics.jsonl``.

    The norm is that before clipping, on a logarithmic axis; steps that were skipped are gaps, and a file from before
    norms were written has none.

    Args:
        metrics: The file of a run.
        path: PNG to write.
        baseline_top1: Accuracy of always saying one class, 0-1, for a line beside that of validation.
    """
    records = [parse_document(line, dict[str, Any]) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if record.get("val_loss") is not None]
    norms = np.array([record.get("grad_norm") or np.nan for record in steps], dtype=float)
    has_norms = not np.isnan(norms).all()
    figure = Figure(figsize=(14 if has_norms else 11, 3.4), layout="constrained")
    all_axes = figure.subplots(1, 4 if has_norms else 3)
    loss_axes, accuracy_axes, lr_axes = all_axes[:3]
    step, loss = [r["step"] for r in steps], np.array([r["loss"] for r in steps])
    loss_axes.plot(step, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    loss_axes.plot(step, smooth(loss), color=BLUE, linewidth=1.6, label="training (smoothed)")
    val_steps = [r["step"] for r in validations]
    if validations:
        loss_axes.plot(val_steps, [r["val_loss"] for r in validations], "o-", color=ORANGE, label="validation", ms=4)
        accuracy_axes.plot(val_steps, [100 * r["val_top1"] for r in validations], "o-", color=ORANGE, ms=4)
        if baseline_top1 is not None:
            label = f"always the largest class: {baseline_top1:.1%}"
            accuracy_axes.axhline(100 * baseline_top1, color=GREY, linestyle="--", linewidth=1, label=label)
        averages = [record for record in validations if record.get("average_val_loss") is not None]
        if averages:
            at, how = [r["step"] for r in averages], {"color": GREEN, "ms": 4, "label": "averaged weights"}
            loss_axes.plot(at, [r["average_val_loss"] for r in averages], "s--", **how)
            accuracy_axes.plot(at, [100 * r["average_val_top1"] for r in averages], "s--", **how)
        if averages or baseline_top1 is not None:
            accuracy_axes.legend(frameon=False)
        final = validations[-1]
        accuracy_axes.annotate(
            f"{final['val_top1']:.1%}", (final["step"], 100 * final["val_top1"]), ha="right", va="top",
            xytext=(0, -7), textcoords="offset points",
        )  # fmt: skip
    else:
        accuracy_axes.text(0.5, 0.5, "no validation images", ha="center", transform=accuracy_axes.transAxes)
    loss_axes.legend(frameon=False)
    lr_axes.plot(step, [r["lr"] for r in steps], color=GREY)
    lr_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if has_norms:
        all_axes[3].semilogy(step, norms, color=BLUE, linewidth=0.8)
    titles = ("loss (cross-entropy, nats)", "validation top-1 (%)", "learning rate", "norm of the gradient")
    for axes, title in zip(all_axes, titles, strict=False):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimiser step")
        axes.set_xlim(0, step[-1] * 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    save(figure, path)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return a running mean over a fortieth of the values, (N,) like ``values``; the ends use what is there."""
    width = max(1, len(values) // 40)
    kernel = np.ones(2 * (width // 2) + 1)
    smoothed: np.ndarray = np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
    return smoothed


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw a confusion matrix; colour is the share of a true class, numbers are counts.

    Args:
        matrix: (C, C) int64, rows are true classes, columns predicted ones.
        class_names: C names.
        path: PNG to write.
        title: What the images are.
    """
    num_classes = len(class_names)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    side = min(4 + 0.35 * num_classes, 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=mpl.colormaps["Blues"], vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    correct, total = int(np.trace(matrix)), int(matrix.sum())
    axes.set_title(
        f"{title}: {correct} of {total} correct ({correct / max(total, 1):.1%})", fontsize=11, parse_math=False
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if num_classes <= MAX_LABELLED_CLASSES:
        labels = [fitted(name, MAX_LABEL_LENGTH) for name in class_names]
        rotation = 90 if max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(num_classes), labels, rotation=rotation)
        axes.set_yticks(range(num_classes), labels)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)  # a class name may hold a dollar sign
    if num_classes <= MAX_CELL_NUMBERS:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    save(figure, path)


def draw_contact_sheet(
    pictures: Sequence[np.ndarray | None], captions: Sequence[str], path: Path, *, columns: int, title: str
) -> None:
    """Draw pictures in a grid, row by row, each with its caption below it.

    Args:
        pictures: (S, S, 3) uint8 each, all of one side S px; None leaves its place empty, without a caption.
        captions: One per picture; further lines after a line break.
        path: PNG to write.
        columns: Pictures per row, >= 1.
        title: What they are.
    """
    draw_contact_sheets([(title, pictures, captions)], path, columns=columns)


def draw_contact_sheets(
    sheets: Sequence[tuple[str, Sequence[np.ndarray | None], Sequence[str]]], path: Path, *, columns: int
) -> None:
    """Draw grids of pictures below each other, each under its title: see ``draw_contact_sheet``.

    Args:
        sheets: Title, pictures and captions of each; the pictures of one are (H, W, 3) uint8, all of one size.
        path: PNG to write.
        columns: Pictures per row, >= 1.
    """
    grids = [_Grid.of(pictures, captions, columns) for _, pictures, captions in sheets]
    dpi, top = 100, 34
    height, width = sum(grid.canvas.shape[0] + top for grid in grids), max(grid.canvas.shape[1] for grid in grids)
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    lower = height  # px from below, as a figure counts them
    for (title, *_), grid in zip(sheets, grids, strict=True):
        own_height, own_width = grid.canvas.shape[:2]
        heading = fitted(title, own_width // 7)
        figure.text(0.01 * width, lower - 0.5 * top, heading, transform=None, va="center", fontsize=9, parse_math=False)
        upper = lower - top
        lower = upper - own_height
        figure.figimage(grid.canvas, 0, lower)  # pixel by pixel; an image of axes is resampled, which takes its time
        for (x, y), caption in zip(grid.places, grid.captions, strict=True):
            figure.text(x, upper - y, caption, transform=None, ha="center", va="top", fontsize=6.5, parse_math=False)
    save(figure, path, dpi=dpi)


@dataclass(frozen=True)
class _Grid:
    """Pictures of one size on a white canvas.

    Attributes:
        canvas: (H, W, 3) uint8.
        places: (x, y) px of the middle of the upper edge of each caption.
        captions: What stands there, each line as long as it may be.
    """

    canvas: np.ndarray
    places: list[tuple[float, float]]
    captions: list[str]

    @classmethod
    def of(cls, pictures: Sequence[np.ndarray | None], captions: Sequence[str], columns: int) -> "_Grid":
        """Lay out pictures, (H, W, 3) each, row by row."""
        height, width = next((picture.shape[:2] for picture in pictures if picture is not None), (1, 1))
        num_rows = max(1, -(-len(pictures) // columns))
        num_lines = max((caption.count("\n") + 1 for caption in captions), default=1)
        gap, text_height = width // 12, 13 * num_lines + 6
        cell_height, cell_width = height + text_height, width + gap
        grid = cls(np.full((num_rows * cell_height, columns * cell_width, 3), 255, dtype=np.uint8), [], [])
        longest = max(4, int(cell_width / 5.2))
        for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            if picture is None:
                continue
            y, x = index // columns * cell_height, index % columns * cell_width + gap // 2
            grid.canvas[y : y + height, x : x + width] = picture
            grid.places.append((x + width / 2, y + height + 3))
            grid.captions.append("\n".join(fitted(line, longest) for line in caption.split("\n")))
        return grid


def series_style(number: int) -> dict[str, Any]:
    """Return colour, marker and line of a series: each colour with its marker, dashed the second time round.

    No two of the first 14 look alike, and the first ten differ by their marker alone.
    """
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "-" if number < len(PALETTE) else "--",
        "markersize": 4,
        "linewidth": 1.4,
    }


def fitted(text: str, longest: int) -> str:
    """Return ``text``, as it is shown on a screen, cut to the width of ``longest`` Latin letters (Korean takes two)."""
    seen = shown(text)
    ends = np.cumsum([2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in seen])
    return seen if not seen or ends[-1] <= longest else seen[: int(np.searchsorted(ends, longest, "left"))] + "…"


def save(figure: Figure, path: Path, *, dpi: int = 130) -> None:
    """Write ``figure`` as a PNG, whole or not at all, in fonts that have its letters."""
    use_fonts_with_all_letters(figure)
    with whole_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # said already
        figure.savefig(partial, format="png", dpi=dpi)
