"""``vitctl fewshot-eval`` as a person sees it: screen, JSON, tables, pictures, supports, and what must not matter."""

import csv
import json
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURES = ("--features", GOLDEN / "fewshot_features.npz")
PICTURES = {"accuracy_vs_shots.png", "accuracy_vs_l2.png", "layers.png", "ways_shots.png"}
ALWAYS = {"results.json", "results.csv"}


@dataclass(frozen=True)
class Evaluation:
    document: Any
    stderr: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.document["results"]

    @property
    def said(self) -> str:
        """stderr on one line: long rows are folded there, and columns padded."""
        return " ".join(self.stderr.split())

    @property
    def supports(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "supports.json").read_text())


def run_alone(folder: Path, *args: object, draws: bool = False) -> Evaluation:
    """Run ``vitctl fewshot-eval ARGS... --json`` in an empty ``folder``, for fixtures that several tests share.

    Pictures are files without a content unless ``draws``.
    """
    from matplotlib.figure import Figure
    from typer.testing import CliRunner

    from vitctl.cli.app import app

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON output")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.chdir(folder)
        if not draws:
            patch.setattr(Figure, "savefig", lambda _figure, path, **_options: Path(path).write_bytes(b""))
        patch.setenv("COLUMNS", "200")
        patch.setenv("VITCTL_CACHE", str(folder / "vitctl-cache"))
        result = CliRunner().invoke(app, ["fewshot-eval", *map(str, args), "--json"])
    assert result.exit_code == 0, result.stderr
    return Evaluation(json.loads(result.stdout, parse_constant=refuse), result.stderr, folder / "fewshot-eval")


def draw_photos(folder: Path, *, count: int, seed: int, strength: int = 40) -> Path:
    """Write noise of 16x16 px whose class shows a little in one colour, ``count`` images of each of three classes."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(("ash", "birch", "cedar")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256 - strength, (16, 16, 3), dtype=np.uint8)
            pixels[..., label] += np.uint8(strength)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes with 20 images each, without splits."""
    return draw_photos(tmp_path_factory.mktemp("data") / "photos", count=20, seed=0)


@pytest.fixture(scope="module")
def more_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the same classes, 10 each."""
    return draw_photos(tmp_path_factory.mktemp("data") / "more", count=10, seed=1)


@pytest.fixture(scope="module")
def tiny_on_photos(photos: Path, tiny_model_folder: Path) -> list[object]:
    return ["--model", tiny_model_folder, "--data", photos, "--shots", "1,5", "--seeds", 3, "--num-workers", 0]


@pytest.fixture(scope="module")
def usual(tiny_on_photos: list[object], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run_alone(tmp_path_factory.mktemp("usual"), *tiny_on_photos)


@pytest.fixture(scope="module")
def filled_cache(tiny_on_photos: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """The usual evaluation with a cache, and that cache."""
    folder = tmp_path_factory.mktemp("caches")
    return run_alone(folder, *tiny_on_photos, "--cache", folder / "cache"), folder / "cache"


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """What ``vitctl fewshot-eval`` does alone."""
    return run_alone(tmp_path_factory.mktemp("default"), draws=True)


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("golden")
    found = run_alone(folder, *FEATURES, "--l2", "1024,1", "--seeds", 3, "--predictions", "found.npz")
    with np.load(folder / "found.npz") as file:
        return found, dict(file)


@pytest.fixture
def evaluate_and_draw(run_cli: Callable[..., Any], tmp_path: Path) -> Callable[..., Evaluation]:
    """Return ``evaluate(ARGS..., out=NAME)``: runs with ``--json``; the exit code must be 0."""

    def run(*args: object, out: str = "out") -> Evaluation:
        result = run_cli("fewshot-eval", *args, "--out", tmp_path / out, "--json")
        assert result.exit_code == 0, result.stderr
        return Evaluation(result.json, result.stderr, tmp_path / out)

    return run


@pytest.fixture
def evaluate(
    evaluate_and_draw: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Evaluation]:
    """The same without pictures, which take longer than all the rest."""
    monkeypatch.setattr("vitctl.reporting.fewshot_drawing.draw_pictures", lambda _out, _rows: None)
    return evaluate_and_draw


def without_seconds(document: dict[str, Any]) -> dict[str, Any]:
    cost = {key: value for key, value in document["cost"].items() if not key.endswith("_s")}
    return {**document, "cost": cost, "out": None}


def assert_same_numbers(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Accuracies and their intervals are equal; similarities to the last bits of float32 features."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        for key, value in row.items():
            if key.startswith("cosine_"):
                assert other[key] == pytest.approx(value, abs=1e-6), key
            else:
                assert other[key] == value, key


# --- with nothing given ------------------------------------------------------------------------------------


def test_nothing_given__is_the_demo_on_digits_and_the_header_says_so(default: Evaluation) -> None:
    said = default.said
    assert "model demo the embedded one: neither --data nor --model is given" in said
    assert "data digits the default: no --data is given" in said
    assert "test 360 images its own split test" in said
    assert "classes 10" in said
    assert "shots, seeds 1, 5, 10, 25; 10: 0 to 9" in said
    assert "classifier ridge l2 1024" in said
    assert {(row["data"], row["model"]) for row in default.rows} == {("digits", "demo")}


def test_json__has_the_agreed_keys_and_types(default: Evaluation) -> None:
    assert list(default.document)[0] == "results"
    assert [row["shots"] for row in default.rows] == [1, 5, 10, 25]
    for row in default.rows:
        assert (row["layer"], row["pool"], row["classifier"], row["l2"]) == ("final", "native", "ridge", 1024.0)
        assert (row["num_support"], row["num_test"], row["num_classes"]) == (10 * row["shots"], 360, 10)
        assert isinstance(row["top1_mean"], float)
        assert isinstance(row["top1_std"], float)
        assert [len(row[name]) for name in ("top1_ci95_support", "top1_ci95", "top1_per_seed")] == [2, 2, 10]
        assert all(isinstance(row[name], int) for name in ("num_support", "num_test", "num_classes", "shots"))
    assert set(default.document["cost"]) == {"images_embedded", "images_skipped", "embed_s", "solve_s"}
    assert default.document["cost"]["embed_s"] > 0
    assert Path(default.document["out"]) == default.folder


def test_statistics__are_numpys_and_scipys_of_the_seeds(default: Evaluation) -> None:
    for row in default.rows:
        per_seed = np.array(row["top1_per_seed"])
        assert row["top1_mean"] == pytest.approx(per_seed.mean(), abs=1e-12)
        assert row["top1_std"] == pytest.approx(per_seed.std(ddof=1), abs=1e-12)
        assert row["top1_mean_first3"] == pytest.approx(per_seed[:3].mean(), abs=1e-12)
        interval = stats.t.interval(0.95, 9, loc=per_seed.mean(), scale=stats.sem(per_seed))
        assert row["top1_ci95_support"] == pytest.approx(interval, abs=1e-12)
        low, high = row["top1_ci95"]
        assert low < row["top1_mean"] < high
        # over seeds and test images: no narrower than over the test images alone
        of_images = 1.96 * math.sqrt(row["top1_mean"] * (1 - row["top1_mean"]) / 360)
        assert high - low > of_images


def test_accuracy_rises_with_shots(default: Evaluation) -> None:
    means = [row["top1_mean"] for row in default.rows]
    assert means == sorted(means)
    assert means[0] > 0.25  # chance is 0.1
    assert means[-1] > means[0] + 0.2


def test_trained_weights_beat_random_ones_on_the_same_supports(
    evaluate: Callable[..., Evaluation], default: Evaluation
) -> None:
    found = evaluate("--model", "demo", "--model", "demo", "--weights", "pretrained", "--weights", "none",
                     "--shots", 5, "--seeds", 3)  # fmt: skip
    trained, random = found.rows
    assert [trained["model"], random["model"]] == ["demo (pretrained)", "demo (none)"]
    assert trained["top1_per_seed"] == pytest.approx(default.rows[1]["top1_per_seed"][:3], abs=1.01 / 360)
    assert min(trained["top1_per_seed"]) > max(random["top1_per_seed"]) + 0.1
    (pair,) = found.document["paired"]
    assert pair["difference"] == pytest.approx(trained["top1_mean"] - random["top1_mean"], abs=1e-12)
    assert pair["ci95"][0] > 0
    assert "weights none" in found.said


# --- files -------------------------------------------------------------------------------------------------


def test_results_json__is_what_stdout_says(default: Evaluation) -> None:
    assert json.loads((default.folder / "results.json").read_text()) == default.document


def test_results_csv__has_a_line_per_result_with_its_numbers(default: Evaluation) -> None:
    with (default.folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(default.rows)
    for line, row in zip(lines, default.rows, strict=True):
        assert (line["data"], line["model"], line["layer"]) == ("digits", "demo", "final")
        assert (int(line["shots"]), float(line["l2"])) == (row["shots"], row["l2"])
        for name in ("top1_mean", "top1_std", "top1_mean_first3", "cosine_within"):
            assert float(line[name]) == row[name]
        for name in ("top1_ci95", "top1_ci95_support"):
            assert [float(line[f"{name}_low"]), float(line[f"{name}_high"])] == row[name]


def test_files__are_these(default: Evaluation) -> None:
    assert {path.name for path in default.folder.iterdir()} == ALWAYS | {"supports.json", "accuracy_vs_shots.png"}
    with Image.open(default.folder / "accuracy_vs_shots.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_supports__are_big_visions_draw_from_the_labels(default: Evaluation) -> None:
    """An independent redraw: positions of class 0, then of class 1, ..., permuted by one numpy generator."""
    labels = load_digits().target
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    train = np.sort(train)
    (found,) = default.supports
    assert (found["data"], found["test"]) == ("digits", "digits")
    assert found["class_names"] == [str(digit) for digit in range(10)]
    assert list(found["seeds"]) == [str(seed) for seed in range(10)]
    for seed, orders in found["seeds"].items():
        rng = np.random.default_rng(int(seed))
        for digit, names in enumerate(orders):
            order = rng.permutation(train[labels[train] == digit])[:25]
            assert names == [f"digits/{row}" for row in order]  # nested: k shots are the first k
            assert not set(names) & {f"digits/{row}" for row in test}


def test_cost__only_the_union_of_supports_and_the_test_images_are_embedded(default: Evaluation) -> None:
    drawn = {name for orders in default.supports[0]["seeds"].values() for names in orders for name in names}
    cost = default.document["cost"]
    assert cost["images_embedded"] == len(drawn) + 360
    assert cost["images_embedded"] + cost["images_skipped"] == 1797


@pytest.mark.usefixtures("no_rendering")
def test_pictures_and_draws_of_an_earlier_evaluation_are_gone(
    evaluate_and_draw: Callable[..., Evaluation], tiny_on_photos: list[object], tmp_path: Path
) -> None:
    def names() -> set[str]:
        return {path.name for path in (tmp_path / "out").iterdir()}

    evaluate_and_draw(*tiny_on_photos, "--layers", "0,final", "--l2", "1,64")
    linear = ALWAYS | {"supports.json", "accuracy_vs_shots.png"}
    assert names() == linear | {"layers.png", "accuracy_vs_l2.png"}
    evaluate_and_draw(*FEATURES, "--protocol", "episodes", "--ways", "2,3", "--shots", "1,2", "--episodes", 5)
    assert names() & PICTURES == {"ways_shots.png"}
    assert names() == ALWAYS | {"episodes.npz", "ways_shots.png"}
    (tmp_path / "out" / "mine.txt").write_text("of the user")
    evaluate_and_draw(*FEATURES, "--shots", 1, "--seeds", 2)
    assert names() == linear | {"mine.txt"}


@pytest.mark.usefixtures("no_rendering")
@pytest.mark.parametrize(("options", "picture"), [(("--pool", "native,mean"), "layers.png"), (("--l2", "loo"), None)])
def test_pictures__several_poolings_have_layers_png_and_one_choice_of_l2_has_no_curve(
    evaluate_and_draw: Callable[..., Evaluation],
    tiny_on_photos: list[object],
    options: tuple[str, ...],
    picture: str | None,
) -> None:
    found = evaluate_and_draw(*tiny_on_photos, *options)
    there = {path.name for path in found.folder.iterdir()} & PICTURES
    assert there == {"accuracy_vs_shots.png"} | ({picture} if picture else set())


# --- features of a file ------------------------------------------------------------------------------------


def test_features__every_golden_prediction(golden_run: tuple[Evaluation, dict[str, np.ndarray]]) -> None:
    _, found = golden_run
    with np.load(GOLDEN / "fewshot_predictions.npz") as file:
        golden = dict(file)
    assert set(found) == set(golden)
    assert len(found) == 3 * 4 * 2
    for name, predicted in golden.items():
        np.testing.assert_array_equal(found[name], predicted, err_msg=name)


def test_features__accuracies_are_those_of_the_predictions(
    golden_run: tuple[Evaluation, dict[str, np.ndarray]],
) -> None:
    found, predictions = golden_run
    with np.load(FEATURES[1]) as file:
        truth, x = file["y_test"], file["x_test"].astype(np.float64)
    assert [(row["shots"], row["l2"]) for row in found.rows] == [(k, l2) for k in (1, 5, 10, 25) for l2 in (1024, 1)]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    same = truth[:, None] == truth
    within = cosines[same & ~np.eye(len(truth), dtype=bool)].mean()
    for row in found.rows:
        expected = [np.mean(predictions[f"s{seed}_k{row['shots']}_l{row['l2']:g}_pred"] == truth) for seed in range(3)]
        assert row["top1_per_seed"] == pytest.approx(expected, abs=1e-12)
        assert row["cosine_within"] == pytest.approx(within, abs=1e-9)
        assert row["cosine_between"] == pytest.approx(cosines[~same].mean(), abs=1e-9)
        assert row["model"] is None


def test_features__supports_are_row_numbers(golden_run: tuple[Evaluation, dict[str, np.ndarray]]) -> None:
    with np.load(FEATURES[1]) as file:
        labels = file["y_train"]
    (drawn,) = golden_run[0].supports
    rng = np.random.default_rng(2)
    expected = [rng.permutation(np.flatnonzero(labels == label))[:25].tolist() for label in range(6)]
    assert drawn["seeds"]["2"] == expected


def test_features__a_class_without_a_row_is_counted_and_never_right(
    evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], 10)
    x = rng.normal(size=(30, 4)) + 4 * labels[:, None]
    asked = np.repeat([0, 1, 2, 3], 5)
    np.savez(tmp_path / "f.npz", x_train=x, y_train=labels, x_test=rng.normal(size=(20, 4)) + 4 * asked[:, None],
             y_test=asked)  # fmt: skip
    found = evaluate("--features", tmp_path / "f.npz", "--shots", "1,10", "--seeds", 2, "--predictions",
                     tmp_path / "p.npz")  # fmt: skip
    assert "1 of 4 classes have no images to draw from" in found.said
    assert [(row["num_classes"], row["num_short_classes"], row["num_support"]) for row in found.rows] == [
        (4, 1, 3),
        (4, 1, 30),
    ]
    assert found.rows[1]["top1_mean"] <= 0.75
    with np.load(tmp_path / "p.npz") as file:
        assert not any((file[name] == 2).any() for name in file)


# --- what must not matter ----------------------------------------------------------------------------------


def test_a_repeat_gives_the_same_document_but_for_seconds(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation
) -> None:
    again = evaluate(*tiny_on_photos)
    assert without_seconds(again.document) == without_seconds(usual.document)
    assert again.supports == usual.supports


@pytest.mark.parametrize("option", [("--batch-size", 7), ("--num-workers", 2)])
def test_reading_otherwise_gives_the_same_numbers(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation, option: tuple[str, int]
) -> None:
    assert_same_numbers(evaluate(*tiny_on_photos, *option).rows, usual.rows)


def test_cache__the_first_and_second_time_give_the_same_numbers_and_the_second_embeds_nothing(
    evaluate: Callable[..., Evaluation],
    tiny_on_photos: list[object],
    usual: Evaluation,
    filled_cache: tuple[Evaluation, Path],
) -> None:
    first, cache = filled_cache
    second = evaluate(*tiny_on_photos, "--cache", cache)
    assert_same_numbers(first.rows, usual.rows)
    assert_same_numbers(second.rows, usual.rows)
    counts = [(one.document["cost"]["images_embedded"], one.document["cost"]["images_skipped"]) for one in
              (usual, first, second)]  # fmt: skip
    assert counts[0] == counts[1]
    assert counts[2] == (0, 60)
    assert sum(counts[0]) == 60


def truncate(files: list[Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-5])


def flip_a_bit(files: list[Path]) -> None:
    content = bytearray(files[0].read_bytes())
    content[-3] ^= 1
    files[0].write_bytes(content)


def empty(files: list[Path]) -> None:
    files[0].write_bytes(b"")


def exchange(files: list[Path]) -> None:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, exchange])
def test_cache__damaged_features_are_made_again_and_it_is_said(
    evaluate: Callable[..., Evaluation],
    tiny_on_photos: list[object],
    usual: Evaluation,
    filled_cache: tuple[Evaluation, Path],
    tmp_path: Path,
    damage: Callable[[list[Path]], None],
) -> None:
    with_cache = [*tiny_on_photos, "--cache", shutil.copytree(filled_cache[1], tmp_path / "cache")]
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2  # support and test
    damage(files)
    found = evaluate(*with_cache)
    assert found.said.count("is damaged: these features are computed again.") == 1  # however many
    assert found.document["cost"]["images_embedded"] > 0
    assert_same_numbers(found.rows, usual.rows)
    assert evaluate(*with_cache).document["cost"]["images_embedded"] == 0


@pytest.mark.parametrize(
    "other",
    [
        ("--weights", "none"),
        ("--image-size", 20),
        ("--pool", "mean"),
        ("--layers", "0"),
        ("--preprocess", "big_vision"),
    ],
)
def test_cache__other_weights_sizes_poolings_layers_and_preprocessings_are_other_features(
    evaluate: Callable[..., Evaluation],
    tiny_on_photos: list[object],
    filled_cache: tuple[Evaluation, Path],
    tmp_path: Path,
    other: tuple[str, object],
) -> None:
    shutil.copytree(filled_cache[1], tmp_path / "cache")
    cached = evaluate(*tiny_on_photos, *other, "--cache", tmp_path / "cache")
    assert cached.document["cost"]["images_embedded"] > 0
    assert_same_numbers(cached.rows, evaluate(*tiny_on_photos, *other).rows)


def test_cache__an_image_that_changed_is_embedded_again(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    arguments = [tmp_path / "photos" if one == photos else one for one in tiny_on_photos]
    evaluate(*arguments, "--shots", "all", "--cache", tmp_path / "cache")
    for index in range(20):
        shutil.copyfile(tmp_path / "photos" / "ash" / "000.png", tmp_path / "photos" / "birch" / f"{index:03d}.png")
    found = evaluate(*arguments, "--shots", "all", "--cache", tmp_path / "cache")
    assert found.document["cost"]["images_embedded"] == 60
    assert_same_numbers(found.rows, evaluate(*arguments, "--shots", "all").rows)


@pytest.mark.parametrize("pool", ["native", "tokens"])
def test_shots_all__streamed_gives_what_stored_features_give(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], tmp_path: Path, pool: str
) -> None:
    arguments = [
        *tiny_on_photos[:4],
        "--num-workers",
        0,
        "--shots",
        "all",
        "--l2",
        "1,1024",
        "--pool",
        pool,
        "--batch-size",
        7,
    ]
    streamed, stored = evaluate(*arguments), evaluate(*arguments, "--cache", tmp_path / "cache")
    assert_same_numbers(streamed.rows, stored.rows)
    for found in (streamed, stored):
        assert [(row["shots"], row["l2"], row["num_support"]) for row in found.rows] == [
            ("all", 1, 48),
            ("all", 1024, 48),
        ]
        assert all(row["top1_std"] is None and row["top1_ci95_support"] is None for row in found.rows)
        assert (found.document["cost"]["images_embedded"], found.document["cost"]["images_skipped"]) == (60, 0)


def test_shots_all__beside_numbers_is_one_support(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation
) -> None:
    found = evaluate(*tiny_on_photos, "--shots", "all,5")
    assert [(row["shots"], len(row["top1_per_seed"]), row["num_support"]) for row in found.rows] == [
        (5, 3, 15),
        ("all", 1, 48),
    ]
    assert found.rows[0]["top1_per_seed"] == usual.rows[1]["top1_per_seed"]


def test_shuffled_labels__are_at_chance_where_true_ones_are_not(
    evaluate: Callable[..., Evaluation], tiny_model_folder: Path, tmp_path: Path
) -> None:
    for name, count, seed in (("pool", 60, 2), ("test", 100, 3)):
        draw_photos(tmp_path / name, count=count, seed=seed, strength=60)
        paths = sorted((tmp_path / name).rglob("*.png"))
        labels = [path.parent.name for path in paths]
        shuffled = np.random.default_rng(0).permutation(labels)
        for kind, written in (("true", labels), ("shuffled", shuffled)):
            lines = [f"{path},{label}" for path, label in zip(paths, written, strict=True)]
            (tmp_path / f"{name}_{kind}.csv").write_text("\n".join(["image,label", *lines]))

    def mean(kind: str) -> float:
        found = evaluate("--model", tiny_model_folder, "--data", tmp_path / f"pool_{kind}.csv", "--test",
                         tmp_path / f"test_{kind}.csv", "--shots", 20, "--seeds", 5, "--num-workers", 0)  # fmt: skip
        assert found.rows[0]["num_test"] == 300
        return found.rows[0]["top1_mean"]

    assert mean("true") > 0.7
    assert mean("shuffled") == pytest.approx(1 / 3, abs=3 * math.sqrt(2 / 9 / 300))  # three standard errors


# --- several models and data sets --------------------------------------------------------------------------

PAIR = ("data", "model_a", "model_b", "layer", "pool", "shots", "difference", "ci95", "ci95_support")


@pytest.fixture(scope="module")
def two_models(
    tiny_model_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, list[object]]:
    arguments: list[object] = ["--data", "digits", "--data", photos, "--shots", "1,5", "--seeds", 3,
                               "--image-size", 32, "--num-workers", 0]  # fmt: skip
    models = ["--model", tiny_model_folder, "--weights", "pretrained", "--model", "test_resnet", "--weights", "none"]
    return run_alone(tmp_path_factory.mktemp("two"), *models, *arguments), arguments


def test_models_and_data__every_combination_in_the_order_given(
    two_models: tuple[Evaluation, list[object]], tiny_model_folder: Path, photos: Path
) -> None:
    found, _ = two_models
    assert [(row["model"], row["data"], row["shots"]) for row in found.rows] == [
        (model, data, shots)
        for model in (str(tiny_model_folder), "test_resnet")
        for data in ("digits", str(photos))
        for shots in (1, 5)
    ]
    assert [row["num_classes"] for row in found.rows] == [10, 10, 3, 3] * 2
    assert [one["data"] for one in found.supports] == ["digits", str(photos)]


def test_models_and_data__cost_adds_up_to_pool_and_test_for_every_model(
    two_models: tuple[Evaluation, list[object]],
) -> None:
    cost = two_models[0].document["cost"]
    assert cost["images_embedded"] + cost["images_skipped"] == 2 * (1797 + 60)
    assert cost["images_skipped"] > 2 * 1200


def test_paired__is_the_first_less_the_second_on_the_same_supports(
    two_models: tuple[Evaluation, list[object]], tiny_model_folder: Path
) -> None:
    found, _ = two_models
    assert len(found.document["paired"]) == 4
    accuracies = {(row["model"], row["data"], row["shots"]): np.array(row["top1_per_seed"]) for row in found.rows}
    for pair in found.document["paired"]:
        assert set(PAIR) <= set(pair)
        assert (pair["model_a"], pair["model_b"]) == (str(tiny_model_folder), "test_resnet")
        a, b = (accuracies[pair[name], pair["data"], pair["shots"]] for name in ("model_a", "model_b"))
        assert pair["difference"] == pytest.approx((a - b).mean(), abs=1e-12)
        if (a - b).std() > 0:
            interval = stats.t.interval(0.95, 2, loc=(a - b).mean(), scale=stats.sem(a - b))
            assert pair["ci95_support"] == pytest.approx(interval, abs=1e-9)
        assert pair["ci95"][0] <= pair["difference"] <= pair["ci95"][1]
    assert any(pair["difference"] < -0.02 and pair["ci95"][1] < 0 for pair in found.document["paired"])


def test_models__both_are_evaluated_as_they_are_alone(
    evaluate: Callable[..., Evaluation], two_models: tuple[Evaluation, list[object]]
) -> None:
    found, arguments = two_models
    alone = evaluate("--model", "test_resnet", "--weights", "none", *arguments)
    assert_same_numbers(alone.rows, [row for row in found.rows if row["model"] == "test_resnet"])
    assert alone.document["paired"] == []


def test_paired__rows_of_several_penalties_can_be_told_apart(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object]
) -> None:
    found = evaluate(*tiny_on_photos[2:], "--model", tiny_on_photos[1], "--model", tiny_on_photos[1], "--weights",
                     "none", "--weights", "pretrained", "--l2", "1,1024")  # fmt: skip
    assert [(pair["shots"], pair["l2"]) for pair in found.document["paired"]] == [(1, 1), (1, 1024), (5, 1), (5, 1024)]


# --- where images come from --------------------------------------------------------------------------------


def test_without_splits__a_stratified_fifth_tests_and_is_never_drawn(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation
) -> None:
    assert "test 12 images a stratified fifth of 60, seed 0, never drawn as support" in usual.said
    (pool,) = evaluate(*tiny_on_photos, "--shots", "all").supports
    assert [len(names) for names in pool["seeds"]["0"]] == [16, 16, 16]
    allowed = {name for names in pool["seeds"]["0"] for name in names}
    for orders in usual.supports[0]["seeds"].values():
        assert [len(names) for names in orders] == [5, 5, 5]
        assert {name for names in orders for name in names} <= allowed


def test_test_given__is_what_is_tested_on(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], more_photos: Path, photos: Path
) -> None:
    found = evaluate(*tiny_on_photos, "--test", more_photos)
    assert {row["num_test"] for row in found.rows} == {30}
    assert f"test 30 images given ({more_photos})" in found.said
    assert found.supports[0]["test"] == str(more_photos)
    drawn = [name for orders in found.supports[0]["seeds"].values() for names in orders for name in names]
    assert all(name.startswith(str(photos)) for name in drawn)
    assert found.document["cost"]["images_embedded"] + found.document["cost"]["images_skipped"] == 60 + 30


def test_test_given__images_that_are_also_in_the_support_are_counted(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], photos: Path, more_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(more_photos, tmp_path / "test")
    for index in range(4):  # the same pixels in another file format
        with Image.open(photos / "birch" / f"{index:03d}.png") as image:
            image.save(tmp_path / "test" / "birch" / f"copy{index}.bmp")
    found = evaluate(*tiny_on_photos, "--shots", "all", "--test", tmp_path / "test")
    assert "4 of the 34 test images" in found.said
    assert "also support images, pixel for pixel" in found.said
    assert found.rows[0]["num_test"] == 34


def test_predictions__of_a_model_are_those_its_accuracy_counts(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], more_photos: Path, tmp_path: Path
) -> None:
    found = evaluate(*tiny_on_photos, "--test", more_photos, "--predictions", tmp_path / "deep" / "p.npz")
    truth = np.repeat([0, 1, 2], 10)  # in the order of the folder
    with np.load(tmp_path / "deep" / "p.npz") as file:
        assert set(file) == {f"s{seed}_k{shots}_l1024_pred" for seed in range(3) for shots in (1, 5)}
        for row in found.rows:
            per_seed = [np.mean(file[f"s{seed}_k{row['shots']}_l1024_pred"] == truth) for seed in range(3)]
            assert row["top1_per_seed"] == pytest.approx(per_seed, abs=1e-12)


def test_classes_with_fewer_images_than_shots_are_warned_of_and_counted(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], photos: Path, more_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "uneven")
    for path in sorted((tmp_path / "uneven" / "cedar").iterdir())[3:]:
        path.unlink()
    found = evaluate("--model", tiny_on_photos[1], "--data", tmp_path / "uneven", "--test", more_photos, "--shots",
                     "1,5", "--seeds", 2, "--num-workers", 0)  # fmt: skip
    assert "1 of 3 classes have fewer than 5 images to draw from (least: 3, 'cedar')" in found.said
    assert "fewer than 1 images" not in found.said
    assert [(row["num_short_classes"], row["num_support"]) for row in found.rows] == [(0, 3), (1, 13)]
    assert [len(names) for names in found.supports[0]["seeds"]["1"]] == [5, 5, 3]


def test_on_bad_image_skip__leaves_it_out_of_pool_and_test(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], photos: Path, more_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "pool")
    shutil.copytree(more_photos, tmp_path / "test")
    (tmp_path / "pool" / "ash" / "003.png").write_bytes(b"no image")
    (tmp_path / "test" / "birch" / "001.png").write_bytes(b"")
    found = evaluate("--model", tiny_on_photos[1], "--data", tmp_path / "pool", "--test", tmp_path / "test", "--shots",
                     "all", "--on-bad-image", "skip", "--num-workers", 0)  # fmt: skip
    assert found.said.count("left out: ") == 2
    assert [len(names) for names in found.supports[0]["seeds"]["0"]] == [19, 20, 20]
    assert not any("003.png" in name for name in found.supports[0]["seeds"]["0"][0])
    assert found.rows[0]["num_test"] == 29


def test_known_classes__are_warned_of_by_name(
    evaluate: Callable[..., Evaluation], tiny_model_folder: Path, image_folder: Path, usual: Evaluation
) -> None:
    found = evaluate(
        "--model", tiny_model_folder, "--data", image_folder, "--shots", 1, "--seeds", 2, "--num-workers", 0
    )
    assert "3 of the 3 classes" in found.said
    assert "(blue, green, red): these are no new classes to it" in found.said
    assert "no new classes" not in usual.said


@pytest.mark.parametrize("model", ["demo", "tiny"])
def test_known_classes__are_new_to_random_weights(
    evaluate: Callable[..., Evaluation], tiny_model_folder: Path, image_folder: Path, tmp_path: Path, model: str
) -> None:
    data = image_folder.rename(tmp_path / "fashion-mnist")
    found = evaluate("--model", "demo" if model == "demo" else tiny_model_folder, "--weights", "none", "--data", data,
                     "--shots", 1, "--seeds", 2, "--num-workers", 0)  # fmt: skip
    assert "no new classes" not in found.said


def test_a_run_is_a_model(evaluate: Callable[..., Evaluation], finished_run: Path) -> None:
    found = evaluate("--model", finished_run, "--data", finished_run.parent / "data", "--shots", "1,5", "--seeds", 2)
    assert {(row["model"], row["num_test"], row["num_classes"]) for row in found.rows} == {(str(finished_run), 15, 3)}
    assert "its own split test" in found.said
    assert found.rows[-1]["top1_mean"] > 0.9  # it was trained on these colours


# --- layers, poolings, classifiers -------------------------------------------------------------------------


def test_layers__have_their_names_in_the_networks_order(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation
) -> None:
    found = evaluate(*tiny_on_photos, "--layers", "final,embed,0")
    assert [(row["layer"], row["shots"]) for row in found.rows] == [
        (layer, shots) for layer in ("embed", 0, "final") for shots in (1, 5)
    ]
    assert_same_numbers(found.rows[-2:], usual.rows)  # one pass or three
    # the class token has seen nothing yet there: native is the mean of the patches
    patches = evaluate(*tiny_on_photos, "--layers", "embed", "--pool", "mean")
    assert_same_numbers([row | {"pool": "native"} for row in patches.rows], found.rows[:2])


def test_layers_all__times_poolings(evaluate: Callable[..., Evaluation], tiny_on_photos: list[object]) -> None:
    found = evaluate(*tiny_on_photos, "--shots", 5, "--layers", "all", "--pool", "native,mean,cls+mean,tokens")
    assert [(row["layer"], row["pool"]) for row in found.rows] == [
        (layer, pool) for layer in (0, 1, "final") for pool in ("native", "mean", "cls+mean", "tokens")
    ]
    assert found.document["cost"]["images_embedded"] <= 60  # every image once


def test_a_cnn_has_stages(evaluate: Callable[..., Evaluation], photos: Path) -> None:
    found = evaluate("--model", "test_resnet", "--weights", "none", "--image-size", 32, "--data", photos, "--shots", 5,
                     "--seeds", 2, "--layers", "all", "--pool", "mean,tokens", "--num-workers", 0)  # fmt: skip
    assert [row["layer"] for row in found.rows[::2]] == [0, 1, 2, 3, "final"]


def test_l2_loo__falls_back_at_one_shot_and_says_so(evaluate: Callable[..., Evaluation]) -> None:
    found = evaluate(*FEATURES, "--shots", "1,5,10", "--seeds", 3, "--l2", "loo")
    assert "at one shot leave-one-out has nothing to go by: l2 is 1024 there" in found.said
    assert (found.rows[0]["l2"], found.rows[0]["l2_per_seed"]) == (1024.0, [1024.0] * 3)
    for row in found.rows[1:]:
        assert all(isinstance(value, float) for value in row["l2_per_seed"])
        assert row["l2"] == (row["l2_per_seed"][0] if len(set(row["l2_per_seed"])) == 1 else None)
    assert any(row["l2_per_seed"] != [1024.0] * 3 for row in found.rows[1:])


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (("--classifier", "centroid"), {"s0_k5_centroid_pred"}),
        (("--classifier", "knn", "--neighbours", "3,1"), {"s0_k5_knn1_pred", "s0_k5_knn3_pred"}),
        (("--classifier", "knn", "--neighbours", "40,50"), {"s0_k5_knn40_pred"}),  # 30 support rows: one and the same
    ],
)
def test_classifiers__predict_what_scikit_learn_predicts(
    evaluate: Callable[..., Evaluation], tmp_path: Path, options: tuple[str, ...], keys: set[str]
) -> None:
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    found = evaluate(*FEATURES, "--shots", 5, "--seeds", 1, *options, "--predictions", tmp_path / "p.npz")
    with np.load(FEATURES[1]) as file:
        arrays = dict(file)
    rows = np.concatenate(found.supports[0]["seeds"]["0"])
    x, y, asked = (values.astype(np.float64) for values in (arrays["x_train"], arrays["y_train"], arrays["x_test"]))
    with np.load(tmp_path / "p.npz") as file:
        predicted = dict(file)
    assert set(predicted) == keys
    for name, classes in predicted.items():
        if "centroid" in name:
            expected = NearestCentroid().fit(x[rows], y[rows]).predict(asked)
        else:
            neighbours = min(int(name.split("knn")[1].split("_")[0]), len(rows))
            votes = KNeighborsClassifier(neighbours, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
            expected = votes.fit(x[rows], y[rows]).predict(asked)
        np.testing.assert_array_equal(classes, expected)
    assert found.rows[0]["l2"] is None


def test_preprocess_big_vision__is_another_picture_of_the_same_images(
    evaluate: Callable[..., Evaluation], tiny_on_photos: list[object], usual: Evaluation
) -> None:
    found = evaluate(*tiny_on_photos, "--preprocess", "big_vision")
    assert "preprocessing big_vision" in found.said
    assert found.supports == usual.supports
    assert found.rows[0]["cosine_within"] != usual.rows[0]["cosine_within"]


# --- episodes ----------------------------------------------------------------------------------------------


def test_episodes__accuracies_are_those_of_what_was_drawn(evaluate: Callable[..., Evaluation]) -> None:
    found = evaluate(*FEATURES, "--protocol", "episodes", "--ways", "2,5", "--shots", "1,4", "--queries", 6,
                     "--episodes", 40, "--seeds", 2, "--classifier", "centroid")  # fmt: skip
    with np.load(FEATURES[1]) as file:
        x, labels, asked, truth = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    with np.load(found.folder / "episodes.npz") as file:
        drawn = dict(file)
    assert [(row["ways"], row["shots"]) for row in found.rows] == [(2, 1), (2, 4), (5, 1), (5, 4)]
    for row in found.rows:
        ways, shots = row["ways"], row["shots"]
        accuracies = []
        for seed in range(2):
            classes, support, queries = (drawn[f"d0_s{seed}_{name}"] for name in ("classes", "support", "queries"))
            assert (classes.shape, support.shape, queries.shape) == ((40, 5), (40, 5, 4), (40, 5, 6))
            assert all(len(set(one)) == 5 for one in classes.tolist())
            assert all(len(set(one.ravel().tolist())) == one.size for one in (*support, *queries))
            np.testing.assert_array_equal(labels[support], np.repeat(classes[:, :, None], 4, axis=2))
            np.testing.assert_array_equal(truth[queries], np.repeat(classes[:, :, None], 6, axis=2))
            for episode in range(40):
                means = x[support[episode, :ways, :shots]].astype(np.float64).mean(axis=1)
                rows = asked[queries[episode, :ways]].astype(np.float64)  # (ways, 6, D)
                nearest = ((rows[:, :, None] - means) ** 2).sum(axis=3).argmin(axis=2)
                accuracies.append(np.mean(nearest == np.arange(ways)[:, None]))
        mean, half = np.mean(accuracies), 1.96 * np.std(accuracies) / math.sqrt(80)
        assert row["top1_mean"] == pytest.approx(mean, abs=1e-12)
        assert row["top1_ci95"] == pytest.approx([max(0, mean - half), min(1, mean + half)], abs=1e-12)
        assert row["top1_per_seed"] == pytest.approx([np.mean(accuracies[:40]), np.mean(accuracies[40:])], abs=1e-12)
        assert (row["episodes"], row["num_support"], row["num_test"]) == (80, ways * shots, ways * 6)


@pytest.fixture(scope="module")
def demo_episodes(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run_alone(tmp_path_factory.mktemp("episodes"), "--protocol", "episodes", "--ways", "2,4,8", "--shots",
                     "1,4", "--classifier", "centroid", "--episodes", 25, "--queries", 3)  # fmt: skip


def test_episodes__accuracy_falls_with_ways_and_rises_with_shots(demo_episodes: Evaluation) -> None:
    grid = {(row["ways"], row["shots"]): row["top1_mean"] for row in demo_episodes.rows}
    for shots in (1, 4):
        assert grid[2, shots] > grid[4, shots] > grid[8, shots] > 1 / 8
    for ways in (2, 4, 8):
        assert grid[ways, 4] > grid[ways, 1] > 1 / ways
    assert (demo_episodes.folder / "ways_shots.png").is_file()


def test_episodes__images_are_named(demo_episodes: Evaluation) -> None:
    labels = load_digits().target
    with np.load(demo_episodes.folder / "episodes.npz") as file:
        drawn = dict(file)
    for part, images in (("support", "d0_support_images"), ("queries", "d0_test_images")):
        rows = np.array([int(name.removeprefix("digits/")) for name in drawn[images]])
        found = labels[rows[drawn[f"d0_s0_{part}"]]]  # (25, 8, ...)
        assert (found == drawn["d0_s0_classes"][:, :, None]).all()
    cost = demo_episodes.document["cost"]
    assert cost["images_embedded"] == len(drawn["d0_support_images"]) + len(drawn["d0_test_images"])
    assert cost["images_embedded"] + cost["images_skipped"] == 1797


def test_episodes__more_neighbours_than_there_are_images_are_one_result(evaluate: Callable[..., Evaluation]) -> None:
    found = evaluate(*FEATURES, "--protocol", "episodes", "--ways", 2, "--shots", "1,5", "--episodes", 5,
                     "--classifier", "knn", "--neighbours", "3,40,50")  # fmt: skip
    assert [(row["shots"], row["neighbours"]) for row in found.rows] == [(1, 3), (5, 3), (5, 40)]  # as in linear


# --- on the screen -----------------------------------------------------------------------------------------


def table_of(stdout: str, first: str) -> list[list[str]]:
    """Return the cells of the table whose header starts with ``first``."""
    lines = stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(first))
    end = next((index for index in range(start, len(lines)) if not lines[index].strip()), len(lines))
    return [line.split("  ") for line in lines[start:end]]


def words(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells if cell.strip()]


@pytest.fixture
def seen(run_cli: Callable[..., Any], tmp_path: Path, no_rendering: None) -> Callable[..., Any]:
    def run(*args: object) -> Any:
        result = run_cli("fewshot-eval", *args, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        return result

    return run


def test_screen__table_cosines_cost_and_files(
    seen: Callable[..., Any], golden_run: tuple[Evaluation, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    result = seen(*FEATURES, "--l2", "1024,1", "--seeds", 3)
    lines = table_of(result.stdout, "shots")
    assert words(lines[0]) == ["shots", "l2", "top-1", "sd", "95 % over supports", "and test images", "seeds 0-2"]
    assert len(lines) == 1 + 8
    row = golden_run[0].rows[3]  # 5 shots, l2 1
    low, high = row["top1_ci95"]
    cells = words(lines[4])
    assert cells[:4] == ["5", "1", f"{row['top1_mean']:.2%}", f"{row['top1_std']:.2%}"]
    assert cells[5:] == [f"{low:.2%} to {high:.2%}", f"{row['top1_mean_first3']:.2%}"]
    assert f"cosine similarity  {row['cosine_within']:.3f} within a class" in result.stdout
    assert "0 images embedded" in result.stdout
    assert str(tmp_path / "out") in result.stdout
    assert "{" not in result.stdout


def test_screen__columns_name_what_varies_and_models_are_compared(
    seen: Callable[..., Any], tiny_on_photos: list[object]
) -> None:
    result = seen(*tiny_on_photos[2:], "--model", tiny_on_photos[1], "--model", tiny_on_photos[1], "--weights", "none",
                  "--weights", "pretrained", "--layers", "0,final")  # fmt: skip
    lines = table_of(result.stdout, "model ")
    assert words(lines[0])[:4] == ["model", "layer", "shots", "l2"]
    assert len(lines) == 1 + 2 * 2 * 2
    assert "differences on the same supports and test images" in result.stdout
    assert "less model" in result.stdout


def test_screen__of_many_rows_sixty_are_shown(seen: Callable[..., Any]) -> None:
    result = seen(*FEATURES, "--seeds", 1, "--shots", ",".join(map(str, range(1, 22))), "--l2", "1,32,1024")
    assert len(table_of(result.stdout, "shots")) == 1 + 60 + 1
    assert "... and 3 more rows in results.csv" in result.stdout


def test_screen__penalties_chosen_anew_for_every_seed_are_called_so(seen: Callable[..., Any]) -> None:
    result = seen(*FEATURES, "--shots", "1,5", "--seeds", 6, "--l2", "loo")
    document = json.loads((Path(result.stdout.split("files")[1].strip()) / "results.json").read_text())
    assert document["results"][1]["l2"] is None  # else this shows nothing
    assert [words(line)[1] for line in table_of(result.stdout, "shots")[1:]] == ["1024", "by seed"]


def test_screen__episodes(seen: Callable[..., Any]) -> None:
    result = seen(*FEATURES, "--protocol", "episodes", "--ways", "2,3", "--shots", 1, "--episodes", 50)
    lines = table_of(result.stdout, "ways")
    assert words(lines[0]) == ["ways", "shots", "l2", "top-1", "sd", "95 % interval", "episodes"]
    assert [words(line)[:2] for line in lines[1:]] == [["2", "1"], ["3", "1"]]
    assert words(lines[1])[-1] == "50"
    assert "ways; shots 2, 3; 1" in " ".join(result.stderr.split())
