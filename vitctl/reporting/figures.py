"""Pictures of a run: learning curves and the confusion matrix.

Colours: Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vitctl.primitives.files import whole_file

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
MAX_LABELLED_CLASSES = 40  # more names than this cannot be read on the axes
MAX_CELL_NUMBERS = 20  # more classes than this leave no room for numbers in the cells
MAX_LABEL_LENGTH = 18


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw loss, validation accuracy and learning rate over the steps of a ``metrics.jsonl``.

    Args:
        metrics: The file of a run.
        path: PNG to write.
    """
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if record.get("val_loss") is not None]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss_axes, accuracy_axes, lr_axes = figure.subplots(1, 3)
    step, loss = [r["step"] for r in steps], np.array([r["loss"] for r in steps])
    loss_axes.plot(step, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    loss_axes.plot(step, _smooth(loss), color=BLUE, linewidth=1.6, label="training (smoothed)")
    val_steps = [r["step"] for r in validations]
    if validations:
        loss_axes.plot(val_steps, [r["val_loss"] for r in validations], "o-", color=ORANGE, label="validation", ms=4)
        accuracy_axes.plot(val_steps, [100 * r["val_top1"] for r in validations], "o-", color=ORANGE, ms=4)
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
    titles = ("loss (cross-entropy, nats)", "validation top-1 (%)", "learning rate")
    for axes, title in zip((loss_axes, accuracy_axes, lr_axes), titles, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("optimiser step")
        axes.set_xlim(0, step[-1] * 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    _save(figure, path)


def _smooth(values: np.ndarray) -> np.ndarray:
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
        labels = [name if len(name) <= MAX_LABEL_LENGTH else name[: MAX_LABEL_LENGTH - 1] + "…" for name in class_names]
        rotation = 90 if max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(num_classes), labels, rotation=rotation)
        axes.set_yticks(range(num_classes), labels)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)  # a class name may hold a dollar sign
    if num_classes <= MAX_CELL_NUMBERS:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # boxes stand for such letters
        figure.savefig(partial, format="png", dpi=130)
