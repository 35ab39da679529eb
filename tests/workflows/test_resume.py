"""A run that was interrupted, any number of times and anywhere, ends with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitctl
from vitctl.conversation import Conversation, Setting
from vitctl.data import loader
from vitctl.data.run_places import former_place
from vitctl.errors import DataError, InterruptedRun, ModelError, SettingError
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import trainer
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

pytestmark = pytest.mark.usefixtures("no_rendering")

SETS = ("evaluation.validations=3", "evaluation.select_best_from=1")
KilledAt = Callable[[Callable[[], object], int], bool]


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path) -> FinetuneConfig:
    """Six steps, three validations, of which the best is chosen; a checkpoint at every step."""
    return FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), batch_size=8, num_workers=0, val_fraction=0.2,
        steps=6, save_every="1", recipe="demo", set=(*SETS, "averaging.method=ema"),
        out="out",
    )  # fmt: skip


def run(config: FinetuneConfig) -> FinetuneResult:
    result = finetune.run(config, Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    """Return what repeats of a run."""
    names = ("config.json", "validation.json", "metrics.jsonl", "last", "average", "best", "val-logits.safetensors")
    paths = [path for name in names for path in (Path(folder) / name, *(Path(folder) / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


class Header(Conversation):
    """Keeps what the header says."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.lines: list[str] = []

    def header(self, title: str, settings: list[Setting]) -> None:
        self.said = {one.name: f"{one.value}; {one.reason}" for one in settings}

    def line(self, text: str) -> None:
        self.lines.append(text)

    warn = line


def in_image(number: int, do: Callable[[], object]) -> Callable[[], object]:
    """Return ``do`` with a SIGKILL when image ``number`` is read."""

    def read_and_die() -> object:
        made, count = loader._made, iter(range(1, 10**6))

        def watched(*given: Any, **named: Any) -> Any:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return made(*given, **named)

        loader._made = watched
        return do()

    return read_and_die


def test_killed_twice__the_same_bytes(config: FinetuneConfig, killed_at: KilledAt) -> None:
    whole = run(replace(config, out="whole"))
    assert killed_at(lambda: run(config), 150)  # while something is written
    assert killed_at(in_image(30, lambda: run(config)), 10**6)  # in a step, or the validation after it
    again = run(config)
    assert bytes_of("out") == bytes_of("whole")
    assert again.weights_sha256 == whole.weights_sha256
    assert (again.best, again.last, again.linear_probe) == (whole.best, whole.last, whole.linear_probe)
    assert not Path("out/checkpoints").exists()


@pytest.mark.slow
def test_kill_storm__the_same_bytes(config: FinetuneConfig, killed_at: KilledAt) -> None:
    """Killed at the calls that touch the disk, of a save, a rename, a log; and in images of steps and validations."""
    run(replace(config, out="whole"))
    num_killed, steps = 0, set()
    for number in range(0, 600, 7):
        action = (lambda: run(config)) if number % 2 else in_image(9 + number // 10, lambda: run(config))
        num_killed += killed_at(action, 40 + number if number % 2 else 10**6)
        steps |= {path.name for path in Path("out").glob("checkpoints/step-*")}
        if Path("out/summary.json").exists():
            break
    assert num_killed >= 10
    assert len(steps) >= 4
    run(config)
    assert bytes_of("out") == bytes_of("whole")


def test_the_same_command_goes_on_and_says_from_where(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    run(replace(config, out="whole"))
    error = stopped_after(3, config)
    assert error.exit_code == 143
    path = Path("out").absolute()
    assert str(error) == f"Stopped after step 3 of 6. Step 3 of 6 is saved; go on with: vitctl finetune --resume {path}"
    assert sorted(one.name for one in Path("out/checkpoints").iterdir()) == ["step-2", "step-3"]
    header = Header()
    result = finetune.run(config, header)
    assert header.said["goes on"] == "after step 3 of 6; byte for byte"
    assert bytes_of("out") == bytes_of("whole")

    header = Header()
    again = finetune.run(config, header)
    assert again.as_json() == result.as_json()
    assert header.lines[-1].startswith(f"{path} is finished")


@pytest.mark.slow
def test_resume_needs_nothing_else__and_may_compute_otherwise(
    config: FinetuneConfig, stopped_after: StoppedAfter
) -> None:
    run(replace(config, out="whole"))
    stopped_after(4, config)
    header = Header()
    result = finetune.run(FinetuneConfig(resume="out", num_workers=1, save_every="10"), header)
    assert header.said["goes on"] == "after step 4 of 6; byte for byte"
    assert bytes_of("out") == bytes_of("whole")
    assert result.run == str(Path("out").absolute())


@pytest.mark.slow
def test_other_threads__says_that_bytes_may_differ(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    stopped_after(4, replace(config, num_threads=1))
    header, before = Header(), torch.get_num_threads()
    try:
        finetune.run(FinetuneConfig(resume="out", num_threads=2), header)
    finally:
        torch.set_num_threads(before)
    expected = "after step 4 of 6; equal to about 1e-5, not byte for byte: threads 2 instead of 1"
    assert header.said["goes on"] == expected


def test_other_settings_are_refused_by_name(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    stopped_after(2, config)
    before = bytes_of("out")
    other = replace(config, steps=7, seed=1, set=("evaluation.validations=2", *(config.set or ())[1:]))
    with pytest.raises(SettingError) as caught:
        run(other)
    assert caught.value.exit_code == 2
    assert caught.value.args[1:] == (
        "  --steps: 6 there, 7 now",
        "  --seed: 0 there, 1 now",
        "  evaluation.validations: 3 there, 2 now",
    )
    assert "--overwrite" in str(caught.value)
    with pytest.raises(SettingError, match="--lr: 0.00075 there, 0.5 now"):
        run(FinetuneConfig(resume="out", lr=0.5))
    with pytest.raises(SettingError, match="--out is given beside --resume"):
        run(FinetuneConfig(resume="out", out="elsewhere"))
    assert bytes_of("out") == before


@pytest.mark.slow
def test_ended_before_anything_was_saved__begins_again(config: FinetuneConfig, killed_at: KilledAt) -> None:
    # the closed-form head is saved before the first step, and a step by a thread while the next one is taken
    config = replace(config, head="zero", save_every="1h")
    run(replace(config, out="whole"))
    assert killed_at(in_image(12, lambda: run(config)), 10**6)
    assert Path("out/metrics.jsonl").is_file()
    assert not Path("out/checkpoints").exists()
    header = Header()
    finetune.run(config, header)
    assert any("begins again" in line for line in header.lines)
    assert bytes_of("out") == bytes_of("whole")


@pytest.mark.slow
def test_stopped_beside_the_run_it_replaces__resume_goes_on_there(
    config: FinetuneConfig, stopped_after: StoppedAfter
) -> None:
    run(replace(config, out="whole", seed=1))
    run(config)
    old = bytes_of("out")
    error = stopped_after(3, replace(config, seed=1, overwrite=True))
    assert "--resume" in str(error)
    assert former_place(Path(".out.partial")) == str(Path("out").absolute())
    assert bytes_of("out") == old
    run(FinetuneConfig(resume="out"))
    assert bytes_of("out") == bytes_of("whole")
    assert sorted(path.name for path in Path().iterdir() if "out" in path.name) == ["out"]


@pytest.mark.slow
def test_killed_when_it_would_take_the_old_runs_place__resume_completes_it(
    config: FinetuneConfig, killed_at: KilledAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(config, out="whole", seed=1))
    run(config)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr("vitctl.training.run_folder.put_in_place", die)
        assert killed_at(lambda: run(replace(config, seed=1, overwrite=True)), 10**6)
    assert Path(".out.partial/summary.json").is_file()
    result = run(FinetuneConfig(resume="out"))
    assert result.run == str(Path("out").absolute())
    assert bytes_of("out") == bytes_of("whole")
    assert not Path(".out.partial").exists()
    assert not Path("out/checkpoints").exists()


@pytest.mark.slow
def test_an_older_run_that_was_to_replace_a_newer_one_is_not_gone_on_with(
    config: FinetuneConfig, stopped_after: StoppedAfter
) -> None:
    stopped_after(3, config)
    stopped_after(2, replace(config, seed=1, overwrite=True))
    time.sleep(0.05)
    run(config)
    with pytest.raises(SettingError, match=r"is finished. Beside it, .*\.out\.partial holds an older run"):
        run(FinetuneConfig(resume="out"))
    header = Header()
    finetune.run(replace(config, seed=2, overwrite=True), header)
    assert any("stopped after step 2, is given up" in line for line in header.lines)


@pytest.mark.slow
@pytest.mark.parametrize("is_overwriting", [True, False])
def test_two_commands_to_one_place__the_second_is_refused(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, stopped_after: StoppedAfter, is_overwriting: bool
) -> None:
    stopped_after(2, config)
    first, second = replace(config, seed=1, overwrite=True), config
    if not is_overwriting:
        first, second = second, first
    recorded, found = trainer.Recorder.step, list[str]()

    def record(self: Any, report: Any) -> None:
        recorded(self, report)
        if report.step == 4 and not found:
            found.append("")
            command = (
                ["finetune", "--resume", "out"] if second is config else ["finetune", "--overwrite", "--out", "out"]
            )
            for option in ("data", "model", "batch_size", "num_workers", "val_fraction", "steps", "recipe"):
                if second is not config:
                    command += [f"--{option.replace('_', '-')}", str(getattr(config, option))]
            done = subprocess.run([sys.executable, "-m", "vitctl", *command], capture_output=True, text=True)
            found.append(f"{done.returncode} {done.stderr}")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Recorder, "step", record)
        run(first)
    assert found[1].startswith("2 ")
    assert "is being written by another vitctl" in " ".join(found[1].split())


@pytest.mark.slow
def test_a_checkpoint_that_lacks_a_fact__a_sentence(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    stopped_after(3, config)
    for path in Path("out/checkpoints").glob("*/state.json"):
        document = json.loads(path.read_text())
        del document["state"]["clock"]
        path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="is a checkpoint of another vitctl \\('clock'\\)"):
        run(config)


@pytest.mark.slow
def test_stopped_before_there_were_weights__commands_say_how_to_go_on(
    config: FinetuneConfig, stopped_after: StoppedAfter
) -> None:
    stopped_after(1, config)
    shutil.rmtree("out/last")  # as a kill leaves it before the first validation
    for command in ("evaluate", "predict", "export"):
        arguments = {"predict": [next(Path(config.data or "").rglob("*.png"))], "export": ["--to", "timm"]}
        done = subprocess.run(
            [sys.executable, "-m", "vitctl", command, "out", *arguments.get(command, [])],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 4
        assert "stopped before it had weights" in " ".join(done.stderr.split())
        assert "vitctl finetune --resume out" in " ".join(done.stderr.split())


def test_from_python(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    stopped_after(5, config)
    assert vitctl.finetune(resume="out").last.step == 6
    assert vitctl.finetune(resume="out").last.step == 6


@pytest.mark.slow
def test_images_that_are_others_are_refused(
    config: FinetuneConfig, stopped_after: StoppedAfter, image_folder: Path
) -> None:
    stopped_after(3, config)
    path = next((image_folder / "red").glob("*.png"))
    shutil.copy(next((image_folder / "blue").glob("*.png")), path)
    with pytest.raises(DataError, match="no longer those that the run was made with"):
        run(config)


@pytest.mark.slow
def test_data_that_have_moved__the_run_goes_on_and_knows_where_they_are(
    config: FinetuneConfig, stopped_after: StoppedAfter, image_folder: Path
) -> None:
    run(replace(config, out="whole"))
    stopped_after(3, config)
    moved = image_folder.parent / "moved"
    image_folder.rename(moved)
    with pytest.raises(DataError, match=r"There is nothing at .*--resume \S*out --data NEW$"):
        run(FinetuneConfig(resume="out"))
    run(FinetuneConfig(resume="out", data=str(moved)))
    assert json.loads(Path("out/config.json").read_text())["data"] == str(moved)
    found, expected = bytes_of("out"), bytes_of("whole")
    assert [name for name in expected if found[name] != expected[name]] == ["config.json", "validation.json"]


@pytest.mark.slow
def test_an_image_is_lost__what_was_trained_is_saved(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, image_folder: Path
) -> None:
    kept = Path("kept").absolute()
    shutil.copytree(image_folder, kept)
    run(replace(config, out="whole"))
    config = replace(config, save_every="1h")
    recorded = trainer.Recorder.step

    def record(self: Any, report: Any) -> None:
        recorded(self, report)
        if report.step == 3:
            shutil.rmtree(image_folder)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Recorder, "step", record)
        with pytest.raises(DataError, match="Step 3 of 6 is saved; go on with: vitctl"):
            run(config)
    shutil.copytree(kept, image_folder)
    run(config)
    assert bytes_of("out") | {"config.json": b""} == bytes_of("whole") | {"config.json": b""}


@pytest.mark.slow
def test_checkpoints_all_damaged__a_sentence(config: FinetuneConfig, stopped_after: StoppedAfter) -> None:
    stopped_after(3, config)
    for path in Path("out/checkpoints").glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(ModelError, match=r"no checkpoint to go on from. Train anew with --overwrite"):
        run(config)


@pytest.mark.slow
@pytest.mark.parametrize("is_group", [False, True], ids=["pid", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal__saves_and_goes_on(
    image_folder: Path, tiny_model_folder: Path, is_group: bool, number: signal.Signals
) -> None:
    arguments = ["finetune", "--data", str(image_folder), "--model", str(tiny_model_folder), "--num-workers", "2"]
    arguments += ["--steps", "600", "--batch-size", "4"]
    command = [sys.executable, "-m", "vitctl", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", "whole"], check=True, env=environment, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", "out"], stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    metrics, deadline = Path("out/metrics.jsonl"), time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 20):
        time.sleep(0.01)
    (os.killpg if is_group else os.kill)(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], stderr
    assert "Traceback" not in stderr
    assert "go on with: vitctl finetune --resume" in stderr
    done = subprocess.run([*command[:3], "finetune", "--resume", "out", "--json"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["last"]["step"] == 600
    assert bytes_of("out") == bytes_of("whole")
