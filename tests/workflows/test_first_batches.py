"""first-batches.png: drawn while a run trains, the same however often the run was stopped."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import InterruptedRun
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

PICTURE = "first-batches.png"


@pytest.mark.slow
def test_first_batches__are_the_same_after_a_stop_before_they_were_drawn(
    image_folder: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: StoppedAfter
) -> None:
    for name in ("draw_curves", "draw_confusion"):
        monkeypatch.setattr(f"vitctl.reporting.figures.{name}", lambda *_args, **_options: None)
    config: dict[str, Any] = {
        "data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0, "head": "zero",
        "val_fraction": 0.2, "steps": 4,
        "set": (
            "images.augment=rand-m9-mstd0.5-inc1", "images.rotate=10", "images.erasing=0.5", "mixing.mixup=0.4",
            "mixing.cutmix=1.0", "loss.label_smoothing=0.1", "evaluation.validations=1",
        ),
    }  # fmt: skip
    drawn_at = list[int]()

    def noted(sheets: Any, path: Path) -> None:
        drawn_at.append(len(Path(path.parent, "metrics.jsonl").read_text().splitlines()))
        path.write_bytes(pickle.dumps(sheets))  # that the same is drawn alike is tested where it is drawn

    monkeypatch.setattr(finetune, "draw_first_batches", noted)
    whole = finetune.run(FinetuneConfig(**config, out="whole"), Conversation())
    sheets = pickle.loads(Path("whole", PICTURE).read_bytes())
    assert [(sheet.title[:6], len(sheet.pictures)) for sheet in sheets] == [("step 1", 8), ("step 2", 8), ("step 3", 8)]

    stopped_after(1, FinetuneConfig(**config, out="out"))
    assert not Path("out", PICTURE).exists()
    again = finetune.run(FinetuneConfig(**config, out="out"), Conversation())
    assert drawn_at == [3, 1]  # steps taken
    assert Path("out", PICTURE).read_bytes() == Path("whole", PICTURE).read_bytes()
    assert again.weights_sha256 == whole.weights_sha256
    assert Path("out/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
