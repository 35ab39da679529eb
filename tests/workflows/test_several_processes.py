"""Two processes share a batch: the same losses as one, one run folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitctl.recipes import recipe_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "balancing", [[], ["--class-weights", "balanced"], ["--sampler", "balanced", "--cache", "resized"]], ids=" ".join
)
def test_two_processes_give_the_losses_of_one(
    image_folder: Path, tiny_model_folder: Path, balancing: list[str]
) -> None:
    for number in range(9):  # 12 red, 12 green, 3 blue ones are left
        (image_folder / "blue" / f"{number}.png").unlink()
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--device", "cpu"]
    # plain SGD: AdamW, or clipping, would hide a gradient of the wrong size
    recipe = recipe_path("vit-paper").read_text().replace("clip_norm = { value = 1.0", "clip_norm = { value = 0.0")
    Path("sgd.toml").write_text(recipe)
    arguments += ["--recipe", "sgd.toml", "--lr", "0.05"]
    arguments += ["--batch-size", "7", "--epochs", "1", "--val-fraction", "0.2", "--num-threads", "1", "--json"]
    arguments += balancing
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"]
    documents = []
    for prefix, out in (([sys.executable], "one"), (launcher, "two")):
        done = subprocess.run(
            [*prefix, "-m", "vitctl", *arguments, "--out", out], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    losses = [
        [
            line["loss"]
            for line in map(json.loads, Path(out, "metrics.jsonl").read_text().splitlines())
            if "loss" in line
        ]
        for out in ("one", "two")
    ]
    assert len(losses[0]) == documents[0]["steps"] == documents[1]["steps"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert documents[1]["last"]["loss"] == pytest.approx(documents[0]["last"]["loss"], abs=1e-4)
