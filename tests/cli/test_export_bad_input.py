"""Bad input of ``vitctl export``: one sentence on stderr, the agreed exit code, nothing written or changed."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def save_model(folder: Path, name: str, class_names: list[str], **changes: Any) -> None:
    import timm

    from vitctl.models.timm_folder import save_timm_folder
    from vitctl.primitives.preprocessing import Preprocessing

    model = timm.create_model(name, num_classes=len(class_names), **changes)
    preprocessing = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    save_timm_folder(
        model, folder, class_names=class_names, preprocessing=preprocessing, base_model="random", base_licence=None
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models that not every format holds: registers, no head, a CNN, a class name twice."""
    folder = tmp_path_factory.mktemp("unusual")
    names = ["red", "green", "blue"]
    save_model(folder / "registers", "vit_tiny_patch16_224", names, **TINY, reg_tokens=2)
    save_model(folder / "headless", "vit_tiny_patch16_224", [], **TINY)
    save_model(folder / "twice", "vit_tiny_patch16_224", ["red", "green", "red"], **TINY)
    save_model(folder / "cnn", "test_resnet", names)
    return folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be damaged."""
    return shutil.copytree(finished_run, tmp_path / "runs" / "photos")


# --- what is wrong with the run -----------------------------------------------------------------------------


def nothing(run: Path) -> None:
    """The run is fine; the options are not."""


def an_export_is_there(run: Path) -> None:
    (run / "exports" / "timm").mkdir(parents=True)
    (run / "exports" / "timm" / "mine.txt").write_text("kept")


def an_empty_folder_is_there(run: Path) -> None:
    (run / "exports" / "timm").mkdir(parents=True)


def a_file_of_that_name_is_there(run: Path) -> None:
    (run / "exports").mkdir()
    (run / "exports" / "timm").write_text("kept")


def exports_is_a_file(run: Path) -> None:
    (run / "exports").write_text("kept")


def no_weights(run: Path) -> None:
    shutil.rmtree(run / "best")
    shutil.rmtree(run / "last")


def no_best_weights(run: Path) -> None:
    (run / "best" / "model.safetensors").unlink()


def no_last(run: Path) -> None:
    shutil.rmtree(run / "last")


def truncated_weights(run: Path) -> None:
    path = run / "best" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def no_json_in_best(run: Path) -> None:
    (run / "best" / "config.json").write_text('{"architecture": ')


def images_to_verify(run: Path) -> Path:
    folder = run.parent / "images"
    rng = np.random.default_rng(0)
    for name in ("blue", "green", "red"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return folder


def text_among_the_images(run: Path) -> None:
    (images_to_verify(run) / "red" / "1.png").write_text("no image")


def half_an_image(run: Path) -> None:
    path = images_to_verify(run) / "green" / "2.png"
    path.write_bytes(path.read_bytes()[:-60])


def all_unreadable(run: Path) -> None:
    for path in images_to_verify(run).rglob("*.png"):
        path.write_bytes(b"no image")


def an_empty_folder(run: Path) -> None:
    (run.parent / "images").mkdir()


# what is wrong with the run, options after "export" ({run}: the run; {models}, {tiny}: other models), exit code, words
CASES: dict[str, tuple[Callable[[Path], None], str, int, tuple[str, ...]]] = {
    # which model
    "nothing given": (nothing, "", 2, ("run folder or --model", "found neither")),
    "two models": (nothing, "{run} --model demo", 2, ("--model", "found both")),
    "weights beside a run": (nothing, "{run} --weights none", 2, ("--weights", "'none'", "run folder")),
    "no such run": (nothing, "{run}x", 4, ("photosx", "vitctl models")),
    "no such model": (nothing, "--model vit_tinny_patch16_224", 4, ("vit_tiny_patch16_224",)),
    "empty model": (nothing, "--model=", 2, ("--model is empty",)),
    "missing weights file": (nothing, "--model test_vit --weights gone.npz", 4, ("gone.npz",)),
    "no network": (nothing, "--model vit_tiny_patch16_224", 4, ("hub", "--weights FILE")),
    "no weights": (
        no_weights,
        "{run}",
        4,
        ("stopped before it had weights", "best/ or last/", "vitctl finetune --resume"),
    ),
    "best without its file": (no_best_weights, "{run}", 4, ("no weights in best/", "best/model.safetensors")),
    "last that is not there": (no_last, "{run} --which last", 4, ("no weights in last/", "last/model.safetensors")),
    "truncated weights": (
        truncated_weights,
        "{run} --to timm",
        4,
        ("model.safetensors is damaged", "photos/best", "header"),
    ),
    "best is no JSON": (no_json_in_best, "{run} --to timm", 4, ("config.json",)),
    "last of a plain folder": (nothing, "{tiny} --which last", 2, ("--which last", "no run folder", "leave it out")),
    "last of best/": (nothing, "{run}/best --which last", 2, ("--which last", "no run folder")),
    "last of a name": (nothing, "--model demo --which last", 2, ("--which", "beside --model", "leave it out")),
    "misspelt which": (nothing, "{run} --which lats", 2, ("'lats'", "Did you mean 'last'")),
    # which formats
    "unknown format": (nothing, "{run} --to onnxx", 2, ("--to is 'onnxx'", "pt2", "Did you mean 'onnx'")),
    "unknown among known": (nothing, "{run} --to onnx,torchscript", 2, ("'torchscript'", "onnx, timm, hf, npz, pt2")),
    "empty entry": (nothing, "{run} --to onnx,,timm", 2, ("--to is ''", "onnx, timm")),
    "no format": (nothing, "{run} --to=", 2, ("--to is empty",)),
    "opset too old": (nothing, "{run} --opset 16", 2, ("--opset is 16", "18 to 25")),
    "opset too new": (nothing, "{run} --opset 99", 2, ("--opset is 99", "18 to 25")),
    "opset no number": (nothing, "{run} --opset new", 2, ("--opset is 'new'", "a whole number")),
    "opset without onnx": (nothing, "{run} --to pt2 --opset 20", 2, ("--opset", "without --to onnx", "leave it out")),
    "precision without onnx": (nothing, "{run} --to pt2 --precision fp16", 2, ("--precision", "without --to onnx")),
    "misspelt precision": (nothing, "{run} --precision fp61", 2, ("'fp61'", "Did you mean 'fp16'")),
    "drop of full precision": (nothing, "{run} --max-accuracy-drop 0.1", 2, ("--max-accuracy-drop", "--precision")),
    "drop above 1": (nothing, "{run} --precision fp16 --max-accuracy-drop 2", 2, ("is 2.0", "0 to 1")),
    "drop below 0": (nothing, "{run} --precision fp16 --max-accuracy-drop -0.1", 2, ("is -0.1", "0 to 1")),
    "drop that is no number": (nothing, "{run} --precision fp16 --max-accuracy-drop nan", 2, ("is nan", "0 to 1")),
    "layout without npz": (nothing, "{run} --npz-layout big_vision", 2, ("--npz-layout", "without --to npz")),
    "misspelt layout": (nothing, "{run} --to npz --npz-layout vitjax", 2, ("'vitjax'", "Did you mean 'vit_jax'")),
    "size without a graph": (nothing, "{run} --to timm --dynamic-size", 2, ("--dynamic-size", "onnx or pt2")),
    "uint8 without a graph": (nothing, "{run} --to hf --embed-preprocess", 2, ("--embed-preprocess", "onnx or pt2")),
    "outputs without a graph": (nothing, "{run} --to npz --outputs tokens", 2, ("--outputs", "onnx or pt2")),
    "misspelt output": (nothing, "{run} --outputs logit", 2, ("'logit'", "Did you mean 'logits'")),
    "two ways of any size": (
        nothing,
        "{run} --dynamic-size --embed-preprocess",
        2,
        ("--dynamic-size", "--embed-preprocess", "expected one"),
    ),
    "nothing to resample": (nothing, "{run} --pos-embed-interp paper", 2, ("--pos-embed-interp", "--image-size")),
    "no such interpolation": (
        nothing,
        "{run} --image-size 32 --pos-embed-interp linear",
        2,
        ("'linear'", "paper, bicubic, bicubic-aa"),
    ),
    "no threads": (nothing, "{run} --num-threads 0", 2, ("--num-threads is 0", "1 or more")),
    "misspelt option": (nothing, "{run} --formats onnx", 2, ("--formats",)),
    # sizes
    "size not divisible": (nothing, "{run} --image-size 25", 2, ("25", "24 and 28")),
    "rectangle not divisible": (nothing, "{run} --image-size 24x30", 2, ("24x28 and 24x32",)),
    "size no number": (nothing, "{run} --image-size big", 2, ("'big'", "HEIGHTxWIDTH")),
    "size zero": (nothing, "{run} --image-size 0", 2, ("0",)),
    # what the model cannot do
    "registers as hf": (nothing, "{models}/registers --to hf", 4, ("register", "--to timm", "TimmWrapper")),
    "registers as npz": (nothing, "{models}/registers --to npz", 4, ("register", "--to ")),
    "a CNN as hf": (nothing, "{models}/cnn --to hf", 4, ("ViTForImageClassification cannot hold cnn", "--to timm")),
    "a CNN as npz": (nothing, "{models}/cnn --to npz", 4, ("cnn", "VisionTransformer", "--to ")),
    "one of two does not fit": (nothing, "{models}/registers --to timm,hf", 4, ("register", "--to timm")),
    "no head as hf": (nothing, "{models}/headless --to hf", 4, ("no classifier", "--to timm")),
    "a name twice as hf": (nothing, "{models}/twice --to hf", 4, ("'red'", "more than once", "--to timm")),
    "logits without a head": (nothing, "{models}/headless --to onnx", 4, ("no classifier", "--outputs embedding")),
    "probabilities without one": (
        nothing,
        "{models}/headless --to pt2 --outputs probabilities,embedding",
        4,
        ("no classifier", "--outputs embedding", "vitctl finetune"),
    ),
    "tokens of a CNN": (nothing, "{models}/cnn --outputs tokens", 4, ("no tokens", "--outputs embedding")),
    # where to
    "an export is there": (an_export_is_there, "{run} --to timm", 2, ("exports/timm exists", "--out")),
    "an empty folder is there": (an_empty_folder_is_there, "{run} --to timm", 2, ("exports/timm exists", "--out")),
    "one of two is there": (an_export_is_there, "{run} --to npz,timm", 2, ("exports/timm exists", "--out")),
    "a file is there": (a_file_of_that_name_is_there, "{run} --to timm", 2, ("exports/timm exists", "--out")),
    "exports is a file": (exports_is_a_file, "{run} --to timm", 2, ("exports is a file", "expected a folder")),
    "out inside a file": (exports_is_a_file, "{run} --to timm --out {run}/exports/a/b", 2, ("is a file", "folder")),
    "out unwritable": (nothing, "{run} --to timm --out /proc/vitctl", 2, ("/proc/vitctl", "another folder")),
    "out inside the data": (
        nothing,
        "{run} --to timm --verify {images} --out {images}/exports",
        2,
        ("--out", "lies inside the data", "elsewhere with --out"),
    ),
    "out empty": (nothing, "{run} --to timm --out=", 2, ("--out is empty",)),
    # images to verify on
    "nothing to verify on": (nothing, "{run} --to timm --verify gone", 3, ("nothing at", "gone", "expected")),
    "verify on an image": (text_among_the_images, "{run} --to timm --verify {images}/red/0.png", 3, ("is a file",)),
    "verify on an empty folder": (
        an_empty_folder,
        "{run} --to timm --verify {images}",
        3,
        ("images is empty", "folder of images per class"),
    ),
    "no image that can be read": (all_unreadable, "{run} --to timm --verify {images}", 3, (".png", "not an image")),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(
    refused: Callable[..., None], run: Path, models: Path, tiny_model_folder: Path, case: str
) -> None:
    damage, options, exit_code, words = CASES[case]
    damage(run)
    names = {"run": run, "models": models, "tiny": tiny_model_folder, "images": run.parent / "images"}
    refused(["export", *options.format(**names).split()], exit_code, words, models, tiny_model_folder)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let the packages seem not to be installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in packages else find(name, *rest)
    )


@pytest.mark.parametrize(
    ("formats", "package", "extra"),
    [(formats, "onnxruntime", "onnx") for formats in ("onnx", "all", "timm,onnx")]
    + [(formats, "transformers", "hf") for formats in ("hf", "timm,hf")],
)
def test_missing_package__exit_5_with_the_pip_line(
    refused: Callable[..., None], run: Path, formats: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, package)
    refused(["export", run, "--to", formats], 5, (f"--to {extra} needs {package}", f"pip install 'vitctl[{extra}]'"))


@pytest.mark.slow
def test_missing_package__all_leaves_out_what_transformers_cannot_verify(
    run_cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "transformers")
    result = run_cli("export", run, "--to", "all", "--json")
    assert result.exit_code == 0, result.stderr
    assert [export["format"] for export in result.json["exports"]] == ["onnx", "timm", "npz", "pt2"]
    (refused,) = result.json["refused"]
    assert refused["format"] == "hf"
    assert "needs transformers" in refused["reason"]
    assert "left out hf: --to hf needs transformers" in " ".join(result.stderr.split())


def test_missing_package__the_other_formats_need_it_not(run_cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime", "transformers")
    result = run_cli("export", run, "--to", "timm,npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert [export["format"] for export in result.json["exports"]] == ["timm", "npz"]


def lose_the_data(run: Path) -> None:
    listing = json.loads((run / "validation.json").read_text())
    (run / "validation.json").write_text(json.dumps(listing | {"data": str(run.parent / "gone")}))


def lose_one_image(run: Path) -> None:
    listing = json.loads((run / "validation.json").read_text())
    listing["images"][0] = str(run.parent / "gone.png")
    (run / "validation.json").write_text(json.dumps(listing))


def lose_the_listing(run: Path) -> None:
    (run / "validation.json").unlink()


def break_the_listing(run: Path) -> None:
    (run / "validation.json").write_text('{"data": ')


def empty_the_listing(run: Path) -> None:
    (run / "validation.json").write_text("{}")


def name_no_image(run: Path) -> None:
    (run / "validation.json").write_text('{"data": "digits", "images": []}')


def name_no_data(run: Path) -> None:
    settings = json.loads((run / "config.json").read_text()) | {"data": None}
    (run / "config.json").write_text(json.dumps(settings))


def the_only_image_is_damaged(run: Path) -> None:
    data = images_to_verify(run)
    listing = {"data": str(data), "images": [str(data / "red" / "0.png")]}
    (run / "validation.json").write_text(json.dumps(listing))
    settings = json.loads((run / "config.json").read_text()) | {"data": str(data)}
    (run / "config.json").write_text(json.dumps(settings))
    (data / "red" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (the_only_image_is_damaged, "0.png"),
        pytest.param(lose_the_data, "nothing at", marks=pytest.mark.slow),
        pytest.param(lose_one_image, "gone.png", marks=pytest.mark.slow),
        (lose_the_listing, "without validation images"),
        pytest.param(break_the_listing, "validation.json", marks=pytest.mark.slow),
        pytest.param(empty_the_listing, "validation.json", marks=pytest.mark.slow),
        pytest.param(name_no_image, "images is [], not a list of at least 1", marks=pytest.mark.slow),
        pytest.param(name_no_data, "data is None, not text", marks=pytest.mark.slow),
    ],
)
def test_validation_images_that_are_gone__a_warning_and_the_digits(
    run_cli, run: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(run)
    result = run_cli("export", run, "--to", "timm", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("warning: ") == 1
    warning = " ".join(result.stderr.split()).partition("warning: ")[2].partition("vitctl export model")[0].strip()
    assert words in warning
    assert warning.endswith("Verifying on the embedded digits instead.")
    assert "--data" not in warning  # export has no such option; it has --verify
    assert "--split" not in warning
    verify = result.json["exports"][0]["verify"]
    assert (verify["images"], verify["num_images"]) == ("200 images of digits", 200)
    assert (verify["accuracy"], verify["source_accuracy"]) == (None, None)


@pytest.mark.parametrize(("damage", "name"), [(text_among_the_images, "red/1.png"), (half_an_image, "green/2.png")])
def test_images_that_cannot_be_read__are_named_and_left_out(
    run_cli, unchanged, run: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(run)
    images = run.parent / "images"
    with unchanged(images):
        result = run_cli("export", run, "--to", "timm", "--verify", images, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("warning: ") == 1
    assert "left out: " in result.stderr
    assert name in result.stderr
    good = [path for path in sorted(images.rglob("*.png")) if not str(path).endswith(name)]
    answers = run_cli("predict", run, *good, "--top-k", 1, "--json").json["predictions"]
    right = [entry["top"][0]["class"] == Path(entry["image"]).parent.name for entry in answers]
    verify = result.json["exports"][0]["verify"]
    assert verify["num_images"] == len(right) == 8
    assert verify["accuracy"] == verify["source_accuracy"] == sum(right) / 8


# --- a full memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        "workflows.export.load_source",
        "exporting.formats.save_timm_folder",  # writing
        "exporting.opened.open_timm",  # reading back
        "exporting.opened.run_of_module",  # running what was read
    ],
)
def test_full_memory__is_the_sentence_of_every_command(
    run_cli: Callable[..., Any], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fill(*_arguments: object, **_named: object) -> Any:
        import torch

        return torch.empty(10**15)  # fails on any machine

    monkeypatch.setattr(f"vitctl.{step}", (lambda *_: fill) if step.endswith("run_of_module") else fill)
    result = run_cli("export", tiny_model_folder, "--to", "timm", "--out", "out")
    assert result.exit_code == 2
    assert "error: cpu ran out of memory, when it asked for " in result.stderr
    assert result.stderr.endswith(". Try a smaller --image-size.\n")
    assert not any(Path("out").rglob("*"))
