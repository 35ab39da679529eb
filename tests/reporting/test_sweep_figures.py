"""The picture of a sweep: lines over a number, rows for anything else; nothing is left out unsaid."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from vitctl.reporting import sweep_figures
from vitctl.reporting.sweep_figures import draw_sweep


def cell(top1: float | None, difference: float | None = None, **settings: Any) -> dict[str, Any]:
    return {
        "name": ",".join(f"{key}={value}" for key, value in settings.items()) or "base",
        "settings": settings,
        "state": "diverged" if top1 is None else "finished",
        "top1_mean": top1,
        "top1_ci95": None if top1 is None else [top1 - 0.02, top1 + 0.01],
        "top1_per_run": [] if top1 is None else [top1 - 0.005, top1 + 0.005],
        "difference": difference,
        "difference_ci95": None if difference is None else [difference - 0.01, difference + 0.01],
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(sweep_figures, "save", lambda figure, _path: figures.append(figure))
    return figures


def draw(*cells: dict[str, Any]) -> None:
    draw_sweep(cells, Path("sweep.png"), title="top-1 on validation images")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_one_number__a_line_on_a_logarithmic_axis(drawn: list[Figure]) -> None:
    draw(cell(0.8, lr=1e-4), cell(0.9, 0.1, lr=1e-2), cell(0.85, 0.05, lr=1e-3), cell(None, lr=1.0))
    means, differences = drawn[0].axes
    assert means.get_xscale() == "log"
    assert list(means.lines[0].get_xdata()) == [1e-4, 1e-3, 1e-2, 1.0]
    assert list(means.lines[0].get_ydata())[:3] == pytest.approx([80, 85, 90])
    assert [label.get_text() for label in means.get_xticklabels()] == ["0.0001", "0.001", "0.01", "1"]
    assert differences.get_title() == "difference from lr=0.0001"
    assert texts(drawn[0]) == ["diverged"] * 2


def test_a_narrow_range__a_linear_axis(drawn: list[Figure]) -> None:
    draw(cell(0.8, steps=10), cell(0.9, 0.1, steps=20))
    assert drawn[0].axes[0].get_xscale() == "linear"


def test_two_keys__a_line_for_each_value_of_the_second(drawn: list[Figure]) -> None:
    draw(*(cell(0.8, lr=lr, tune=tune) for lr in (1e-4, 1e-3) for tune in ("lora:8", "full", "$x$")))
    handles, labels = drawn[0].axes[0].get_legend_handles_labels()
    assert labels == ["tune=lora:8", "tune=full", "tune=$x$"]
    assert len(handles) == 3
    assert len(drawn[0].axes) == 1  # there are no differences


@pytest.mark.parametrize(
    "cells",
    [
        [cell(0.8)],
        [cell(0.8, tune="full"), cell(0.9, 0.1, tune="head")],
        [cell(0.8, a=a, b=b, c=c) for a in (1, 2) for b in (1, 2) for c in (1, 2)],
        [cell(0.8, lr=1.0), cell(0.9, 0.1, lr=None)],
    ],
)
def test_anything_else__a_row_for_each(cells: list[dict[str, Any]], drawn: list[Figure]) -> None:
    draw(*cells)
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == [one["name"] for one in cells]


def test_long_names__are_told_apart_by_both_ends(drawn: list[Figure]) -> None:
    draw(*(cell(0.8, model="vit" * 40, tune=tune) for tune in ("full", "head")))
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels[0].startswith("model=vitvit")
    assert [label[-4:] for label in labels] == ["full", "head"]
    assert max(map(len, labels)) < 50


def test_very_many__the_most_accurate_and_the_first_and_that_is_said(
    drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_figures, "MAX_ROWS", 5)
    draw(cell(0.1, tune="x"), *(cell(0.5 + index / 1000, 0.4, tune=str(index)) for index in range(100)))
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == ["tune=x", *(f"tune={index}" for index in range(96, 100))]
    assert "5 of 101, the most accurate" in drawn[0].axes[0].get_title()


@pytest.mark.slow
def test_picture__the_same_bytes_again(tmp_path: Path) -> None:
    cells = [cell(0.8, lr=1e-4), cell(0.9, 0.1, lr=1e-2), cell(None, lr=1.0)]
    for name in ("a.png", "b.png"):
        draw_sweep(cells, tmp_path / name, title="top-1")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
