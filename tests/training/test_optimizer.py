"""Parameter groups: every tensor once, the right decay, the right rate."""

from typing import Any

import pytest
import torch
from torch import nn

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.recipes.sections import Tuning
from vitctl.training.optimizer import build_optimizer, describe_groups, parameter_groups, set_learning_rate
from vitctl.training.trained import choose_trained

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "num_classes": 3}
ARCHITECTURES = (
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_relpos_small_patch16_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
)
TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")


def build(name: str, *, depth: int = 2) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, depth=depth, **SMALL)
    return model


def group_of_each_tensor(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the group of every parameter by name; a parameter in two groups is a failure."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found, names[id(parameter)]
            found[names[id(parameter)]] = group
    return found


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups__every_parameter_is_in_exactly_one(name: str, layer_decay: float) -> None:
    model = build(name)
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=layer_decay))
    assert set(found) == {parameter_name for parameter_name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups__vectors_tokens_and_position_embeddings_do_not_decay(name: str) -> None:
    model = build(name)
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.75))
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in TOKENS or parameter.ndim <= 1:
            assert found[parameter_name]["weight_decay"] == 0, parameter_name
        elif parameter_name.endswith(("qkv.weight", "fc1.weight", "proj.weight")):
            assert found[parameter_name]["weight_decay"] == 0.05, parameter_name


def test_groups__registers_and_class_token_are_embeddings_of_the_lowest_layer() -> None:
    model = build("vit_small_patch14_reg4_dinov2")
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.5))
    for parameter_name in ("reg_token", "cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert found[parameter_name]["lr_scale"] == 0.5**3, parameter_name
    assert found["reg_token"]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("name", "stem", "head"),
    [
        ("test_resnet", "conv1", "fc"),
        ("test_convnext", "stem", "head.fc"),
        ("test_efficientnet", "conv_stem", "classifier"),
        ("test_byobnet", "stem", "head.fc"),
        ("test_nfnet", "stem", "head.fc"),
        ("test_mambaout", "stem", "head.fc"),
        ("test_maxvit", "stem", "head.fc"),
    ],
)
def test_layer_decay__of_cnns_rises_from_the_stem_to_the_head(name: str, stem: str, head: str) -> None:
    import timm

    model = timm.create_model(name, num_classes=3)
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.5))
    assert set(found) == {parameter_name for parameter_name, _ in model.named_parameters()}
    scales = {group["lr_scale"] for group in found.values()}
    assert found[f"{head}.weight"]["lr_scale"] == max(scales) == 1
    assert found[next(key for key in found if key.startswith(stem))]["lr_scale"] == min(scales)
    assert scales == {0.5**layer for layer in range(len(scales))}
    assert len(scales) >= 4
    assert all(found[key]["weight_decay"] == 0 for key, value in model.named_parameters() if value.ndim <= 1)


def test_layer_decay__multiplies_from_the_head_to_the_embeddings() -> None:
    model = build("vit_tiny_patch16_224", depth=12)
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.75))
    for parameter_name, group in found.items():
        first = parameter_name.split(".")[0]
        layers_below_the_head = {
            "head": 0,
            "norm": 1,  # as in timm: like the last block
            "blocks": 12 - int(parameter_name.split(".")[1]) if first == "blocks" else None,
        }.get(first, 13)
        assert layers_below_the_head is not None
        assert group["lr_scale"] == pytest.approx(0.75**layers_below_the_head), parameter_name


def test_layer_decay__of_one_gives_every_layer_the_same_rate() -> None:
    groups = parameter_groups(build("vit_tiny_patch16_224"), weight_decay=0.05, layer_decay=1.0)
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_frozen_parameters__are_left_out() -> None:
    model = build("vit_tiny_patch16_224")
    model.get_parameter("pos_embed").requires_grad_(False)
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.75))
    assert "pos_embed" not in found
    assert "cls_token" in found


def test_set_learning_rate__scales_each_group_by_its_own_factor() -> None:
    groups = parameter_groups(build("vit_tiny_patch16_224"), weight_decay=0.05, layer_decay=0.5)
    optimizer = build_optimizer(groups, name="adamw", lr=1.0, betas=(0.9, 0.999), momentum=0.0)
    for lr in (0.1, 0.2):  # the second call must not build on the first
        set_learning_rate(optimizer, lr)
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert rates == pytest.approx([lr / 8, lr / 4, lr / 2, lr])


def test_build_optimizer__adamw_has_the_betas_and_decays() -> None:
    groups = parameter_groups(build("vit_tiny_patch16_224"), weight_decay=0.05, layer_decay=1.0)
    optimizer = build_optimizer(groups, name="adamw", lr=1e-3, betas=(0.8, 0.95), momentum=0.0)
    assert type(optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


def test_build_optimizer__sgd_has_the_momentum() -> None:
    groups = parameter_groups(build("vit_tiny_patch16_224"), weight_decay=0.0, layer_decay=1.0)
    optimizer = build_optimizer(groups, name="sgd", lr=1e-3, betas=(0.9, 0.999), momentum=0.9)
    assert type(optimizer) is torch.optim.SGD
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_describe_groups__counts_every_number_once_lowest_rate_first() -> None:
    model = build("vit_tiny_patch16_224")
    reports = describe_groups(parameter_groups(model, weight_decay=0.05, layer_decay=0.75))
    assert sum(report.num_parameters for report in reports) == sum(p.numel() for p in model.parameters())
    assert sum(report.num_tensors for report in reports) == len(list(model.parameters()))
    keys = [(report.lr_scale, report.weight_decay) for report in reports]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


# --- rules of rates


def rates(model: nn.Module, **how: Any) -> dict[str, float]:
    found = group_of_each_tensor(model, parameter_groups(model, **{"weight_decay": 0.05, "layer_decay": 0.65} | how))
    return {name: group["lr_scale"] for name, group in found.items()}


def layer_of_mae(name: str, num_layers: int) -> int:
    """Return the layer of a parameter as MAE's util/lr_decay.py counts, written from its rule."""
    if name in TOKENS or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else num_layers


@pytest.mark.parametrize("global_pool", ["token", "avg"])  # with a norm after the blocks, or after the pooling
def test_final_norm__of_the_head_is_maes_rule(global_pool: str) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", depth=12, global_pool=global_pool, **SMALL)
    assert any(name.startswith("norm" if global_pool == "token" else "fc_norm") for name, _ in model.named_parameters())
    found, num_layers = rates(model, final_norm="head"), 13
    expected = {name: 0.65 ** (num_layers - layer_of_mae(name, num_layers)) for name, _ in model.named_parameters()}
    assert found == pytest.approx(expected)
    of_timm = rates(model)
    differing = {name.split(".")[0] for name in found if found[name] != of_timm[name]}
    assert differing == ({"norm"} if global_pool == "token" else set())  # a norm after the pooling is timm's head's too


def test_scales__multiply_the_rate_and_the_last_one_counts() -> None:
    model = build("vit_tiny_patch16_224")
    plain = rates(model)
    found = rates(model, scales=(("bias$", 3.0), ("^blocks.1", 0.5), (r"blocks\.1.*norm", 7.0)))
    for name, rate in plain.items():
        is_second = name.startswith("blocks.1")
        factor = 7.0 if is_second and "norm" in name else 0.5 if is_second else 3.0 if name.endswith("bias") else 1.0
        assert found[name] == pytest.approx(rate * factor), name


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "vit_base_patch16_siglip_224", "eva02_base_patch14_224"]
)
@pytest.mark.parametrize("mode", ["full", "head", "attention", "norm", "bias", "last:1", "lora:2"])
def test_groups__every_trained_parameter_is_in_exactly_one(name: str, mode: str) -> None:
    with torch.device("meta"):
        model = build(name)
    choose_trained(model, Tuning(mode=mode), seed=0, name=name)
    how = {"final_norm": "head", "scales": (("weight", 2.0), ("head", 3.0))}
    found = group_of_each_tensor(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.75, **how))
    assert set(found) == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(not group["params"] == [] for group in found.values())
    assert found["head.weight"]["lr_scale"] == 3.0


def test_groups__without_rules_are_timms_own() -> None:
    from timm.optim import param_groups_layer_decay

    model = build("vit_tiny_patch16_224")
    own = parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
    timms = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=model.no_weight_decay()
    )
    assert len(own) == len(timms)
    for group, other in zip(own, timms, strict=True):
        assert {key: value for key, value in group.items() if key != "params"} == {
            key: value for key, value in other.items() if key != "params"
        }
        assert list(map(id, group["params"])) == list(map(id, other["params"]))
