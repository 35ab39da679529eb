"""``--patience``: when a run ends early, what it leaves, and that a stop on the way changes nothing of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.primitives.interrupts import StopNow
from vitctl.results.finetune import FinetuneResult, Score
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import trainer
from vitctl.training.ends import Patience
from vitctl.workflows import finetune

LOSSES = {1: 0.9, 2: 0.5, 3: 0.6, 4: 0.5, 5: 0.4, 6: 0.41, 7: 0.4, 8: 0.3}  # of the validations after each step


class Heard(Conversation):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def settings(
    image_folder: Path, tiny_model_folder: Path, no_rendering: None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return eight steps, each followed by a validation that finds the loss of ``LOSSES``."""
    validate = trainer.validate

    def told(job: Any, step: int, *args: Any, **named: Any) -> Any:
        score, logits = validate(job, step, *args, **named)
        return Score(step, score.top1, LOSSES[step]), logits

    monkeypatch.setattr(trainer, "validate", told)
    return {
        "data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
        "val_fraction": 0.2, "head": "zero", "steps": 8,
        "set": ("evaluation.validations=8", "evaluation.select_best_from=1"),
    }  # fmt: skip


def run(conversation: Conversation | None = None, **settings: Any) -> FinetuneResult:
    result = finetune.run(FinetuneConfig(**settings), conversation or Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    paths = [path for name in ("last", "best") for path in Path(folder, name).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in (*paths, Path(folder, "metrics.jsonl"))}


def test_patience__counts_validations_since_the_lowest() -> None:
    """An equal loss is no lower one."""
    patience, since = Patience(2), []
    for step, loss in LOSSES.items():
        patience.note(Score(step, None, loss))
        since.append(patience.num_since)
    assert since == [0, 0, 1, 2, 0, 1, 2, 0]


def test_patience__ends_the_run_which_is_complete(settings: dict[str, Any]) -> None:
    heard = Heard()
    found = run(heard, **settings, patience=2, out="out")
    assert (found.steps, found.last.step, found.best.step) == (8, 4, 2)
    assert "stopped early after step 4: no lower loss in 2 validations (lowest 0.5000 at step 2)" in heard.lines
    assert json.loads(Path("out/summary.json").read_text())["last"]["step"] == 4
    assert not Path("out/checkpoints").exists()
    again = Heard()
    assert run(again, **settings, patience=2, out="out") == found  # with the same command: nothing is left to do
    assert any("is finished" in line for line in again.lines)
    assert run(resume="out") == found


def test_patience__before_all_first_batches_were_seen_shows_them(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = list[str]()
    monkeypatch.setattr(finetune, "draw_first_batches", lambda sheets, path: titles.extend(s.title for s in sheets))
    monkeypatch.setitem(LOSSES, 2, 1.0)
    assert run(**settings, patience=1, out="out").last.step == 2
    assert [title[:6] for title in titles] == ["step 1", "step 2", "step 3"]


@pytest.mark.slow
def test_patience_of_more_than_it_takes__is_without_effect(settings: dict[str, Any]) -> None:
    heard = Heard()
    found, plain = run(heard, **settings, patience=3, out="out"), run(**settings, out="plain")
    assert found.last.step == 8
    assert not any("stopped early" in line for line in heard.lines)
    assert bytes_of("out") == bytes_of("plain")
    assert found.weights_sha256 == plain.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize("killed", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_patience_of_a_run_that_was_killed__ends_it_at_the_same_step(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """Killed after the validation of a step was saved; after step 4 nothing but the summary is missing."""
    settings["set"] = settings["set"][:1]  # too few to choose the best by, so that best/ is written at the very end
    whole = run(**settings, patience=2, out="whole")
    save = trainer.Recorder.save

    def killing(self: Any, state: Any, *args: Any, **named: Any) -> None:
        save(self, state, *args, **named)
        if state.step == killed:
            self.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Recorder, "save", killing)
        with pytest.raises((KeyboardInterrupt, StopNow)):
            run(**settings, patience=2, out="parts")
    found = run(resume="parts")
    assert (found.last, found.weights_sha256) == (whole.last, whole.weights_sha256)
    assert bytes_of("parts") == bytes_of("whole")


def test_patience_without_validation_images__is_refused(settings: dict[str, Any]) -> None:
    settings["val_fraction"] = 0.0
    with pytest.raises(SettingError, match="--patience 2 is given and there are no validation images") as caught:
        run(**settings, patience=2, out="out")
    assert caught.value.field == "patience"
    assert not Path("out").exists()
