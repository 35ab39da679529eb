"""A run that is killed at any moment leaves whole files only."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.mark.slow
def test_kill_storm__every_file_is_whole(image_folder: Path, tiny_model_folder: Path) -> None:
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--num-workers", "0"]
    arguments += ["--steps", "4000", "--batch-size", "2", "--seed", "0", "--out", "out", "--overwrite"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    seen_weights = 0
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "vitctl", *arguments], env=environment, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        metrics = Path("out/metrics.jsonl")
        wanted = 150 * attempt  # further into the run each time
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.is_file() and metrics.read_bytes().count(b"\n") >= max(1, wanted):
                break
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        for line in metrics.read_text().splitlines():
            json.loads(line)
        for name in ("config.json", "validation.json"):
            json.loads(Path("out", name).read_text())
        for folder in (path for path in (Path("out/last"), Path("out/best")) if path.is_dir()):
            load_file(folder / "model.safetensors")
            json.loads((folder / "config.json").read_text())
            seen_weights += 1
    assert seen_weights


@pytest.mark.slow
def test_ctrl_c__exit_130_and_a_sentence(image_folder: Path, tiny_model_folder: Path) -> None:
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--num-workers", "1"]
    arguments += ["--steps", "100000", "--batch-size", "2", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vitctl", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not Path("out/metrics.jsonl").is_file():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped after step" in stderr
    assert "Traceback" not in stderr
    assert load_file("out/last/model.safetensors")
