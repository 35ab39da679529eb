"""The header's words on optimiser and rate, and that a run has what they say."""

from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.header import header_settings
from vitctl.training.loop import RateSchedule
from vitctl.workflows import finetune


@pytest.mark.parametrize(
    ("warmup", "how", "words"),
    [
        (0, {}, "0.001, cosine to 1e-05"),
        (50, {}, "0.001, cosine to 1e-05 after 50 steps of warm-up"),
        (1, {"kind": "linear"}, "0.001, linear to 1e-05 after 1 step of warm-up"),
        (50, {"kind": "linear", "decay_from": "start"}, "0.001, linear to 1e-05, begun beneath 50 steps of warm-up"),
        (0, {"decay_from": "start"}, "0.001, cosine to 1e-05"),
        (50, {"warmup_start": 1e-6}, "0.001, cosine to 1e-05 after 50 steps of warm-up from 1e-06"),
        (50, {"kind": "constant", "decay_from": "start"}, "0.001, constant after 50 steps of warm-up"),
        (0, {"kind": "step", "drop_at": (0.5,)}, "0.001, times 0.1 after step 1,000"),
        (
            9,
            {"kind": "step", "drop_at": (0.25, 0.5, 0.75), "drop_factor": 0.5},
            "0.001, times 0.5 after steps 500, 1,000, 1,500, with 9 steps of warm-up",
        ),
    ],
)
def test_schedule__in_words(warmup: int, how: dict[str, Any], words: str) -> None:
    assert RateSchedule(2000, warmup, 1e-3, 1e-5, **how).described() == words


def test_recipe__is_what_the_run_has_and_the_header_says(image_folder: Path, tiny_model_folder: Path) -> None:
    config = FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), steps=10, lr=0.4, val_fraction=0, num_workers=0,
        set=("optimizer.name=lion", "rate.schedule=step", "rate.drop_at=[0.5, 0.8]", "rate.drop_factor=0.5",
             "rate.warmup_fraction=0.2", "rate.warmup_lr=0.2", "rate.grid=[0.1, 0.4]"),
    )  # fmt: skip
    prepared = finetune.prepare(config, Conversation())
    rows = {row.name: (row.value, row.reason) for row in header_settings(prepared)}
    assert rows["learning rate"] == (
        "0.4, times 0.5 after steps 5, 8, with 2 steps of warm-up from 0.2",
        "given, used as it is; its source tried 0.1, 0.4",
    )
    assert "lion (timm), betas 0.9 0.99, weight decay 0.05" in rows["recipe"][0]
    rates = [prepared.job.schedule.at(step) for step in range(1, 11)]
    assert rates == pytest.approx([0.3, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1])


def test_recipe__linear_from_the_start(image_folder: Path, tiny_model_folder: Path) -> None:
    config = FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), steps=4, lr=0.4, val_fraction=0, num_workers=0, out="out",
        set=("rate.schedule=linear", "rate.decay_from=start", "rate.warmup_fraction=0.25", "rate.final_lr=0"),
    )  # fmt: skip
    job = finetune.prepare(config, Conversation()).job
    assert [job.schedule.at(step) for step in range(1, 5)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
