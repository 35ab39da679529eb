"""A run that is killed at any moment leaves whole files only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
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
        # the first grows where it will stand, those after it beside what the one before it left there
        run = Path(".out.partial" if attempt else "out")
        metrics = run / "metrics.jsonl"
        metrics.unlink(missing_ok=True)
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
            json.loads((run / name).read_text())
        for folder in (path for path in (run / "last", run / "best") if path.is_dir()):
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
    metrics = Path("out/metrics.jsonl")  # the first line may be of the head that was computed, before any step
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped after step" in stderr
    assert "Traceback" not in stderr
    assert load_file("out/last/model.safetensors")


def start_run(image_folder: Path, model_folder: Path, *, seed: int) -> Callable[[], object]:
    """Return what starts a run of four steps with three validations in ``out``, over what stands there."""
    from vitctl.conversation import Conversation
    from vitctl.settings.finetune import FinetuneConfig
    from vitctl.workflows import finetune

    settings = dict(data=str(image_folder), model=str(model_folder), head="zero", num_workers=0, steps=4, batch_size=4)
    config = FinetuneConfig(**settings, seed=seed, out="out", overwrite=True)
    return lambda: finetune.run(config, Conversation())


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what repeats of a run, by path."""
    changing = ("speed.jsonl", "summary.json", "curves.png", "confusion.png")
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in changing)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_overwrite__killed_anywhere_the_old_run_or_the_whole_new_one_stands(
    image_folder: Path, tiny_model_folder: Path, killed_at: Callable[[Callable[[], object], int], bool]
) -> None:
    out, ends = Path("out"), list[bool]()
    expected = list[dict[str, bytes]]()
    for seed in (1, 0):
        start_run(image_folder, tiny_model_folder, seed=seed)()
        expected.append(files_of(out))
    new, old = expected
    assert new != old
    start_new = start_run(image_folder, tiny_model_folder, seed=1)
    numbers = np.random.default_rng(0).choice(np.arange(1, 160), 60, replace=False)
    for number in sorted(numbers.tolist()):
        ends.append(killed_at(start_new, number))
        assert files_of(out) in (old, new)
        if not ends[-1]:
            break
    assert ends.count(True) > 30
    start_new()
    assert files_of(out) == new
    assert sorted(path.name for path in Path().iterdir()) == ["out"]


def kill_and_repeat(
    killed_at: Callable[[Callable[[], object], int], bool], action: Callable[[], object], check: Callable[[], None]
) -> None:
    """Kill ``action`` at up to fifteen seeded calls, ``check`` what is left each time, and let it end once."""
    numbers = np.random.default_rng(0).choice(np.arange(1, 60), 15, replace=False)
    was_killed = [killed_at(action, number) for number in sorted(numbers.tolist()) if check() is None]
    assert any(was_killed)
    check()


def check_whole(folder: Path) -> None:
    """Check that each file in ``folder`` that has its name is whole: JSON, arrays and weights can be read."""
    for path in (path for path in folder.rglob("*") if path.is_file() and ".partial" not in str(path)):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[key] is not None for key in arrays.files)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()


@pytest.mark.slow
def test_export__killed_anywhere_each_format_is_whole_or_not_there(
    tiny_model_folder: Path, killed_at: Callable[[Callable[[], object], int], bool]
) -> None:
    from vitctl.conversation import Conversation
    from vitctl.settings.export import ExportConfig
    from vitctl.workflows import export

    out = Path("exports").absolute()
    config = ExportConfig(model=str(tiny_model_folder), to=("timm", "npz"), out=str(out))

    def export_again() -> None:
        shutil.rmtree(out / "timm", ignore_errors=True)  # nothing is replaced
        shutil.rmtree(out / "npz", ignore_errors=True)
        export.run(config, Conversation())

    def check() -> None:
        check_whole(out)
        for name, file in (("timm", "model.safetensors"), ("npz", "model.npz")):
            assert not (out / name / "export.json").exists() or (out / name / file).is_file()

    kill_and_repeat(killed_at, export_again, check)
    export_again()
    assert sorted(path.name for path in out.iterdir()) == ["npz", "timm"]


@pytest.mark.slow
def test_inspect_and_fewshot__killed_anywhere_leave_whole_files_and_a_cache_that_is_right(
    image_folder: Path, tiny_model_folder: Path, killed_at: Callable[[Callable[[], object], int], bool]
) -> None:
    from vitctl.conversation import Conversation
    from vitctl.settings.fewshot_eval import FewshotEvalConfig
    from vitctl.settings.inspect_model import InspectAllConfig
    from vitctl.workflows import fewshot_eval, inspect_model

    common = {"model": (str(tiny_model_folder),), "num_workers": 0}
    fewshot = FewshotEvalConfig(data=(str(image_folder),), shots=(2,), seeds=1, cache="cache", out="few", **common)
    inspection = InspectAllConfig(data=str(image_folder), out="seen", num_images=6, shots=2, seeds=1, **common)
    right = fewshot_eval.run(fewshot, Conversation()).as_json()["results"]
    shutil.rmtree("cache")
    for name, action in (
        ("few", lambda: fewshot_eval.run(fewshot, Conversation())),
        ("seen", lambda: inspect_model.run(inspection, Conversation())),
    ):
        kill_and_repeat(killed_at, action, lambda name=name: check_whole(Path(name)))
        check_whole(Path("cache"))
    assert fewshot_eval.run(fewshot, Conversation()).as_json()["results"] == right
