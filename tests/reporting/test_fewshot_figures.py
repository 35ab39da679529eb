"""The pictures of few-shot evaluations: what stands on them, and that any result can be drawn."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from vitctl.reporting.fewshot_figures import (
    accuracy_vs_l2_figure,
    accuracy_vs_shots_figure,
    layers_figure,
    ways_shots_figure,
)
from vitctl.reporting.figures import save
from vitctl.reporting.inspect_panels import UNDEFINED

Row = dict[str, Any]
INTERVALS = "light band: 95 % interval over supports and test images; thin bar: over supports only"
FIGURES = [
    pytest.param(accuracy_vs_shots_figure, id="shots"),
    pytest.param(accuracy_vs_l2_figure, id="l2"),
    pytest.param(layers_figure, id="layers"),
    pytest.param(ways_shots_figure, id="ways"),
]


def result(top1: float = 0.6, **changes: Any) -> Row:
    """Return a result of 5 classes; its intervals are +-0.04 and, for supports only, +-0.02."""
    row: Row = {
        "data": "pets", "model": "vit_small", "layer": "final", "pool": "cls", "classifier": "ridge", "shots": 5,
        "l2": None, "top1_mean": top1, "top1_std": 0.01, "top1_ci95_support": [top1 - 0.02, top1 + 0.02],
        "top1_ci95": [top1 - 0.04, top1 + 0.04], "top1_per_seed": [top1], "num_support": 25, "num_test": 100,
        "num_classes": 5,
    }  # fmt: skip
    return row | changes


def episodes(ways: int, shots: int, top1: float, **changes: Any) -> Row:
    return result(top1, ways=ways, shots=shots, queries=15, episodes=600, **changes)


def over_shots(*shots: int | str, **changes: Any) -> list[Row]:
    return [result(0.4 + 0.1 * i, shots=number, **changes) for i, number in enumerate(shots)]


def panels(figure: Figure) -> list[Axes]:
    """Return the axes that hold results, without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def series_lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_label() != "chance"]


def chance_lines(axes: Axes) -> list[float]:
    """Return the heights of the lines at chance, in percent."""
    return [float(np.asarray(line.get_ydata())[0]) for line in axes.get_lines() if line.get_label() == "chance"]


def legend_labels(figure: Figure) -> list[str]:
    """Return the series of the legend, which chance follows."""
    *texts, last = (text.get_text() for text in figure.legends[0].get_texts())
    assert last == "chance"
    return texts


def x_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]


def y_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def cell_texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def band_of(axes: Axes) -> np.ndarray:
    """Return the corners (N, 2) of the only filled band."""
    (band,) = (c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection")
    return np.asarray(band.get_paths()[0].vertices)


def bars_of(axes: Axes) -> list[list[list[float]]]:
    """Return the ends of the vertical bars, each [[x, low], [x, high]]."""
    bars = [c for c in axes.collections if type(c).__name__ == "LineCollection"]
    return [segment.tolist() for bar in bars for segment in bar.get_segments()]


def title_of(figure: Figure) -> str:
    return figure.get_suptitle()


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vitctl.reporting.fonts.FontWarning")  # as this machine has no font
@pytest.mark.parametrize("figure", FIGURES)
def test_any_name_is_drawn(tmp_path: Path, figure: Callable[..., Figure]) -> None:
    names = ["$5 & $\\frac{$", "caf\udce9 花 🐈\tand\nthere", "x" * 300, "/"]
    rows = [episodes(5, 5, 0.5, data=name, model=f"/runs/{name}", classifier=name) for name in names]
    save(figure(rows, title=" ".join(names)), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert 250 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= 4000
    assert 0.05 < (pixels == 255).all(axis=2).mean() < 0.995
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(layers_figure([result(), result(layer=0)], title="test"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("figure", FIGURES)
def test_rows_without_intervals_are_drawn_and_no_interval_is_explained(
    tmp_path: Path, figure: Callable[..., Figure]
) -> None:
    rows = [episodes(5, shots, 0.5, l2=0.1, top1_ci95=None, top1_ci95_support=None) for shots in (1, 5)]
    save(figure(rows, title="test"), tmp_path / "figure.png")
    assert "±" not in title_of(ways_shots_figure(rows, title="test"))
    for words in ("band", "bar"):
        assert words not in title_of(accuracy_vs_shots_figure(rows, title="test"))
        assert words in title_of(accuracy_vs_shots_figure([result()], title="test"))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("is_rendered", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_many_panels_rows_and_series_stay_within_4000_px(
    tmp_path: Path, figure: Callable[..., Figure], is_rendered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_blank(figure: Figure, path: Path, *, dpi: int, **_options: Any) -> None:
        width, height = figure.get_size_inches() * dpi
        Image.new("1", (int(width), int(height))).save(path, "PNG")

    if not is_rendered:
        monkeypatch.setattr(Figure, "savefig", save_blank)
    rows = [
        episodes(ways, 5, 0.5, data=data, model="a_model_with_a_long_name" * 2, layer=layer, pool=pool, classifier=c)
        for data in "abcdefg"
        for layer in ("embed", *range(17), "final")
        for pool in ("cls", "mean")
        for c in ("logistic regression", "nearest centroid")
        for ways in (2, 5, 20, 100)
    ]
    save(figure(rows, title="test"), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert max(image.size) <= 4000


# --- accuracy over shots -----------------------------------------------------------------------------------


def test_shots__points_band_and_bars_are_in_percent_at_the_shots() -> None:
    (axes,) = panels(accuracy_vs_shots_figure(over_shots(20, 1, 5), title="test"))
    (line,) = series_lines(axes)
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[1, 50], [5, 60], [20, 40]])
    assert {(1, 46), (1, 54), (20, 36), (20, 44)} <= {(round(x), round(y)) for x, y in band_of(axes)}
    np.testing.assert_allclose(bars_of(axes), [[[x, y - 2], [x, y + 2]] for x, y in ((1, 50), (5, 60), (20, 40))])
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("shots (images per class)", "top-1 (%)")


def test_shots__the_ticks_are_the_shots_and_all_stands_at_its_mean() -> None:
    rows = over_shots(1, 2, 10) + [result(shots="all", num_support=600)]  # 600 of 5 classes: 120 each
    (axes,) = panels(accuracy_vs_shots_figure(rows, title="test"))
    assert x_labels(axes) == ["1", "2", "10", "all\n≈ 120"]
    assert list(axes.get_xticks()) == [1, 2, 10, 120]
    assert len(axes.get_xticks(minor=True)) == 0


def test_shots__all_stands_right_of_the_numbers_even_where_it_is_fewer() -> None:
    rows = over_shots(10) + [result(shots="all", num_support=40)]  # classes of fewer than 10 give what they have
    (axes,) = panels(accuracy_vs_shots_figure(rows, title="test"))
    assert list(axes.get_xticks()) == [10, 15]
    assert x_labels(axes) == ["10", "all\n≈ 8"]


def test_shots__labels_that_would_touch_give_way_to_the_larger() -> None:
    (axes,) = panels(accuracy_vs_shots_figure([result(shots=n) for n in range(1, 41)], title="test"))
    shown = [label for label in x_labels(axes) if label]
    assert len(axes.get_xticks()) == 40
    assert shown[-1] == "40"
    assert "39" not in shown
    assert shown[:3] == ["1", "2", "3"]


@pytest.mark.parametrize("shots", [5, "all"])
def test_shots__of_one_number_the_points_stand_side_by_side_with_bars(shots: int | str) -> None:
    rows = [result(top1, shots=shots, classifier=name) for top1, name in ((0.5, "ridge"), (0.6, "centroid"))]
    (axes,) = panels(accuracy_vs_shots_figure(rows, title="test"))
    (first,), (second,) = (np.asarray(line.get_xydata()) for line in series_lines(axes))
    low, high = axes.get_xlim()
    assert low < first[0] < 5 < second[0] < high
    assert sorted(round(ends[0][1]) for ends in bars_of(axes)) == [46, 48, 56, 58]
    assert x_labels(axes) == ["5" if shots == 5 else "all\n≈ 5"]


def test_shots__one_row_is_one_point_in_the_middle_and_the_title_says_what_it_is() -> None:
    figure = accuracy_vs_shots_figure([result(0.6)], title="my title")
    (axes,) = panels(figure)
    np.testing.assert_allclose(np.asarray(series_lines(axes)[0].get_xydata()), [[5, 60]])
    assert legend_labels(figure) == []
    assert title_of(figure).split("\n") == [
        "my title", "pets · vit_small · layer final · cls pool · ridge · shots 5", INTERVALS,
    ]  # fmt: skip


def test_shots__the_legend_holds_what_varies_and_the_title_the_rest() -> None:
    rows = over_shots(1, 5) + over_shots(1, 5, classifier="centroid", pool="mean")
    figure = accuracy_vs_shots_figure(rows, title="test")
    assert legend_labels(figure) == ["cls pool · ridge", "mean pool · centroid"]
    assert title_of(figure).split("\n")[1] == "pets · vit_small · layer final"


def test_shots__of_15_series_the_ten_best_at_the_most_shots_are_drawn() -> None:
    """At one shot the order is the reverse, so that the shots which count are seen."""
    rows = [
        result(0.2 + sign * 0.01 * layer, shots=shots, layer=layer)
        for layer in range(15)
        for shots, sign in ((1, -1), (10, 1))
    ]
    figure = accuracy_vs_shots_figure(rows, title="test")
    assert legend_labels(figure) == [f"layer {layer}" for layer in range(5, 15)]
    assert "10 of 15 series, the most accurate" in title_of(figure)
    lines = series_lines(panels(figure)[0])
    assert len({line.get_marker() for line in lines}) == 10
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in lines}) == 10


def test_shots__a_series_looks_the_same_in_every_panel() -> None:
    rows = over_shots(1, 5, model="a") + [
        r | {"data": data} for data in ("pets", "dtd") for r in over_shots(1, model="b")
    ]
    first, second = panels(accuracy_vs_shots_figure(rows, title="test"))
    assert [line.get_label() for line in series_lines(first)] == ["a", "b"]
    (line,) = series_lines(second)
    assert line.get_label() == "b"
    assert line.get_color() == series_lines(first)[1].get_color() != series_lines(first)[0].get_color()


def test_shots__of_seven_data_sets_six_have_a_panel() -> None:
    figure = accuracy_vs_shots_figure([row for name in "gfedcba" for row in over_shots(1, 5, data=name)], title="test")
    assert [axes.get_title() for axes in panels(figure)] == list("gfedcb")
    assert "6 of 7 data sets" in title_of(figure)
    assert [bool(axes.get_ylabel()) for axes in panels(figure)] == [True, False, False] * 2


def test_shots__chance_is_a_line_where_there_is_room_for_it() -> None:
    (axes,) = panels(accuracy_vs_shots_figure(over_shots(1, 5, 10), title="test"))
    low, high = axes.get_ylim()
    assert chance_lines(axes) == [20]
    assert low < 20 < 64 < high
    assert cell_texts(axes) == []


def test_shots__chance_far_below_is_a_note() -> None:
    (axes,) = panels(accuracy_vs_shots_figure([result(0.90), result(0.92, shots=10)], title="test"))
    low, high = axes.get_ylim()
    assert 80 < low < 86 < 96 < high < 100
    assert cell_texts(axes) == ["chance 20 % (below)"]


def test_shots__of_episodes_chance_is_one_in_ways() -> None:
    rows = [episodes(ways, shots, 0.5) for ways in (5, 10) for shots in (1, 5)]
    figure = accuracy_vs_shots_figure(rows, title="test")
    assert chance_lines(panels(figure)[0]) == [10, 20]
    assert legend_labels(figure) == ["5-way", "10-way"]


@pytest.mark.parametrize(("top1", "low", "high"), [(0.0, -2, 30), (1.0, 10, 102)])
def test_shots__the_axis_ends_near_0_and_100(top1: float, low: float, high: float) -> None:
    rows = [result(top1, shots=shots, top1_ci95=[top1, top1]) for shots in (1, 5)] + over_shots(1, 5, classifier="b")
    (axes,) = panels(accuracy_vs_shots_figure(rows, title="test"))
    assert low <= axes.get_ylim()[0] <= 100 * top1 <= axes.get_ylim()[1] <= 102


# --- accuracy over the penalty -----------------------------------------------------------------------------


def test_l2__there_is_a_line_per_shots_over_the_penalty() -> None:
    rows = [result(0.5 + 0.01 * shots, l2=l2, shots=shots) for shots in (1, 5) for l2 in (1, 0.01)]
    figure = accuracy_vs_l2_figure(rows, title="test")
    (axes,) = panels(figure)
    assert legend_labels(figure) == ["shots 1", "shots 5"]
    np.testing.assert_allclose(np.asarray(series_lines(axes)[1].get_xydata()), [[0.01, 55], [1, 55]])
    assert (x_labels(axes), axes.get_xscale(), axes.get_xlabel()) == (["0.01", "1"], "log", "l2 penalty")


def test_l2__a_penalty_of_0_stands_a_decade_left_of_the_smallest() -> None:
    (axes,) = panels(accuracy_vs_l2_figure([result(l2=l2) for l2 in (0, 0.01, 1)], title="test"))
    np.testing.assert_allclose(axes.get_xticks(), [0.001, 0.01, 1])
    assert x_labels(axes) == ["0", "0.01", "1"]


def test_l2__a_classifier_without_a_penalty_is_a_level_line() -> None:
    rows = [result(0.6, l2=l2) for l2 in (0.1, 1)] + [result(0.4, classifier="centroid")]
    (axes,) = panels(accuracy_vs_l2_figure(rows, title="test"))
    curve, level = series_lines(axes)
    assert (curve.get_label(), level.get_label()) == ("ridge", "centroid")
    np.testing.assert_allclose(level.get_ydata(), 40)
    assert x_labels(axes) == ["0.1", "1"]


def test_l2__no_penalty_at_all_is_drawn() -> None:
    (axes,) = panels(accuracy_vs_l2_figure([result()], title="test"))
    assert x_labels(axes) == ["none"]


# --- layers ------------------------------------------------------------------------------------------------


def over_layers(layers: Sequence[int | str], **changes: Any) -> list[Row]:
    return [result(0.1 + 0.01 * i, layer=layer, **changes) for i, layer in enumerate(layers)]


def test_layers__stand_in_the_order_of_the_network_below_their_lines() -> None:
    rows = over_layers(["final", 10, 2, "embed", 0])  # 10, 11, 12, 13, 14 %
    line_axes, heat_axes = panels(layers_figure(rows, title="test"))[:2]
    assert x_labels(heat_axes) == ["embed", "0", "2", "10", "final"]
    np.testing.assert_allclose(heat_axes.get_images()[0].get_array(), [[13, 14, 12, 11, 10]])
    (line,) = series_lines(line_axes)
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[0, 13], [1, 14], [2, 12], [3, 11], [4, 10]])
    assert line_axes.get_xlim() == heat_axes.get_xlim() == (-0.5, 4.5)
    assert cell_texts(heat_axes) == ["13.0", "14.0", "12.0", "11.0", "10.0"]
    assert (line_axes.get_ylabel(), heat_axes.get_xlabel()) == ("top-1 (%)", "layer")


def test_layers__the_columns_of_lines_and_heat_map_are_aligned() -> None:
    figure = layers_figure(over_layers(range(12)) + over_layers([3], pool="mean"), title="test")
    figure.draw_without_rendering()
    line_axes, heat_axes = panels(figure)[:2]
    assert line_axes.get_position().x0 == pytest.approx(heat_axes.get_position().x0)
    assert line_axes.get_position().x1 == pytest.approx(heat_axes.get_position().x1)


def test_layers__a_pool_without_a_layer_is_grey() -> None:
    rows = over_layers(["embed", 0, "final"], pool="mean") + over_layers(["final"], pool="native")
    figure = layers_figure(rows, title="test")
    heat_axes = panels(figure)[1]
    assert y_labels(heat_axes) == ["native pool", "mean pool"] == legend_labels(figure)
    values = np.ma.getmaskarray(heat_axes.get_images()[0].get_array())
    assert values.tolist() == [[True, True, False], [False, False, False]]
    assert len(cell_texts(heat_axes)) == 4
    assert heat_axes.get_xlabel() == "layer (grey: no result)"
    assert heat_axes.get_facecolor()[:3] == to_rgb(UNDEFINED)


@pytest.mark.parametrize(("num_layers", "has_numbers"), [(16, True), (17, False)])
def test_layers__cells_hold_numbers_while_there_is_room(num_layers: int, has_numbers: bool) -> None:
    heat_axes = panels(layers_figure(over_layers(range(num_layers)), title="test"))[1]
    assert any(cell_texts(heat_axes)) == has_numbers


@pytest.mark.parametrize(("most", "named"), [(16, "shots 16"), ("all", "shots all")])
def test_layers__the_most_shots_are_taken_and_named(most: int | str, named: str) -> None:
    rows = over_layers([0, 1], shots=2) + over_layers([1, 0], shots=most)
    figure = layers_figure(rows, title="test")
    np.testing.assert_allclose(panels(figure)[1].get_images()[0].get_array(), [[11, 10]])
    assert named in title_of(figure)


def test_layers__the_models_of_a_data_set_share_their_scales() -> None:
    rows = [result(top1, model=m, data=d) for top1, m, d in ((0.2, "a", "x"), (0.8, "b", "x"), (0.5, "a", "y"))]
    figure = layers_figure(rows, title="test")
    lines = [axes for axes in panels(figure) if not axes.get_images()]
    heats = [axes for axes in panels(figure) if axes.get_images()]
    assert [axes.get_title() for axes in lines] == ["x · a", "x · b", "y · a"]
    assert lines[0].get_ylim() == lines[1].get_ylim() != lines[2].get_ylim()
    limits = [axes.get_images()[0].get_clim() for axes in heats]
    np.testing.assert_allclose(limits, [(20, 80), (20, 80), (45, 55)])  # matplotlib's room about one value


def test_layers__of_15_rows_the_twelve_best_are_drawn() -> None:
    rows = [result(0.3 + 0.01 * i, classifier=f"c{i}", layer=layer) for i in range(15) for layer in (0, 1)]
    figure = layers_figure(rows, title="test")
    line_axes, heat_axes = panels(figure)[:2]
    best = [f"c{i}" for i in range(3, 15)]
    assert (
        y_labels(heat_axes) == [line.get_label() for line in series_lines(line_axes)] == legend_labels(figure) == best
    )
    assert "12 of 15 rows, the most accurate" in title_of(figure)


# --- ways against shots ------------------------------------------------------------------------------------


def test_ways__cells_hold_mean_and_half_width() -> None:
    rows = [episodes(20, 1, 0.301), episodes(5, 1, 0.5), episodes(5, 10, 0.75, top1_ci95=None)]
    figure = ways_shots_figure(rows, title="test")
    (axes,) = panels(figure)
    assert x_labels(axes) == ["1", "10"]
    assert y_labels(axes) == ["5 (chance 20 %)", "20 (chance 5 %)"]
    places = {text.get_position(): text.get_text() for text in axes.texts}
    assert places == {(0, 0): "50.0 ± 4.0", (1, 0): "75.0", (0, 1): "30.1 ± 4.0"}
    np.testing.assert_allclose(np.ma.filled(axes.get_images()[0].get_array(), -1), [[50, 75], [30.1, -1]])
    assert title_of(figure).replace("\n", " ").split(" · ")[:2] == ["test pets", "vit_small"]
    assert "15 queries per class · 600 episodes" in title_of(figure).replace("\n", " ")


def test_ways__panels_share_one_range_of_colours_and_say_what_they_are() -> None:
    rows = [episodes(5, 1, top1, layer=layer) for top1, layer in ((0.3, 3), (0.7, "final"))]
    figure = ways_shots_figure(rows, title="test")
    assert [axes.get_title() for axes in panels(figure)] == ["layer 3", "layer final"]
    for axes in panels(figure):
        np.testing.assert_allclose(axes.get_images()[0].get_clim(), (30, 70))
    (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert bar.get_ylabel() == "top-1 (%)"


def test_ways__of_too_many_panels_the_best_of_every_data_set_are_shown() -> None:
    rows = [
        episodes(5, 1, base + 0.01 * layer, data=d, layer=layer)
        for d, base in (("x", 0.8), ("y", 0.2))
        for layer in range(8)
    ]
    figure = ways_shots_figure(rows, title="test")
    assert [axes.get_title() for axes in panels(figure)] == [f"{d} · layer {i}" for d in "xy" for i in (5, 6, 7)]
    assert "6 of 16 panels, the most accurate" in title_of(figure)


def test_ways__results_that_are_not_of_episodes_are_left_out() -> None:
    (axes,) = panels(ways_shots_figure([episodes(5, 1, 0.5), result(data="other")], title="test"))
    assert cell_texts(axes) == ["50.0 ± 4.0"]


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["/home/me/runs/a", "timm/vit_small", "vit_base"], ["runs/a", "timm/vit_small", "vit_base"]),
        (["/x/a/run/best/", "/x/b/run/best"], ["a/run/best", "b/run/best"]),
        (["C:\\runs\\a\\best", "b"], ["a/best", "b"]),
        (["a" * 60 + ".in1k", "a" * 60 + ".in21k"], [f"{'a' * 23}…{'a' * 18}.in1k", f"{'a' * 23}…{'a' * 17}.in21k"]),
        (["$5", "tab\there"], ["$5", r"tab\there"]),
        (["caf\udce9", "/"], [r"caf\xe9", "/"]),
    ],
)
def test_models_are_called_by_the_end_of_their_path(models: list[str], labels: list[str]) -> None:
    figure = accuracy_vs_shots_figure([row for model in models for row in over_shots(1, 5, model=model)], title="test")
    assert legend_labels(figure) == labels


def test_features_that_somebody_else_computed_have_no_model() -> None:
    figure = accuracy_vs_shots_figure(over_shots(1, 5, model=None), title="test")
    assert title_of(figure).split("\n")[1] == "pets · layer final · cls pool · ridge"


def test_a_dollar_is_no_formula_anywhere() -> None:
    name = "$x$"
    rows = [episodes(5, 1, 0.5, data=f"{name}{i}", model=name, classifier=f"{name}{c}") for i in "ab" for c in "ab"]
    for figure in (make(rows, title=name) for make in (accuracy_vs_shots_figure, layers_figure, ways_shots_figure)):
        texts = [figure._suptitle, *(t for legend in figure.legends for t in legend.get_texts())]
        for axes in panels(figure):
            texts += [axes.title, *axes.get_yticklabels()]
        assert sum(name in text.get_text() for text in texts) >= 3
        assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())
