"""Bad input of ``vitctl finetune``: one sentence with what was found, what was expected and what to try."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def truncate(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=95)
    content = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(content[: len(content) // 2])
    path.unlink()


def damage_truncated_jpeg(folder: Path) -> None:
    truncate(folder / "red" / "3.png")


def damage_zero_bytes(folder: Path) -> None:
    (folder / "red" / "3.png").write_bytes(b"")


def damage_text_renamed(folder: Path) -> None:
    (folder / "red" / "notes.jpg").write_text("not an image")


def damage_class_extra_in_val(folder: Path) -> None:
    original = list(folder.iterdir())
    (folder / "train").mkdir()
    for path in original:
        path.rename(folder / "train" / path.name)
    (folder / "val" / "violet").mkdir(parents=True)
    (folder / "train" / "red" / "0.png").rename(folder / "val" / "violet" / "0.png")


def damage_empty_class(folder: Path) -> None:
    (folder / "grey").mkdir()


def damage_one_class(folder: Path) -> None:
    for name in ("green", "blue"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


def no_damage(folder: Path) -> None:
    """The data are fine; the options are not."""


# what is wrong with the data, options after "finetune" ({data}: the folder), exit code, words of the sentence
FINETUNE: dict[str, tuple[Callable[[Path], None], str, int, tuple[str, ...]]] = {
    "truncated jpeg": (damage_truncated_jpeg, "--data {data}", 3, ("3.jpg", "truncated", "--on-bad-image skip")),
    "zero bytes": (damage_zero_bytes, "--data {data}", 3, ("3.png", "not an image")),
    "text renamed": (damage_text_renamed, "--data {data}", 3, ("notes.jpg", "not an image")),
    "missing folder": (no_damage, "--data {data}x", 3, ("nothing at", "expected", "Did you mean 'images'")),
    "a file": (no_damage, "--data {data}/red/1.png", 3, ("is a file", "expected")),
    "images without classes": (no_damage, "--data {data}/red", 3, ("no class folders", "one folder per class")),
    "empty class folder": (damage_empty_class, "--data {data}", 3, ("grey", "without an image")),
    "class extra in val": (damage_class_extra_in_val, "--data {data}", 3, ("'violet'", "unknown in training")),
    "one class": (damage_one_class, "--data {data}", 3, ("one class", "'red'", "two or more")),
    "val missing": (no_damage, "--data {data} --val nowhere", 3, ("nothing at", "nowhere")),
    "size not divisible": (no_damage, "--data {data} --image-size 18", 2, ("18", "16 and 20")),
    "rectangle not divisible": (no_damage, "--data {data} --image-size 18x24", 2, ("16x24 and 20x24",)),
    "size not a number": (no_damage, "--data {data} --image-size big", 2, ("'big'", "HEIGHTxWIDTH")),
    "misspelt model": (no_damage, "--data {data} --model vit_tinny_patch16_224", 4, ("vit_tiny_patch16_224",)),
    "misspelt tag": (
        no_damage,
        "--data {data} --model vit_tiny_patch16_224.augreg_in21",
        4,
        ("augreg_in21k", "Did you mean"),
    ),
    "a CNN of fixed size": (
        no_damage,
        "--data {data} --model levit_128s --weights none --image-size 64",
        4,
        ("levit_128s", "fixed input size", "--image-size 224"),
    ),
    "no network": (no_damage, "--data {data} --model vit_tiny_patch16_224", 4, ("hub", "--weights FILE")),
    "missing weights": (no_damage, "--data {data} --weights gone.safetensors", 4, ("gone.safetensors",)),
    "misspelt option": (no_damage, "--data {data} --image-sise 16", 2, ("--image-sise", "--image-size")),
    "misspelt recipe": (no_damage, "--data {data} --recipe transfr", 2, ("'transfr'", "Did you mean 'transfer'")),
    "misspelt choice": (
        no_damage,
        "--data {data} --pos-embed-interp bicubicaa",
        2,
        ("'bicubicaa'", "Did you mean 'bicubic-aa'"),
    ),
    "steps and epochs": (no_damage, "--data {data} --steps 3 --epochs 1", 2, ("--steps", "--epochs", "Keep one")),
    "zero steps": (no_damage, "--data {data} --steps 0", 2, ("--steps is 0", "1 or more")),
    "zero epochs": (no_damage, "--data {data} --epochs 0", 2, ("--epochs is 0", "above 0")),
    "negative rate": (no_damage, "--data {data} --lr -1", 2, ("--lr is -1", "above 0")),
    "fraction of one": (no_damage, "--data {data} --val-fraction 1", 2, ("--val-fraction is 1", "below 1")),
    "config missing": (no_damage, "--config gone.json", 2, ("gone.json", "config.json of a run")),
    "out is a file": (no_damage, "--data {data} --out {data}/red/1.png", 2, ("is a file",)),
    "out not empty": (no_damage, "--data {data} --out {data}", 2, ("not empty", "no run of vitctl", "another")),
    "resume what is no run": (no_damage, "--resume {data}", 2, ("--resume", "no run of vitctl")),
    "save never": (no_damage, "--data {data} --save-every 0", 2, ("--save-every is '0'", "15min")),
    "overwrite no run": (no_damage, "--data {data} --out {data} --overwrite", 2, ("no run of vitctl",)),
    "out unwritable": (no_damage, "--data {data} --out /proc/vitctl", 2, ("/proc/vitctl", "another folder")),
    "out inside the data": (no_damage, "--data {data} --out {data}/run", 2, ("inside the data", "elsewhere")),
    "data not given but named": (no_damage, "--data= --model demo", 2, ("--data is empty", "leave it out")),
    "recipe not given but named": (no_damage, "--data {data} --recipe=", 2, ("--recipe is empty",)),
    "set without a value": (no_damage, "--data {data} --set rate.lr", 2, ("'rate.lr' gives no value", "SECTION.KEY=")),
    "set nothing": (no_damage, "--data {data} --set=", 2, ("--set is empty",)),
    "set misspelt": (no_damage, "--data {data} --set optimizer.nam=sgd", 2, ("[optimizer]", "Did you mean 'name'")),
    "set out of range": (no_damage, "--data {data} --set rate.lr=-1", 2, ("rate.lr is -1", "above 0")),
    "set several wrongly": (
        no_damage,
        "--data {data} --set rate.lr=-1 --set images.flip=2 --set imags.crop=none",
        2,
        ("--set has 3 mistakes", "rate.lr is -1", "images.flip is 2", "unknown section 'imags'"),
    ),
    "set and option": (
        no_damage,
        "--data {data} --set rate.lr=1e-3 --lr 1e-3",
        2,
        ("--lr and --set rate.lr are both given", "Keep one"),
    ),
    "set and steps": (
        no_damage,
        "--data {data} --set length.steps=3 --steps 3",
        2,
        ("--steps and --set length.steps",),
    ),
    "set and epochs": (no_damage, "--data {data} --set length.steps=3 --epochs 1", 2, ("--epochs and --set length",)),
    "set and no flip": (no_damage, "--data {data} --set images.flip=true --no-flip", 2, ("--flip and --set images.",)),
    "set and head": (no_damage, "--data {data} --set head.init=random --head zero", 2, ("--head and --set head.init",)),
    "path too long": (no_damage, "--data " + "a" * 300, 3, ("File name too long",)),
    "out too long": (no_damage, "--data {data} --out " + "a" * 300, 2, ("File name too long", "another folder")),
    "absurd rate": (no_damage, "--data {data} --lr 1e30", 2, ("--lr is 1e+30", "at most 1000")),
    "seed too large": (no_damage, "--data {data} --seed 18446744073709551616", 2, ("2^63",)),
    "device missing": (no_damage, "--data {data} --device mps", 5, ("mps", "not available")),
}


@pytest.mark.parametrize("case", FINETUNE)
def test_finetune_bad_input(
    case: str, request: pytest.FixtureRequest, refused: Callable[..., None], tiny_model_folder: Path
) -> None:
    damage, options, exit_code, words = FINETUNE[case]
    folder: Path = request.getfixturevalue("whole_folder" if damage is no_damage else "image_folder")
    damage(folder)
    args = options.format(data=folder).split()
    if "--model" not in args and "--config" not in args:
        args += ["--model", str(tiny_model_folder)]
    if not {"--steps", "--epochs"} & set(args):
        args += ["--steps", "1"]
    if "--out" not in args:
        args += ["--out", "out"]
    refused(["finetune", *args], exit_code, words, folder, tiny_model_folder)


@pytest.mark.usefixtures("no_rendering")
def test_one_pixel_image_is_an_image(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(image_folder / "red" / "dot.png")
    args = (
        "--data",
        image_folder,
        "--model",
        tiny_model_folder,
        "--steps",
        1,
        "--num-workers",
        0,
        "--out",
        "out",
        "--json",
    )
    assert run_cli("finetune", *args).exit_code == 0


@pytest.mark.usefixtures("no_rendering")
def test_class_missing_in_val__runs_and_shifts_nothing(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    classes = list(image_folder.iterdir())
    (image_folder / "train").mkdir()
    for path in classes:
        path.rename(image_folder / "train" / path.name)
    (image_folder / "val" / "red").mkdir(parents=True)
    (image_folder / "train" / "red" / "0.png").rename(image_folder / "val" / "red" / "0.png")
    args = (
        "--data",
        image_folder,
        "--model",
        tiny_model_folder,
        "--steps",
        1,
        "--num-workers",
        0,
        "--out",
        "out",
        "--json",
    )
    assert run_cli("finetune", *args).json["num_classes"] == 3
    report = run_cli("evaluate", "out", "--num-workers", 0, "--json").json
    assert [row["num_images"] for row in report["per_class"]] == [0, 0, 1]  # blue, green, red
    assert report["per_class"][2]["class"] == "red"


@pytest.mark.usefixtures("no_rendering")
def test_bad_images_skipped_on_demand(run_cli, unchanged, image_folder: Path, tiny_model_folder: Path) -> None:
    damage_zero_bytes(image_folder)
    args = (
        "--data",
        image_folder,
        "--model",
        tiny_model_folder,
        "--steps",
        1,
        "--num-workers",
        0,
        "--out",
        "out",
        "--json",
    )
    with unchanged(image_folder):
        result = run_cli("finetune", *args, "--on-bad-image", "skip")
    assert result.json["num_train"] + result.json["num_val"] == 35
    assert "3.png" in result.stderr


def test_empty_folder(run_cli, tmp_path: Path) -> None:
    result = run_cli("finetune", "--data", tmp_path, "--model", "demo", "--out", "out")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "is empty; expected one folder of images per class" in result.stderr


def test_config_with_unknown_key__near_match(run_cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vitctl": "0", "stepps": 3}))
    result = run_cli("finetune", "--config", tmp_path / "config.json", "--out", "out")
    assert result.exit_code == 2
    assert "unknown setting 'stepps'. Did you mean 'steps'?" in result.stderr


def test_mistyped_command__near_match(run_cli) -> None:
    result = run_cli("finetun")
    assert result.exit_code == 2
    assert "Did you mean 'finetune'" in result.stderr
