"""Everything that a recipe can turn on, at once: a run goes on exactly, and does not depend on how it is divided."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import InterruptedRun
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

pytestmark = pytest.mark.usefixtures("no_rendering")

IMAGES = (
    "images.crop=random-resized-crop", "images.augment=rand-m9-mstd0.5-inc1", "images.color_jitter=0.3",
    "images.rotate=10", "images.translate=0.1", "images.zoom=0.1", "images.shear=5", "images.erasing=0.5",
    "mixing.mixup=0.8", "mixing.cutmix=1", "noise.drop_path=0.2", "noise.patch_drop=0.25", "loss.label_smoothing=0.1",
)  # fmt: skip
STEPS = (
    "optimizer.name=lamb", "optimizer.clip_norm=1", "optimizer.final_norm=head", "rate.schedule=linear",
    "rate.warmup_lr=1e-5", "rate.decay_from=start", "length.sizes=[16, 32]", "averaging.method=ema",
    "averaging.decay=0.8", "evaluation.validations=3", "evaluation.select_best_from=1",
)  # fmt: skip


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path) -> FinetuneConfig:
    """Six steps of 27 uneven images, in batches of odd size, the last of them short."""
    for number in range(9):
        (image_folder / "blue" / f"{number}.png").unlink()
    return FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), batch_size=7, num_workers=0, num_threads=1, epochs=1.6,
        val_fraction=0.2, lr=1e-3, layer_decay=0.75, lr_scale=("^head=2",), freeze=("patch_embed",),
        class_weights="balanced", patience=3, save_every="1", recipe="demo", set=(*IMAGES, *STEPS), out="one",
    )  # fmt: skip


def run(config: FinetuneConfig) -> FinetuneResult:
    result = finetune.run(config, Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    """Return what repeats of a run."""
    names = ("validation.json", "metrics.jsonl", "last", "best", "average", "val-logits.safetensors")
    paths = [path for name in names for path in (Path(folder) / name, *(Path(folder) / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def numbers(folder: str) -> list[float]:
    """Return the losses and gradient norms of every step, and the losses of every validation."""
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines for key in ("loss", "grad_norm", "val_loss", "average_val_loss") if key in line]


@pytest.mark.parametrize("tune", [pytest.param("full", marks=pytest.mark.slow), "lora:2"])
def test_everything__stopped_and_gone_on_with_is_the_same_run(
    config: FinetuneConfig, tune: str, stopped_after: StoppedAfter
) -> None:
    config = replace(config, tune=tune)
    run(config)
    expected = bytes_of("one")
    shutil.rmtree("one")
    for step in (2, 4):  # at one size, at the other
        stopped_after(step, config)
    run(config)
    assert bytes_of("one") == expected
    assert {"last/model.safetensors", "best/model.safetensors", "average/model.safetensors"} <= set(expected)
    assert ("last/adapter.safetensors" in expected) == tune.startswith("lora")


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", "lora:2", "last:1"])
def test_everything__in_parts_is_the_same_run(config: FinetuneConfig, tune: str) -> None:
    config = replace(config, tune=tune)
    run(config)
    for size in (4, 2, 1):
        run(replace(config, micro_batch=size, out="parts", overwrite=True))
        assert numbers("parts") == pytest.approx(numbers("one"), rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_everything__workers_are_without_effect(config: FinetuneConfig) -> None:
    run(config)
    run(replace(config, num_workers=2, out="workers"))
    assert bytes_of("workers") == bytes_of("one")


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", "lora:2"])
def test_everything__in_two_processes_is_the_same_run(config: FinetuneConfig, tune: str) -> None:
    config = replace(config, tune=tune)
    run(config)
    path = Path("config.json")
    path.write_text(json.dumps(replace(config, out=None).as_json(without=("out", "overwrite", "dry_run", "resume"))))
    done = subprocess.run(
        [sys.executable, "-m", "vitctl", "finetune", "--config", path, "--num-processes", "2", "--out", "two"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert numbers("two") == pytest.approx(numbers("one"), rel=1e-4, abs=1e-4)
