"""``vitctl sweep`` as a person meets it: its screen, its files, its sentences; with runs that are not trained."""

import csv
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitctl
from vitctl.errors import SettingError
from vitctl.reporting import sweep_figures
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.sweeping import pricing, running
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.running import run_all
from vitctl.workflows import sweep

SEVERAL = ("--grid", "lr=1e-4,3e-3", "--grid", "tune=full,lora:8", "--seeds", 2, "--num-threads", 1, "--jobs", 2)


def written(folder: Path, run: PlannedRun) -> Sequence[str]:
    """Return the command that makes the folder of a run: what it says depends on its settings and its seed."""
    whole = folder / run.log.stem
    if not whole.exists():
        whole.mkdir(parents=True)
        rng = np.random.default_rng([run.seed, len(run.cell)])
        labels = np.arange(40) % 2
        said = np.where(rng.uniform(size=40) < 0.7 + 20 * run.given.get("lr", 0), labels, 1 - labels)
        logits = np.stack([said == 0, said == 1], axis=1).astype(np.float32)
        write_logits(whole, KeptLogits(logits, labels, tuple(f"{index:032x}" for index in range(40)), ("cat", "dog")))
        (whole / "config.json").write_text(json.dumps({"vitctl": "0", "seed": run.seed}))
        (whole / "summary.json").write_text("{}")
    return ["cp", "-r", str(whole), str(run.out)]


@pytest.fixture(autouse=True)
def _not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = functools.partial(written, tmp_path / "whole")
    monkeypatch.setattr(sweep, "run_all", functools.partial(run_all, command=command))
    monkeypatch.setattr(running, "POLL_S", 0.005)
    monkeypatch.setattr(sweep_figures, "draw_sweep", lambda _cells, path, title: path.write_text(title))


def test_sweep__table_and_files(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    result = run_cli("sweep", *SEVERAL, "--out", "s")
    assert result.exit_code == 0, result.stderr
    out = Path("s").absolute()
    document = json.loads((out / "sweep.json").read_text())
    assert [cell["settings"] for cell in document["cells"]][1] == {"lr": 1e-4, "tune": "lora:8"}
    assert document["cells"][0]["runs"] == [str(out / "runs" / "lr=0.0001,tune=full" / f"seed-{n}") for n in (0, 1)]
    assert document["cells"][0]["difference"] is None
    assert document["cells"][3]["difference"] == pytest.approx(
        document["cells"][3]["top1_mean"] - document["cells"][0]["top1_mean"]
    )
    lines = result.stdout.splitlines()
    assert lines[0].split() == "combination runs top-1 95 % interval NLL difference 95 % interval p (Holm)".split()
    assert [line.split()[0] for line in lines[1:5]] == [cell["name"] for cell in document["cells"]]
    assert "the first" in lines[1]
    assert f"{document['cells'][3]['top1_mean']:.2%}" in lines[4]
    assert "40 validation images" in result.stdout
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1_mean"]) for row in rows] == [cell["top1_mean"] for cell in document["cells"]]
    with (out / "runs.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"] * 4
    commands = (out / "commands.txt").read_text().splitlines()
    assert commands[0].startswith("cd ")
    assert len(commands) == 9
    assert commands[1].startswith("vitctl finetune --split-seed 0 --lr 0.0001 --tune full --seed 0 --num-threads 1")
    assert (out / "sweep.png").read_text() == "top-1 on validation images, 2 seeds"
    again = run_cli("sweep", *SEVERAL, "--out", "s", "--json")
    assert json.loads(again.stdout) == document
    assert "8 of 8" not in again.stderr


def test_sweep__killed_and_begun_again__the_same_document(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    whole = run_cli("sweep", *SEVERAL, "--out", "s", "--json").stdout
    shutil.rmtree("s/runs/lr=0.003,tune=full")
    (Path("s") / "sweep.json").unlink()
    assert run_cli("sweep", *SEVERAL, "--out", "s", "--json", "--jobs", "1").stdout == whole


def test_sweep__more_seeds_later(run_cli: Callable[..., Any]) -> None:
    run_cli("sweep", "--grid", "lr=1e-4,3e-3", "--out", "s")
    result = run_cli("sweep", "--grid", "lr=1e-4,3e-3,1e-2", "--seeds", 2, "--out", "s", "--json")
    assert "2 of 6 runs are done already" in result.stderr
    assert [len(cell["runs"]) for cell in json.loads(result.stdout)["cells"]] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--grid", "lr=1,a"), "--lr is 'a'"),
        (("--grid", "lr=1,2", "--folds", 1), "--folds is 1; expected 2 or more"),
        (("--folds", 3, "--val-fraction", 0.1), "--folds and --val-fraction are both given"),
        (("nowhere.toml",), "nowhere.toml cannot be read"),
        (("--grid", "lr=1,2", "--out", "full"), "is not empty and no sweep"),
        (("--grid", "lr=1,2", "--out", "full/photo.png"), "--out"),
    ],
)
def test_sweep__refused(arguments: Sequence[object], words: str, run_cli: Callable[..., Any]) -> None:
    Path("full").mkdir()
    Path("full/photo.png").touch()
    result = run_cli("sweep", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("sweeps").exists()


def test_sweep__other_settings__what_differs(run_cli: Callable[..., Any]) -> None:
    run_cli("sweep", "--grid", "lr=1e-4,3e-3", "--steps", 3, "--out", "s")
    result = run_cli("sweep", "--grid", "lr=1e-4,3e-3", "--steps", 4, "--out", "s")
    assert result.exit_code == 2
    assert "steps: 3 there, 4 now" in result.stderr


def test_sweep__dry_run(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"steps": 30, "training_s": 60.0, "memory_bytes": 2**30, "num_val": 100, "num_train": 900}
    monkeypatch.setattr(pricing, "_dry_run", lambda _run: found)
    result = run_cli("sweep", *SEVERAL, "--dry-run")
    assert result.exit_code == 0
    assert "8 min 00 s one after the other" in result.stdout
    assert "2 GiB, 2 at a time" in result.stdout
    assert "points of top-1 in four of five sweeps, with 2 seeds and 100 images" in result.stdout
    assert not Path("sweeps").exists()
    document = json.loads(run_cli("sweep", *SEVERAL, "--dry-run", "--json").stdout)
    assert document["num_runs"] == 8


def test_sweep__from_python(capfd: pytest.CaptureFixture[str]) -> None:
    result = vitctl.sweep(grid={"lr": [1e-4, np.float64(3e-3)]}, seeds=2, num_threads=1, out=Path("s"))
    assert [cell.settings for cell in result.cells] == [{"lr": 1e-4}, {"lr": 3e-3}]
    assert capfd.readouterr() == ("", "")
    assert vitctl.sweep(grid=["lr=1e-4,3e-3"], seeds=2, num_threads=1, out="s") == result
    with pytest.raises(SettingError, match="--lr is -1"):
        vitctl.sweep(grid={"lr": [-1]})


def _sweep_of(folder: Path, data: Path, model: Path, out: str) -> "subprocess.Popen[bytes]":
    arguments = [
        "sweep", "--data", str(data), "--model", str(model), "--grid", "lr=1e-3,3e-3", "--seeds", "2", "--steps", "60",
        "--image-size", "16", "--batch-size", "4", "--num-workers", "0", "--num-threads", "1", "--save-every", "5",
        "--val-fraction", "0.3", "--jobs", "2", "--out", out,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(vitctl.__file__).parents[1])}
    with (folder / f"{out}.txt").open("ab") as said:
        return subprocess.Popen([sys.executable, "-m", "vitctl", *arguments], cwd=folder, env=environment, stderr=said)


@pytest.mark.slow
def test_sweep__killed_in_the_middle__equals_an_undisturbed_one(
    tmp_path: Path, image_folder: Path, tiny_model_folder: Path
) -> None:
    whole = _sweep_of(tmp_path, image_folder, tiny_model_folder, "whole")
    assert whole.wait() == 0, (tmp_path / "whole.txt").read_text()
    killed = _sweep_of(tmp_path, image_folder, tiny_model_folder, "killed")
    while not list((tmp_path / "killed").glob("runs/*/*/checkpoints/step-*")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "sweep.json").exists()
    again = _sweep_of(tmp_path, image_folder, tiny_model_folder, "killed")
    assert again.wait() == 0, (tmp_path / "killed.txt").read_text()
    texts = [(tmp_path / name / "sweep.json").read_text() for name in ("whole", "killed")]
    assert texts[0].replace(str(tmp_path / "whole"), "OUT") == texts[1].replace(str(tmp_path / "killed"), "OUT")
    weights = [sorted((tmp_path / name).glob("runs/*/*/last/model.safetensors")) for name in ("whole", "killed")]
    assert len(weights[0]) == 4
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
