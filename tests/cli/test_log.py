"""``vitctl log`` as a person meets it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vitctl

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = [json.loads(line)["step"] for line in (GOLDEN / "metrics-0.1.0.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of vitctl 0.1.0, stopped: no speeds, no pictures."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(GOLDEN / "config-0.1.0.json", folder / "config.json")
    shutil.copy(GOLDEN / "metrics-0.1.0.jsonl", folder / "metrics.jsonl")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's writer, which may not be installed, writes how many steps there are."""
    from vitctl.reporting.trackers import to_tensorboard, tracker

    def write(_replay: object, folder: Path, points: Any) -> None:
        (folder / "events").write_text(str(len([*points])))

    stand_in = tracker.Tracker(write, view=to_tensorboard.TRACKER.view)
    monkeypatch.setattr("vitctl.workflows.log.find_tracker", lambda _name: stand_in)


def test_log__writes_what_the_document_says_and_replaces_it(
    run: Path, run_cli: Callable[..., Any], unchanged: Any, fake: None
) -> None:
    first = run_cli("log", run, "--json").json
    assert first == {
        "run": str(run),
        "to": "tensorboard",
        "out": str(run / "tensorboard"),
        "num_steps": max(STEPS),
        "num_validations": len(STEPS) - max(STEPS),
        "num_pictures": 0,
        "replaced": False,
        "view": f"tensorboard --logdir {run / 'tensorboard'}",
    }
    with unchanged(run):
        assert run_cli("log", run, "--json").json == first | {"replaced": True}
        assert vitctl.log(run).as_json() == first | {"replaced": True}
    assert (run / "tensorboard" / "events").read_text() == str(max(STEPS))


def test_log__shows_where_and_what_next(run: Path, run_cli: Callable[..., Any], fake: None) -> None:
    (run / "curves.png").write_text("no picture")
    result = run_cli("log", run, "--out", "my boards")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["files"] == str(Path("my boards").absolute())
    assert lines["next"] == f"tensorboard --logdir '{Path('my boards').absolute()}'"
    assert "warning: left out" in result.stderr
    assert "curves.png, which is no PNG." in " ".join(result.stderr.split())
    assert not (run / "tensorboard").exists()


def test_log__of_a_name_that_acts_is_shown_escaped(run: Path, run_cli: Callable[..., Any], fake: None) -> None:
    odd = run.rename(run.with_name("a\x1b]0;b\n"))
    result = run_cli("log", odd)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert (odd / "tensorboard" / "events").is_file()


def test_log__refuses_what_is_no_run(run: Path, refused: Callable[..., None], fake: None) -> None:
    refused(["log"], 2, ["No run is given"])
    refused(["log", run.parent], 2, ["is no run of vitctl"])
    refused(["log", run / "config.json"], 2, ["is no run of vitctl"])
    refused(["log", run.parent / "none"], 2, ["is no run of vitctl"])
    refused(["log", run, "--to", "tensorbord"], 2, ["it can be tensorboard, wandb", "Did you mean 'tensorboard'?"])


def test_log__refuses_places_of_others(run: Path, refused: Callable[..., None], fake: None) -> None:
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "mine.txt").write_text("mine")
    refused(["log", run], 2, ["holds mine.txt", "did not write"])
    refused(["log", run, "--out", run], 2, ["holds config.json"])
    refused(["log", run, "--out", run / "metrics.jsonl"], 2, ["is a file"])
    refused(["log", run, "--out", "/proc/log"], 2, ["/proc/log cannot be written", "Give another folder"])


def test_log__of_files_that_cannot_be_read_says_where(run: Path, refused: Callable[..., None], fake: None) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    refused(["log", run], 3, [f"metrics.jsonl, line {len(STEPS) + 1}, has the step None"])
    (run / "metrics.jsonl").unlink()
    refused(["log", run], 3, ["metrics.jsonl cannot be read: No such file"])


def test_log__without_the_package_says_how_to_get_it(
    run: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(["log", run, "--to", "wandb"], 5, ["--to wandb needs wandb", "pip install 'vitctl[wandb]'"])
