"""The state of a run: two steps, the state in files, two more steps are four steps, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from vitctl.data.loader import training_batches
from vitctl.data.order import BalancedOrder, BatchPlan
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages
from vitctl.data.transforms import TrainingTransform
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.finetune import LinearProbe, Score
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.state import Best, TrainingState

PREPROCESSING = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
SCHEDULE = RateSchedule(num_steps=4, num_warmup_steps=1, peak=1e-2, final=1e-4)
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture
def split() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 20), dtype=np.uint8)
    return split_from_names("train", ArrayImages("noise", pixels), list("aabaacaaba"))


def new_vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT)


def new_resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)  # its norms keep running statistics


def new_state(build: Callable[[], nn.Module], optimizer: str, *, seed: int = 0) -> TrainingState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
    return TrainingState(model, build_optimizer(groups, name=optimizer, lr=1e-2, betas=(0.9, 0.99), momentum=0.9))


def go_on(state: TrainingState, split: Split, num_steps: int) -> list[float]:
    """Take the next steps of a run of 4, the first of which reaches into the second epoch; return their losses."""
    plan = BatchPlan(len(split), 6, 24, seed=3, balanced=BalancedOrder(split.labels, 3))
    transform = TrainingTransform(PREPROCESSING, crop="random-resized-crop", crop_area=(0.3, 1.0), flip=True, seed=3)
    batches = training_batches(split, transform, plan, num_workers=0, first_step=state.step)
    accelerator = Accelerator(cpu=True)
    losses: list[float] = []
    for report in train_steps(
        state, accelerator.prepare(state.model), batches, SCHEDULE, accelerator=accelerator, clip_norm=1.0
    ):
        losses.append(report.loss.read())
        state.clock.count(report.num_images, step_s=report.step_s, data_s=report.data_s)
        if len(losses) == num_steps:
            break
    return losses


def through_files(state: TrainingState, other: TrainingState, folder: Path) -> None:
    """Make ``other`` what ``state`` is, by a file of tensors and one of JSON."""
    save_file({name: tensor.contiguous() for name, tensor in state.tensors().items()}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(state.facts(), allow_nan=False))
    other.restore(load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text()))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("build", [new_vit, new_resnet])
def test_two_steps_and_two_are_four(
    split: Split, build: Callable[[], nn.Module], optimizer: str, tmp_path: Path
) -> None:
    whole = new_state(build, optimizer)
    losses = go_on(whole, split, 4)

    first = new_state(build, optimizer)
    assert go_on(first, split, 2) == losses[:2]
    second = new_state(build, optimizer, seed=1)  # other weights, which must not matter
    through_files(first, second, tmp_path)
    first_tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}
    assert go_on(second, split, 2) == losses[2:]

    expected, found = whole.tensors(), second.tensors()
    assert set(found) == set(expected)
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []
    # the test would see a state that did not move, or that shared its tensors
    assert any(not torch.equal(first_tensors[name], expected[name]) for name in expected if "optimizer." in name)
    assert all(torch.equal(tensor, first.tensors()[name]) for name, tensor in first_tensors.items())


def test_optimizer_state_goes_by_the_name_of_the_parameter(split: Split, tmp_path: Path) -> None:
    """Groups in another order, as another timm or recipe may have them, get the same moments."""
    state = new_state(new_vit, "adamw")
    go_on(state, split, 2)
    other = new_state(new_vit, "adamw", seed=1)
    groups = list(reversed(other.optimizer.param_groups))
    other.optimizer = torch.optim.AdamW([{key: group[key] for key in ("params", "weight_decay")} for group in groups])
    through_files(state, other, tmp_path)
    expected, found = state.tensors(), other.tensors()
    assert "optimizer.blocks.0.attn.qkv.weight|exp_avg" in expected
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_scores_and_clock_come_back(tmp_path: Path) -> None:
    state = new_state(new_vit, "sgd")
    state.step, state.last = 7, Score(7, 0.5, 0.75)
    state.best = Best(Score(4, 0.1 + 0.2, 1 / 3), np.arange(6, dtype=np.float32).reshape(2, 3))
    state.clock.count(12, step_s=0.1, data_s=0.05)
    state.linear_probe = LinearProbe(top1=0.5, loss=0.1 + 0.2, l2=0.25, loo_top1=None, scale=3.0)
    other = new_state(new_vit, "sgd")
    through_files(state, other, tmp_path)
    assert (other.step, other.last) == (7, state.last)
    assert (other.clock.num_images, other.clock.training_s, other.clock.data_s) == (12, 0.1, 0.05)
    assert other.clock.wall_s > other.clock.earlier_s > 0
    assert other.linear_probe == state.linear_probe
    assert other.best.score == state.best.score
    assert other.best.logits is not None
    assert np.array_equal(other.best.logits, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_before_the_first_step_there_is_no_optimizer_state(tmp_path: Path) -> None:
    state, other = new_state(new_vit, "adamw"), new_state(new_vit, "adamw", seed=1)
    through_files(state, other, tmp_path)
    assert {name for name in state.tensors() if not name.startswith("optimizer.|")} == {
        f"model.{name}" for name in state.model.state_dict()
    }
    assert other.optimizer.state_dict()["state"] == {}
    assert other.best == Best()
