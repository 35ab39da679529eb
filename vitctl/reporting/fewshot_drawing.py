"""The pictures of a few-shot evaluation: those that its rows have something for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitctl.reporting import fewshot_figures
from vitctl.reporting.figures import save

PICTURES = ("accuracy_vs_shots.png", "accuracy_vs_l2.png", "layers.png", "ways_shots.png")


def draw_pictures(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the pictures that fit the ``rows`` of a results document into the folder ``out``."""
    rows = [dict(row) for row in rows]
    if any(row["l2"] is None for row in rows):  # chosen for every support: no name of a curve
        rows = [{**row, "l2": None} for row in rows]
    figures = {"ways_shots.png": fewshot_figures.ways_shots_figure}
    if "ways" not in rows[0]:
        figures = {"accuracy_vs_shots.png": fewshot_figures.accuracy_vs_shots_figure}
        if rows[0]["classifier"] == "ridge" and len({row["l2"] for row in rows} - {None}) > 1:
            figures["accuracy_vs_l2.png"] = fewshot_figures.accuracy_vs_l2_figure
    if len({(row["layer"], row["pool"]) for row in rows}) > 1:
        figures["layers.png"] = fewshot_figures.layers_figure
    for name, figure in figures.items():
        save(figure(rows, title="few-shot evaluation of frozen features"), out / name)
