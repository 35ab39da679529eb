"""Commands on a CNN as a person sees them: header, tables, refusals."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_rendering")


@pytest.fixture
def arguments(image_folder: Path) -> list[object]:
    return ["finetune", "--data", image_folder, "--model", "test_resnet", "--weights", "none", "--image-size", 32,
            "--steps", 2, "--batch-size", 8, "--val-fraction", 0.2, "--num-workers", 0]  # fmt: skip


def test_header__a_new_size_costs_as_its_pixels_and_nothing_is_resampled(run_cli, arguments: list[object]) -> None:
    first = run_cli(*arguments, "--out", "a")
    assert first.exit_code == 0, first.stderr
    for words in ("grid", "tokens", "position embeddings"):
        assert words not in first.stderr
    few = ("--steps", 1, "--num-workers", 0)
    again = run_cli("finetune", "--data", arguments[2], "--model", "a", "--image-size", 48, *few, "--out", "b")
    assert again.exit_code == 0, again.stderr
    assert "32 to 48 px" in again.stderr
    header = " ".join(again.stderr.split())  # long rows are folded
    assert "no position embeddings to resample; convolutions cost x2.2" in header  # (48/32)^2
    assert "its 3 classes are these" in again.stderr
    assert again.stdout.startswith("best ")
    assert json.loads(Path("b/best/config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 48, 48]


def test_dry_run__has_no_row_of_tokens(run_cli, arguments: list[object]) -> None:
    result = run_cli(*arguments, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "tokens" not in result.stdout
    assert "FLOPs per image" in result.stdout


def test_evaluate_and_predict__read_the_run(run_cli, arguments: list[object], image_folder: Path) -> None:
    summary = run_cli(*arguments, "--out", "out", "--json").json
    report = run_cli("evaluate", "out", "--num-workers", 0, "--json").json
    assert (report["nll"], report["image_size"]) == (summary["best"]["loss"], [32, 32])
    document = run_cli("predict", "out", image_folder / "red" / "0.png", "--json").json
    assert len(document["predictions"][0]["top"]) == 3


def test_models__lists_a_cnn_without_a_grid(run_cli) -> None:
    (entry,) = run_cli("models", "test_resnet", "--json").json["models"]
    assert (entry["image_size"], entry["patch_size"], entry["grid"], entry["tokens"]) == ([160, 160], None, None, None)


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (["--model", "test_convnext", "--image-size", 8], 2, "test_convnext cannot take --image-size 8"),
        (["--model", "levit_128s", "--image-size", 64], 4, "levit_128s has a fixed input size of 224 px"),
        (["--batch-size", 1], 2, "BatchNorm layers need two images or more"),
    ],
)
def test_refusals__one_sentence_and_nothing_written(
    run_cli, arguments: list[object], options: list[object], exit_code: int, words: str
) -> None:
    result = run_cli(*arguments, *options, "--out", "out")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert words in result.stderr
    assert not Path("out").exists()
