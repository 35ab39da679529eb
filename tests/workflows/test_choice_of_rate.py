"""Choosing by real runs: ``finetune --lr A,B,C``, and a sweep that chooses, trains again and cooks a soup."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from vitctl.data.run_lists import TRAINING
from vitctl.models.prepared import open_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_rendering")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of three colours, 20 each to train on and 8 to validate on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for label, name in enumerate(("red", "green", "blue")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)
                pixels[..., label] += np.uint8(50)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def shared(photos: Path, tiny_model_folder: Path) -> list[str]:
    return [
        "--data", str(photos), "--model", str(tiny_model_folder), "--steps", "6", "--batch-size", "8",
        "--num-workers", "0", "--num-threads", "1", "--device", "cpu", "--dev-fraction", "0.3", "--json",
    ]  # fmt: skip


def test_finetune__several_rates_give_one_run_with_the_one_that_won(run_cli: Callable, shared: list[str]) -> None:
    command = ["finetune", *shared, "--lr", "1e-6,1e-3", "--out", "run"]
    summary = run_cli(*command).json
    selection, config = summary["selection"], json.loads(Path("run/config.json").read_text())
    assert config["lr"] == selection["settings"]["lr"]
    assert config["dev_fraction"] is None
    assert (summary["num_train"], summary["num_val"]) == (60, 24)
    assert selection["num_dev"] == 18
    assert selection["cell"] in {"lr=1e-06", "lr=0.001"}
    searched = sorted(Path("run-rates/runs").iterdir())
    assert [path.name for path in searched] == ["lr=0.001", "lr=1e-06"]
    assert json.loads((searched[0] / "seed-0/summary.json").read_text())["num_train"] == 42
    before = {path: path.stat().st_mtime_ns for path in Path("run-rates").rglob("summary.json")}
    again = run_cli(*command)
    assert again.json == summary
    assert {path: path.stat().st_mtime_ns for path in Path("run-rates").rglob("summary.json")} == before
    repeated = run_cli("finetune", "--config", "run/config.json", "--out", "again", "--json").json
    assert "selection" not in repeated
    assert repeated["weights_sha256"] == summary["weights_sha256"]


def test_finetune__a_dry_run_writes_nothing(run_cli: Callable, shared: list[str]) -> None:
    result = run_cli("finetune", *shared, "--lr", "1e-6,1e-3", "--out", "run", "--dry-run")
    assert result.json["num_train"] == 60
    assert "2 runs more" in result.stderr
    assert not Path("run-rates").exists()


def test_sweep__chooses_trains_again_and_cooks(run_cli: Callable, shared: list[str], photos: Path) -> None:
    command = [
        "sweep", *shared, "--grid", "lr=1e-6,1e-3", "--seeds", "2", "--select", "nll", "--retrain", "--soup",
        "--out", "sweep",
    ]  # fmt: skip
    result = run_cli(*command).json
    assert result["validated_on"] == "dev"
    assert result["num_val"] == result["selected"]["num_dev"] == result["soup"]["num_dev"] == 18
    chosen = next(cell for cell in result["cells"] if cell["name"] == result["selected"]["cell"])
    assert result["selected"]["score"] == pytest.approx(chosen["nll_mean"])
    retrained = result["retrained"]
    assert retrained["num_val"] == 24
    summaries = [json.loads((Path(run) / "summary.json").read_text()) for run in retrained["runs"]]
    assert retrained["top1_mean"] == pytest.approx(np.mean([one["best"]["top1"] for one in summaries]))
    assert [one["num_train"] for one in summaries] == [60, 60]
    for run in (Path(run) for cell in result["cells"] for run in cell["runs"]):  # the validation images are untouched
        validation = json.loads((run / "validation.json").read_text())
        trained = {line.split(" ")[0] for line in (run / TRAINING).read_text().splitlines()}
        dev, untouched = set(validation["hashes"]), set(validation["untouched"]["hashes"])
        assert (len(trained), len(dev), len(untouched)) == (42, 18, 24)
        assert not trained & dev | trained & untouched | dev & untouched
    soup = result["soup"]
    assert open_model(soup["out"]).class_names == ("blue", "green", "red")
    if soup["chosen"] == "uniform":
        runs = [load_file(Path(run) / "last/model.safetensors") for cell in result["cells"] for run in cell["runs"]]
        mean = load_file(Path(soup["out"]) / "model.safetensors")
        assert np.allclose(mean["head.bias"], np.mean([run["head.bias"].numpy() for run in runs], axis=0), atol=1e-6)
    assert run_cli(*command).json == result
    evaluated = run_cli(
        "evaluate", "--model", soup["out"], "--data", str(photos), "--split", "val", "--json", "--num-workers", "0"
    ).json
    assert evaluated["num_images"] == 24


def test_soup__of_a_cnn_has_statistics_of_its_own(run_cli: Callable, photos: Path) -> None:
    shared = [
        "--data", str(photos), "--model", "test_resnet", "--weights", "none", "--image-size", "48", "--steps", "6",
        "--batch-size", "8", "--num-workers", "0", "--num-threads", "1", "--device", "cpu", "--dev-fraction", "0.3",
    ]  # fmt: skip
    result = run_cli("sweep", *shared, "--grid", "lr=1e-3,3e-3", "--soup", "--out", "sweep", "--json").json
    soup = result["soup"]
    assert soup["num_runs"] == 2
    runs = [load_file(Path(run) / "last/model.safetensors") for cell in result["cells"] for run in cell["runs"]]
    kept = load_file(Path(soup["out"]) / "model.safetensors")
    name = next(name for name in kept if name.endswith("running_var"))
    mean = (runs[0][name] + runs[1][name]) / 2
    if soup["chosen"] == "single":
        assert any(kept[name].equal(run[name]) for run in runs)
    else:
        assert not kept[name].allclose(mean, rtol=1e-3)
