"""Where noise goes: timm's places and rates, weights and names untouched, a sentence where there is no place."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from vitctl.errors import SettingError
from vitctl.primitives.compiler_later import compiler_later
from vitctl.training.noise import KeyedDropPath, noise_of
from vitctl.training.noise_places import InstalledNoise, install_noise

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
PARALLEL = "vit_small_patch16_18x2_224"


def built(name: str = "vit_tiny_patch16_224", **arguments: object) -> nn.Module:
    if name == "vit_tiny_patch16_224":
        arguments = TINY | {"num_classes": 3} | arguments
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def keyed_rates(model: nn.Module) -> dict[str, float]:
    return {place: module.rate for place, module in model.named_modules() if isinstance(module, KeyedDropPath)}


def timms_rates(model: nn.Module) -> dict[str, float]:
    rates = {place: float(m.drop_prob) for place, m in model.named_modules() if isinstance(m, DropPath)}
    return {place: rate for place, rate in rates.items() if rate}


def slow(*names: str) -> list[Any]:
    return [pytest.param(name, {}, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_small_patch16_224", {"depth": 4}),
        (PARALLEL, {"depth": 4}),
        *slow("vit_small_patch16_dinov3", "beit_base_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"),
        *slow("maxvit_tiny_tf_224", "vit_relpos_small_patch16_224", "hiera_tiny_224"),
    ],
)
@compiler_later()
def test_rates__are_timms_own_in_every_place(name: str, arguments: dict[str, int]) -> None:
    with torch.device("meta"):
        theirs, ours = built(name, drop_path_rate=0.3, **arguments), built(name, **arguments)
    expected = timms_rates(theirs)
    assert len(expected) >= 6
    installed = install_noise(ours, drop_path=0.3, patch_drop=None, name=name)
    assert keyed_rates(ours) == pytest.approx(expected, abs=1e-6)
    assert installed.branch_rate == pytest.approx(0.3)
    # what a model was built with stays where the recipe says nothing, and is keyed
    assert install_noise(theirs, drop_path=None, patch_drop=None, name=name) == installed
    assert keyed_rates(theirs) == expected


def test_installing__changes_no_weight_and_no_name_and_nothing_in_evaluation() -> None:
    model = built(depth=4).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before, logits = {key: value.clone() for key, value in model.state_dict().items()}, model(images)
    installed = install_noise(model, drop_path=0.3, patch_drop=0.5, name="tiny")
    assert installed == InstalledNoise(pytest.approx(0.3), 3, 0.5)  # the first block has rate 0
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(model(images), logits)


def test_nothing_asked_for__nothing_is_installed() -> None:
    model = built()
    kinds = {place: type(module) for place, module in model.named_modules()}
    assert install_noise(model, drop_path=None, patch_drop=None, name="tiny") == InstalledNoise()
    assert {place: type(module) for place, module in model.named_modules()} == kinds
    assert noise_of(model) is None


def test_rate_0_that_is_asked_for__takes_the_models_own_out() -> None:
    model = built(drop_path_rate=0.5, patch_drop_rate=0.5)
    assert install_noise(model, drop_path=0.0, patch_drop=0.0, name="tiny") == InstalledNoise()
    assert not timms_rates(model)
    assert not keyed_rates(model)


def test_own_patch_drop__stays_at_its_rate_and_is_keyed() -> None:
    model = built(patch_drop_rate=0.5)
    assert install_noise(model, drop_path=None, patch_drop=None, name="tiny").patch_rate == 0.5
    assert noise_of(model) is not None


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("test_resnet", {"drop_path": 0.1}, "timm's test_resnet has no residual blocks with a place for it"),
        ("test_resnet", {"patch_drop": 0.1}, "test_resnet needs every patch in its place"),
        ("test_vit_relpos", {"patch_drop": 0.1}, "test_vit_relpos needs every patch in its place"),
        ("test_convnext", {"patch_drop": 0.1}, "test_convnext needs every patch in its place"),
    ],
)  # fmt: skip
def test_no_place__is_said(name: str, asked: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        install_noise(built(name), **{"drop_path": None, "patch_drop": None} | asked, name=name)


def test_layers_in_two_places__draw_once() -> None:
    model = built(depth=2)
    model.blocks[0].drop_path1 = model.blocks[1].drop_path1 = DropPath(0.5)
    install_noise(model, drop_path=None, patch_drop=None, name="tiny")
    assert model.blocks[0].drop_path1 is model.blocks[1].drop_path1
