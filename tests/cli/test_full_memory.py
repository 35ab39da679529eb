"""A full memory of the computer: one sentence and exit code 2, of every command and function, wherever it happens."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import VisionTransformer

import vitctl
from vitctl.errors import SettingError

BATCH = "cpu ran out of memory at a batch of {} images. Try a smaller --batch-size.\n"
NO_BATCH = "cpu ran out of memory. Try a smaller model, or fewer images.\n"

# words -> what fills the memory, outside of what computes on batches; the sentence
COMMANDS = {
    "data digits --out out": ("workflows.data.open_source", NO_BATCH),
    "evaluate --model demo --data digits --out out": ("workflows.evaluate.open_model", BATCH.format(64)),
    "predict --model demo a.png": ("workflows.predict.open_model", BATCH.format(64)),
    "finetune --data digits --model demo --out out": ("training.opening.open_model", NO_BATCH),
    "finetune --data digits --model demo --batch-size 7 --out out": (
        "training.opening.open_model",
        BATCH.format(7),
    ),
    "fewshot-eval --data digits --model demo --shots 1 --out out": (
        "workflows.fewshot_eval.resolve_num_threads",
        BATCH.format(64),
    ),
    "inspect filters --model demo --out out": ("workflows.inspect_model.check_writable", NO_BATCH),
    "export --model demo --to timm --out out": ("workflows.export.find_place", NO_BATCH),
    "models vit_tiny*": ("workflows.models.run", NO_BATCH),
}


def fill(*_arguments: object, **_named: object) -> NoReturn:
    raise MemoryError


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    step, sentence = COMMANDS[words]
    monkeypatch.setattr(f"vitctl.{step}", fill)
    result = run_cli(*words.split())
    assert result.exit_code == 2
    assert result.stderr.endswith(f"error: {sentence}")


def test_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitctl.workflows.predict.open_model", fill)
    with pytest.raises(SettingError, match="ran out of memory at a batch of 5 images"):
        vitctl.predict(images=["a.png"], model="demo", batch_size=5)


def test_predict__an_image_for_which_there_is_no_memory_is_not_unreadable(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    monkeypatch.setattr("vitctl.data.images.to_rgb", fill)
    result = run_cli("predict", "--model", "demo", Path("a.png"))
    assert result.exit_code == 2
    assert result.stderr.endswith(f"error: {BATCH.format(64)}")
    assert "a.png" not in result.stdout


COMPUTING = {
    "evaluate --model demo --data digits --split test --batch-size 9 --out out": 9,
    "predict --model demo a.png b.png c.png --batch-size 9": 9,
    "finetune --data digits --model demo --head zero --steps 2 --batch-size 9 --out out": 9,
    "fewshot-eval --data digits --model demo --shots 1 --seeds 1 --batch-size 9 --out out": 9,
}


@pytest.mark.parametrize("words", COMPUTING)
def test_a_batch_for_which_there_is_no_memory__is_told_with_what_it_takes(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    for name in "abc":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"{name}.png")
    forward = VisionTransformer.forward_features

    def full(model: VisionTransformer, images: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        # in training every number of images is too many: half as many would be tried next
        return torch.empty(2**60) if model.training or len(images) > 2 else forward(model, images, *more, **named)

    monkeypatch.setattr(VisionTransformer, "forward_features", full)
    result = run_cli(*words.split())
    assert result.exit_code == 2, result.stderr
    assert re.search(
        rf"error: cpu ran out of memory at a batch of {COMPUTING[words]} images \(about [\d.]+ [KM]iB\), when it asked "
        r"for 4\.19e\+06 TiB\. Try a smaller --batch-size( or --image-size)?\.\n$",
        result.stderr,
    ), result.stderr


@pytest.mark.slow
def test_predict__six_images_of_177_megapixels_take_turns() -> None:
    """Where all are decoded at once 6.6 GiB are resident, measured; 3 GiB of address space is enough for one."""
    for name, side in {"small": 64, **dict.fromkeys("abcdef", 13_300)}.items():
        Image.new("RGB", (side, side), "red").save(f"{name}.png", compress_level=1)
    pictures = sorted(str(path) for path in Path().glob("*.png"))

    def predict(most: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vitctl", "predict", "--model", "demo", *pictures],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )

    enough, too_little = predict(3 * 2**30), predict(3 * 2**29)
    assert enough.returncode == 0, enough.stderr
    assert [line.split()[0] for line in enough.stdout.splitlines()][1:] == pictures  # a header first
    assert too_little.returncode == 2, too_little.stderr
    assert too_little.stderr.endswith("cpu ran out of memory at a batch of 64 images. Try a smaller --batch-size.\n")
