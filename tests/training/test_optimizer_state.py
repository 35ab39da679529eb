"""What an optimiser remembers, through files: every optimiser goes on bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from vitctl.errors import ModelError
from vitctl.models.checkpoints import read_checkpoint, write_tensors
from vitctl.primitives.compiler_later import compiler_later
from vitctl.training.optimizer_choice import usable_names
from vitctl.training.optimizer_state import optimizer_state, restore_optimizer

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 3}
USUAL = ["adamw", "sgd", "lamb"]  # moments; none at first; a tensor in the group
OTHERS = [name for name in [*usable_names(), "lookahead_adamw", "lookahead_sgd"] if name not in USUAL]
TORCHS: dict[str, dict[str, Any]] = {
    "AdamW": {"amsgrad": True}, "SGD": {"momentum": 0.9, "nesterov": True}, "Adagrad": {}, "NAdam": {}, "Adamax": {},
}  # fmt: skip


def new(name: str, *, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", **VIT)
    with compiler_later():
        if name in TORCHS:
            return model, getattr(torch.optim, name)(model.parameters(), lr=1e-2, **TORCHS[name])
        return model, create_optimizer_v2(model, opt=name, lr=1e-2, weight_decay=0.05, layer_decay=0.75)


@compiler_later()
def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.randn(4, 3, 8, 8, generator=generator), torch.randint(3, (4,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 12) * group.get("lr_scale", 1.0)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", [*USUAL, *(pytest.param(name, marks=pytest.mark.slow) for name in [*OTHERS, *TORCHS])])
def test_through_files_it_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, optimizer = new(name)
    train(model, optimizer, range(8))
    expected = model.state_dict()

    model, optimizer = new(name)
    train(model, optimizer, range(4))
    tensors, facts = optimizer_state(model, optimizer)
    write_tensors(tmp_path / "moments", {key: tensor.contiguous() for key, tensor in tensors.items()})
    text = json.dumps(facts, allow_nan=False)

    other, resumed = new(name, seed=1)
    other.load_state_dict(model.state_dict())
    restore_optimizer(other, resumed, read_checkpoint(tmp_path / "moments", "safetensors"), json.loads(text))
    train(other, resumed, range(4, 8))
    assert [key for key, one in other.state_dict().items() if not torch.equal(one, expected[key])] == []


def test_without_what_it_remembers_it_does_not_go_on() -> None:
    """The test above can fail: momentum counts."""
    model, optimizer = new("adamw")
    train(model, optimizer, range(4))
    other, fresh = new("adamw", seed=1)
    other.load_state_dict(model.state_dict())
    train(model, optimizer, range(4, 8))
    train(other, fresh, range(4, 8))
    assert not torch.equal(model.head.weight, other.head.weight)


def test_the_machines_own_choices_stay_those_of_the_new_one() -> None:
    model, optimizer = new("adamw")
    train(model, optimizer, range(2))
    for group in optimizer.param_groups:
        group["fused"], group["foreach"], group["lr"] = True, True, 7.0
    tensors, facts = optimizer_state(model, optimizer)
    other, fresh = new("adamw")
    before = [(group["fused"], group["foreach"], group["lr"]) for group in fresh.param_groups]
    restore_optimizer(other, fresh, tensors, facts)
    assert [(group["fused"], group["foreach"], group["lr"]) for group in fresh.param_groups] == before


def test_another_models_state_is_refused() -> None:
    model, optimizer = new("adamw")
    train(model, optimizer, range(2))
    tensors, facts = optimizer_state(model, optimizer)
    other = timm.create_model("vit_tiny_patch16_224", **VIT | {"depth": 2})
    with pytest.raises(ModelError, match=r"of other parameters than the model's: 'blocks\.1\..*' is in one only"):
        restore_optimizer(other, torch.optim.AdamW(other.parameters()), tensors, facts)
    wide = timm.create_model("vit_tiny_patch16_224", **VIT | {"embed_dim": 24})
    with pytest.raises(ModelError, match="is of shape .*; expected .*, the parameter's"):
        restore_optimizer(wide, create_optimizer_v2(wide, opt="adamw", layer_decay=0.75), tensors, facts)
