"""A run whose loss grows out of bounds: what it says, what it writes, and that honest runs hear nothing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vitctl.conversation import Conversation
from vitctl.data.order import BatchPlan
from vitctl.errors import SettingError
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import step as step_module
from vitctl.training.divergence import LossWatch, diverged
from vitctl.workflows import finetune

LN10 = math.log(10)


def warnings_of(losses: list[float], *, num_classes: int = 10) -> list[tuple[int, str]]:
    watch = LossWatch(num_classes, peak_lr=0.3)
    found = [(step, watch.add(step, loss)) for step, loss in enumerate(losses, 1)]
    return [(step, text) for step, text in found if text is not None]


# --- a loss that is finite and much too high --------------------------------------------------------------------


def test_watch__says_once_that_a_run_goes_astray() -> None:
    ((step, text),) = warnings_of([LN10] * 30 + [9.0] * 200)
    assert step == 65  # 35 of 50 at 9, the rest at ln 10: the first mean above 3 ln 10 = 6.91; with 34 it is 6.86
    assert text.startswith("the mean loss of steps 16 to 65 is 6.99, more than three times that of guessing among 10 ")
    assert "classes, 2.3:" in text
    assert "--lr 0.1;" in text


@pytest.mark.parametrize(
    "losses",
    [
        [0.7, 6.3, 3.1, 6.0, 7.8, 12.9, 5.1, 5.3, 3.2, 3.1, *[2.5] * 60],  # digits with a ridge head, as measured
        [LN10] * 300,
        [2.9 * LN10] * 300,
        [100.0] + [LN10] * 100,
        [100.0] * 49,
    ],
)
def test_watch__is_silent_on_what_may_come_right(losses: list[float]) -> None:
    assert warnings_of(losses) == []


def test_watch__the_bound_follows_the_classes() -> None:
    assert warnings_of([3.0] * 60, num_classes=2) != []
    assert warnings_of([3.0] * 60, num_classes=3) == []


# --- a loss that is not finite ------------------------------------------------------------------------------------


def test_diverged__is_a_setting_error_on_the_rate() -> None:
    error = diverged("loss", math.nan, step=7, peak_lr=0.3)
    assert isinstance(error, SettingError)
    assert (error.exit_code, error.field, error.step, error.what) == (2, "lr", 7, "loss")


@pytest.fixture
def settings(image_folder: Path, tiny_model_folder: Path) -> dict[str, Any]:
    return {
        "data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 4, "num_workers": 0,
        "set": ("evaluation.validations=2",), "val_fraction": 0.2, "steps": 6, "head": "zero",
    }  # fmt: skip


def spoil(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Make the gradients of ``step``, and so the weights and the loss after it, nan."""
    count = 0
    take = torch.optim.AdamW.step

    def spoilt(optimizer: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.fill_(math.nan)
        return take(optimizer, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)


def test_told__step_images_and_the_way_on(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, no_rendering: None
) -> None:
    spoil(monkeypatch, step=4)
    with pytest.raises(SettingError) as caught:
        finetune.run(FinetuneConfig(**settings, out="out"), Conversation())
    first, images, way = caught.value.args
    assert first.startswith("The loss became nan at step 5 (peak learning rate ")
    assert ". Try a lower rate, e.g. --lr " in first
    out = Path("out").absolute()
    assert images.endswith(f".png and 1 more; all are in {out / 'diverged.json'}.")
    assert re.search(rf"The weights in {out / 'last'} are those of step 3, validation loss \d", way)
    worse = json.loads(Path("out/metrics.jsonl").read_text().splitlines()[3])["val_loss"] > math.log(3)
    expected_way = " --overwrite." if worse else f" --model {out / 'last'}, a lower --lr and another --out; --resume"
    assert expected_way in way

    document = json.loads(Path("out/diverged.json").read_text())
    config = json.loads(Path("out/config.json").read_text())
    listed = Path("out/training-images.txt").read_text()
    assert (document["step"], document["what"]) == (5, "loss")
    assert 0 < document["lr"] < config["lr"]
    assert [record["step"] for record in document["last_steps"]] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert document["last_steps"] == [line for line in lines if "loss" in line]
    assert len(document["images"]) == 4
    for image in document["images"]:
        assert Path(image["name"]).parent.name == image["label"]
        assert Path(image["name"]).name in listed
    num_train = listed.count(".png")
    expected = BatchPlan(num_train, 4, 24, config["seed"]).batch(4)
    assert [image["view"] for image in document["images"]] == [view for view, _ in expected]


def test_told__without_anything_saved_there_is_no_file_to_look_for(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, step=1)
    with pytest.raises(SettingError) as caught:
        finetune.run(FinetuneConfig(**settings, out="out"), Conversation())
    first, images, way = caught.value.args
    assert first.startswith("The loss became nan at step 2 ")
    assert images.endswith(" and 1 more.")
    assert way.strip().startswith("No weights were saved before: begin again with --lr ")
    assert "--overwrite" not in way
    assert not Path("out").exists()


def test_told__weights_that_a_last_step_spoilt(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, step=6)
    with pytest.raises(SettingError) as caught:
        finetune.run(FinetuneConfig(**settings, out="out"), Conversation())
    assert caught.value.args[0].startswith("The validation loss became nan at step 6 ")
    assert json.loads(Path("out/diverged.json").read_text())["what"] == "validation loss"


def test_told__at_the_first_step_it_is_not_the_rate(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(logits: torch.Tensor, *_given: Any, **_named: Any) -> torch.Tensor:
        return logits.sum() * math.nan

    monkeypatch.setattr("vitctl.training.step.share_of_loss", nan)
    with pytest.raises(SettingError) as caught:
        finetune.run(FinetuneConfig(**settings, out="out"), Conversation())
    first, _, way = caught.value.args
    assert re.search("nan at step 1 .* No step was taken before it, .* not to blame: try other", first)
    assert "Nothing was trained" in way
    assert "--lr" not in way


def test_told__weights_spoilt_between_validations__the_step_that_spoilt_them(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, step=4)  # validated after 3; the loss of 5 would be the next to tell
    with pytest.raises(SettingError, match="The weights became nan at step 4 ") as caught:
        finetune.run(FinetuneConfig(**settings, out="out", save_every="4"), Conversation())
    assert "are those of step 3" in caught.value.args[2]
    assert json.loads(Path("out/diverged.json").read_text())["step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lookahead_lamb"])
def test_told__a_run_that_comes_to_its_end_keeps_no_file_of_an_attempt(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, no_rendering: None
) -> None:
    settings["set"] += (f"optimizer.name={name}", "rate.schedule=step", "rate.drop_at=[0.6]")
    whole = finetune.run(FinetuneConfig(**settings, out="whole"), Conversation())
    share, count = step_module.share_of_loss, 0

    def spoilt(*given: Any, **named: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return share(*given, **named) * (math.nan if count == 5 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(step_module, "share_of_loss", spoilt)
        with pytest.raises(SettingError, match="The loss became nan at step 5"):
            finetune.run(FinetuneConfig(**settings, out="out"), Conversation())
    assert Path("out/diverged.json").is_file()
    again = finetune.run(FinetuneConfig(resume="out"), Conversation())
    assert not Path("out/diverged.json").exists()
    assert again.weights_sha256 == whole.weights_sha256
    assert Path("out/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
