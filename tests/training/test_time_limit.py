"""``--time-limit``: how many steps there is time for; measuring leaves no trace; what was measured once is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitctl.conversation import Conversation
from vitctl.errors import InterruptedRun, SettingError
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import time_limit
from vitctl.training.state import Clock
from vitctl.training.time_limit import Pace
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

STEPS = 7
PACE = Pace(step_s=500.0, start_s=8.0, validation_s=10.0)  # of an hour, when 10 s are over


@pytest.mark.parametrize("left_s", [1.0, 15.0, 40.0, 100.0, 1000.0, 12345.0])
@pytest.mark.parametrize("pace", [Pace(4.2, 1.0, 8.0, 3.0), Pace(0.01), Pace(60.0, 0.0, 1.0), Pace(1.0, 0.0, 30.0)])
def test_steps_in__are_as_many_as_there_is_time_for(pace: Pace, left_s: float) -> None:
    steps = pace.steps_in(left_s, num_validations=10)
    assert steps >= 1
    assert steps == 1 or pace.run_s(steps, num_validations=10) <= left_s + 1e-6
    assert pace.run_s(steps + 1, num_validations=10) > left_s - 1e-6


@pytest.fixture
def settings(
    image_folder: Path, tiny_model_folder: Path, no_rendering: None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return settings that are measured in earnest, quickly, with ``PACE`` found in the end: room for ``STEPS``."""
    measured = time_limit._measured_pace

    def paced(*args: Any, **named: Any) -> Pace:
        found = measured(*args, **named)
        assert 0 < found.step_s < 60
        assert 0 < found.validation_s < 60
        return PACE

    monkeypatch.setattr(time_limit, "_measured_pace", paced)
    monkeypatch.setattr(time_limit, "_MOST_S", 0.01)
    monkeypatch.setattr(Clock, "wall_s", 10.0)
    return {
        "data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
        "val_fraction": 0.2, "set": ("evaluation.validations=2",), "time_limit": 3600.0,
    }  # fmt: skip


@pytest.fixture
def measured_once(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at a second measurement."""
    measured, count = time_limit._measured_pace, []

    def once(*args: Any, **named: Any) -> Pace:
        count.append(1)
        assert len(count) == 1
        return measured(*args, **named)

    monkeypatch.setattr(time_limit, "_measured_pace", once)


class Heard(Conversation):
    """Keeps header and warnings."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.warnings: list[str] = []

    def header(self, title: str, settings: list[Any]) -> None:
        self.said |= {one.name: f"{one.value}; {one.reason}" for one in settings}

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run(config: FinetuneConfig, heard: Conversation | None = None) -> FinetuneResult:
    result = finetune.run(config, heard or Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    paths = [path for name in ("last", "best") for path in Path(folder, name).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in (*paths, Path(folder, "metrics.jsonl"))}


@pytest.mark.slow
def test_run__is_that_of_its_number_of_steps_and_repeats(settings: dict[str, Any], measured_once: None) -> None:
    heard = Heard()
    timed = run(FinetuneConfig(**settings, out="timed"), heard)
    assert heard.said["length"].startswith(f"{STEPS} steps, ")
    assert heard.said["length"].endswith("; 1h at 8 min 20 s a step, 2 validations of 10 s")
    settings.pop("time_limit")
    run(FinetuneConfig(**settings, steps=STEPS, out="plain"))
    assert bytes_of("timed") == bytes_of("plain")
    document = json.loads(Path("timed/config.json").read_text())
    assert (document["steps"], document["time_limit"]) == (STEPS, "1h")
    run(merge(config_from_file(Path("timed/config.json")), {"out": "again"}), heard)
    assert heard.said["length"].endswith("; 1h, as measured when the run began")
    assert bytes_of("again") == bytes_of("timed")
    assert timed.steps == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("is_resumed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_stopped__goes_on_at_its_length_without_measuring(
    settings: dict[str, Any], measured_once: None, stopped_after: StoppedAfter, is_resumed: bool
) -> None:
    error = stopped_after(3, FinetuneConfig(**settings, out="out"))
    assert f"Stopped after step 3 of {STEPS}" in str(error)
    found = run(FinetuneConfig(resume="out") if is_resumed else FinetuneConfig(**settings, out="out"))
    assert (found.steps, found.last.step) == (STEPS, STEPS)
    with pytest.raises(SettingError, match="other settings") as caught:  # another time, seen without measuring
        run(FinetuneConfig(**settings | {"time_limit": 7200.0}, out="out"))
    assert [line.strip() for line in caught.value.args[1:]] == ["--time-limit: 1h there, 2h now"]


def test_measuring__leaves_weights_and_statistics_as_they_were(settings: dict[str, Any]) -> None:
    """Of a model whose norms keep statistics, which validation and training change."""
    changes = ("averaging.method=ema",)
    settings |= {"model": "test_resnet", "weights": "none", "set": changes, "dry_run": True, "image_size": "32"}
    timed = finetune.prepare(FinetuneConfig(**settings), Conversation()).job.model
    settings.pop("time_limit")
    plain = finetune.prepare(FinetuneConfig(**settings, steps=STEPS), Conversation()).job.model
    expected = plain.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in timed.state_dict().items())
    assert all(one.grad is None for one in timed.parameters())
    assert timed.training == plain.training


@pytest.mark.slow
def test_dry_run__tells_the_length(settings: dict[str, Any]) -> None:
    found = finetune.run(FinetuneConfig(**settings, dry_run=True), Conversation())
    assert isinstance(found, DryRunResult)
    assert found.steps == STEPS


@pytest.mark.slow
def test_time_that_is_over_before_the_first_step__is_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "wall_s", 4000.0)
    with pytest.raises(SettingError, match="--time-limit 1h was over before the first step") as caught:
        run(FinetuneConfig(**settings, out="out"))
    assert caught.value.field == "time_limit"
    assert not Path("out").exists()


@pytest.mark.slow
def test_time_for_less_than_a_step__is_one_step_and_a_warning(settings: dict[str, Any]) -> None:
    heard = Heard()
    settings |= {"time_limit": 60.0, "dry_run": True}
    assert finetune.prepare(FinetuneConfig(**settings), heard).job.batches.num_steps == 1
    assert heard.warnings == [
        "--time-limit 1min is short for one step and what goes with it: the run will take about 8 min 50 s."
    ]


def test_two_lengths__are_refused_beside_a_file_too(settings: dict[str, Any]) -> None:
    file = FinetuneConfig(steps=5, time_limit=60.0, recipe_settings={})  # as a run's config.json has them
    assert merge(file, {"seed": 1}).steps == 5
    assert merge(file, {"time_limit": 90.0}).steps is None
    assert merge(file, {"epochs": 2.0}).time_limit is None
    for other in ({"steps": 3}, {"epochs": 3.0}):
        with pytest.raises(SettingError, match=f"--time-limit and --{next(iter(other))} are both given"):
            merge(file, {"time_limit": 90.0, **other})


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_run__takes_about_that_long(image_folder: Path, tiny_model_folder: Path, num_workers: int) -> None:
    found = run(
        FinetuneConfig(
            data=str(image_folder),
            model=str(tiny_model_folder),
            val_fraction=0.2,
            num_workers=num_workers,
            time_limit=20.0,
            recipe="demo",
            out="out",
        )  # fmt: skip
    )
    assert found.steps > 20
    assert found.wall_s == pytest.approx(20.0, rel=0.25)


@pytest.mark.slow
def test_two_processes__take_the_length_that_the_first_measured(image_folder: Path, tiny_model_folder: Path) -> None:
    command = [sys.executable, "-m", "vitctl", "finetune", "--data", str(image_folder), "--val-fraction", "0.2"]
    command += ["--model", str(tiny_model_folder), "--num-workers", "0", "--num-threads", "1", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def done(*more: str) -> dict[str, Any]:
        found = subprocess.run(
            [*command, *more, "--num-processes", "2", "--json"], capture_output=True, text=True, env=environment
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    timed = done("--time-limit", "20s", "--out", "timed")
    plain = done("--steps", str(timed["steps"]), "--out", "plain")
    assert plain["weights_sha256"] == timed["weights_sha256"]
