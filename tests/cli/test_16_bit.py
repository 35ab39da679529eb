"""12 bits in files of 16: what is said of them, and one range in training, evaluation, prediction and export."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

COLOURS = ("red", "green", "blue")
IN_PROCESS = ("--num-workers", 0)
pytestmark = pytest.mark.usefixtures("no_rendering")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as 12 bits in files of 16 (``deep/``) and as 8 bits, scaled by 4095 (``plain/``)."""
    folder, rng = tmp_path_factory.mktemp("12-bit"), np.random.default_rng(0)
    for label, name in enumerate(COLOURS):
        for kind in ("deep", "plain"):
            (folder / kind / name).mkdir(parents=True)
        for number in range(8):
            values = rng.integers(0, 1000, (18, 20), dtype=np.uint16)
            values[label * 6 : label * 6 + 6] += 3000
            values[0, 0] = 4095
            Image.fromarray(values).save(folder / "deep" / name / f"{number}.png")
            levels = np.floor(values / 4095 * 255 + 0.5).astype(np.uint8)
            Image.fromarray(levels).save(folder / "plain" / name / f"{number}.png")
    return folder


def tune(run_cli: Any, data: Path, model: Path, out: str, *args: object) -> Any:
    usual = ("--steps", 4, "--lr", 0.003, "--val-fraction", 0.25, *IN_PROCESS)
    result = run_cli("finetune", "--data", data, "--model", model, "--out", out, *usual, *args)
    assert result.exit_code == 0, result.stderr
    return result


def test_data__says_how_deep_and_how_dark(run_cli, drawn: Path) -> None:
    result = run_cli("data", drawn / "deep", "--out", "out")
    report = json.loads(Path("out/report.json").read_text())
    assert (report["images"]["num_16_bit"], report["images"]["brightest_16_bit"]) == (24, 4095)
    assert "16-bit, 24 images; the brightest value is 4,095 of 65,535" in result.stdout
    assert "read as 17 of 256 levels of grey; try --max-value 4095, or auto." in result.stdout
    assert "Nothing seems wrong" not in result.stdout
    assert report["duplicates"]["num_groups"] == 0


@pytest.mark.parametrize("white", [4095, "auto"])
def test_data__with_the_right_white_nothing_seems_wrong(run_cli, drawn: Path, white: object) -> None:
    assert "Nothing seems wrong." in run_cli("data", drawn / "deep", "--max-value", white, "--out", "out").stdout


def test_data__brighter_than_white_is_counted(run_cli, drawn: Path) -> None:
    result = run_cli("data", drawn / "deep", "--max-value", 4000, "--out", "out")
    assert "24 of 24 images of 16 bits have values above --max-value 4000, up to 4,095" in result.stdout


@pytest.mark.parametrize("value", ["0", "65536", "bright", "4095.5", "-1", "1e3"])
def test_a_value_that_is_none__refused(refused, drawn: Path, value: str) -> None:
    words = ("--max-value", "expected a value from 1 to 65535 (4095 for 12-bit data), or auto")
    refused(("data", drawn / "deep", "--max-value", value), 2, words)


def test_auto_of_8_bits__refused(refused, drawn: Path, tiny_model_folder: Path) -> None:
    words = ("--max-value is 'auto', and no training image has 16 bits",)
    refused(("finetune", "--data", drawn / "plain", "--model", tiny_model_folder, "--max-value", "auto"), 2, words)


def test_finetune__sees_what_it_would_see_of_8_bits_and_keeps_the_range(
    run_cli, drawn: Path, tiny_model_folder: Path
) -> None:
    result = tune(run_cli, drawn / "deep", tiny_model_folder, "deep", "--max-value", "auto")
    tune(run_cli, drawn / "plain", tiny_model_folder, "plain")
    assert "16-bit, 24 images; the brightest value is 4,095 of 65,535; 4,095 is white" in result.stderr
    # 8-bit images that numpy scaled give the same weights: training and validation see the same pixels
    deep, plain = (load_file(Path(run, "best/model.safetensors")) for run in ("deep", "plain"))
    assert all(np.array_equal(deep[key], plain[key]) for key in plain)
    for name in ("deep/config.json", "deep/best/config.json", "deep/last/config.json"):
        assert json.loads(Path(name).read_text())["max_value"] == 4095
    assert json.loads(Path("plain/config.json").read_text())["max_value"] is None
    assert "max_value" not in json.loads(Path("plain/best/config.json").read_text())


@pytest.mark.slow
def test_run__its_range_is_that_of_evaluate_predict_and_whoever_goes_on_from_it(
    run_cli, drawn: Path, tiny_model_folder: Path
) -> None:
    tune(run_cli, drawn / "deep", tiny_model_folder, "deep", "--max-value", "auto")
    tune(run_cli, drawn / "plain", tiny_model_folder, "plain")
    # its best/ alone knows, too
    keys = ("top1", "nll", "ece", "per_class")
    reports = [run_cli("evaluate", run, *IN_PROCESS, "--json").json for run in ("deep", "plain")]
    assert [reports[0][key] for key in keys] == [reports[1][key] for key in keys]
    shares = [
        [one["top"] for one in run_cli("predict", run, drawn / kind / "red", "--json").json["predictions"]]
        for run, kind in (("deep", "deep"), ("deep/best", "deep"), ("plain", "plain"), ("plain", "deep"))
    ]
    assert shares[0] == shares[1] == shares[2] != shares[3]
    # an image that is brighter than the run knows is counted
    shutil.copytree(drawn / "deep", "bright")
    Image.fromarray(np.full((18, 20), 9000, dtype=np.uint16)).save("bright/red/bright.png")
    bright = run_cli("evaluate", "deep", "--data", "bright", "--out", "e", *IN_PROCESS)
    said = " ".join(bright.stderr.split())
    assert "1 of 25 images of 16 bits have values above 4,095, which the model takes as white, up to 9,000" in said
    # its config.json repeats it with the number, and a run that starts from it reads images as it does
    again = run_cli("finetune", "--config", "deep/config.json", "--dry-run", "--json").json
    assert again["config"]["max_value"] == 4095
    onward = tune(run_cli, drawn / "deep", Path("deep"), "onward", "--dry-run")
    assert "4,095 is white" in onward.stderr
    assert "the model's own" in onward.stderr


def test_finetune__a_models_value_is_not_written_for_images_of_8_bits(
    run_cli, drawn: Path, tiny_model_folder: Path
) -> None:
    shutil.copytree(tiny_model_folder, "model")
    known = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(known | {"max_value": 4095}))
    for kind, expected in (("plain", None), ("deep", 4095)):
        result = tune(run_cli, drawn / kind, Path("model"), kind, "--dry-run", "--json")
        assert result.json["config"]["max_value"] == expected
        assert "--max-value" not in result.stderr


def test_finetune__without_a_value_a_warning(run_cli, drawn: Path, tiny_model_folder: Path) -> None:
    result = tune(run_cli, drawn / "deep", tiny_model_folder, "run", "--dry-run")
    said = " ".join(result.stderr.split())
    assert "the brightest value is 4,095 of 65,535, so that they are read as 17 of 256 levels" in said
    assert "65,535 is white" in said


@pytest.mark.slow
def test_export_inspect_and_fewshot_eval__read_images_as_the_run_does(
    run_cli, drawn: Path, tiny_model_folder: Path
) -> None:
    for kind, more in (("deep", ("--max-value", 4095)), ("plain", ())):
        tune(run_cli, drawn / kind, tiny_model_folder, kind, *more)
    exported = run_cli("export", "deep", "--to", "all", "--json").json
    plain = run_cli("export", "plain", "--to", "all", "--json").json
    for one, other in zip(exported["exports"], plain["exports"], strict=True):
        assert one["verify"]["accuracy"] == other["verify"]["accuracy"]
        folder = Path("deep/exports", one["format"])
        assert "of 16-bit images every value divided by 4095" in (folder / "README.md").read_text()
    predictions = [
        run_cli("predict", run, drawn / kind / "blue", "--json").json["predictions"][0]["top"]
        for run, kind in (("deep/exports/timm", "deep"), ("plain", "plain"))
    ]
    assert predictions[0] == predictions[1]
    fewshot = [
        run_cli("fewshot-eval", "--model", kind, "--data", drawn / kind, "--shots", 2, "--seeds", 2, "--out",
                f"few-{kind}", "--preprocess", how, *IN_PROCESS, "--json").json["results"][0]
        for how in ("model", "big_vision") for kind in ("deep", "plain")
    ]  # fmt: skip
    assert [one["cosine_within"] for one in fewshot[::2]] == [one["cosine_within"] for one in fewshot[1::2]]
    found = [
        run_cli("inspect", "attention", kind, "--data", drawn / kind, "--out", f"i-{kind}", *IN_PROCESS, "--json").json
        for kind in ("deep", "plain")
    ]
    tables = [
        {key: one["results"][0][key] for key in one["results"][0] if key not in ("name", "models")} for one in found
    ]
    assert tables[0] == tables[1]
