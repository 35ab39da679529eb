"""Runs that end before their end, and runs on a device that is still computing when Python goes on."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitctl.conversation import Conversation, Progress
from vitctl.data import loader
from vitctl.data.workers import LostWorkerError
from vitctl.errors import DataError, InterruptedRun, SettingError
from vitctl.primitives.interrupts import StopNow, StopRequest
from vitctl.primitives.processes import Processes
from vitctl.results.finetune import Score
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import trainer
from vitctl.workflows import finetune

pytestmark = pytest.mark.usefixtures("no_rendering")


class StillComputing:
    """Stands in for ``LateNumber`` on a device that stays behind: it is here once it was waited for."""

    def __init__(self, value: torch.Tensor) -> None:
        self._value, self.is_here = float(value), False

    def read(self) -> float:
        self.is_here = True
        return self._value


@pytest.fixture
def settings(image_folder: Path, tiny_model_folder: Path) -> dict[str, Any]:
    return {"data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
            "val_fraction": 0.2, "head": "zero", "set": ("evaluation.validations=2",)}  # fmt: skip


class During(Conversation):
    """Does something while step ``step`` is being shown."""

    def __init__(self, step: int, do: Callable[[], object]) -> None:
        self.step, self.do = step, do

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        outer = self

        class Bar(Progress):
            count = 0

            def advance(self, amount: int = 1, **facts: str) -> None:
                self.count += amount
                if description == "training" and self.count == outer.step:
                    outer.do()

        yield Bar()


def _metrics(out: str) -> bytes:
    return Path(out, "metrics.jsonl").read_bytes()


def test_device_behind__metrics_and_weights_are_those_of_one_that_is_not(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = finetune.run(FinetuneConfig(**settings, steps=7, out="plain"), Conversation())
    monkeypatch.setattr("vitctl.training.loop.LateNumber", StillComputing)
    behind = finetune.run(FinetuneConfig(**settings, steps=7, out="behind"), Conversation())
    assert _metrics("behind") == _metrics("plain")
    assert behind.weights_sha256 == plain.weights_sha256
    assert len(Path("behind/speed.jsonl").read_text().splitlines()) == 7


def test_device_behind__an_interrupted_run_lacks_no_step(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitctl.training.loop.LateNumber", StillComputing)
    with pytest.raises(InterruptedRun, match="Stopped after step 4 of 20"):  # step 3 is shown while step 4 is taken
        finetune.run(
            FinetuneConfig(**settings, steps=20, out="out"), During(3, lambda: os.kill(os.getpid(), signal.SIGINT))
        )
    assert [json.loads(line)["step"] for line in _metrics("out").splitlines()] == [1, 2, 3, 4]


def test_device_behind__an_interrupted_run_does_not_save_spoilt_weights(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []  # of each step the norm of its gradient, then its loss

    def late(value: torch.Tensor) -> StillComputing:
        losses.append(value if len(losses) != 7 else value * torch.nan)
        return StillComputing(losses[-1])

    monkeypatch.setattr("vitctl.training.loop.LateNumber", late)
    stop = During(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SettingError, match="The loss became nan at step 4"):
        finetune.run(FinetuneConfig(**settings, steps=20, out="out"), stop)
    assert not Path("out").exists()


def test_device_behind__a_run_that_fails_lacks_no_step(
    settings: dict[str, Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitctl.training.loop.LateNumber", StillComputing)
    paths = list(image_folder.rglob("*.png"))
    spoil = During(4, lambda: [path.write_bytes(b"") for path in paths])  # step 5 is under way then
    with pytest.raises(DataError):
        finetune.run(FinetuneConfig(**settings, steps=6, out="out"), spoil)
    steps = [json.loads(line)["step"] for line in _metrics("out").splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5]  # after step 3 a validation


def _at_reading(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Do something in the place of reading image ``number`` of those that batches are made of, from 1."""
    count = 0
    read = loader._made

    def watched(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            do()
        return read(*given, **named)

    monkeypatch.setattr(loader, "_made", watched)


def _stopped_in_a_wait(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError("the wait was not broken off")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("image", "steps"), [(26, 3), (20 * 8 // 2 + 3, 10)])  # of training; of the validation
def test_signal_in_a_wait_for_images__ends_it_and_saves(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, image: int, steps: int, number: signal.Signals, code: int
) -> None:
    _at_reading(monkeypatch, image, lambda: _stopped_in_a_wait(number))
    with pytest.raises(InterruptedRun, match=f"Stopped after step {steps} of 20") as caught:
        finetune.run(FinetuneConfig(**settings, steps=20, out="out"), Conversation())
    assert caught.value.exit_code == code
    assert Path("out/last/model.safetensors").is_file()
    assert [json.loads(line)["step"] for line in _metrics("out").splitlines()] == list(range(1, steps + 1))


def test_signal_in_the_wait_for_the_first_images__leaves_nothing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _at_reading(monkeypatch, 2, lambda: _stopped_in_a_wait(signal.SIGINT))
    with pytest.raises(InterruptedRun, match="before the first step"):
        finetune.run(FinetuneConfig(**settings, steps=20, out="out"), Conversation())
    assert not Path("out").exists()


def test_signal_in_the_last_validation__the_run_goes_on_with_it(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"set": ("evaluation.validations=1",), "steps": 4, "out": "out"}
    with monkeypatch.context() as patched:
        _at_reading(patched, 4 * 8 + 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(InterruptedRun, match="Stopped after step 4 of 4"):
            finetune.run(FinetuneConfig(**settings), Conversation())
    assert not Path("out/summary.json").exists()
    finetune.run(FinetuneConfig(**settings), Conversation())
    finetune.run(FinetuneConfig(**settings | {"out": "whole"}), Conversation())
    assert _metrics("out") == _metrics("whole")
    assert Path("out/summary.json").is_file()


def test_worker_killed__what_was_trained_is_saved(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _at_reading(monkeypatch, 45, lambda: os.kill(os.getpid(), signal.SIGKILL))  # the worker counts for itself
    with pytest.raises(
        LostWorkerError,
        match=r"memory is full[^\n]* Step [345] of 9 is saved; go on with: vitctl finetune --resume [^\n]*out",
    ) as caught:
        finetune.run(FinetuneConfig(**settings | {"num_workers": 1}, steps=9, out="out"), Conversation())
    assert caught.value.exit_code == 2
    assert Path("out/last/model.safetensors").is_file()


class OneOfTwo(Processes):
    """Of two processes the one that nobody signalled; the other one has got a SIGTERM."""

    def largest(self, number: int) -> int:
        return max(number, signal.SIGTERM)


def _unsignalled() -> trainer._Training:
    batches = SimpleNamespace(num_steps=1)
    recipe = SimpleNamespace(evaluation=SimpleNamespace(validations=1))
    job: Any = SimpleNamespace(processes=OneOfTwo(index=0, count=2), batches=batches, recipe=recipe)
    state: Any = SimpleNamespace(step=1, last=Score(0, None, None))
    recorder: Any = SimpleNamespace(saved_step=None)
    return trainer._Training(job, state, recorder, StopRequest(), Path("out"), Conversation())


def test_stop_of_another_process__exit_code_of_its_signal() -> None:
    run = _unsignalled()
    assert run.is_asked_to_stop()
    assert run.interrupted().exit_code == 143


def test_stop_of_another_process_in_a_validation__exit_code_of_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_given: Any, **_named: Any) -> None:
        raise StopNow

    monkeypatch.setattr(trainer, "validate", stopped)
    run = _unsignalled()
    with pytest.raises(StopNow):
        run.validate_if_due()
    assert run.interrupted().exit_code == 143
