"""The pictures of ``vitctl inspect``: what stands on them is what was found, for any model, and they can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vitctl.reporting.inspect_figures import MAX_SIDE, Model, draw_findings, drawings, findings_figure
from vitctl.reporting.inspect_panels import draw_overlay, evenly, lowest_and_evenly, set_layer_ticks, wrapped

Found = tuple[dict[str, np.ndarray], dict[str, Any]]
STRANGE = "$5 & $\\frac{$ <img src=x onerror=alert(1)> 花 caf\udce9\n" + "x" * 300


# --- findings as the analyses return them ------------------------------------------------------------------


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def layer_names(count: int) -> np.ndarray:
    return np.array(["embed", *map(str, range(count - 2)), "final"][:count])


def with_pictures(count: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    pictures = rng().integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return {"pictures": pictures, "picture_names": np.array([f"a$b/<i>{i}.png" for i in range(count)], dtype="U20")}


def filters(num_components: int = 5, height: int = 4, width: int = 3) -> Found:
    ratio = np.full(3 * height * width, 1 / (3 * height * width))
    components = rng().standard_normal((num_components, 3, height, width)).astype(np.float32)
    facts = {"layer": "patch_embed.proj", "explained_by_components": 0.25}
    return {"components": components, "explained_variance_ratio": ratio}, facts


def pos_embed(height: int = 2, width: int = 3, resampled: tuple[int, int] | None = None) -> Found:
    arrays = {"similarity": rng().uniform(-1, 1, (height, width, height, width)).astype(np.float32)}
    if resampled:
        arrays["similarity_resampled"] = rng().uniform(-1, 1, (*resampled, *resampled)).astype(np.float32)
    return arrays, {"kind": "table"}


def attention(depth: int = 3, heads: int = 2, pictures: int = 2, prefix: float = 0.5, **facts: Any) -> Found:
    arrays = {
        "entropy": rng().uniform(0, 1, (depth, heads)),
        "row_sum_error": np.full(depth, 2e-7),
        "head_similarity": np.full((depth, heads, heads), 0.5) + 0.5 * np.eye(heads),
        "maps": rng().uniform(0, 0.1, (pictures, depth, heads, 2, 3)).astype(np.float32),
        "prefix_attention": np.full((pictures, depth, heads), prefix),
        **with_pictures(pictures, (8, 12)),
    }
    return arrays, {"query": "cls", "layer": None, "head": None, "max_entropy": 1.9, **facts}


def rollout(depth: int = 3, pictures: int = 2, **facts: Any) -> Found:
    per_layer = rng().uniform(0, 0.1, (pictures, depth, 2, 3))
    last = per_layer[:, -1] / per_layer[:, -1].max(axis=(1, 2), keepdims=True)
    settings = {"fusion": "mean", "discard": 0.0, "residual": 0.5, "target": "cls"}
    return {"per_layer": per_layer, "rollout": last, **with_pictures(pictures, (8, 12))}, settings | facts


def distance(depth: int = 3, heads: int = 4) -> Found:
    px = rng().uniform(10, 90, (depth, heads))
    arrays = {"distance_px": px, "prefix_mass": np.full((depth, heads), 0.1), "per_image_px": px[None]}
    return arrays, {"uniform_px": 116.4922, "is_renormalised": False}


def cka(first: int = 3, second: int | None = None, *, diagonal: bool = False) -> Found:
    if diagonal:
        arrays = {"cka": np.linspace(1, 0.5, first), "batch_spread": np.full(first, 0.1)}
        arrays |= {"layers_1": layer_names(first), "layers_2": layer_names(first)}
    elif second is None:
        arrays = {"cka": rng().uniform(0, 1, (first, first)), "layers_1": layer_names(first)}
    else:
        arrays = {
            "cka": rng().uniform(0, 1, (first, second)),
            "cka_self_1": rng().uniform(0, 1, (first, first)),
            "cka_self_2": rng().uniform(0, 1, (second, second)),
            "layers_1": layer_names(first),
            "layers_2": layer_names(second),
        }
    return arrays, {"tokens": "all", "num_images_used": 256}


def heads_vs_cnn(num_heads: int = 4, num_layers: int = 3) -> Found:
    px = rng().uniform(10, 90, num_heads)
    order = np.argsort(px)
    subsets = np.stack([order[:-1], order[1:]])
    arrays = {
        "cka": rng().uniform(0, 1, (2, num_layers)),
        "subset_distance_px": px[subsets].mean(axis=1),
        "head_distance_px": px,
        "head_order": order,
        "subsets": subsets,
        "cnn_layers": np.array([f"layer1.{i}" for i in range(num_layers)]),
    }
    return arrays, {"layer": 1}


def norm_ratio(depth: int = 3, *, is_cnn: bool = False, has_class_token: bool = True) -> Found:
    shape = (depth, 1, 1) if is_cnn else (depth, 2, 2)
    ratio = rng().uniform(0.5, 8, shape)
    if not has_class_token:
        ratio[:, :, 0] = np.nan
    arrays = {"ratio": ratio, "median": ratio, "cosine_branch": ratio / 10 - 0.4, "cosine_output": ratio / 10}
    branches, tokens = (["branch"], ["places"]) if is_cnn else (["attention", "mlp"], ["class token", "patches"])
    return arrays | {"branches": np.array(branches), "tokens": np.array(tokens)}, {"num_infinite": 3}


def localisation(height: int = 3, width: int = 4, scale: float = 1.0) -> Found:
    similarity = scale * rng().uniform(0, 1, (height * width, height, width))
    own = np.diag(similarity.reshape(height * width, -1)).reshape(height, width)
    return {"cka": similarity, "own": own}, {"argmax_accuracy": 0.5, "chance": 1 / (height * width), "layer": "final"}


def features(pictures: int = 2, prefix: int = 1) -> Found:
    arrays = {
        "rgb": rng().uniform(0, 1, (pictures, 2, 3, 3)).astype(np.float32),
        "similarity": rng().uniform(0, 1, (pictures, 2, 3)),
        "token_norm": rng().uniform(10, 20, (pictures, 2, 3)),
        "norm_quantiles": np.array([10.0, 12, 14, 16, 20]),
        "prefix_norm": np.full((pictures, prefix), 30.0),
        **with_pictures(pictures, (8, 12)),
    }
    return arrays, {"explained_by_three": 0.5, "query": [1, 2], "layer": "final"}


def receptive_field(depth: int = 4) -> Found:
    arrays = {
        "field": rng().uniform(0, 1, (depth, 8, 12)).astype(np.float32),
        "layers": layer_names(depth),
        "extent_px": np.linspace(1, 4, depth),
        "area_half": np.linspace(0.1, 0.4, depth),
    }
    cells = {"cells": [[1, 1]] * depth, "grids": [[2, 3]] * depth}
    return arrays, {
        "where": "post",
        "uniform_extent_px": 4.2,
        "centre_patch_share": [None] + [0.5] * (depth - 1),
        **cells,
    }


def probe(depth: int = 4) -> Found:
    arrays = {
        "accuracy": np.stack([np.linspace(0.2, 0.8, depth), np.full(depth, 0.5)], axis=1),
        "accuracy_std": np.full((depth, 2), 0.05),
        "layers": layer_names(depth),
        "pools": np.array(["cls", "mean"]),
        "token_accuracy": rng().uniform(0.1, 0.6, (depth, 2, 3)),
    }
    return arrays, {"chance": 0.1}


def equivariance(depth: int = 4, num_shifts: int = 2) -> Found:
    arrays = {
        "layers": np.array(["pixels", *layer_names(depth - 1)]),
        "translation_error": np.linspace(0, 1, depth * num_shifts).reshape(depth, num_shifts),
        "shifts": np.array([(0, 1), (1, 0)] * 5)[:num_shifts].reshape(-1, 2),
        "neighbour_similarity": np.linspace(0.8, 0.9, depth),
        "random_similarity": np.linspace(0.1, 0.2, depth),
    }
    facts = {"permutation_error_without_pos": 6e-7, "permutation_error_with_pos": 0.3, "batch_invariance_eval": 0.0}
    return arrays, facts | {"batch_invariance_train": None, "patch_embed_shift_error": None, "norm_kind": "LayerNorm"}


FOUND: dict[str, Callable[..., Found]] = {
    "filters": filters, "pos-embed": pos_embed, "attention": attention, "rollout": rollout, "distance": distance,
    "cka": cka, "heads-vs-cnn": heads_vs_cnn, "norm-ratio": norm_ratio, "localisation": localisation,
    "features": features, "receptive-field": receptive_field, "probe": probe, "equivariance": equivariance,
}  # fmt: skip


# --- looking at figures ------------------------------------------------------------------------------------


def figure_of(analysis: str, *found: Found, name: str = "model") -> Figure:
    models: list[Model] = [(name, *one) for one in found]
    return findings_figure(analysis, models)


def panels(figure: Figure) -> list[Axes]:
    """Return the axes that hold results, without colour bars and empty places."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>" and axes.axison]


def colour_bars(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = (axes for axes in panels(figure) if axes.get_title() == title)
    return axes


def drawn(axes: Axes, image: int = -1) -> np.ndarray:
    return np.ma.filled(axes.images[image].get_array(), np.nan)


def outlines(axes: Axes) -> list[ContourSet]:
    return [one for one in axes.collections if isinstance(one, ContourSet)]


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(found.get_ydata(), dtype=float)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def titles(figure: Figure) -> list[str]:
    """Return the title of the figure, then those of the models."""
    return [figure.get_suptitle(), *(part.get_suptitle() for part in figure.subfigs)]


def tick_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]


# --- all of them -------------------------------------------------------------------------------------------


def test_the_drawings_are_the_analyses() -> None:
    assert set(FOUND) == set(drawings())


@pytest.mark.parametrize("analysis", FOUND)
def test_axes_are_labelled_and_can_be_read_and_models_are_named_as_they_are(analysis: str) -> None:
    figure = figure_of(analysis, FOUND[analysis](), name="a $\\frac{$ <b>")
    assert titles(figure)[1].startswith("a $\\frac{$ <b>")
    assert all(not text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
    for axes in panels(figure):
        assert axes.images or (axes.get_xlabel() and axes.get_title()), axes
    assert all(colour_bars(figure))
    assert max(figure.get_size_inches()) <= MAX_SIDE
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8


@pytest.mark.filterwarnings("ignore::vitctl.reporting.fonts.FontWarning")  # a machine may have no font for them
@pytest.mark.parametrize("analysis", ["attention", "cka"])
def test_strange_names_are_drawn_and_the_file_lands_whole(tmp_path: Path, analysis: str) -> None:
    draw_findings(analysis, [(STRANGE, *FOUND[analysis]())], tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert 250 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= MAX_SIDE * 130
    assert 0.05 < (pixels == 255).all(axis=2).mean() < 0.995
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_what_does_not_fit_is_said() -> None:
    figure = figure_of("attention", *[attention() for _ in range(5)])
    assert max(figure.get_size_inches()) <= MAX_SIDE
    assert 1 <= len(figure.subfigs) < 5
    assert titles(figure)[0] == f"Attention maps ({len(figure.subfigs)} of 5 models)"


@pytest.mark.parametrize(("analysis", "is_beside"), [("pos-embed", True), ("localisation", True), ("distance", False)])
def test_models_stand_beside_each_other_where_that_compares_better(analysis: str, is_beside: bool) -> None:
    one, two = (figure_of(analysis, *[FOUND[analysis]()] * count).get_size_inches() for count in (1, 2))
    assert (two[0] == 2 * one[0]) == is_beside
    assert (two[1] == one[1]) == is_beside


@pytest.mark.slow
@pytest.mark.parametrize("analysis", FOUND)
def test_nan_and_infinity_are_drawn_and_said(analysis: str) -> None:
    arrays, facts = FOUND[analysis]()
    for name, array in arrays.items():
        if array.dtype.kind == "f" and name != "norm_quantiles":
            broken = array.copy()
            broken[-1, ...], broken.flat[0] = np.nan, np.inf
            arrays[name] = broken
    figure = figure_of(analysis, (arrays, dict.fromkeys(facts)))
    figure.set_layout_engine("none")  # half of the time
    figure.draw_without_rendering()
    maps = [axes for axes in panels(figure) if axes.images and np.isnan(drawn(axes)).any() and len(axes.images) == 1]
    if maps and analysis != "features":
        assert any("grey: not defined" in text for text in texts(figure))


@pytest.mark.parametrize("analysis", ["filters", "attention", "distance", "cka", "norm-ratio", "localisation", "probe"])
def test_everything_undefined_is_still_drawn(analysis: str) -> None:
    arrays, facts = FOUND[analysis]()
    undefined = {name: np.full_like(array, np.nan) for name, array in arrays.items() if array.dtype.kind == "f"}
    figure_of(analysis, (arrays | undefined, facts))


@pytest.mark.parametrize(
    ("count", "most", "places"),
    [(0, 6, []), (1, 6, [0]), (6, 6, [0, 1, 2, 3, 4, 5]), (24, 6, [0, 5, 9, 14, 18, 23]), (7, 2, [0, 6])],
)
def test_evenly(count: int, most: int, places: list[int]) -> None:
    assert evenly(count, most) == places


def test_layer_ticks__are_thinned_and_name_their_own_layer() -> None:
    axes = Figure().subplots()
    set_layer_ticks(axes.xaxis, [f"layer {i}" for i in range(150)])
    assert len(tick_labels(axes)) <= 14
    assert [f"layer {place:g}" for place in axes.get_xticks()] == tick_labels(axes)


@pytest.mark.parametrize("depth", [12, 24, 48])
def test_layer_ticks__name_the_embedding_after_the_pixels(depth: int) -> None:
    axes = Figure().subplots()
    names = ["pixels", "embed", *map(str, range(depth)), "final"]
    set_layer_ticks(axes.xaxis, names)
    assert "embed" in tick_labels(axes)
    assert [names[int(place)] for place in axes.get_xticks()] == tick_labels(axes)


@pytest.mark.parametrize(
    ("count", "most", "places"),
    [(0, 8, []), (1, 8, [0]), (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]), (14, 8, [0, 1, 3, 5, 7, 9, 11, 13]), (9, 3, [0, 1, 8])],
)
def test_lowest_and_evenly(count: int, most: int, places: list[int]) -> None:
    assert lowest_and_evenly(count, most) == places


@pytest.mark.parametrize(
    ("text", "lines"),
    [("a x b", "a x b"), ("runs/2024-11 x b", "runs/2024-11\nx b"), ("a" * 30, "a" * 12 + "\n" + "a" * 11 + "…")],
)
def test_wrapped(text: str, lines: str) -> None:
    assert wrapped(text, 12) == lines


def test_overlay__colours_are_of_the_map_alone_and_the_picture_is_a_few_thin_lines() -> None:
    picture, values = np.zeros((32, 48, 3), dtype=np.uint8), rng().uniform(0, 1, (2, 3))
    picture[8:24, 12:36] = 255
    figure, empty = Figure(), Figure()
    for one, content in ((figure, picture), (empty, np.zeros_like(picture))):
        draw_overlay(one.subplots(), content, values)
    (axes,), (without,) = figure.axes, empty.axes
    assert len(axes.images) == 1
    assert axes.images[0].get_alpha() is None
    assert axes.images[0].get_cmap().name == "viridis"
    assert axes.images[0].get_clim() == (0, 1)
    np.testing.assert_allclose(drawn(axes), values / values.max())
    np.testing.assert_array_equal(drawn(axes), drawn(without))
    (lines,) = outlines(axes)
    assert np.max(lines.get_linewidth()) < 1
    ends = lines.get_paths()[0].get_extents()  # of the square, between pixel middles
    np.testing.assert_allclose((ends.x0, ends.x1, ends.y0, ends.y1), (11.5, 35.5, 7.5, 23.5), atol=0.6)
    assert axes.get_xlim() == without.get_xlim() == (-0.5, 47.5)
    assert axes.get_ylim() == without.get_ylim() == (31.5, -0.5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (32, 48)])
def test_overlay__a_picture_without_contrast_has_no_lines(size: tuple[int, int]) -> None:
    axes = Figure().subplots()
    draw_overlay(axes, rng().integers(100, 105, (*size, 3), dtype=np.uint8), np.ones((1, 1)))
    assert outlines(axes) == []


def test_overlay__even_attention_looks_even() -> None:
    axes = Figure().subplots()
    draw_overlay(axes, with_pictures(1, (8, 12))["pictures"][0], np.full((2, 3), 1 / 6, dtype=np.float32))
    np.testing.assert_array_equal(drawn(axes), np.ones((2, 3)))


def test_overlay__is_bilinear_between_the_middles_of_cells() -> None:
    values = rng().uniform(0, 1, (3, 5))
    figure = Figure(figsize=(1, 0.6), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    draw_overlay(axes, np.zeros((60, 100, 3), dtype=np.uint8), values)
    axes.images[0].set_cmap("gray")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = np.asarray(canvas.buffer_rgba())
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values / values.max())[None, None], size=(60, 100), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(shown[..., 0] / 255, expected[0, 0].numpy(), atol=0.02)


# --- the patch embedding -----------------------------------------------------------------------------------


def test_filters__tiles_are_the_components_each_over_its_own_range() -> None:
    found = filters(num_components=9)
    axes = panel(figure_of("filters", found), "principal components 1 to 9, row by row")
    component = found[0]["components"][8]  # second row, second column; tiles of 4 x 3 px, 1 px apart
    tile = drawn(axes)[5:9, 4:7]
    low, high = component.min(), component.max()
    np.testing.assert_allclose(tile, ((component - low) / (high - low)).transpose(1, 2, 0), atol=1e-6)
    assert drawn(axes)[4].min() == 1  # white between


def test_filters__bars_are_percent_and_an_even_spectrum_meets_the_line() -> None:
    axes = panel(figure_of("filters", filters()), "explained variance")
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([100 / 36] * 36)
    assert line(axes, "all alike (even spectrum)")[0] == pytest.approx(100 / 36)


def test_filters__axis_ends_a_little_above_the_highest_bar() -> None:
    axes = panel(figure_of("filters", filters()), "explained variance")
    assert 100 / 36 < axes.get_ylim()[1] < 3 * 100 / 36


def test_filters__too_many_components_are_said() -> None:
    figure = figure_of("filters", filters(num_components=120))
    assert "112 of 120 components drawn" in titles(figure)[1]


def test_pos_embed__tile_of_a_place_is_its_map() -> None:
    found = pos_embed(2, 3)
    axes = panel(figure_of("pos-embed", found), "own grid, 2 x 3 patches")
    np.testing.assert_array_equal(drawn(axes)[2:4, 6:9], found[0]["similarity"][1, 2])
    assert axes.images[0].get_clim() == (-1, 1)


def test_pos_embed__large_grids_are_thinned_evenly() -> None:
    found = pos_embed(2, 2, resampled=(16, 20))
    axes = panel(figure := figure_of("pos-embed", found), "resampled, 16 x 20 patches")
    assert "tiles of 196 of 320 positions" in titles(figure)[1]
    assert drawn(axes).shape == (14 * 16, 14 * 20)
    np.testing.assert_array_equal(drawn(axes)[-16:, -20:], found[0]["similarity_resampled"][15, 19])
    assert tick_labels(axes)[:2] + tick_labels(axes)[-1:] == ["0", "1", "19"]


def test_pos_embed__one_dimension_is_a_matrix() -> None:
    found = pos_embed(1, 5)
    (axes,) = panels(figure_of("pos-embed", found))
    np.testing.assert_array_equal(drawn(axes), found[0]["similarity"].reshape(5, 5))


# --- attention ---------------------------------------------------------------------------------------------


def test_attention__overlays_are_head_means_relative_to_their_largest() -> None:
    found = attention()
    axes = [axes for axes in panels(figure_of("attention", found)) if axes.get_title() == "block 1"]
    mean = found[0]["maps"][0, 1].mean(axis=0)
    np.testing.assert_allclose(drawn(axes[0]), mean / mean.max(), atol=1e-6)
    assert axes[0].get_xlabel() == "to prefix: 50%"


def test_attention__a_chosen_head_and_layer_are_shown() -> None:
    found = attention(head=1, layer=0)
    figure = figure_of("attention", found)
    head = found[0]["maps"][0, 0, 1]
    for title in ("block 0", "head 1"):
        np.testing.assert_allclose(drawn(panel(figure, title)), head / head.max(), atol=1e-6)
    assert {"attention of the query, head 1", "heads of block 0, first picture", "heads of block 0"} <= set(
        texts(figure)
    )
    assert panel(figure, "head 1").title.get_fontweight() == "bold"


def test_attention__the_query_patch_is_framed_at_its_place() -> None:
    figure = figure_of("attention", attention(query=[1, 2]))
    assert "query: patch (1, 2)" in titles(figure)[1]
    frame = panel(figure, "block 1").patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (7.5, 3.5, 4, 4)


def test_attention__deep_models_show_a_subset_and_say_so() -> None:
    figure = figure_of("attention", attention(depth=24, heads=20, pictures=5))
    shown = {axes.get_title() for axes in panels(figure)}
    assert {f"block {block}" for block in (0, 5, 9, 14, 18, 23)} <= shown
    assert sum(title.startswith("head ") for title in shown) == 16
    for text in ("6 of 24 blocks", "16 of 20 heads", "4 of 5 pictures"):
        assert text in titles(figure)[1].replace("\n", " ")


@pytest.mark.parametrize(("pictures", "prefix", "num_axes"), [(0, 0.0, 3), (1, 0.0, 3 + 4 + 2), (1, 0.5, 4 + 4 + 2)])
def test_attention__panels_without_content_are_left_out(pictures: int, prefix: float, num_axes: int) -> None:
    assert len(panels(figure_of("attention", attention(pictures=pictures, prefix=prefix)))) == num_axes


def test_attention__entropy_stands_below_its_largest_value() -> None:
    found = attention()
    axes = panel(figure_of("attention", found), "entropy of a query's attention")
    assert line(axes, "even attention")[0] == 1.9
    np.testing.assert_allclose(line(axes, "mean of the heads"), found[0]["entropy"].mean(axis=1))
    np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets())[:, 1], found[0]["entropy"].ravel())


def test_attention__few_heads_stand_together_at_the_left() -> None:
    figure = figure_of("attention", attention(heads=2))
    figure.draw_without_rendering()
    left, right = (panel(figure, f"head {head}").get_position() for head in (0, 1))
    assert left.x0 < 0.05
    assert right.x1 < 0.3
    assert right.x0 - left.x1 < 0.5 * left.width


def test_attention__title_names_whose_attention_goes_to_prefix_tokens() -> None:
    axes = panel(figure_of("attention", attention()), "attention of the query to prefix tokens")
    np.testing.assert_allclose(line(axes, "mean of the heads"), 50)


def test_attention__a_single_head_and_block() -> None:
    assert "one head only" in texts(figure_of("attention", attention(depth=1, heads=1)))


def test_rollout__the_last_map_is_the_rollout() -> None:
    found = rollout(depth=24)
    figure = figure_of("rollout", found)
    np.testing.assert_allclose(drawn(panel(figure, "all blocks")), found[0]["rollout"][0])
    ninth = found[0]["per_layer"][0, 9]
    np.testing.assert_allclose(drawn(panel(figure, "blocks 0 to 9")), ninth / ninth.max())
    assert "fusion mean, discard 0.0, residual 0.5; 6 of 24 blocks" in titles(figure)[1]


def test_rollout__of_a_patch_and_of_one_block() -> None:
    figure = figure_of("rollout", rollout(depth=1, target=[0, 1]))
    assert "of patch (0, 1)" in titles(figure)[1]
    assert len(panel(figure, "all blocks").patches) == 2  # its frame, black and white


def test_distance__heads_are_sorted_in_the_two_lowest_and_two_highest_blocks() -> None:
    found = distance(depth=24, heads=16)
    axes = panel(figure_of("distance", found), "lowest and highest blocks")
    assert [line.get_label() for line in axes.get_lines()][:4] == ["block 0", "block 1", "block 22", "block 23"]
    np.testing.assert_array_equal(line(axes, "block 22"), np.sort(found[0]["distance_px"][22]))
    assert line(axes, "even attention")[0] == 116.4922
    assert axes.get_ylabel() == "mean distance (px)"


@pytest.mark.parametrize(("depth", "blocks"), [(1, ["block 0"]), (3, ["block 0", "block 1", "block 2"])])
def test_distance__shallow_models(depth: int, blocks: list[str]) -> None:
    axes = panel(figure_of("distance", distance(depth=depth)), "lowest and highest blocks")
    assert [line.get_label() for line in axes.get_lines()][:-1] == blocks


def test_distance__models_share_a_scale() -> None:
    near = distance()
    near[0]["distance_px"] = near[0]["distance_px"] / 10
    figure = figure_of("distance", distance(), near)
    assert len({axes.get_ylim() for axes in panels(figure) if axes.get_title() == "all blocks"}) == 1


def test_distance__models_of_other_image_sizes_have_their_own_scale() -> None:
    arrays, facts = distance()
    small = {**arrays, "distance_px": arrays["distance_px"] / 7}, {**facts, "uniform_px": 16.3, "image_size": [32, 32]}
    figure = figure_of("distance", distance(), small, distance())
    tops = [axes.get_ylim()[1] for axes in panels(figure) if axes.get_title() == "all blocks"]
    assert tops == pytest.approx([1.05 * 116.4922, 1.05 * 16.3, 1.05 * 116.4922])
    assert "images of 32 x 32 px" in titles(figure)[2]


def test_distance__without_a_grid_there_is_no_even_attention() -> None:
    figure = figure_of("distance", (distance()[0], {"uniform_px": None}))
    assert "even attention" not in [line.get_label() for line in panels(figure)[0].get_lines()]


def test_heads_vs_cnn__lines_and_bars_are_in_order_of_distance() -> None:
    found = heads_vs_cnn()
    left, right = panels(figure_of("heads-vs-cnn", found))
    order = np.argsort(found[0]["subset_distance_px"])
    np.testing.assert_array_equal(line(left, "layer1.2"), found[0]["cka"][order, 2])
    assert [bar.get_height() for bar in right.patches] == sorted(found[0]["head_distance_px"])
    assert tick_labels(right) == [str(head) for head in found[0]["head_order"]]


def test_heads_vs_cnn__the_block_is_named_and_no_point_touches_the_frame() -> None:
    left, right = panels(figure_of("heads-vs-cnn", found := heads_vs_cnn()))
    assert "of block 1 against" in left.get_title()
    assert right.get_title() == "heads of block 1"
    low, high = left.get_ylim()
    assert low < 0
    assert high > found[0]["cka"].max() + 0.02
    assert left.get_xlim()[0] < found[0]["subset_distance_px"].min()


def test_heads_vs_cnn__many_layers_are_thinned() -> None:
    figure = figure_of("heads-vs-cnn", heads_vs_cnn(num_layers=20))
    assert "8 of 20 CNN layers" in titles(figure)[1]


# --- layers ------------------------------------------------------------------------------------------------


def test_cka__first_layer_stands_bottom_left() -> None:
    found = cka(4)
    (axes,) = panels(figure_of("cka", found))
    np.testing.assert_array_equal(drawn(axes), found[0]["cka"])
    assert axes.get_ylim()[0] < axes.get_ylim()[1]
    assert tick_labels(axes) == ["embed", "0", "1", "final"]
    assert axes.images[0].get_clim() == (0, 1)


def test_cka__two_models_have_three_maps() -> None:
    found = cka(3, 5)
    found[1]["models"] = ["vit", "resnet"]
    first, *others = panels(figure_of("cka", found))
    np.testing.assert_array_equal(drawn(first), found[0]["cka"])
    assert (first.get_ylabel(), first.get_xlabel()) == ("layer of vit", "layer of resnet")
    for axes, key in zip(others, ("cka_self_1", "cka_self_2"), strict=True):
        np.testing.assert_array_equal(drawn(axes), found[0][key])


def test_cka__diagonal_is_a_line_with_its_spread() -> None:
    found = cka(14, diagonal=True)
    (axes,) = panels(figure_of("cka", found))
    np.testing.assert_array_equal(line(axes, "the same layer of both models"), found[0]["cka"])
    assert tick_labels(axes) == found[0]["layers_1"].tolist()
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.4, 1.1))


def test_cka__diagonal_of_one_minibatch_has_no_band() -> None:
    arrays, facts = cka(5, diagonal=True)
    arrays["batch_spread"][:] = np.nan
    figure = figure_of("cka", (arrays, facts))
    (axes,) = panels(figure)
    assert axes.get_legend_handles_labels()[1] == ["the same layer of both models"]
    assert not axes.collections


@pytest.mark.parametrize(("is_diagonal", "length"), [(True, 80), (False, 50)])
def test_cka__long_names_take_two_lines(is_diagonal: bool, length: int) -> None:
    arrays, facts = cka(3, diagonal=True) if is_diagonal else cka(3, 3)
    names = ["a" * length, "b" * length]
    figure = figure_of("cka", (arrays, {**facts, "models": names}))
    assert panels(figure)[0].get_title() == f"{names[0]}\nx {names[1]}"


def test_norm_ratio__where_every_branch_is_0_the_panel_says_so() -> None:
    arrays, facts = norm_ratio()
    arrays["ratio"][:], arrays["cosine_branch"][:] = np.inf, np.nan
    figure = figure_of("norm-ratio", (arrays, facts))
    ratio, cosine, output = panels(figure)
    assert [text.get_text() for text in ratio.texts] == ["every branch is 0: no ratio"]
    assert [text.get_text() for text in cosine.texts] == ["every branch is 0: no cosine"]
    assert not output.texts
    assert "mlp, patches" in texts(figure)


def test_norm_ratio__a_line_per_branch_and_token_on_a_logarithmic_axis() -> None:
    found = norm_ratio()
    axes = panel(figure_of("norm-ratio", found), "norm of the skip / norm of the branch")
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(line(axes, "mlp, patches"), found[0]["ratio"][:, 1, 1])
    assert sum("," in str(line.get_label()) for line in axes.get_lines()) == 4


def test_norm_ratio__without_class_token_and_of_cnns() -> None:
    figure = figure_of("norm-ratio", norm_ratio(has_class_token=False), norm_ratio(is_cnn=True))
    ratio_axes = [axes for axes in panels(figure) if axes.get_title().startswith("norm")]
    labels = [[line.get_label() for line in axes.get_lines()][:-1] for axes in ratio_axes]
    assert labels == [["attention, patches", "mlp, patches"], ["branch, places"]]
    assert [axes.get_xlabel() for axes in ratio_axes] == ["block", "residual unit"]
    assert ratio_axes[0].get_ylim() == ratio_axes[1].get_ylim()
    assert "3 tokens" in titles(figure)[1]


def test_probe__percent_over_depth_with_chance() -> None:
    found = probe()
    figure = figure_of("probe", found)
    axes = panel(figure, "a line per pooling (band: ± standard deviation over seeds)")
    np.testing.assert_allclose(line(axes, "cls"), [20, 40, 60, 80])
    assert line(axes, "chance")[0] == 10
    np.testing.assert_allclose(drawn(panel(figure, "layer final")), 100 * found[0]["token_accuracy"][3])


def test_probe__without_token_maps_and_with_a_pooling_that_does_not_exist() -> None:
    arrays, facts = probe()
    del arrays["token_accuracy"]
    arrays["accuracy"][:, 0] = np.nan
    (axes,) = panels(figure_of("probe", (arrays, facts)))
    assert [line.get_label() for line in axes.get_lines()] == ["mean", "chance"]


def test_probe__poolings_with_the_same_values_are_both_seen() -> None:
    arrays, facts = probe()
    arrays["pools"] = np.array(["native", "cls", "mean"])
    native, mean = arrays["accuracy"].T
    cls = np.array([np.nan, *native[1:]])
    arrays["accuracy"], arrays["accuracy_std"] = np.stack([native, cls, mean], axis=1), np.zeros((4, 3))
    axes = panels(figure_of("probe", (arrays, facts)))[0]
    first, second, third = axes.get_lines()[:3]
    assert second.get_markersize() > first.get_markersize() == third.get_markersize()
    assert second.get_markerfacecolor() == "none" != first.get_markerfacecolor()
    assert second.get_linestyle() != first.get_linestyle() == third.get_linestyle()


def test_probe__layers_without_a_grid_have_no_map() -> None:
    arrays, facts = probe(depth=14)
    arrays["token_accuracy"][[5, 13]] = np.nan
    figure = figure_of("probe", (arrays, facts))
    assert "token maps of 8 of 12 layers; on another grid: 4, final" in titles(figure)[1]
    shown = [axes.get_title() for axes in panels(figure) if axes.images]
    assert shown[:2] + shown[-1:] == ["layer embed", "layer 0", "layer 11"]
    assert not {"layer 4", "layer final"} & set(shown)


@pytest.mark.parametrize(
    ("analysis", "name", "maps"), [("probe", "token_accuracy", (8, 2, 8)), ("receptive-field", "field", (8, 8, 32))]
)
def test_rectangular_maps_stand_close(analysis: str, name: str, maps: tuple[int, ...]) -> None:
    arrays, facts = FOUND[analysis](depth=8)
    square = figure_of(analysis, ({**arrays, name: rng().uniform(0, 1, (8, 8, 8))}, facts))
    figure = figure_of(analysis, ({**arrays, name: rng().uniform(0, 1, maps)}, facts))
    assert square.get_size_inches()[1] - figure.get_size_inches()[1] > 2.5
    figure.draw_without_rendering()
    upper, lower = (panel(figure, f"layer {layer}").get_window_extent() for layer in ("embed", "3"))
    gap = (upper.y0 - lower.y1) / figure.dpi
    assert 0 < gap < 0.7  # inches: tick labels and a title


def test_equivariance__lines_per_shift_and_a_bar_per_check() -> None:
    found = equivariance()
    figure = figure_of("equivariance", found)
    errors = panel(figure, "image shifted by whole patches")
    np.testing.assert_array_equal(line(errors, "1 down, 0 right"), found[0]["translation_error"][:, 1])
    similarity = panel(figure, "similarity of two patches")
    np.testing.assert_array_equal(line(similarity, "neighbours"), found[0]["neighbour_similarity"])
    np.testing.assert_array_equal(line(similarity, "all pairs"), found[0]["random_similarity"])
    checks = panel(figure, "differences that could be 0 (exact symmetry)")
    assert [text.get_text() for text in checks.texts] == [
        "6.0e-07", "3.0e-01", "not applicable", "0 (exact)", "not applicable",
    ]  # fmt: skip
    assert len(checks.patches) == 2


def test_equivariance__twelve_blocks_are_all_named() -> None:
    figure = figure_of("equivariance", equivariance(depth=15))
    labels = tick_labels(panel(figure, "similarity of two patches"))
    assert labels == ["pixels", "embed", *map(str, range(12)), "final"]


def test_equivariance__no_shift_and_many_shifts() -> None:
    figure = figure_of("equivariance", equivariance(num_shifts=0), equivariance(num_shifts=10))
    assert "6 of 10 shifts" in titles(figure)[2]


# --- places ------------------------------------------------------------------------------------------------


def test_localisation__maps_are_of_the_framed_tokens() -> None:
    found = localisation(3, 4)
    figure = figure_of("localisation", found)
    for title, (row, column) in {"token (1, 3), right edge": (1, 3), "token (0, 2), top edge": (0, 2)}.items():
        axes = panel(figure, title)
        np.testing.assert_array_equal(drawn(axes), found[0]["cka"][4 * row + column])
        assert axes.patches[0].get_xy() == (column - 0.5, row - 0.5)
    np.testing.assert_array_equal(drawn(panel(figure, "each token, its own patch")), found[0]["own"])
    assert "50.0% of tokens are most like their own patch; chance 8.3%" in titles(figure)[1]


def test_localisation__models_share_a_scale() -> None:
    weak, strong = localisation(scale=0.1), localisation()
    figure = figure_of("localisation", weak, strong)
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {(0.0, float(strong[0]["cka"].max()))}


def test_features__rows_of_pictures_and_all_norms_below() -> None:
    found = features()
    figure = figure_of("features", found)
    np.testing.assert_array_equal(drawn(panel(figure, "three components")), found[0]["rgb"][0])
    np.testing.assert_array_equal(drawn(panel(figure, "similarity to patch (1, 2)")), found[0]["similarity"][0])
    np.testing.assert_array_equal(drawn(panel(figure, "norms of the tokens")), found[0]["token_norm"][0])
    norms = panel(figure, "all images (box: quarters; whiskers: smallest and largest)")
    ends = {float(x) for line in norms.get_lines() for x in np.asarray(line.get_xdata(), dtype=float)}
    assert {10.0, 14.0, 20.0, 30.0} <= ends
    assert [text.get_text() for text in norms.get_yticklabels()] == ["patches", "prefix tokens"]
    assert len(panels(figure)) == 2 * 4 + 1


def test_features__colour_bars_are_as_high_as_their_columns() -> None:
    figure = figure_of("features", features(pictures=3))
    figure.draw_without_rendering()
    column = [axes.get_position() for axes in panels(figure)[2:12:4]]
    bars = [axes.get_position() for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 2
    for bar in bars:
        assert bar.height > 0.95 * (column[0].y1 - column[-1].y0)


def test_features__norms_that_are_nearly_alike_are_written_in_full() -> None:
    arrays, facts = features()
    arrays["norm_quantiles"] = 13.8 + 1e-6 * np.array([-3.0, -1, 0, 2, 5])
    arrays["prefix_norm"] = np.full((2, 1), 13.8)
    figure = figure_of("features", (arrays, facts))
    axes = panels(figure)[-1]
    figure.draw_without_rendering()
    assert axes.xaxis.get_offset_text().get_text() == ""
    low, high = axes.get_xlim()
    assert high - low > 0.1
    assert low < 13.8 < high


@pytest.mark.parametrize(("pictures", "prefix", "num_axes"), [(0, 1, 1), (1, 0, 5), (6, 4, 17)])
def test_features__any_number_of_pictures_and_prefix_tokens(pictures: int, prefix: int, num_axes: int) -> None:
    assert len(panels(figure_of("features", features(pictures, prefix)))) == num_axes


def test_receptive_field__maps_of_some_layers_and_lines_of_all() -> None:
    found = receptive_field(depth=26)
    figure = figure_of("receptive-field", found)
    assert "maps of 8 of 26 layers" in titles(figure)[1]
    last = panel(figure, "layer final")
    np.testing.assert_array_equal(drawn(last), found[0]["field"][25])
    assert isinstance(last.images[0].norm, PowerNorm)
    assert last.patches[0].get_xy() == (3.5, 3.5)  # cell (1, 1) of 2 x 3 on 8 x 12 px
    extent = panel(figure, "extent of the field")
    np.testing.assert_array_equal(extent.get_lines()[0].get_ydata(), found[0]["extent_px"])
    assert line(extent, "even over the image")[0] == 4.2
    share = panel(figure, "gradient inside the own patch").get_lines()[0].get_ydata()
    np.testing.assert_array_equal(share, [np.nan] + [50.0] * 25)


def test_receptive_field__embedding_and_block_0_are_shown() -> None:
    figure = figure_of("receptive-field", receptive_field(depth=26))
    assert {"layer embed", "layer 0"} <= {axes.get_title() for axes in panels(figure)}


def test_receptive_field__curves_are_neither_clipped_nor_under_the_legend() -> None:
    arrays, facts = receptive_field()
    figure = figure_of("receptive-field", (arrays | {"extent_px": np.array([4.5, 0.1, 0.1, 4.5])}, facts))
    axes = panel(figure, "extent of the field")
    figure.draw_without_rendering()
    assert axes.get_ylim()[1] > 1.05 * 4.5
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0


def test_receptive_field__a_single_layer() -> None:
    arrays, facts = receptive_field(depth=1)
    figure = figure_of("receptive-field", (arrays, facts))
    assert len(panels(figure)) == 1 + 3
