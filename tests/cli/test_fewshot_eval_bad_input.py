"""Bad input of ``vitctl fewshot-eval``: one sentence on stderr, the agreed exit code, nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# --- what is handed over: a function that changes the folder of 3 classes with 12 images each ---------------


def nothing(folder: Path) -> None:
    """The data are fine; the options are not."""


def one_class(folder: Path) -> None:
    for name in ("green", "blue"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


def one_image_per_class(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        if path.stem != "0":
            path.unlink()


def unreadable(folder: Path) -> None:
    (folder / "red" / "3.png").write_bytes(b"no image")


def all_unreadable(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no image")


def splits(folder: Path, **names: tuple[str, ...]) -> None:
    """Make a data set ``splits`` beside the folder: images of the classes ``names[split]``."""
    for split, classes in names.items():
        for label, name in enumerate(classes):
            (folder.parent / "splits" / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = np.random.default_rng([label, index, len(split)]).integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder.parent / "splits" / split / name / f"{index}.png")


def violet_to_test(folder: Path) -> None:
    splits(folder, train=("red", "green"), test=("red", "green", "violet"))


def only_train(folder: Path) -> None:
    splits(folder, train=("red", "green", "blue"))


IMAGES: dict[str, tuple[Callable[[Path], None], str, int, tuple[str, ...]]] = {
    # data
    "no data there": (nothing, "--data {data}x", 3, ("nothing at", "expected")),
    "no test there": (nothing, "--data {data} --test {data}x", 3, ("nothing at", "expected")),
    "data are a file": (nothing, "--data {data}/red/0.png", 3, ("0.png", "expected")),
    "one class": (one_class, "--data {data}", 3, ("one class", "'red'", "two or more")),
    "too few to test on": (one_image_per_class, "--data {data}", 3, ("too few images", "--test")),
    "test knows more classes": (violet_to_test, "--data {splits}", 3, ("'violet'", "unknown in training")),
    "test is a train split": (only_train, "--data {data} --test {splits}", 3, ("splits train", "expected test, val")),
    "unreadable, drawn": (unreadable, "--data {data} --shots all", 3, ("3.png", "not an image", "--on-bad-image skip")),
    "all unreadable": (all_unreadable, "--data {data} --on-bad-image skip", 3, ("{data}",)),
    "group column of a folder": (
        nothing,
        "--data {data} --group-pattern {group}-*",
        3,
        ("--group-pattern", "36 of 36"),
    ),
    "two groupings": (nothing, "--data {data} --group-pattern {group}* --group-column a", 2, ("both given",)),
    "an option of tables": (nothing, "--data {data} --label-column y", 2, ("--label-column", "no use for it")),
    # models
    "misspelt model": (nothing, "--data {data} --model vit_tinny_patch16_224", 4, ("vit_tiny_patch16_224",)),
    "a folder that is no model": (nothing, "--data {data} --model {data}", 4, ("{data}", "expected")),
    "missing weights": (nothing, "--data {data} --weights gone.safetensors", 4, ("gone.safetensors",)),
    "no network": (nothing, "--data {data} --model vit_tiny_patch16_224", 4, ("hub", "--weights FILE")),
    "weights twice, one model": (nothing, "--data {data} --weights none --weights none", 2, ("--weights", "2 times")),
    "three models, two weights": (
        nothing,
        "--data {data} --model demo --model test_resnet --weights none --weights none",
        2,
        ("--weights is given 2 times and --model 3 times",),
    ),
    "a model twice": (nothing, "--data {data} --model {model}", 2, ("--model {model} is given twice",)),
    "data twice": (nothing, "--data {data} --data {data}", 2, ("--data {data} is given twice",)),
    "data twice, spelt otherwise": (nothing, "--data {data} --data {data}/", 2, ("--data", "twice")),
    "two data sets, one test": (nothing, "--data {data} --data digits --test digits", 2, ("--test is given 1 times",)),
    # layers, pooling, preprocessing
    "unknown layer": (nothing, "--data {data} --layers 2", 2, ("'2'", "no layer of", "embed, 0 to 1, final")),
    "a layer with a name": (nothing, "--data {data} --layers final,top", 2, ("'top'", "embed, 0 to 1, final")),
    "no class token": (
        nothing,
        "--data {data} --model test_resnet --weights none --weights none --image-size 32 --pool cls",
        2,
        ("--pool cls", "test_resnet has no class token", "mean or native"),
    ),
    "class token before the first block": (
        nothing,
        "--data {data} --layers embed,0 --pool cls",
        2,
        ("--pool cls", "layer embed", "--pool mean"),
    ),
    "unknown pooling": (
        nothing,
        "--data {data} --pool native,max",
        2,
        ("'max'", "native, cls, mean, cls+mean, mean-all, first, tokens"),
    ),
    "big_vision, not square": (
        nothing,
        "--data {data} --preprocess big_vision --image-size 16x24",
        2,
        ("--preprocess big_vision", "16x24", "square --image-size"),
    ),
    "size not divisible": (nothing, "--data {data} --image-size 18", 2, ("18", "16 and 20")),
    "size no number": (nothing, "--data {data} --image-size big", 2, ("'big'", "HEIGHTxWIDTH")),
    # numbers and choices
    "no shots": (nothing, "--data {data} --shots 0", 2, ("--shots is '0'", "from 1", "or all")),
    "shots no number": (nothing, "--data {data} --shots 5,x", 2, ("--shots is '5,x'", "or all")),
    "no seeds": (nothing, "--data {data} --seeds 0", 2, ("--seeds is 0", "1 or more")),
    "negative penalty": (nothing, "--data {data} --l2=-1", 2, ("--l2 is '-1'", "expected numbers", "loo")),
    "no neighbours": (nothing, "--data {data} --classifier knn --neighbours 0", 2, ("--neighbours is '0'", "from 1")),
    "misspelt classifier": (nothing, "--data {data} --classifier rigde", 2, ("'rigde'", "Did you mean 'ridge'")),
    "misspelt preprocessing": (nothing, "--data {data} --preprocess bigvision", 2, ("Did you mean 'big_vision'",)),
    "no batch": (nothing, "--data {data} --batch-size 0", 2, ("--batch-size is 0", "1 or more")),
    # options that would do nothing
    "ways, linear": (nothing, "--data {data} --ways 3", 2, ("--ways", "without --protocol episodes")),
    "queries, linear": (nothing, "--data {data} --queries 3", 2, ("--queries", "without --protocol episodes")),
    "l2 of knn": (nothing, "--data {data} --classifier knn --l2 1", 2, ("--l2", "--classifier knn", "leave it out")),
    "balance of centroids": (nothing, "--data {data} --classifier centroid --balance weighted", 2, ("--balance",)),
    "neighbours of ridge": (nothing, "--data {data} --neighbours 3", 2, ("--neighbours", "--classifier ridge")),
    "predictions of layers": (
        nothing,
        "--data {data} --predictions p.npz --layers 0,1",
        2,
        ("--predictions", "one of"),
    ),
    "predictions of poolings": (nothing, "--data {data} --predictions p.npz --pool cls,mean", 2, ("--predictions",)),
    "predictions of models": (nothing, "--data {data} --predictions p.npz --model demo", 2, ("--predictions",)),
    "predictions of episodes": (
        nothing,
        "--data {data} --predictions p.npz --protocol episodes",
        2,
        ("--predictions", "--protocol episodes"),
    ),
    # episodes
    "more ways than classes": (nothing, "--data {data} --protocol episodes --ways 4", 2, ("--ways is 4", "3 classes")),
    "one way": (nothing, "--data {data} --protocol episodes --ways 1", 2, ("--ways is '1'", "from 2")),
    "too few queries": (
        nothing,
        "--data {data} --protocol episodes --ways 3 --shots 1",
        3,
        ("0 of the 3 classes", "15 test images", "--queries"),
    ),
    "too few shots": (
        nothing,
        "--data {data} --protocol episodes --ways 3 --shots 11 --queries 1",
        3,
        ("of the 3 classes", "11 images to draw from"),
    ),
    "all shots of episodes": (nothing, "--data {data} --protocol episodes --shots all", 2, ("--shots all", "episodes")),
    # where to write
    "out inside the data": (nothing, "--data {data} --out {data}/out", 2, ("inside the data", "elsewhere")),
    "out inside the test data": (only_train, "--data {data} --test {data} --out {data}/a/b", 2, ("inside the data",)),
    "out is a file": (nothing, "--data {data} --out {data}/red/1.png", 2, ("is a file",)),
    "out below a file": (nothing, "--data {data} --out {data}/red/1.png/x/y", 2, ("is a file",)),
    "predictions no npz": (nothing, "--data {data} --predictions p.csv", 2, ("p.csv", ".npz")),
    "predictions are a folder": (
        nothing,
        "--data {data} --predictions {splits}.npz",
        2,
        ("splits.npz", "is a folder"),
    ),
    "predictions below a file": (
        nothing,
        "--data {data} --predictions {data}/red/1.png/a/p.npz",
        2,
        ("--predictions",),
    ),
    "predictions inside the data": (nothing, "--data {data} --predictions {data}/p.npz", 2, ("inside the data",)),
    "cache inside the data": (nothing, "--data {data} --cache {data}/features", 2, ("inside the data",)),
    "cache is a file": (nothing, "--data {data} --cache {data}/red/1.png", 2, ("--cache", "1.png")),
    # named, but empty
    "empty model": (nothing, "--data {data} --model=", 2, ("--model is empty",)),
    "empty data": (nothing, "--data=", 2, ("--data is empty",)),
    "empty test": (nothing, "--data {data} --test=", 2, ("--test is empty",)),
    "empty weights": (nothing, "--data {data} --weights=", 2, ("--weights is empty",)),
    "empty shots": (nothing, "--data {data} --shots=", 2, ("--shots is empty",)),
    # the machine
    "no GPU here": (nothing, "--data {data} --device cuda", 5, ("cuda", "cpu")),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images__one_sentence_and_nothing_written(
    request: pytest.FixtureRequest, refused: Callable[..., None], tiny_model_folder: Path, tmp_path: Path, case: str
) -> None:
    change, line, exit_code, words = IMAGES[case]
    folder: Path = request.getfixturevalue("whole_folder" if change is nothing else "image_folder")
    change(folder)
    places = {"data": folder, "model": tiny_model_folder, "splits": tmp_path / "splits", "group": "{group}"}
    if ".npz" in line and "{splits}" in line:
        (tmp_path / "splits.npz").mkdir()
    options = ["--model", tiny_model_folder, *(part.format(**places) for part in line.split())]
    expected = [word.format(**places) for word in words]
    refused(["fewshot-eval", *options], exit_code, expected, folder, tiny_model_folder)


def test_an_empty_class_folder_is_named(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    (image_folder / "grey").mkdir()
    result = run_cli("fewshot-eval", "--model", tiny_model_folder, "--data", image_folder, "--shots", 1, "--seeds", 2)
    assert result.exit_code in (0, 3)
    assert "grey" in result.stderr


# --- features of a file ------------------------------------------------------------------------------------

Arrays = dict[str, Any]


def put(name: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name][place] = value

    return change


def replace(name: str, by: Callable[[np.ndarray], Any]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = by(arrays[name])

    return change


def one_class_only(arrays: Arrays) -> None:
    arrays["y_train"], arrays["y_test"] = 0 * arrays["y_train"], 0 * arrays["y_test"]


def as_they_are(arrays: Arrays) -> None:
    """The features are fine; the options are not."""


FEATURES: dict[str, tuple[Callable[[Arrays], object], str, int, tuple[str, ...]]] = {
    "NaN": (put("x_train", (3, 2), np.nan), "", 3, ("x_train", "1 number that is not finite", "row 3, column 2")),
    "infinity": (put("x_test", (0, 1), -np.inf), "", 3, ("x_test", "not finite", "row 0, column 1")),
    "negative label": (put("y_train", 4, -1), "", 3, ("y_train", "-1", "from 0")),
    "label out of range": (put("y_test", 4, 3), "", 3, ("y_test holds class 3", "0 to 2")),
    "float labels": (replace("y_train", lambda y: y.astype(float)), "", 3, ("y_train holds float64", "whole numbers")),
    "labels that are words": (replace("y_test", lambda y: y.astype(str)), "", 3, ("y_test holds <U", "whole numbers")),
    "fewer labels": (replace("y_train", lambda y: y[:-1]), "", 3, ("x_train is (30, 4)", "y_train (29,)")),
    "other width": (replace("x_test", lambda x: x[:, :3]), "", 3, ("x_train is 4 wide and x_test 3",)),
    "one dimension": (replace("x_train", lambda x: x[:, 0]), "", 3, ("x_train is (30,)", "(rows, width)")),
    "no rows": (
        lambda arrays: arrays.update(x_test=arrays["x_test"][:0], y_test=arrays["y_test"][:0]),
        "",
        3,
        ("x_test is (0, 4)", "at least one"),
    ),
    "complex": (replace("x_train", lambda x: x.astype(complex)), "", 3, ("complex128", "real numbers")),
    "objects": (replace("x_train", lambda x: x.astype(object)), "", 3, ("cannot be read", ".npz")),
    "an array missing": (lambda arrays: arrays.pop("y_test"), "", 3, ("lacks y_test", "It holds x_train")),
    "one class": (one_class_only, "", 3, ("fewer than two classes",)),
    "episodes impossible": (as_they_are, "--protocol episodes --ways 3", 3, ("0 of the 3 classes", "25 images")),
    "ways": (as_they_are, "--protocol episodes --ways 9 --shots 1", 2, ("--ways is 9", "3 classes")),
    "layers": (as_they_are, "--layers 0", 2, ("--layers", "beside --features", "leave it out")),
    "model": (as_they_are, "--model demo", 2, ("--model", "beside --features")),
    "data": (as_they_are, "--data digits", 2, ("--data", "beside --features")),
    "cache": (as_they_are, "--cache c", 2, ("--cache", "beside --features")),
    "batches": (as_they_are, "--batch-size 7", 2, ("--batch-size", "beside --features")),
    "preprocessing": (as_they_are, "--preprocess big_vision", 2, ("--preprocess", "beside --features")),
    "predictions over the features": (
        as_they_are,
        "--predictions {file}",
        2,
        ("--predictions", "the file of features"),
    ),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features__one_sentence_and_nothing_written(refused: Callable[..., None], tmp_path: Path, case: str) -> None:
    change, line, exit_code, words = FEATURES[case]
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 10)
    arrays: Arrays = {half: rng.normal(size=(30, 4)) for half in ("x_train", "x_test")}
    arrays |= {"y_train": labels.copy(), "y_test": labels.copy()}
    change(arrays)
    file = tmp_path / "features.npz"
    np.savez(file, allow_pickle=True, **arrays)
    refused(["fewshot-eval", "--features", file, *line.format(file=file).split()], exit_code, words)


def text_file(path: Path) -> None:
    path.write_text("hello")


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def cut_file(path: Path) -> None:
    np.savez(path, x_train=np.zeros((50, 50)))
    path.write_bytes(path.read_bytes()[:-30])


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 4)))


@pytest.mark.parametrize("write", [Path.mkdir, text_file, empty_file, cut_file, one_array, None])
def test_features__a_file_that_is_no_npz(
    run_cli: Callable[..., Any], tmp_path: Path, write: Callable[[Path], None] | None
) -> None:
    if write is not None:
        write(tmp_path / "features.npz")
    result = run_cli("fewshot-eval", "--features", tmp_path / "features.npz")
    said = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (3, "")
    assert said.startswith(f"error: --features {tmp_path / 'features.npz'} cannot be read")
    assert "expected an .npz file" in said
    for jargon in ("context manager", "allow_pickle", "unsafely"):  # of numpy's, and bad advice
        assert jargon not in said
    assert list(Path.cwd().iterdir()) == []


# --- before anything slow ----------------------------------------------------------------------------------

EARLY = {
    "cache below a file": "--cache {data}/red/0.png/x",
    "predictions below a file": "--predictions {data}/red/0.png/x/p.npz",
    "second model unknown": "--model nosuchmodel --weights none --weights none",
    "second model lacks the layer": "--model test_convnext --layers 4 --weights none --weights none --image-size 32",
    "second model has no class token": "--model test_resnet --pool cls --weights none --weights none --image-size 32",
}


@pytest.mark.parametrize("case", EARLY)
def test_what_cannot_work_is_refused_before_images_are_embedded(
    run_cli: Callable[..., Any],
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    from vitctl.evaluation import embedding

    def embed(*_args: object, **_options: object) -> None:
        raise AssertionError("images are embedded")

    monkeypatch.setattr(embedding, "collect_features", embed)
    monkeypatch.setattr(embedding, "stream_features", embed)
    first = ["--model", "test_vit"] + ([] if "--model" in EARLY[case] else ["--weights", "none"])
    options = EARLY[case].format(data=image_folder).split()
    result = run_cli("fewshot-eval", "--data", image_folder, "--shots", 1, *first, *options)
    assert result.exit_code in (2, 4), result.stderr
    assert result.stderr.count("error: ") == 1
    assert list(Path.cwd().iterdir()) == []
