"""Runs as processes: what is done is not done again, failures end with the run's own sentence, signals reach all."""

import ast
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import DataError, InterruptedRun, SettingError
from vitctl.primitives import children
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping import places, running
from vitctl.sweeping.cells import cells_of
from vitctl.sweeping.failures import FailedRunError
from vitctl.sweeping.places import Places
from vitctl.sweeping.planning import PlannedRun, check_place, command_of, planned_runs, threads_of, write_plan
from vitctl.sweeping.running import run_all
from vitctl.sweeping.states import is_diverged, is_finished


class Heard(Conversation):
    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "POLL_S", 0.005)
    monkeypatch.setattr(children, "POLL_S", 0.005)


def runs_of(out: Path, *grid: str, **settings: object) -> tuple[PlannedRun, ...]:
    config = SweepConfig(grid=grid or None, **settings)  # type: ignore[arg-type]
    return planned_runs(cells_of(config), config, out)


def go(runs: Sequence[PlannedRun], command: Callable[..., Sequence[str]], jobs: int = 2) -> list[str]:
    heard = Heard()
    run_all(runs, jobs=jobs, conversation=heard, command=command)
    return heard.said


def started(out: Path) -> list[str]:
    return (out / "started.txt").read_text().splitlines()


def test_planned_runs__every_first_seed_first(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "lr=1,2", seeds=2, seed=5, num_threads=3)
    assert [(run.cell, run.seed) for run in runs] == [("lr=1", 5), ("lr=2", 5), ("lr=1", 6), ("lr=2", 6)]
    assert runs[2].out == tmp_path / "runs" / "lr=1" / "seed-6"
    assert runs[2].arguments == [
        "finetune", "--split-seed", "5", "--lr", "1.0", "--seed", "6", "--num-threads", "3", "--out", str(runs[2].out),
    ]  # fmt: skip
    folds = runs_of(tmp_path, folds=3)
    assert [run.fold for run in folds] == [1, 2, 3]
    assert "--fold 2/3" in " ".join(folds[1].arguments)
    assert folds[1].out.parts[-2:] == ("seed-0", "fold-2")


def test_all_are_run__and_none_again(tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]) -> None:
    runs = runs_of(tmp_path, "lr=1,2", seeds=2)
    go(runs, fake_command())
    assert all(map(is_finished, runs))
    assert len(started(tmp_path)) == 4
    environment = ast.literal_eval((runs[0].out / "environment.txt").read_text())
    assert environment["VITCTL_KEEPER"] == str(os.getpid())
    assert environment["OMP_WAIT_POLICY"] == "passive"
    (runs[1].out / "summary.json").unlink()  # as if it had been stopped
    assert go(runs, fake_command()) == ["3 of 4 runs are done already"]
    assert started(tmp_path)[4:] == ["lr=2 seed-0"]
    go(runs, fake_command())
    assert len(started(tmp_path)) == 5


def test_a_run_that_diverged_is_a_result(tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]) -> None:
    runs = runs_of(tmp_path, "lr=1,2", seeds=2)
    command = fake_command(lambda run: "diverge" if run.cell == "lr=1" else "")
    said = go(runs, command, jobs=1)
    assert [is_diverged(run) for run in runs] == [True, False, True, False]
    assert sum(text.startswith("warning: lr=1, seed") for text in said) == 2
    assert len(started(tmp_path)) == 4
    go(runs, command, jobs=1)
    assert len(started(tmp_path)) == 4


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("fail", 3, ("The disk is full; give another.", "  it is", "lr=1, seed 0", "What is finished stays")),
        ("crash", 1, ("ended with exit code 1", "KeyError")),
        ("memory", 137, ("was killed (SIGKILL, signal 9)", "memory is full, fewer --jobs")),
    ],
)
def test_a_failure__ends_the_sweep_with_the_runs_own_sentence(
    does: str, code: int, words: Sequence[str], tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]
) -> None:
    runs = runs_of(tmp_path, "lr=1,2", seeds=2)

    def what(run: PlannedRun) -> str:
        if run.cell == "lr=2":
            return "wait"
        while not (runs[1].out / "ready").exists() and (runs[1].out.parent).exists():
            time.sleep(0.01)
        return does

    order = (runs[1], runs[0], *runs[2:])
    with pytest.raises(FailedRunError) as caught:
        go(order, fake_command(what))
    assert caught.value.exit_code == code
    for word in words:
        assert word in str(caught.value)
    assert (runs[1].out / "stopped.txt").read_text() == "SIGTERM\n"
    assert started(tmp_path) == ["lr=2 seed-0", "lr=1 seed-0"]
    go(order, fake_command())
    assert all(map(is_finished, runs))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal__is_passed_on_once_and_no_other_is_started(
    number: signal.Signals, tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]
) -> None:
    runs = runs_of(tmp_path, "lr=1,2,3")

    def send() -> None:
        while not all((run.out / "ready").exists() for run in runs[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(InterruptedRun, match="The same command goes on") as caught:
        go(runs, fake_command(lambda _: "wait"))
    sender.join()
    assert caught.value.exit_code == 128 + number
    assert [(run.out / "stopped.txt").read_text() for run in runs[:2]] == [f"{number.name}\n"] * 2
    assert not runs[2].out.exists()


def test_a_signal__when_all_was_written(tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]) -> None:
    runs = runs_of(tmp_path, "lr=1,2")
    command = fake_command(lambda run: "" if run.cell == "lr=1" else "wait")
    heard = Heard()

    def send() -> None:
        while not ((runs[1].out / "ready").exists() and is_finished(runs[0])):
            time.sleep(0.01)
        (runs[1].out / "summary.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(InterruptedRun, match="The same command goes on") as caught:  # nothing more begins
        run_all(runs, jobs=2, conversation=heard, command=command)
    sender.join()
    assert caught.value.exit_code == 143
    assert all(map(is_finished, runs))
    assert not [text for text in heard.said if "no longer finite" in text]


def test_another_run_in_the_way__refused(tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]) -> None:
    runs = runs_of(tmp_path, "lr=1,2")
    go(runs, fake_command())
    (runs[0].out / "config.json").write_text('{"vitctl": "0", "lr": 7}')
    with pytest.raises(SettingError, match=r"is a run with lr 7; expected 1.0"):
        go(runs, fake_command())


def test_a_list_of_images_that_was_edited__its_finished_runs_are_not_those_asked_for(
    tmp_path: Path, fake_command: Callable[..., Callable[..., list[str]]]
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("image\na.png\n")
    runs = runs_of(tmp_path, f"clean=none,{listed}")
    go(runs, fake_command())
    for run in runs:
        (run.out / "config.json").write_text(json.dumps({"vitctl": "0", "clean": run.given.get("clean")}))
    go(runs, fake_command())
    listed.write_text("image\nb.png\n")
    with pytest.raises(SettingError, match=r"is a run with clean .*list.csv#sha256="):
        go(runs_of(tmp_path, f"clean=none,{listed}"), fake_command())


def test_weights_without_a_checkpoint__trained_anew(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path)
    assert "--overwrite" not in command_of(run)
    (run.out / "last").mkdir(parents=True)
    (run.out / "config.json").write_text('{"vitctl": "0", "seed": 0}')
    assert command_of(run)[-1] == "--overwrite"
    beside = run.out.with_name(f".{run.out.name}.partial") / "checkpoints" / "step-3"
    beside.mkdir(parents=True)  # it was, and was stopped: that goes on
    assert "--overwrite" not in command_of(run)
    beside.parent.rename(run.out / "checkpoints")
    assert "--overwrite" not in command_of(run)


def test_weights_of_another_run__not_replaced(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path)
    run.out.mkdir(parents=True)
    (run.out / "config.json").write_text('{"vitctl": "0", "seed": 1}')
    with pytest.raises(SettingError, match="is a run with seed 1; expected 0"):
        run_all([run], jobs=1, conversation=Heard())


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("left", [9, 0])
def test_a_finished_run_that_is_cut__is_not_taken_as_one(name: str, left: int, tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path)
    run.out.mkdir(parents=True)
    for one in ("config.json", "summary.json"):
        (run.out / one).write_text('{"vitctl": "0", "seed": 0}')
    damaged = run.out / name
    damaged.write_bytes(damaged.read_bytes()[:left])
    with pytest.raises(DataError, match=f"^{damaged} cannot be read: .*Remove {run.out}, and the same command"):
        run_all([run], jobs=1, conversation=Heard(), command=lambda _: ["false"])


def test_out_inside_a_run__refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vitctl": "0"}')
    out = tmp_path / "sweeps" / "one"
    with pytest.raises(SettingError, match=f"{out} lies inside the run {tmp_path}, where"):
        check_place(out, SweepConfig())


def test_gpus_are_given_out_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "num_gpus", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    some = Places(2, runs_of(tmp_path, "lr=1,2"))
    assert [some.take(), some.take(), some.take()] == [0, 1, None]
    assert [some.environment(place) for place in range(2)] == [{"CUDA_VISIBLE_DEVICES": one} for one in "01"]
    some.give_back(0)
    assert some.take() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,2")
    shared = Places(4, runs_of(tmp_path, "lr=1,2"))
    assert [shared.environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(4)] == ["7", "5", "2", "7"]
    pairs = Places(2, runs_of(tmp_path, "lr=1,2", num_processes=2))
    assert pairs.environment(1)["CUDA_VISIBLE_DEVICES"] == "2,7"
    assert Places(2, runs_of(tmp_path, "lr=1,2", device="cpu")).environment(0) == {}


def test_threads__are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitctl.sweeping.planning.num_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = SweepConfig(grid=("lr=1,2",), jobs=2)
    assert threads_of(config, tmp_path) == 4
    write_plan(tmp_path, config, cells_of(config), ())
    assert threads_of(SweepConfig(jobs=1), tmp_path) == 4
    assert threads_of(SweepConfig(num_threads=3), tmp_path) == 3
    assert threads_of(SweepConfig(jobs=2, num_processes=2), tmp_path / "other") == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_of(SweepConfig(jobs=2), tmp_path / "other") == 1


def test_a_sweep_that_is_there__more_values_and_seeds_but_the_same_settings(tmp_path: Path) -> None:
    config = SweepConfig(grid=("lr=1,2",), steps=5)
    write_plan(tmp_path, config, cells_of(config), ())
    check_place(tmp_path, SweepConfig(steps=6))  # nothing is there yet
    diverged = runs_of(tmp_path, "lr=1,2")[0].diverged  # before anything was saved, so that this is all there is
    diverged.parent.mkdir()
    diverged.write_text("{}")
    with pytest.raises(SettingError, match="a sweep with other settings"):
        check_place(tmp_path, SweepConfig(steps=6))
    diverged.unlink()
    (tmp_path / "runs" / "lr=1" / "seed-0").mkdir(parents=True)
    (tmp_path / "runs" / "lr=1" / "seed-0" / "config.json").touch()
    check_place(tmp_path, SweepConfig(grid=("lr=1,2,3", "tune=full,head"), steps=5, seeds=4, jobs=3, num_workers=0))
    for other, words in (
        ({"steps": 6}, "steps: 5 there, 6 now"),
        ({}, "steps: 5 there, not given now"),
        ({"steps": 5, "batch_size": 3}, "batch_size: not given there, 3 now"),
        ({"steps": 5, "seed": 1}, "split_seed: 0 there, 1 now"),
        ({"steps": 5, "folds": 3}, "folds: not given there, 3 now"),
    ):
        with pytest.raises(SettingError, match="a sweep with other settings") as caught:
            check_place(tmp_path, SweepConfig(grid=("lr=1,2",), **other))  # type: ignore[arg-type]
        assert words in str(caught.value)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SettingError, match="cannot be read"):
        check_place(tmp_path, config)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "photo.png").touch()
    with pytest.raises(SettingError, match="is not empty and no sweep"):
        check_place(tmp_path, config)
