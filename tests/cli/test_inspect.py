"""``vitctl inspect`` as a person sees it: screen, JSON, arrays, the report, and what must not matter."""

import base64
import io
import itertools
import json
import math
import shlex
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.inspecting.catalogue import catalogue

ANALYSES = tuple(catalogue())
WORDS = {name: one.words for name, one in catalogue().items()}
CONTROLLED = tuple(name for name, words in WORDS.items() if words.is_controlled)
WITHOUT_IMAGES = ("filters", "pos-embed")
PAIRS = ("cka", "heads-vs-cnn")
KEYS = [
    "analysis",
    "title",
    "results",
    "images",
    "arrays",
    "method",
    "look_for",
    "random_weights",
    "source",
    "settings",
    "files",
]
GOLDEN = Path(__file__).parents[1] / "golden"
STRANGE = "<script>alert(1)<img src=x onerror=alert(2)>&\"'"


@dataclass(frozen=True)
class Inspected:
    document: Any
    stderr: str
    folder: Path

    @property
    def said(self) -> str:
        """stderr on one line: long rows are folded there, and columns padded."""
        return " ".join(self.stderr.split())

    @property
    def results(self) -> list[dict[str, Any]]:
        return self.document["results"]

    @property
    def facts(self) -> dict[str, Any]:
        """Of the first model."""
        return self.results[0]["facts"]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return load_arrays(self.folder / f"{self.document['analysis']}.npz")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def inspect_alone(folder: Path, *args: object, builds_figures: bool = False) -> Inspected:
    """Run ``vitctl inspect ARGS... --json`` in ``folder``, for fixtures that several tests share.

    Pictures are one grey pixel; with ``builds_figures`` they are put together all the same.
    """
    from matplotlib.figure import Figure
    from typer.testing import CliRunner

    from vitctl.cli.app import app
    from vitctl.workflows import inspect_model

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON output")

    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "PNG")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        if builds_figures:
            patch.setattr(Figure, "savefig", lambda _figure, path, **_: Path(path).write_bytes(pixel.getvalue()))
        else:
            patch.setattr(inspect_model, "draw_findings", lambda _a, _m, path: path.write_bytes(pixel.getvalue()))
        result = CliRunner().invoke(app, ["inspect", *map(str, args), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout, parse_constant=refuse)
    return Inspected(document, result.stderr, Path(document["out"]))


def draw_photos(folder: Path, *, names: Sequence[str] = ("ash", "birch", "cedar"), count: int = 12) -> Path:
    """Write noise of 16x16 px, the size that the tiny models take, whose class shows in one colour."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)
            pixels[..., label] += np.uint8(50)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes with 12 images each, without splits."""
    return draw_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def line_of(tiny_models: dict[str, Path], photos: Path) -> Callable[..., list[object]]:
    """Return ``line_of(ANALYSIS, num_images=8)``: the arguments that inspect two tiny models."""

    def line(analysis: str, num_images: int = 8) -> list[object]:
        second = tiny_models["cnn" if analysis == "heads-vs-cnn" else "gap"]
        of_images = ["--data", photos, "--num-images", num_images, "--num-workers", 0]
        of_probes = ["--shots", 3, "--seeds", 2]
        return [
            *(analysis, tiny_models["vit"], "--model", second),
            *([] if analysis in WITHOUT_IMAGES else of_images),
            *(of_probes if analysis == "probe" else []),
        ]

    return line


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, line_of: Callable[..., list[object]]) -> Callable[[str], Inspected]:
    """Return ``usual(ANALYSIS)``: two tiny models and eight photos, inspected once."""
    found: dict[str, Inspected] = {}

    def inspect(analysis: str) -> Inspected:
        if analysis not in found:
            found[analysis] = inspect_alone(tmp_path_factory.mktemp(analysis), *line_of(analysis))
        return found[analysis]

    return inspect


@pytest.fixture
def inspect(run_cli: Callable[..., Any], tmp_path: Path, no_findings_drawn: None) -> Callable[..., Inspected]:
    """Return ``inspect(ARGS..., out=NAME)``: runs with ``--json`` and without pictures; the exit code must be 0.

    Each has a folder of its own where ``out`` is not given.
    """
    numbers = itertools.count()

    def run(*args: object, out: str | None = None) -> Inspected:
        folder = tmp_path / (out or f"inspected{next(numbers)}")
        result = run_cli("inspect", *args, "--out", folder, "--json")
        assert result.exit_code == 0, result.stderr
        return Inspected(result.json, result.stderr, folder)

    return run


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run (24 px), to write into."""
    return shutil.copytree(finished_run, tmp_path / "run")


def images_of(folder: Path) -> np.ndarray:
    """Return every image below ``folder``, (B, 16, 16, 3) uint8, by path."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])


def unfused_attention(model_folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the maps, (B, L, H, N, N) float64, that timm computes without a fused kernel.

    Args:
        model_folder: A timm folder with mean and standard deviation 0.5.
        pixels: (B, 16, 16, 3) uint8.
    """
    import timm
    import torch

    model = timm.create_model(f"local-dir:{model_folder}", pretrained=True).eval()
    maps: list[np.ndarray] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: maps.append(output.numpy()))
    with torch.inference_mode():
        model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return np.stack(maps, axis=1).astype(np.float64)


# --- JSON and files ----------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, tuple[int | None, ...]]] = {  # of ViT (3 blocks) and GAP (2 blocks); None is not said
    "filters": {"components": (None, 3, 4, 4), "explained_variance_ratio": (None,), "components_2": (None, 3, 4, 4)},
    "pos-embed": {"similarity": (4, 4, 4, 4), "similarity_2": (4, 4, 4, 4)},
    "attention": {
        "entropy": (3, 2),
        "row_sum_error": (3,),
        "head_similarity": (3, 2, 2),
        "maps": (4, 3, 2, 4, 4),
        "prefix_attention": (4, 3, 2),
        "pictures": (4, 16, 16, 3),
        "maps_2": (4, 2, 2, 4, 4),
        "entropy_2": (2, 2),
    },
    "rollout": {"per_layer": (8, 3, 4, 4), "rollout": (8, 4, 4), "per_layer_2": (8, 2, 4, 4)},
    "distance": {
        "distance_px": (3, 2),
        "prefix_mass": (3, 2),
        "per_image_px": (8, 3, 2),
        "distance_px_2": (2, 2),
        "prefix_mass_2": (2, 2),
        "per_image_px_2": (8, 2, 2),
    },
    "cka": {
        "cka": (5, 4),
        "cka_self_1": (5, 5),
        "cka_self_2": (4, 4),
        "batch_spread": (5, 4),
        "layers_1": (5,),
        "layers_2": (4,),
    },
    "heads-vs-cnn": {
        "cka": (2, None),
        "subset_distance_px": (2,),
        "head_distance_px": (2,),
        "head_order": (2,),
        "subsets": (2, 1),
        "cnn_layers": (None,),
    },
    "norm-ratio": {"ratio": (3, 2, 2), "median": (3, 2, 2), "cosine_branch": (3, 2, 2), "ratio_2": (2, 2, 2)},
    "localisation": {"cka": (16, 4, 4), "own": (4, 4), "cka_2": (16, 4, 4), "own_2": (4, 4)},
    "features": {
        "rgb": (4, 4, 4, 3),
        "similarity": (4, 4, 4),
        "token_norm": (4, 4, 4),
        "norm_quantiles": (5,),
        "prefix_norm": (4, 1),
        "prefix_norm_2": (4, 0),
    },
    "receptive-field": {"field": (4, 16, 16), "layers": (4,), "extent_px": (4,), "field_2": (3, 16, 16)},
    "probe": {"accuracy": (5, None), "layers": (5,), "token_accuracy": (5, 4, 4), "accuracy_2": (4, None)},
    "equivariance": {
        "layers": (6,),
        "translation_error": (6, None),
        "shifts": (None, 2),
        "neighbour_similarity": (6,),
        "random_similarity": (6,),
        "translation_error_2": (5, None),
    },
}


@pytest.mark.parametrize("analysis", ANALYSES)
def test_json__has_the_agreed_keys_and_is_what_the_file_says(usual: Callable[[str], Inspected], analysis: str) -> None:
    found = usual(analysis)
    assert list(found.document) == [*KEYS, "out"]
    assert found.document["analysis"] == analysis
    from_file = json.loads((found.folder / f"{analysis}.json").read_text())
    assert from_file == {key: found.document[key] for key in KEYS}
    for result in found.results:
        assert list(result) == ["name", "models", "facts", "header", "rows", "notes"]
        assert result["facts"]
        assert result["rows"]
        assert {len(row) for row in result["rows"]} == {len(result["header"])}
    words = WORDS[analysis]
    assert (found.document["look_for"], found.document["random_weights"]) == (words.look_for, words.random_weights)
    assert found.document["settings"]["seed"] == 0


@pytest.mark.parametrize("analysis", ANALYSES)
def test_files__are_three_and_the_arrays_are_those_the_json_explains(
    usual: Callable[[str], Inspected], analysis: str
) -> None:
    found = usual(analysis)
    names = [f"{analysis}.npz", f"{analysis}.json", f"{analysis}.png"]
    assert found.document["files"] == names
    assert {path.name for path in found.folder.iterdir()} == set(names)
    arrays = found.arrays
    assert set(arrays) == set(found.document["arrays"])
    assert all(found.document["arrays"].values())
    for name, shape in SHAPES[analysis].items():
        assert len(arrays[name].shape) == len(shape), name
        assert all(wanted in (None, side) for wanted, side in zip(shape, arrays[name].shape, strict=True)), name


@pytest.mark.parametrize("analysis", ANALYSES)
def test_models__are_named_in_order_with_what_they_are(
    usual: Callable[[str], Inspected], tiny_models: dict[str, Path], analysis: str
) -> None:
    found = usual(analysis)
    models = [model for result in found.results for model in result["models"]]
    assert len(found.results) == (1 if analysis in PAIRS else 2)
    kinds = ["vit", "cnn" if analysis == "heads-vs-cnn" else "gap"]
    assert [model["model"] for model in models] == [str(tiny_models[kind]) for kind in kinds]
    assert {model["weights"] for model in models} == {"pretrained"}
    vit = {"image_size": [16, 16], "patch_size": [4, 4], "grid": [4, 4], "num_prefix_tokens": 1}
    assert {key: models[0][key] for key in vit} == vit
    other = (
        {"image_size": [32, 32], "grid": None}
        if kinds[1] == "cnn"
        else {"image_size": [16, 16], "num_prefix_tokens": 0}
    )
    assert {key: models[1][key] for key in other} == other


def test_second_model__its_arrays_are_those_it_has_alone(
    inspect: Callable[..., Inspected],
    usual: Callable[[str], Inspected],
    tiny_models: dict[str, Path],
    photos: Path,
) -> None:
    alone = inspect("distance", tiny_models["gap"], "--data", photos, "--num-images", 8, "--num-workers", 0)
    both = usual("distance").arrays
    assert {f"{name}_2" for name in alone.arrays} | set(alone.arrays) == set(both)
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(both[f"{name}_2"], array)
        assert not np.array_equal(both[name], both[f"{name}_2"]) or name == "prefix_mass"


def test_images__are_said_in_the_json(usual: Callable[[str], Inspected], photos: Path) -> None:
    assert usual("filters").document["images"] is None
    images = usual("distance").document["images"]
    assert (images["data"], images["num_images"], images["num_available"]) == (str(photos), 8, 36)
    assert "split all" in images["reason"]
    settings = usual("distance").document["settings"]
    assert (settings["data"], settings["num_images"], settings["renormalise"]) == (str(photos), 8, False)
    assert not {"batch_size", "num_workers", "num_threads", "device", "out"} & set(settings)  # no result depends on it


# --- the screen --------------------------------------------------------------------------------------------


def test_screen__a_table_the_files_and_a_last_line_that_says_what_to_look_for(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    result = run_cli("inspect", "distance", tiny_models["vit"], "--data", photos, "--num-workers", 0,
                     "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == f"{WORDS['distance'].look_for} {WORDS['distance'].random_weights}"
    assert lines[0].split("  ")[0] == "block"
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    rows = load_arrays(tmp_path / "out" / "distance.npz")["distance_px"]
    for line, heads in zip(lines[1:4], rows, strict=True):
        assert line.split()[1:4] == [f"{heads.min():.1f}", f"{heads.mean():.1f}", f"{heads.max():.1f}"]
    assert f"files  {tmp_path / 'out'}: distance.npz, distance.json, distance.png" in result.stdout
    assert "vitctl inspect" not in result.stdout
    said = " ".join(result.stderr.split())
    assert f"model {tiny_models['vit']} 16 px, 4x4 patches and 1 prefix token" in said
    assert f"images 36 of {photos} split all" in said
    with Image.open(tmp_path / "out" / "distance.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


def test_screen__the_table_of_every_model_is_under_its_name(
    run_cli: Callable[..., Any],
    line_of: Callable[..., list[object]],
    tiny_models: dict[str, Path],
    no_findings_drawn: None,
) -> None:
    result = run_cli("inspect", *line_of("pos-embed"))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines.index(str(tiny_models["vit"])) < lines.index(str(tiny_models["gap"]))
    assert lines[-1].startswith("Look for")
    assert "Random weights would" in lines[-1]
    assert (Path("inspect") / "pos-embed.npz").is_file()  # the default of models that are no run


def test_screen__a_long_table_ends_with_where_the_rest_is(
    run_cli: Callable[..., Any], usual: Callable[[str], Inspected], line_of: Callable[..., list[object]],
    monkeypatch: pytest.MonkeyPatch, no_findings_drawn: None,
) -> None:  # fmt: skip
    from vitctl.cli import inspect_model

    monkeypatch.setattr(inspect_model, "MOST_ROWS_SHOWN", 1)
    result = run_cli("inspect", *line_of("distance"))
    assert "... and 3 more in distance.json" in result.stdout  # 3 blocks, and even attention
    assert "... and 2 more in distance.json" in result.stdout  # 2 blocks
    assert len(usual("distance").results[0]["rows"]) == 4


# --- which images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("analysis", "count"), [("distance", 256), ("receptive-field", 32), ("equivariance", 32), ("rollout", 4)]
)
def test_num_images__the_defaults(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], analysis: str, count: int
) -> None:
    found = inspect(analysis, tiny_models["gap"], "--num-workers", 0)
    images = found.document["images"]
    assert (images["data"], images["num_images"], images["num_available"]) == ("digits", count, 360)
    assert found.facts.get("num_images", count) == count


def test_num_images__fewer_are_the_first_of_the_same_order_which_the_seed_decides(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path, usual: Callable[[str], Inspected]
) -> None:
    line = ("distance", tiny_models["vit"], "--data", photos, "--num-workers", 0)
    eight = usual("distance").arrays["per_image_px"]
    four = inspect(*line, "--num-images", 4).arrays["per_image_px"]
    np.testing.assert_allclose(four, eight[:4], rtol=1e-5)
    everything = inspect(*line, "--num-images", 999)
    assert everything.document["images"]["num_images"] == 36
    other = inspect(*line, "--seed", 1).arrays["per_image_px"]
    ordered = everything.arrays["per_image_px"]
    assert not np.allclose(other, ordered, rtol=1e-5)
    by_value = [np.sort(array.reshape(36, -1), axis=0) for array in (other, ordered)]
    np.testing.assert_allclose(*by_value, rtol=1e-5)


@pytest.mark.parametrize(
    ("splits", "shown"), [(("train", "val", "test"), "val"), (("train", "test"), "test"), (("train",), "train")]
)
def test_data__of_splits_the_validation_split_is_shown(
    inspect: Callable[..., Inspected],
    tiny_models: dict[str, Path],
    tmp_path: Path,
    splits: tuple[str, ...],
    shown: str,
) -> None:
    counts = {"train": 4, "val": 3, "test": 2}
    for split in splits:
        draw_photos(tmp_path / "data" / split, count=counts[split])
    images = inspect("rollout", tiny_models["vit"], "--data", tmp_path / "data", "--num-workers", 0).document["images"]
    assert images["num_available"] == 3 * counts[shown]
    assert f"split {shown}" in images["reason"]


def test_data__unreadable_images_can_be_left_out(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = draw_photos(tmp_path / "photos", count=3)
    (folder / "birch" / "01.png").write_bytes(b"no image")
    line = ("distance", tiny_models["vit"], "--data", folder, "--num-workers", 0)
    found = inspect(*line, "--on-bad-image", "skip")
    assert found.document["images"]["num_images"] == 8
    assert found.arrays["per_image_px"].shape == (8, 3, 2)
    assert "left out:" in found.said
    assert "01.png" in found.said


@pytest.mark.parametrize("analysis", ["attention", "rollout", "features"])
def test_image__each_file_given_is_shown_in_order(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path, analysis: str
) -> None:
    files = [photos / "cedar" / "03.png", photos / "ash" / "00.png", photos / "birch" / "11.png"]
    found = inspect(
        analysis, tiny_models["vit"], "--num-workers", 0, *(part for file in files for part in ("--image", file))
    )
    assert found.arrays["picture_names"].tolist() == [str(file) for file in files]
    np.testing.assert_array_equal(found.arrays["pictures"], [np.asarray(Image.open(file)) for file in files])
    images = found.document["images"]
    assert (images["num_images"], images["num_available"]) == (3, 3)
    assert all(str(file) in images["data"] for file in files)


def test_image__receptive_field_is_of_the_files_given(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    files = [photos / "ash" / "00.png", photos / "birch" / "11.png"]
    line = ("receptive-field", tiny_models["vit"], "--num-workers", 0)
    both = inspect(*line, "--image", files[0], "--image", files[1])
    fields = [inspect(*line, "--image", file).arrays["field"] for file in files]
    assert both.facts["num_images"] == 2
    assert not np.allclose(fields[0], fields[1], atol=1e-3)
    last = [field[-1].ravel() for field in fields]  # each divided by its maximum, so the mean is some mixture
    shares, *_ = np.linalg.lstsq(np.stack(last, axis=1), both.arrays["field"][-1].ravel(), rcond=None)
    assert min(shares) > 0.1
    np.testing.assert_allclose(both.arrays["field"][-1].ravel(), shares @ last, atol=1e-5)


def test_image_size__a_rectangle_is_a_rectangular_grid(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    line = (tiny_models["vit"], "--data", photos, "--num-images", 4, "--num-workers", 0, "--image-size", "16x24")
    attention = inspect("attention", *line)
    assert attention.arrays["maps"].shape == (4, 3, 2, 4, 6)
    assert attention.arrays["pictures"].shape == (4, 16, 24, 3)
    assert attention.facts["max_entropy"] == pytest.approx(math.log(25))
    model = attention.results[0]["models"][0]
    assert (model["image_size"], model["grid"]) == ([16, 24], [4, 6])
    assert inspect("localisation", *line).arrays["cka"].shape == (24, 4, 6)
    assert inspect("receptive-field", *line).arrays["field"].shape == (4, 16, 24)
    assert inspect("features", *line).arrays["rgb"].shape == (4, 4, 6, 3)


def test_image_size__pos_embed_is_shown_at_its_own_size_and_resampled(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], usual: Callable[[str], Inspected]
) -> None:
    found = inspect("pos-embed", tiny_models["vit"], "--image-size", "16x24")
    np.testing.assert_array_equal(found.arrays["similarity"], usual("pos-embed").arrays["similarity"])
    assert found.arrays["similarity_resampled"].shape == (4, 6, 4, 6)
    assert (found.facts["grid"], found.facts["grid_resampled"]) == ([4, 4], [4, 6])


# --- a run -------------------------------------------------------------------------------------------------


def test_run__its_own_validation_images_at_its_own_size_and_files_in_its_folder(
    run_cli: Callable[..., Any], run_folder: Path, tmp_path: Path, no_findings_drawn: None
) -> None:
    result = run_cli("inspect", "distance", run_folder, "--num-workers", 0, "--json")
    assert result.exit_code == 0, result.stderr
    found = Inspected(result.json, result.stderr, run_folder / "inspect")
    assert Path(found.document["out"]) == run_folder / "inspect"
    assert {path.name for path in found.folder.iterdir()} == {"distance.npz", "distance.json", "distance.png"}
    listing = json.loads((run_folder / "validation.json").read_text())
    assert found.document["images"]["num_images"] == len(listing["images"])
    assert "validation images" in found.document["images"]["reason"]
    model = found.results[0]["models"][0]
    assert (model["image_size"], model["grid"]) == ([24, 24], [6, 6])

    # the same images, copied elsewhere and read as a folder
    for name in listing["images"]:
        source = next(path for path in Path(listing["data"]).rglob("*.png") if str(path).endswith(str(name)))
        target = tmp_path / "held_out" / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    again = run_cli("inspect", "distance", run_folder, "--data", tmp_path / "held_out", "--num-workers", 0,
                    "--out", tmp_path / "again", "--json")  # fmt: skip
    assert again.exit_code == 0, again.stderr
    ordered = [
        np.sort(array.reshape(len(array), -1), axis=0)
        for array in (found.arrays["per_image_px"], load_arrays(tmp_path / "again" / "distance.npz")["per_image_px"])
    ]
    np.testing.assert_allclose(*ordered, rtol=1e-5)


@pytest.mark.parametrize("part", ["best", "last"])
def test_run__its_parts_stand_for_it(
    run_cli: Callable[..., Any], run_folder: Path, part: str, no_findings_drawn: None
) -> None:
    result = run_cli("inspect", "rollout", run_folder / part, "--num-workers", 0, "--json")
    assert result.exit_code == 0, result.stderr
    assert "validation images" in result.json["images"]["reason"]
    assert Path(result.json["out"]) == run_folder / "inspect"


def test_run__beside_its_random_weights(inspect: Callable[..., Inspected], run_folder: Path) -> None:
    found = inspect("distance", run_folder, "--model", run_folder, "--weights", "none", "--num-workers", 0)
    assert [result["name"] for result in found.results] == [f"{run_folder} (pretrained)", f"{run_folder} (none)"]
    assert found.arrays["distance_px"].shape == found.arrays["distance_px_2"].shape == (2, 2)
    assert not np.array_equal(found.arrays["distance_px"], found.arrays["distance_px_2"])


def test_probe__of_a_run_is_on_its_data_and_with_random_weights_beside(
    inspect: Callable[..., Inspected], run_folder: Path
) -> None:
    data = json.loads((run_folder / "config.json").read_text())["data"]
    found = inspect("probe", run_folder, "--model", run_folder, "--weights", "none", "--shots", 5, "--seeds", 2,
                    "--num-workers", 0)  # fmt: skip
    assert {result["facts"]["data"] for result in found.results} == {data}
    assert found.facts["num_test"] == 15  # its split test
    pools = found.arrays["pools"].tolist()
    native = found.arrays["accuracy"][:, pools.index("native")]
    assert native[-1] == 1  # red, green and blue
    assert found.arrays["layers"].tolist() == ["embed", "0", "1", "final"]


# --- the numbers, computed again ---------------------------------------------------------------------------


def test_distance__is_that_of_unfused_attention(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    found = inspect("distance", tiny_models["vit"], "--data", photos, "--num-workers", 0)
    maps = unfused_attention(tiny_models["vit"], images_of(photos))[:, :, :, 1:]  # (36, L, H, 16, 17)
    places = 4 * np.array([(row, column) for row in range(4) for column in range(4)])
    distances = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))
    expected = (maps[..., 1:] * distances).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(found.arrays["distance_px"], expected.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.arrays["prefix_mass"], maps[..., 0].mean(axis=(0, 3)), rtol=1e-5)
    per_image = [np.sort(array.reshape(36, -1), axis=0) for array in (found.arrays["per_image_px"], expected)]
    np.testing.assert_allclose(*per_image, rtol=1e-5)
    assert found.facts["uniform_px"] == pytest.approx(distances.mean() * 16 / 17)
    assert expected.std() > 0.3  # the heads of this model differ
    renormalised = inspect("distance", tiny_models["vit"], "--data", photos, "--num-workers", 0, "--renormalise")
    shares = maps[..., 1:] / maps[..., 1:].sum(axis=-1, keepdims=True)
    again = (shares * distances).sum(axis=-1).mean(axis=(0, 3))
    np.testing.assert_allclose(renormalised.arrays["distance_px"], again, rtol=1e-5)


def test_attention_and_rollout__are_those_of_unfused_attention(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    folder = photos / "ash"
    files = [part for path in sorted(folder.iterdir())[:3] for part in ("--image", path)]
    line = (tiny_models["vit"], *files, "--num-workers", 0)
    maps = unfused_attention(tiny_models["vit"], images_of(folder)[:3])
    of_class = inspect("attention", *line).arrays
    np.testing.assert_allclose(of_class["maps"].reshape(3, 3, 2, 16), maps[:, :, :, 0, 1:], atol=1e-5)
    np.testing.assert_allclose(of_class["prefix_attention"], maps[:, :, :, 0, 0], atol=1e-5)
    entropy = -(maps * np.log(np.maximum(maps, 1e-300))).sum(axis=-1).mean(axis=(0, 3))
    np.testing.assert_allclose(of_class["entropy"], entropy, rtol=1e-5)
    of_patch = inspect("attention", *line, "--query", "1,2").arrays
    np.testing.assert_allclose(of_patch["maps"].reshape(3, 3, 2, 16), maps[:, :, :, 1 + 4 + 2, 1:], atol=1e-5)

    found = inspect("rollout", *line, "--fusion", "max", "--residual", "0.3").arrays
    joint = np.broadcast_to(np.eye(17), (3, 17, 17))
    for layer in range(3):
        mixed = 0.7 * maps[:, layer].max(axis=1) + 0.3 * np.eye(17)
        joint = (mixed / mixed.sum(axis=-1, keepdims=True)) @ joint
        np.testing.assert_allclose(found["per_layer"][:, layer].reshape(3, 16), joint[:, 0, 1:], atol=1e-5)
    last = joint[:, 0, 1:]
    np.testing.assert_allclose(found["rollout"].reshape(3, 16), last / last.max(axis=1, keepdims=True), atol=1e-4)


def test_cka__is_that_of_numpy_on_the_tokens_of_all_images(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    import timm
    import torch

    found = inspect("cka", tiny_models["vit"], "--data", photos, "--num-workers", 0)
    assert found.arrays["layers_1"].tolist() == ["embed", "0", "1", "2", "final"]
    model = timm.create_model(f"local-dir:{tiny_models['vit']}", pretrained=True).eval()
    tokens: list[np.ndarray] = []
    model.blocks[0].register_forward_pre_hook(lambda _module, inputs: tokens.append(inputs[0].numpy()))
    for module in (*model.blocks, model.norm):
        module.register_forward_hook(lambda _module, _inputs, output: tokens.append(output.numpy()))
    with torch.inference_mode():
        model.forward_features(torch.from_numpy(images_of(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def hsic(first: np.ndarray, second: np.ndarray) -> float:
        n = len(first)
        k, m = (gram - np.diag(np.diag(gram)) for gram in (first, second))
        product = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2)
        return product / (n * (n - 3))

    rows = [layer.reshape(36, -1).astype(np.float64) for layer in tokens]
    grams = [(part - part.mean(axis=0)) @ (part - part.mean(axis=0)).T for part in rows]
    expected = [[hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b)) for b in grams] for a in grams]
    np.testing.assert_allclose(found.arrays["cka"], expected, atol=1e-5)
    assert found.arrays["cka"].min() < 0.99


# --- options reach the analysis ----------------------------------------------------------------------------

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention --layer 1 --head 0 --query 1,3": ("vit", {"layer": 1, "head": 0, "query": [1, 3]}),
    "attention": ("gap", {"query": [2, 2]}),
    "attention --query cls": ("vit", {"query": "cls"}),
    "rollout --discard 0.3 --query 0,1": ("vit", {"discard": 0.3, "target": [0, 1], "fusion": "mean"}),
    "rollout": ("gap", {"target": "mean over patches", "residual": 0.5}),
    "distance --renormalise": ("vit", {"is_renormalised": True}),
    "cka --granularity sublayer --tokens cls": ("vit", {"granularity": "sublayer", "tokens": "cls"}),
    "cka --minibatch 4": ("vit", {"num_minibatches": 2, "num_images_used": 8, "num_images_dropped": 1}),
    "localisation --layer 0 --minibatch 5": ("vit", {"layer": "0", "num_images_used": 5, "num_images_dropped": 4}),
    "features --layer embed --query 3,0": ("vit", {"layer": "embed", "query": [3, 0]}),
    "receptive-field --where pre --query 0,3": ("vit", {"where": "pre", "cell": [0, 3]}),
    "filters --components 3": ("vit", {"num_components": 3}),
    "pos-embed --image-size 32 --pos-embed-interp paper": ("vit", {"grid_resampled": [8, 8], "method": "paper"}),
    "norm-ratio": ("gap", {"has_class_token": False}),
    "probe --shots 2 --seeds 1 --l2 3": ("vit", {"shots": 2, "seeds": 1, "l2": "3"}),
}


@pytest.mark.parametrize("line", OPTIONS)
def test_options__reach_the_analysis(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path, line: str
) -> None:
    kind, expected = OPTIONS[line]
    analysis, *options = line.split()
    of_images = [] if analysis in WITHOUT_IMAGES else ["--data", photos, "--num-images", 9, "--num-workers", 0]
    found = inspect(analysis, tiny_models[kind], *of_images, *options)
    assert {name: found.facts[name] for name in expected} == expected


@pytest.fixture
def golden_folder(tmp_path: Path) -> Path:
    """A timm folder with the golden weights, which ``tok_vit_jax.npz`` has as Google keeps them."""
    import timm
    import torch

    from vitctl.models.timm_folder import save_timm_folder
    from vitctl.primitives.preprocessing import Preprocessing

    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **size)
    with np.load(GOLDEN / "tok_timm_state.npz") as archive:
        model.load_state_dict({name: torch.from_numpy(archive[name]) for name in archive.files})
    expects = Preprocessing((32, 32), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    save_timm_folder(
        model, tmp_path / "golden", class_names=list("abcde"), preprocessing=expects, base_model="r", base_licence=None
    )
    return tmp_path / "golden"


def test_pos_embed__of_npz_weights_is_resampled_as_the_authors_code_does_it(
    inspect: Callable[..., Inspected], golden_folder: Path
) -> None:
    """Second opinion: the function that google-research/vision_transformer calls, scipy's zoom of order 1."""
    from scipy.ndimage import zoom

    weights = GOLDEN / "tok_vit_jax.npz"
    found = inspect("pos-embed", "--model", golden_folder, "--weights", weights, "--image-size", "56")
    assert found.facts["method"] == "paper"
    with np.load(weights) as archive:
        grid = archive["Transformer/posembed_input/pos_embedding"][0, 1:].reshape(4, 4, -1)
    rows = zoom(grid, (7 / 4, 7 / 4, 1), order=1).reshape(49, -1).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    resampled = found.arrays["similarity_resampled"].reshape(49, 49)
    np.testing.assert_allclose(resampled, rows @ rows.T, atol=1e-5)
    other = inspect("pos-embed", "--model", golden_folder, "--image-size", "56")  # weights of timm's layout
    assert other.facts["method"] == "bicubic-aa"
    assert not np.allclose(other.arrays["similarity_resampled"].reshape(49, 49), rows @ rows.T, atol=1e-2)


def test_diagonal__a_run_before_and_after_has_one_number_per_layer(
    inspect: Callable[..., Inspected], run_folder: Path, tiny_model_folder: Path
) -> None:
    """The first model is fine-tuned from the second; each is shown the images at its own size."""
    line = ("cka", run_folder, "--model", tiny_model_folder, "--num-workers", 0)
    diagonal = inspect(*line, "--diagonal").arrays
    assert diagonal["layers_1"].tolist() == ["embed", "0", "1", "final"]
    np.testing.assert_allclose(diagonal["cka"], np.diag(inspect(*line).arrays["cka"]), atol=1e-9)


def test_weights__random_ones_are_called_so_and_follow_the_seed(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path]
) -> None:
    def components(seed: int) -> np.ndarray:
        found = inspect("filters", "--model", tiny_models["gap"], "--weights", "none", "--seed", seed)
        assert found.results[0]["name"] == f"{tiny_models['gap']}, random weights"
        return found.arrays["components"]

    np.testing.assert_array_equal(components(0), components(0))
    assert not np.allclose(components(0), components(1))


# --- what must not matter ----------------------------------------------------------------------------------


def assert_nearly_equal(found: Any, expected: Any, *, where: str = "") -> None:
    """JSON values are equal, numbers within float32 rounding."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_nearly_equal(found[key], value, where=f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_nearly_equal(found[index], value, where=f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("analysis", ANALYSES)
def test_again__the_same_bytes(
    inspect: Callable[..., Inspected],
    usual: Callable[[str], Inspected],
    line_of: Callable[..., list[object]],
    analysis: str,
) -> None:
    again = inspect(*line_of(analysis))
    for ending in ("npz", "json"):
        paths = [folder / f"{analysis}.{ending}" for folder in (usual(analysis).folder, again.folder)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), ending


@pytest.mark.parametrize("analysis", [name for name in ANALYSES if name not in WITHOUT_IMAGES])
def test_batch_size__does_not_matter(
    inspect: Callable[..., Inspected],
    usual: Callable[[str], Inspected],
    line_of: Callable[..., list[object]],
    analysis: str,
) -> None:
    expected, found = usual(analysis), inspect(*line_of(analysis), "--batch-size", 3)
    arrays = found.arrays
    for name, array in expected.arrays.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(arrays[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert_nearly_equal([result["facts"] for result in found.results], [result["facts"] for result in expected.results])
    assert found.document["settings"] == expected.document["settings"]


def test_num_workers__does_not_matter(
    inspect: Callable[..., Inspected], usual: Callable[[str], Inspected], line_of: Callable[..., list[object]]
) -> None:
    found = inspect(*line_of("distance"), "--num-workers", 1)
    for name, array in usual("distance").arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-5)


def test_files_of_an_earlier_inspection_are_replaced_and_others_stay(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("of the user")
    first = inspect("filters", tiny_models["vit"], out="out").arrays["components"]
    second = inspect("filters", tiny_models["swin"], out="out").arrays["components"]
    assert (first.shape, second.shape) == ((16, 3, 4, 4), (8, 3, 2, 2))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"mine.txt", "filters.npz", "filters.json", "filters.png"}


# --- all of them, and the report ---------------------------------------------------------------------------


@dataclass
class Page(HTMLParser):
    """What a browser would make of the report."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: dict[str, list[str]] = field(default_factory=dict)  # by tag
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def of(cls, path: Path) -> "Page":
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open[-1] if self._open else "", []).append(data)

    def close(self) -> None:
        super().close()
        assert not self._open

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def everything(self) -> str:
        return "\n".join(part for parts in self.text.values() for part in parts)


@dataclass(frozen=True)
class Everything:
    document: Any
    stderr: str
    folder: Path
    page: Page


def inspect_all(folder: Path, *args: object) -> Everything:
    found = inspect_alone(folder, "all", *args, "--num-workers", 0, builds_figures=True)
    return Everything(found.document, found.said, found.folder, Page.of(found.folder / "report.html"))


@pytest.fixture(scope="module")
def of_run(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Everything:
    """``vitctl inspect all RUN``, with probes of two images."""
    folder = tmp_path_factory.mktemp("all")
    run = shutil.copytree(finished_run, folder / "run")
    return inspect_all(folder, run, "--shots", 2, "--seeds", 1, "--seed", 1, "--minibatch", 5, "--num-images", 6)


SLOW_FIXTURES = ("beside_cnn",)  # see tests/conftest.py


@pytest.fixture(scope="module")
def beside_cnn(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]
) -> tuple[Everything, dict[str, str]]:
    """A ViT beside a CNN, both in folders with strange names, on classes with strange names; and those names."""
    folder = tmp_path_factory.mktemp("beside")
    names = {kind: str(shutil.copytree(tiny_models[kind], folder / (kind + STRANGE))) for kind in ("vit", "cnn")}
    names["data"] = str(draw_photos(folder / ("data" + STRANGE), names=[f"{STRANGE}{i}" for i in range(3)]))
    line = (names["vit"], "--model", names["cnn"], "--data", names["data"], "--num-images", 12)
    return inspect_all(folder, *line, "--shots", 2, "--seeds", 1), names


@pytest.fixture(params=["run", pytest.param("beside cnn", marks=pytest.mark.slow)])
def everything(request: pytest.FixtureRequest) -> Everything:
    if request.param == "run":
        return request.getfixturevalue("of_run")
    return request.getfixturevalue("beside_cnn")[0]


def test_all__json_holds_every_analysis_the_verdicts_and_what_was_left_out(everything: Everything) -> None:
    document = everything.document
    assert list(document) == ["analysis", "analyses", "verdicts", "skipped", "report", "out"]
    assert document["analysis"] == "all"
    left_out = [one["analysis"] for one in document["skipped"] if one["model"] is None]
    assert sorted([*document["analyses"], *left_out]) == sorted(ANALYSES)
    for analysis, one in document["analyses"].items():
        assert list(one) == [*KEYS, "out"]
        assert json.loads((everything.folder / f"{analysis}.json").read_text()) == {key: one[key] for key in KEYS}
        assert set(load_arrays(everything.folder / f"{analysis}.npz")) == set(one["arrays"])
        assert (everything.folder / f"{analysis}.png").is_file()
    assert Path(document["report"]) == everything.folder / "report.html"


def test_all__a_run_leaves_out_only_what_needs_a_second_model(of_run: Everything) -> None:
    (left_out,) = of_run.document["skipped"]
    assert left_out["analysis"] == "heads-vs-cnn"
    assert "CNN" in left_out["reason"]
    assert "heads-vs-cnn: left out." in of_run.stderr
    assert of_run.document["analyses"]["distance"]["images"]["reason"] == "the run's own validation images"


def test_all__the_controls_of_random_weights_stand_beside(of_run: Everything) -> None:
    folder = of_run.folder / "random-weights"
    names = {f"{analysis}.{ending}" for analysis in CONTROLLED for ending in ("npz", "json", "png")}
    assert {path.name for path in folder.iterdir()} == names
    document = json.loads((folder / "distance.json").read_text())
    (result,) = document["results"]
    assert result["models"][0]["weights"] == "none"
    assert result["models"][0]["image_size"] == [24, 24]
    trained = load_arrays(of_run.folder / "distance.npz")["distance_px"]
    assert not np.array_equal(load_arrays(folder / "distance.npz")["distance_px"], trained)


def test_all__the_control_is_what_the_command_finds_with_random_weights(
    inspect: Callable[..., Inspected], beside_cnn: tuple[Everything, dict[str, str]]
) -> None:
    found, names = beside_cnn
    control = load_arrays(found.folder / "random-weights" / "localisation.npz")
    again = inspect("localisation", "--model", names["vit"], "--weights", "none", "--data", names["data"],
                    "--num-images", 12, "--num-workers", 0).arrays  # fmt: skip
    np.testing.assert_allclose(control["cka"], again["cka"], atol=1e-6)


def test_all__verdicts_are_claims_with_their_numbers(everything: Everything) -> None:
    verdicts = everything.document["verdicts"]
    for verdict in verdicts:
        assert list(verdict) == ["analysis", "claim", "holds", "verdict", "numbers"]
        assert verdict["verdict"] in ("yes", "partly", "no", "cannot be said")
        assert verdict["holds"] is {"yes": True, "no": False}.get(verdict["verdict"])
        assert verdict["analysis"] in everything.document["analyses"]
        assert verdict["numbers"]
    analyses = {verdict["analysis"] for verdict in verdicts}
    assert {"filters", "cka", "localisation", "probe", "equivariance"} <= analyses


def test_all__verdicts_follow_from_the_arrays(of_run: Everything) -> None:
    verdicts = {(one["analysis"], one["claim"]): one for one in of_run.document["verdicts"]}
    third = load_arrays(of_run.folder / "distance.npz")["distance_px"].mean(axis=1)
    uniform = json.loads((of_run.folder / "distance.json").read_text())["results"][0]["facts"]["uniform_px"]
    grows = verdicts["distance", "distance grows with depth"]
    is_close = abs(third[-1] - third[0]) <= 0.01 * uniform
    assert grows["holds"] is (None if is_close else bool(third[-1] > third[0]))
    rank = {
        name: json.loads((folder / "filters.json").read_text())["results"][0]["facts"]["effective_rank"]
        for name, folder in (("own", of_run.folder), ("random", of_run.folder / "random-weights"))
    }
    few = verdicts["filters", "few components explain most of the filters, fewer than of random ones"]
    is_close = abs(rank["own"] - rank["random"]) <= 0.02 * max(rank.values())
    assert few["holds"] is (None if is_close else rank["own"] < rank["random"])
    for value in rank.values():
        assert f"{value:.3g}" in few["numbers"]


def test_report__makes_no_request(everything: Everything) -> None:
    page = everything.page
    assert not page.all("script") + page.all("iframe") + page.all("object") + page.all("embed") + page.all("link")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "background")]
        for name in ("src", "href", "action", "data", "poster", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/png;base64,", "#")), (tag, name, attributes[name][:80])
        if tag == "meta":
            assert attributes.get("http-equiv", "") in ("", "Content-Security-Policy")
    style = "".join(page.text["style"])
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (one["content"] for one in page.all("meta") if "http-equiv" in one)
    assert "default-src 'none'" in policy


def test_report__links_lead_to_places_on_the_page(everything: Everything) -> None:
    anchors = [attributes["id"] for _, attributes in everything.page.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    assert {attributes["href"][1:] for attributes in everything.page.all("a")} <= set(anchors)


def test_report__every_analysis_has_its_section_or_its_reason(everything: Everything) -> None:
    page = everything.page
    headings = [attributes.get("id") for attributes in page.all("h2")]
    for analysis, document in everything.document["analyses"].items():
        assert analysis in headings
        words = WORDS[analysis]
        for text in (words.title, words.question, words.look_for, words.random_weights, words.method):
            assert text in page.everything
        for result in document["results"]:
            assert result["name"] in page.text["h3"]
            for row in result["rows"][:2]:
                assert set(row) <= {*page.text["td"], ""}
            for note in result["notes"]:
                assert note in page.everything
    for one in everything.document["skipped"]:
        assert (one["analysis"] in headings) == (one["model"] is not None)
        assert (one["analysis"] if one["model"] is None else f"{one['analysis']} of {one['model']}") in page.text["dt"]
        assert one["reason"] in page.text["dd"]
    for verdict in everything.document["verdicts"]:
        assert verdict["numbers"] in page.text["td"]


def test_report__its_pictures_are_inside_and_so_are_those_of_random_weights(of_run: Everything) -> None:
    sources = [attributes["src"] for attributes in of_run.page.all("img")]
    assert len(sources) == len(of_run.document["analyses"]) + len(CONTROLLED)
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1], validate=True))) as picture:
            assert picture.format == "PNG"
    assert all(attributes["alt"] for attributes in of_run.page.all("img"))


def test_report__the_names_of_strangers_are_text(beside_cnn: tuple[Everything, dict[str, str]]) -> None:
    found, names = beside_cnn
    page = found.page
    assert STRANGE in names["vit"]
    for kind in ("vit", "cnn"):
        assert names[kind] in page.text["h3"]  # as it is, not as tags
    assert any(names["data"] in text for text in page.text["dd"])
    source = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert "onerror=alert" in source
    assert all("onerror" not in attributes for _, attributes in page.tags)


def test_report__the_command_of_a_section_repeats_it(
    run_cli: Callable[..., Any], of_run: Everything, tmp_path: Path, no_findings_drawn: None
) -> None:
    commands = {shlex.split(text)[2]: shlex.split(text) for text in of_run.page.text["code"]}
    assert set(commands) == set(of_run.document["analyses"])
    different = []
    for number, analysis in enumerate(("filters", "rollout", "cka", "features", "probe")):
        out = tmp_path / str(number)
        workers = [] if analysis == "filters" else ["--num-workers", 0]
        result = run_cli(*commands[analysis][1:], *workers, "--out", out)
        assert result.exit_code == 0, result.stderr
        expected, again = (load_arrays(folder / f"{analysis}.npz") for folder in (of_run.folder, out))
        assert set(expected) == set(again)
        if not all(np.array_equal(expected[name], again[name], equal_nan=array.dtype.kind == "f")
                   for name, array in expected.items()):  # fmt: skip
            different.append(analysis)
    assert different == []


def test_report__the_command_says_whose_weights_are_whose(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path]
) -> None:
    line = ("--num-images", 4, "--shots", 1, "--seeds", 1, "--num-workers", 0)
    models = ("--model", tiny_models["vit"], "--model", tiny_models["gap"])
    found = inspect("all", *models, "--weights", "none", "--weights", "pretrained", *line)
    commands = Page.of(found.folder / "report.html").text["code"]
    (command,) = (shlex.split(text) for text in commands if text.startswith("vitctl inspect filters"))
    weights = [command[index + 1] for index, word in enumerate(command) if word == "--weights"]
    assert weights == ["none", "pretrained"]


def test_all__beside_a_cnn_both_are_compared(beside_cnn: tuple[Everything, dict[str, str]]) -> None:
    found, names = beside_cnn
    analyses = found.document["analyses"]
    assert {"cka", "heads-vs-cnn", "norm-ratio", "localisation"} <= set(analyses)
    both = f"{names['vit']} and {names['cnn']}"
    assert [result["name"] for result in analyses["heads-vs-cnn"]["results"]] == [both]
    arrays = load_arrays(found.folder / "cka.npz")
    assert arrays["cka"].shape == (len(arrays["layers_1"]), len(arrays["layers_2"]))
    assert arrays["layers_1"].tolist() == ["embed", "0", "1", "2", "final"]
    assert "The models look at images of their own sizes: 16, 32 px." in found.stderr


def test_all__beside_a_cnn_the_vit_keeps_what_the_cnn_cannot_take(
    beside_cnn: tuple[Everything, dict[str, str]], tiny_models: dict[str, Path]
) -> None:
    found, names = beside_cnn
    for analysis in ("pos-embed", "attention", "rollout", "distance"):
        assert analysis in found.document["analyses"], [one["analysis"] for one in found.document["skipped"]]
        results = found.document["analyses"][analysis]["results"]
        assert [result["name"] for result in results] == [names["vit"]]
        assert names["cnn"] in found.stderr


def test_all__two_vits_are_not_judged_as_if_one_were_a_cnn(
    inspect: Callable[..., Inspected], tiny_models: dict[str, Path], photos: Path
) -> None:
    found = inspect("all", tiny_models["vit"], "--model", tiny_models["gap"], "--data", photos, "--num-images", 4,
                    "--shots", 1, "--seeds", 1, "--num-workers", 0)  # fmt: skip
    assert not [one["claim"] for one in found.document["verdicts"] if "CNN" in one["claim"]]


def test_all__the_screen_ends_with_where_the_report_is(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], photos: Path, tmp_path: Path, no_findings_drawn: None
) -> None:
    result = run_cli("inspect", "all", tiny_models["cnn"], "--data", photos, "--num-images", 4, "--shots", 1,
                     "--seeds", 1, "--num-workers", 0, "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "analysis"
    assert any(line.split() == ["report", str(tmp_path / "out" / "report.html")] for line in lines)
    for analysis in ("pos-embed", "attention", "rollout", "distance", "heads-vs-cnn"):
        assert f"left out  {analysis}: " in result.stdout
    assert not any(line.startswith("localisation ") for line in lines)  # its last map is 1x1: nothing to judge
    assert "Random weights" in lines[-1]
    assert lines[-1].startswith("Look")


def test_all__random_weights_are_neither_judged_nor_controlled(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], photos: Path, tmp_path: Path, no_findings_drawn: None
) -> None:
    result = run_cli("inspect", "all", "--model", tiny_models["vit"], "--weights", "none", "--data", photos,
                     "--num-images", 4, "--shots", 1, "--seeds", 1, "--num-workers", 0, "--out", tmp_path / "out",
                     "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["verdicts"] == []
    assert document["analyses"]["distance"]["results"][0]["name"].endswith(", random weights")
    assert not (tmp_path / "out" / "random-weights").exists()
    assert "nothing is judged" in " ".join(result.stderr.split())
