"""``vitctl finetune`` as a person sees it: header, JSON, files, refusals."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def arguments(image_folder: Path, tiny_model_folder: Path) -> list[object]:
    return ["finetune", "--data", image_folder, "--model", tiny_model_folder, "--image-size", 24, "--steps", 4,
            "--num-workers", 0]  # fmt: skip


def test_json__one_document_with_the_agreed_keys(run_cli, arguments: list[object]) -> None:
    result = run_cli(*arguments, "--out", "out", "--json")
    summary = result.json
    assert set(summary) == {
        "run", "model", "image_size", "grid_before", "grid_after", "num_classes", "num_train", "num_val", "steps",
        "best", "last", "weights_sha256", "images_per_s", "data_wait_fraction", "wall_s", "left_out", "linear_probe",
        "validated_on", "num_untouched",
        "baseline_top1", "baseline_class", "baseline_p", "classes_without_validation", "precision",
        "optimizer_implementation", "num_skipped_steps", "micro_batch", "num_processes",
        "num_trained_parameters", "average", "average_weights_sha256",
    }  # fmt: skip
    assert summary["image_size"] == [24, 24]
    assert (summary["grid_before"], summary["grid_after"]) == ([4, 4], [6, 6])
    assert (summary["num_classes"], summary["steps"], summary["num_processes"]) == (3, 4, 1)
    assert summary["num_train"] + summary["num_val"] == 36
    assert set(summary["best"]) == set(summary["last"]) == {"step", "top1", "loss"}
    assert json.loads(Path("out/summary.json").read_text()) == summary


def test_run_folder__everything_is_there(run_cli, arguments: list[object]) -> None:
    run_cli(*arguments[:-2], "--out", "out")  # with as many workers as by default
    names = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    assert names == {
        "config.json", "metrics.jsonl", "speed.jsonl", "summary.json", "validation.json", "training-images.txt",
        "val-logits.safetensors", "first-batches.png", "curves.png", "confusion.png",
        "last/config.json", "last/model.safetensors", "best/config.json", "best/model.safetensors",
    }  # fmt: skip
    config = json.loads(Path("out/config.json").read_text())
    assert not {"out", "overwrite"} & set(config)
    assert config["num_threads"] >= 1
    assert {"torch", "timm"} <= set(config["versions"])
    assert Path(config["data"]).is_absolute()


@pytest.mark.usefixtures("no_rendering")
def test_metrics__one_line_per_step_and_validation_and_no_clock(run_cli, arguments: list[object]) -> None:
    run_cli(*arguments, "--out", "out")
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "val_loss" in line]
    assert len(steps) + len(validations) == len(lines)  # and none is both
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["step"] for line in validations] == [0, 1, 2, 3, 4]  # 0: the closed-form head before training
    assert all(set(line) == {"step", "epoch", "loss", "lr", "grad_norm"} for line in steps)
    assert all(set(line) == {"step", "val_loss", "val_top1"} for line in validations)


@pytest.mark.usefixtures("no_rendering")
def test_header__says_what_was_decided_and_why(run_cli, arguments: list[object]) -> None:
    header = run_cli(*arguments, "--out", "out").stderr
    for words in ("4x4 to 6x6, 17 to 37 tokens", "bicubic-aa, norm x", "none missing", "held out, stratified, seed 0"):
        assert words in header
    assert "attention costs x4.7" in header  # (37/17)^2


def test_default_is_the_demo_on_digits__and_said(run_cli) -> None:
    result = run_cli("finetune", "--steps", 1, "--dry-run", "--json")
    assert result.json["config"]["data"] == "digits"
    assert result.json["config"]["model"] == "demo"
    assert (result.json["grid_before"], result.json["grid_after"]) == ([8, 8], [12, 12])
    assert "the default: no --data is given" in result.stderr
    assert "the images seem to show digits or letters" in result.stderr


def test_dry_run__cost_and_nothing_written(run_cli, arguments: list[object]) -> None:
    result = run_cli(*arguments, "--out", "out", "--dry-run", "--json")
    document = result.json
    assert not Path("out").exists()
    assert document["steps"] == 4
    assert document["num_tokens"] == 37
    assert document["flops_per_image"] > 0
    assert document["memory_bytes"] > 0
    assert document["training_s"] > 0
    assert sum(group["num_parameters"] for group in document["groups"]) == document["num_parameters"]


@pytest.mark.usefixtures("no_rendering")
def test_second_run_into_the_same_folder__told_refused_overwritten(run_cli, arguments: list[object]) -> None:
    run_cli(*arguments, "--out", "out")
    before = Path("out/summary.json").read_text()
    again = run_cli(*arguments, "--out", "out", "--json")
    assert again.json == json.loads(before)
    assert "is finished, with these settings" in " ".join(again.stderr.split())
    refused = run_cli(*arguments, "--out", "out", "--seed", 1)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--seed: 0 there, 1 now" in refused.stderr
    assert Path("out/summary.json").read_text() == before
    assert run_cli(*arguments, "--out", "out", "--seed", 1, "--overwrite").exit_code == 0
    assert json.loads(Path("out/config.json").read_text())["seed"] == 1
    assert [path.name for path in Path().iterdir()] == ["out"]


@pytest.mark.usefixtures("no_rendering")
def test_human_output__result_on_stdout(run_cli, arguments: list[object]) -> None:
    result = run_cli(*arguments, "--out", "out")
    assert result.stdout.startswith("linear probe  ")
    assert "\nbest " in result.stdout
    assert "vitctl evaluate" in result.stdout


def test_version(run_cli) -> None:
    assert run_cli("--version").stdout.startswith("vitctl 0.")


def test_honest_scores__the_baseline_and_the_classes_that_nothing_was_validated_on(
    run_cli, image_folder: Path, tiny_model_folder: Path, no_rendering: None
) -> None:
    for name, kept in (("blue", 1), ("green", 2)):
        for path in sorted((image_folder / name).iterdir())[kept:]:
            path.rename(image_folder / "red" / f"{name}-{path.name}")  # 33 of 36 are 'red'
    usual = ("--data", image_folder, "--model", tiny_model_folder, "--steps", 1, "--num-workers", 0)
    result = run_cli("finetune", *usual, "--out", "run")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(Path("run/summary.json").read_text())
    validated = [Path(name).parent.name for name in json.loads(Path("run/validation.json").read_text())["images"]]
    assert validated.count("green") == 1  # of two images one
    assert summary["classes_without_validation"] == ["blue"]
    share = validated.count("red") / len(validated)
    assert (summary["baseline_class"], summary["baseline_top1"]) == ("red", share)
    if summary["best"]["top1"] == share:
        assert summary["baseline_p"] == 1
    said = " ".join(result.stderr.split())
    assert "1 of 3 classes have none: blue" in said
    assert f"always 'red': {share:.1%})" in said
    assert "not better than always saying 'red'" in result.stdout
    assert "1 of 3 classes have no validation image: blue" in result.stdout
    dry = run_cli("finetune", *usual, "--dry-run", "--json").json
    assert dry["classes_without_validation"] == ["blue"]
    report = run_cli("data", image_folder, "--out", "out", "--json").json
    assert report["validation"]["classes_without_images"] == ["blue"]


def test_cells_of_several_labels__pointed_out_by_finetune_and_data(
    run_cli, image_folder: Path, tiny_model_folder: Path
) -> None:
    rows = [f"{path},{path.parent.name}{';blue' * (path.stem == '0')}" for path in sorted(image_folder.rglob("*.png"))]
    Path("labels.csv").write_text("\n".join(["path,label", *rows]))
    sentence = "3 of 36 labels look like several: ';' or '|' between names that occur elsewhere too"
    tuned = run_cli("finetune", "--data", "labels.csv", "--model", tiny_model_folder, "--dry-run", "--num-workers", 0)
    assert sentence in " ".join(tuned.stderr.split())
    report = run_cli("data", "labels.csv", "--out", "out", "--json").json
    assert any(sentence in warning for warning in report["warnings"])
