"""A run folder as anyone finds it: its state, how far it has come, and which folders are runs. Nothing is trained."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.primitives.atomic import own_folder, partial_of
from vitctl.run_folders.finding import find_runs
from vitctl.run_folders.seen import (
    DIVERGED,
    FINISHED,
    RUNNING,
    STOPPED,
    UNREADABLE,
    SeenRun,
    look_at,
)

CONFIG = {"vitctl": "0.1.0", "command": "finetune", "data": "digits", "model": "demo", "seed": 0, "steps": 390}
SUMMARY = {
    "run": "elsewhere", "steps": 390, "num_val": 200,
    "best": {"step": 300, "top1": 0.9, "loss": 0.3}, "last": {"step": 390, "top1": 0.8, "loss": 0.4},
}  # fmt: skip
STEP = {"step": 40, "epoch": 0.5, "loss": 1.0, "lr": 0.001, "grad_norm": 1.0}


def write(folder: Path, **files: Any) -> Path:
    """Write a run folder: ``config`` and ``summary`` as JSON, ``metrics`` as lines, ``checkpoints`` by step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(files.pop("config", CONFIG)))
    for step in files.pop("checkpoints", ()):
        (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)
    if (lines := files.pop("metrics", None)) is not None:
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def state_of(run: SeenRun) -> tuple[str, int, int | None]:
    return run.state, run.step, run.steps


def test_finished(tmp_path: Path) -> None:
    run = look_at(write(tmp_path / "run", summary=SUMMARY, checkpoints=(390,)))
    assert state_of(run) == (FINISHED, 390, 390)
    assert (run.top1, run.loss, run.num_val, run.why) == (0.9, 0.3, 200, None)
    assert (run.path, run.config, run.summary) == (tmp_path / "run", CONFIG, SUMMARY)


def test_finished__of_a_version_that_wrote_less(tmp_path: Path) -> None:
    run = look_at(write(tmp_path / "run", summary={"best": {"step": 3, "top1": None, "loss": None}}))
    assert state_of(run) == (FINISHED, 0, 390)
    assert (run.top1, run.loss, run.num_val) == (None, None, None)


@pytest.mark.parametrize(("checkpoints", "step"), [((), 0), ((20, 120, 9), 120)])
def test_stopped__goes_on_from_its_newest_checkpoint(tmp_path: Path, checkpoints: tuple[int, ...], step: int) -> None:
    run = write(tmp_path / "run", metrics=[{**STEP, "step": 130}], checkpoints=checkpoints)
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / ".step-500.partial").mkdir()  # what a killed process left
    assert state_of(look_at(run)) == (STOPPED, step, 390)


def test_running__the_last_whole_line(tmp_path: Path) -> None:
    run = write(tmp_path / "run", metrics=[{**STEP, "step": step} for step in range(1000)], checkpoints=(7,))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "epo')
    with own_folder(run) as is_mine:
        assert is_mine
        assert state_of(look_at(run)) == (RUNNING, 999, 390)
    assert state_of(look_at(run)) == (STOPPED, 7, 390)


def test_running__only_the_end_is_read(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    with (run / "metrics.jsonl").open("wb") as file:
        file.truncate(2**40)  # a hole; to read it would take minutes
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"step": 5, "loss": 1.0}\n{"step": "six"}\n')
    with own_folder(run):
        assert look_at(run).step == 5


def test_running__nothing_written_yet(tmp_path: Path) -> None:
    with own_folder(tmp_path / "run"):
        assert state_of(look_at(tmp_path / "run")) == (RUNNING, 0, None)
        assert list(find_runs(tmp_path)) == []


def test_diverged(tmp_path: Path) -> None:
    run = write(tmp_path / "run", diverged={"step": 12, "what": "loss"}, checkpoints=(10,))
    assert state_of(look_at(run)) == (DIVERGED, 12, 390)
    with own_folder(run):  # it goes on, and may do better
        assert look_at(run).state == RUNNING


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("config", '{"vitctl": ', "config.json cannot be read: it is not JSON"),
        ("config", "[]", "config.json cannot be read: it holds []"),
        ("summary", "", "summary.json cannot be read: it is not JSON"),
        ("summary", '{"best": {"top1": 7}}', "summary.json cannot be read: best.top1 is 7"),
        ("summary", '{"last": "all"}', "summary.json cannot be read: last is 'all'"),
    ],
)
def test_unreadable__why_is_said_and_others_are_found(tmp_path: Path, name: str, text: str, why: str) -> None:
    write(tmp_path / "good", summary=SUMMARY)
    (write(tmp_path / "bad", summary=SUMMARY, metrics=[STEP]) / f"{name}.json").write_text(text)
    assert list(find_runs(tmp_path)) == [tmp_path / "bad", tmp_path / "good"]
    run = look_at(tmp_path / "bad")
    assert run.state == UNREADABLE
    assert run.top1 is None
    assert run.why is not None
    assert "expected" in run.why
    assert run.why.startswith(why[:45])


@pytest.mark.parametrize("steps", ["many", -1, None, 1.5])
def test_steps_of_another_type_are_not_known(tmp_path: Path, steps: Any) -> None:
    assert look_at(write(tmp_path / "run", config={**CONFIG, "steps": steps})).steps is None


def test_no_run_at_all(tmp_path: Path) -> None:
    assert look_at(tmp_path / "none").state == UNREADABLE
    assert look_at(tmp_path).state == UNREADABLE


# --- what is to replace a run grows beside it


def test_replaced__the_finished_one_stands_until_then(tmp_path: Path) -> None:
    run = write(tmp_path / "run", summary=SUMMARY)
    beside = write(partial_of(run), config={**CONFIG, "steps": 50}, metrics=[STEP], checkpoints=(30,))
    with own_folder(beside):
        seen = look_at(run)
    assert (*state_of(seen), seen.top1) == (FINISHED, 390, 390, 0.9)
    assert seen.why == "another run, which is to replace it, is at step 40"
    os.utime(run / "summary.json", (1, 1))
    assert "stopped after step 30; 'vitctl finetune --resume" in str(look_at(run).why)
    os.utime(beside / "checkpoints/step-30", (0, 0))  # trained again since: nobody wants the older one
    assert look_at(run).why is None


def test_replaced__one_that_was_stopped_is_the_new_one(tmp_path: Path) -> None:
    run = write(tmp_path / "run", checkpoints=(100,))
    beside = write(partial_of(run), config={**CONFIG, "steps": 50}, metrics=[STEP])
    assert state_of(look_at(run)) == (STOPPED, 100, 390)  # nothing of the new one was saved
    with own_folder(beside):
        assert (*state_of(look_at(run)), look_at(run).path) == (RUNNING, 40, 50, run)
    (beside / "checkpoints/step-30").mkdir(parents=True)
    assert state_of(look_at(run)) == (STOPPED, 30, 50)


def test_replaced__the_old_one_is_gone(tmp_path: Path) -> None:
    write(partial_of(tmp_path / "run"), checkpoints=(30,))
    write(tmp_path / "a")
    write(tmp_path / "z")
    assert list(find_runs(tmp_path)) == [tmp_path / name for name in ("a", "run", "z")]
    assert state_of(look_at(tmp_path / "run")) == (STOPPED, 30, 390)
    write(partial_of(tmp_path / "run"), summary=SUMMARY)  # complete, and yet to take its place
    assert (look_at(tmp_path / "run").state, look_at(tmp_path / "run").top1) == (STOPPED, None)


# --- which folders are runs


def test_find__sweeps_and_runs_but_none_within_another(tmp_path: Path) -> None:
    expected = [
        write(tmp_path / "photos" / "one"),
        write(tmp_path / "sweeps" / "x" / "runs" / "lr=0.1" / "seed-0"),
        write(tmp_path / "sweeps" / "x" / "runs" / "lr=0.1" / "seed-1"),
        write(tmp_path / "zebra"),
    ]
    write(tmp_path / "zebra" / "within")
    write(tmp_path / ".hidden")
    write(partial_of(tmp_path / "zebra"))
    write(tmp_path / "weights", config={"architecture": "vit"})  # a folder of timm
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("no JSON, and nothing else of a run")
    assert list(find_runs(tmp_path)) == expected
    assert list(find_runs(expected[0])) == expected[:1]


def test_find__links(tmp_path: Path) -> None:
    run = write(tmp_path / "runs" / "one")
    other = write(tmp_path / "elsewhere" / "other")
    for name, target in {
        "again": run,  # a run that is here already
        "linked": other,
        "more": other,
        "circle": tmp_path / "runs",
        "self": tmp_path / "runs" / "self",
        "nothing": tmp_path / "none",
        "away": tmp_path / "elsewhere",  # might be a whole disk
    }.items():
        (tmp_path / "runs" / name).symlink_to(target)
    assert list(find_runs(tmp_path / "runs")) == [tmp_path / "runs" / "linked", run]
    assert list(find_runs(tmp_path / "runs" / "away")) == [tmp_path / "runs" / "away" / "other"]


def test_find__a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "open")
    write(tmp_path / "shut")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything
    errors: list[OSError] = []
    assert list(find_runs(tmp_path, errors.append)) == list(find_runs(tmp_path)) == [tmp_path / "open"]
    assert [error.filename for error in errors] == [str(tmp_path / "shut")]


def test_changed_is_when_anything_was_written(tmp_path: Path) -> None:
    run = write(tmp_path / "run", metrics=[STEP], checkpoints=(3,))
    for name, at in (("config.json", 10), ("metrics.jsonl", 30), ("checkpoints", 20)):
        os.utime(run / name, (at, at))
    assert look_at(run).changed == 30
    os.utime(run / "checkpoints", (40, 40))
    assert look_at(run).changed == 40


def test_looking_changes_nothing(tmp_path: Path, fingerprint: Callable[[Path], object]) -> None:
    write(tmp_path / "run", checkpoints=(3,))
    write(partial_of(tmp_path / "run"), checkpoints=(4,))
    write(partial_of(tmp_path / "gone"), summary=SUMMARY)
    shutil.copytree(tmp_path / "run", tmp_path / ".gone.replaced")
    before = fingerprint(tmp_path)
    assert [look_at(path).state for path in find_runs(tmp_path)] == [STOPPED, STOPPED]
    assert fingerprint(tmp_path) == before


@pytest.fixture
def fingerprint() -> Callable[[Path], object]:
    """What a folder holds: names, sizes and times."""

    def of(folder: Path) -> object:
        return sorted((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in folder.rglob("*"))

    return of
