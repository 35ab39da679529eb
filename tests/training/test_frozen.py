"""Parts that are not trained: quiet in training, and nothing is kept of them."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.primitives.compiler_later import compiler_later
from vitctl.recipes.sections import Tuning
from vitctl.training.frozen import is_frozen, num_all_parameters, set_training
from vitctl.training.micro_batches import has_batch_norm
from vitctl.training.noise_places import install_noise
from vitctl.training.recomputation import recompute_blocks
from vitctl.training.trained import choose_trained

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 3}


def build(mode: str, *, name: str = "vit_tiny_patch16_224", **said: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **(SMALL if name.startswith("vit") else {"num_classes": 3}))
        choose_trained(model, Tuning(mode=mode, **said), seed=0, name="it")  # type: ignore[arg-type]
    return set_training(model)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Return what autograd keeps of a forward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        model(images)
    return sum(kept.values())


@pytest.mark.parametrize(("mode", "first"), [("head", 4), ("last:1", 3), ("last:3", 1), ("attention", 0), ("norm", 0)])
def test_nothing_below_the_lowest_trained_block_is_differentiated(mode: str, first: int) -> None:
    model = build(mode)
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(torch.rand(2, 3, 16, 16))
    assert [output.grad_fn is not None for output in outputs] == [index >= first for index in range(4)]


def test_less_is_kept_the_less_is_trained() -> None:
    images = torch.rand(8, 3, 16, 16)
    kept = {mode: kept_bytes(build(mode), images) for mode in ("full", "last:3", "last:1", "head")}
    assert list(kept.values()) == sorted(kept.values(), reverse=True)
    assert kept["last:1"] < 0.35 * kept["full"]
    assert kept["head"] < 0.02 * kept["full"]


def test_frozen_blocks__drop_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **SMALL, proj_drop_rate=0.5)
    choose_trained(model, Tuning(mode="last:2"), seed=0, name="it")
    installed = install_noise(model, drop_path=0.3, patch_drop=0.25, name="it")
    assert (installed.num_blocks, installed.branch_rate) == (2, pytest.approx(0.3))
    set_training(model)
    training = [
        {module.training for module in block.modules() if not isinstance(module, nn.Identity)} for block in model.blocks
    ]
    assert training == [{False}, {False}, {True}, {True}]
    assert model.patch_drop.training  # it drops what everything sees
    assert install_noise(build("head"), drop_path=0.3, patch_drop=0.0, name="it").num_blocks == 0


def test_batch_norm__of_frozen_parts_is_left_as_it_is() -> None:
    model = build("last:1", name="test_resnet")
    before = copy.deepcopy(dict(model.named_buffers()))
    model(torch.rand(4, 3, 64, 64))
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed
    assert all(name.startswith("layer4.") for name in changed)
    assert has_batch_norm(model)
    assert not has_batch_norm(build("head", name="test_resnet"))  # one image at a time will do
    frozen = build("full", name="test_resnet", freeze=(r"bn\d", r"conv1\.[14]\."))
    before = copy.deepcopy(dict(frozen.named_buffers()))
    frozen(torch.rand(4, 3, 64, 64))
    assert {name for name, one in frozen.named_buffers() if not torch.equal(one, before[name])} == {
        name for name in before if "downsample" in name
    }


def test_whole_model__is_in_training_mode_all_of_it() -> None:
    model = build("full").eval()
    assert not model.training
    assert all(module.training for module in set_training(model).modules())


def test_wrapped_models__are_looked_through() -> None:
    inner = build("head")
    wrapped = nn.Sequential(inner)
    set_training(wrapped.eval())
    assert [block.training for block in inner.blocks] == [False] * 4
    assert inner.head.training


def test_is_frozen__needs_weights_to_be() -> None:
    assert not is_frozen(nn.Dropout())
    assert not is_frozen(nn.Linear(2, 2))
    assert is_frozen(nn.Linear(2, 2).requires_grad_(False))
    assert num_all_parameters(nn.Linear(2, 2).requires_grad_(False)) == 6


@pytest.mark.parametrize("mode", ["head", "last:1", "lora:2", "bias"])
@compiler_later()
def test_checkpointing__the_same_gradients(mode: str) -> None:
    """Inputs of a block that ask for no gradient are none that checkpointing loses its way by."""
    plain, light = build(mode), build(mode)
    recompute_blocks(light, name="it")
    images = torch.rand(2, 3, 16, 16)
    for model in (plain, light):
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
        model(images).square().sum().backward()
    pairs = [(one.grad, other.grad) for one, other in zip(plain.parameters(), light.parameters(), strict=True)]
    assert any(one is not None for one, _ in pairs)
    for one, other in pairs:
        assert (one is None) == (other is None)
        assert one is None or (other is not None and torch.equal(one, other))
