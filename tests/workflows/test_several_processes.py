"""Several processes share the work: the results of one, one folder, one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vitctl.recipes import recipe_path
from vitctl.run_folders.kept_logits import read_logits

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "vitctl"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
THREADS = ["--num-threads", "1"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | more


def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == code, done.stderr
    return done


def losses(run_folder: str, name: str = "loss") -> list[float]:
    lines = map(json.loads, Path(run_folder, "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


@pytest.fixture
def training(image_folder: Path, tiny_model_folder: Path) -> list[str]:
    """A short run on 27 uneven images."""
    for number in range(9):  # 12 red, 12 green, 3 blue ones are left
        (image_folder / "blue" / f"{number}.png").unlink()
    # plain SGD: AdamW, or clipping, would hide a gradient of the wrong size
    recipe = recipe_path("vit-paper").read_text().replace("clip_norm = { value = 1.0", "clip_norm = { value = 0.0")
    Path("sgd.toml").write_text(recipe)
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--device", "cpu"]
    arguments += ["--recipe", "sgd.toml", "--lr", "0.05", *THREADS]
    return [*arguments, "--batch-size", "7", "--epochs", "1", "--val-fraction", "0.2", "--json"]


def check_equal(one: dict[str, Any], many: dict[str, Any], folder: str) -> None:
    assert len(losses("one")) == one["steps"] == many["steps"]
    assert losses(folder) == pytest.approx(losses("one"), abs=1e-5)
    assert losses(folder, "grad_norm") == pytest.approx(losses("one", "grad_norm"), rel=1e-4)
    assert many["last"]["loss"] == pytest.approx(one["last"]["loss"], abs=1e-4)


def test_finetune__that_diverges_is_told_once(training: list[str]) -> None:
    for option, value in (("--lr", "1000"), ("--epochs", "4")):
        training[training.index(option) + 1] = value
    done = run(*COMMAND, *training, "--save-every", "1", "--out", "two", "--num-processes", "2", code=2)
    assert done.stderr.count("became nan at step") == 1
    assert done.stderr.count("The images of step") == 1
    document = json.loads(Path("two/diverged.json").read_text())
    last = document["step"] - (document["what"] == "loss")  # the validation after a step sees it first
    assert [record["step"] for record in document["last_steps"]] == list(range(1, last + 1))
    assert len(document["images"]) == 7


@pytest.mark.parametrize(
    "more",
    [
        ["--head", "ridge"],
        ["--class-weights", "balanced"],
        ["--tune", "head", "--no-flip", "--set", "images.crop=none", "--micro-batch", "2"],
        ["--set", "averaging.method=ema", "--patience", "9", "--dev-fraction", "0.2"],
        ["--sampler", "balanced", "--cache", "resized", "--num-workers", "1"],
    ],
    ids=" ".join,
)
def test_finetune__losses_of_one(training: list[str], image_folder: Path, more: list[str]) -> None:
    if "ridge" in more:
        (image_folder / "blue").rename(image_folder / "violet")  # else the model has a head for these classes
    one = run(*COMMAND, *training, *more, "--out", "one")
    two = run(*COMMAND, *training, *more, "--out", "two", "--num-processes", "2")
    check_equal(json.loads(one.stdout), json.loads(two.stdout), "two")
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(
        ["logs", *(path.name for path in Path("one").iterdir())]
    )
    assert Path("two/logs/rank-1.txt").read_text() == ""
    for name in ("validation.json", "training-images.txt"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()
    if "--dev-fraction" in more:
        kept = [read_logits(Path(folder)) for folder in ("one", "two")]
        assert kept[0] is not None
        assert kept[1] is not None
        assert kept[0].hashes == kept[1].hashes
        assert kept[1].logits == pytest.approx(kept[0].logits, abs=1e-4)
        assert json.loads(two.stdout)["validated_on"] == "dev"
    if "--patience" in more:
        assert losses("two", "average_val_loss") == pytest.approx(losses("one", "average_val_loss"), abs=1e-4)
    if "ridge" in more:  # of the head alone: no step has been taken
        assert losses("two", "val_loss")[0] == losses("one", "val_loss")[0]
        assert json.loads(one.stdout)["linear_probe"] == json.loads(two.stdout)["linear_probe"]
    settings = [json.loads(Path(folder, "config.json").read_text()) for folder in ("one", "two")]
    assert "num_processes" not in settings[1]
    assert [json.loads(one.stdout)["num_processes"], json.loads(two.stdout)["num_processes"]] == [1, 2]
    assert {key for key in settings[0] if settings[0][key] != settings[1][key]} <= {"command", "num_workers"}


def test_finetune__two_nodes_of_torchrun(training: list[str]) -> None:
    """Each has a cache and a working folder of its own; the first writes."""
    one = run(*COMMAND, *training, "--cache", "resized", "--out", "one")
    recipe = str(Path("sgd.toml").absolute())
    nodes = []
    for node in range(2):
        Path(f"node-{node}").mkdir()
        agent = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
        agent += ["--rdzv-endpoint", "localhost:29541", "-m", "vitctl"]
        arguments = [recipe if argument == "sgd.toml" else argument for argument in training]
        arguments += ["--cache", "resized", "--out", str(Path("two").absolute())]
        nodes.append(
            subprocess.Popen(
                [*agent, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=f"node-{node}",
                env=environment(VITCTL_CACHE=str(Path(f"cache-{node}").absolute())),
            )
        )
    said = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    (document,) = [out for out, _ in said if out]
    check_equal(json.loads(one.stdout), json.loads(document), "two")
    assert not Path("two/logs").exists()
    assert all(list(Path(f"cache-{node}", "resized").glob("*.bin")) for node in range(2))


def test_evaluate__files_of_one(finished_run: Path) -> None:
    data = str(finished_run.parent / "data")  # 15 images in batches of 4: the second process has a whole one less
    arguments = ["evaluate", str(finished_run), "--data", data, "--split", "test", "--batch-size", "4", *THREADS]
    one = run(*COMMAND, *arguments, "--out", "one", "--json")
    many = run(*COMMAND, *arguments, "--out", "many", "--json", "--num-processes", "3")
    assert json.loads(one.stdout) | {"out": ""} == json.loads(many.stdout) | {"out": ""}
    for name in ("predictions.csv", "confusion.csv", "highest-loss.png"):
        assert Path("one", name).read_bytes() == Path("many", name).read_bytes()
    assert sorted(path.name for path in Path("many/logs").iterdir()) == ["rank-1.txt", "rank-2.txt"]


@pytest.mark.parametrize(
    "more",
    [
        ["--shots", "1,3", "--layers", "all", "--cache", "features"],
        ["--shots", "all", "--on-bad-image", "skip"],  # features are added up on the way
        ["--protocol", "episodes", "--ways", "2", "--shots", "1", "--queries", "2", "--episodes", "5"],
    ],
    ids=" ".join,
)
def test_fewshot_eval__tables_of_one(finished_run: Path, more: list[str]) -> None:
    data = finished_run.parent / "data"
    if "skip" in more:
        (data / "train" / "red" / "broken.png").write_bytes(b"not an image")
    arguments = ["fewshot-eval", "--model", str(finished_run), "--data", str(data), "--seeds", "2", "--batch-size", "4"]
    documents = []
    for folder, number in (("one", "1"), ("two", "2")):
        here = [f"{folder}-{one}" if one == "features" else one for one in more]
        done = run(*COMMAND, *arguments, *here, *THREADS, "--out", folder, "--num-processes", number, "--json")
        documents.append(json.loads(done.stdout))
        documents[-1]["cost"]["embed_s"] = documents[-1]["cost"]["solve_s"] = documents[-1]["out"] = None
    assert documents[0] == documents[1]
    for name in ("results.csv", "supports.json"):
        if Path("one", name).exists():
            assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    if "--cache" in more:
        from safetensors.numpy import load_file

        kept = [sorted(Path(f"{folder}-features").rglob("*.safetensors")) for folder in ("one", "two")]
        assert [path.name for path in kept[0]] == [path.name for path in kept[1]] != []
        for path, other in zip(*kept, strict=True):
            one, two = load_file(path), load_file(other)
            assert all(one[name].tobytes() == two[name].tobytes() for name in one)
        again = run(*COMMAND, *arguments, *here, *THREADS, "--out", "again", "--num-processes", "2", "--json")
        assert json.loads(again.stdout)["cost"]["images_embedded"] == 0


@pytest.mark.parametrize("launcher", ["vitctl", "torchrun"])
def test_bad_image__one_sentence_and_no_wait(image_folder: Path, tiny_model_folder: Path, launcher: str) -> None:
    (image_folder / "red" / "3.png").write_bytes(b"not an image")
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--out", "run"]
    if launcher == "vitctl":
        said = run(*COMMAND, *arguments, "--num-processes", "2", code=3).stderr
        assert said.splitlines()[-2].startswith("error: 1 of 36 train images cannot be read")
    else:
        said = run(
            *TORCHRUN, "--nproc-per-node", "2", "--master-port", "29543", "-m", "vitctl", *arguments, code=1
        ).stderr
    assert said.count("cannot be read; repair") == 1
    assert "[process" not in said
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("whom", "number", "code"),
    [
        ("child", signal.SIGKILL, 137),
        ("child", signal.SIGTERM, 143),  # it tells the other one
        ("parent", signal.SIGTERM, 143),
        ("parent", signal.SIGINT, 130),
    ],
)
def test_signal__in_training(training: list[str], whom: str, number: int, code: int) -> None:
    steps = [argument for argument in training if argument not in ("--epochs", "1", "--json")]
    steps += ["--num-threads", "1", "--steps", "100000", "--num-workers", "1", "--out", "run", "--num-processes", "2"]
    steps.remove("--num-threads")
    process = subprocess.Popen([*COMMAND, *steps], stderr=subprocess.PIPE, text=True, env=environment())
    try:
        end = time.monotonic() + 120
        while not Path("run/metrics.jsonl").exists() or len(losses("run")) < 3:
            assert time.monotonic() < end
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        children = [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(children) == 2
        os.kill(process.pid if whom == "parent" else children[1], number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == code, said
    last = said.splitlines()[-1]
    beginning = "error: Process 1 of 2 was killed" if number == signal.SIGKILL else "stopped: "
    # the first may lose the one that was told to end before it has heard of that
    is_lost = whom == "child" and last.startswith("error: Process 1 of 2 was told to end (SIGTERM, signal 15)")
    assert last.startswith(beginning) or is_lost
    if number == signal.SIGKILL:
        assert "the same command again; it goes on from the last checkpoint, if there is one." in last
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    if whom == "parent":
        assert Path("run/last/model.safetensors").exists()
