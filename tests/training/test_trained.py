"""Which parameters each mode trains, by name; expressions; what cannot be found is a sentence."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.errors import SettingError
from vitctl.models.describe import num_parameters
from vitctl.recipes.sections import Tuning
from vitctl.training.trained import check_tuning, choose_trained

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}


def build(name: str = "vit_tiny_patch16_224", **arguments: object) -> nn.Module:
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **(arguments or SMALL))
    return model


def trained(model: nn.Module, mode: str = "full", **said: object) -> set[str]:
    choose_trained(model, Tuning(mode=mode, **said), seed=0, name="it")  # type: ignore[arg-type]
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def in_blocks(*names: str, blocks: tuple[int, ...] = (0, 1)) -> set[str]:
    return {f"blocks.{block}.{name}" for block in blocks for name in names}


def both(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


HEAD = both("head")
ATTENTION, MLP, NORMS = both("attn.qkv", "attn.proj"), both("mlp.fc1", "mlp.fc2"), both("norm1", "norm2")
FACTORS = {f"{path}.lora_{factor}" for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for factor in "ab"}
BIASES = ("norm1.bias", "norm2.bias", "attn.qkv.bias", "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias")
OF_A_VIT = {
    "full": in_blocks(*ATTENTION, *MLP, *NORMS) | both("patch_embed.proj", "norm") | {"cls_token", "pos_embed"},
    "head": set[str](),
    "attention": in_blocks(*ATTENTION) | {"pos_embed"},
    "norm": in_blocks(*NORMS) | both("norm"),
    "bias": in_blocks(*BIASES) | {"patch_embed.proj.bias", "norm.bias"},
    "last:1": in_blocks(*ATTENTION, *MLP, *NORMS, blocks=(1,)) | both("norm"),
    "last:2": in_blocks(*ATTENTION, *MLP, *NORMS) | both("norm"),
    "lora:2": in_blocks(*FACTORS),
}


@pytest.mark.parametrize("mode", OF_A_VIT)
def test_vit__exactly_these(mode: str) -> None:
    assert trained(build(), mode) == OF_A_VIT[mode] | HEAD


@pytest.mark.parametrize("mode", ["full", "head", "bias", "last:1", "lora:2"])
def test_distilled__both_heads(mode: str) -> None:
    found = trained(build("deit_tiny_distilled_patch16_224"), mode)
    own = {"dist_token"} if mode == "full" else set()
    assert found == OF_A_VIT[mode] | HEAD | both("head_dist") | own


def test_eva__separate_projections_and_swiglu_are_linear_layers_too() -> None:
    model = build("eva02_base_patch14_224", **SMALL)
    found = trained(model, "lora:2")
    layers = {name.rpartition(".")[0] for name in found - HEAD}
    parts = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")
    assert layers == in_blocks(*parts)
    assert found >= HEAD


def test_eva__biases_beside_one_layer_for_q_k_and_v() -> None:
    names = {name for name, _ in build("eva02_tiny_patch14_224").named_parameters()}
    biases = {name for name in names if name.endswith("bias")}
    assert in_blocks("attn.q_bias", "attn.v_bias") <= biases
    assert trained(build("eva02_tiny_patch14_224"), "bias") == biases | HEAD
    norms = in_blocks(*NORMS, *both("mlp.norm")) | both("fc_norm")
    assert trained(build("eva02_tiny_patch14_224"), "norm") == norms & names | HEAD


def test_attention_pooling__is_of_the_head() -> None:
    pooled = {name for name, _ in build("vit_base_patch16_siglip_224").named_parameters() if name.startswith("attn_p")}
    assert len(pooled) > 8
    for mode in ("head", "attention", "lora:2"):
        assert {name for name in trained(build("vit_base_patch16_siglip_224"), mode) if "attn_pool" in name} == pooled


def test_swin__blocks_in_stages_are_counted_one_by_one() -> None:
    swin = functools.partial(build, "swin_tiny_patch4_window7_224", num_classes=3, **SWIN)
    names = [name for name, _ in swin().named_parameters()]
    last = {name for name in names if name.startswith("layers.1.blocks.1.")}
    after = both("norm", "head.fc")
    assert trained(swin(), "last:1") == last | after
    second = {name for name in names if name.startswith("layers.1.blocks.")}
    assert trained(swin(), "last:2") == second | after
    between = {name for name in names if name.startswith("layers.1.downsample.")}
    first = {name for name in names if name.startswith("layers.0.blocks.")}
    assert trained(swin(), "last:3") == first | second | between | after
    assert trained(swin(), "attention") == {name for name in names if ".attn." in name} | both("head.fc")
    layers = {name.rpartition(".")[0] for name in trained(swin(), "lora:2") - both("head.fc")}
    four = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    blocks = ("layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1")
    assert layers == {f"{block}.{part}" for block in blocks for part in four}


def test_cnn__its_norms_and_blocks() -> None:
    model = build("test_resnet", num_classes=3)
    batch_norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert trained(build("test_resnet", num_classes=3), "norm") == both(*batch_norms, "fc")
    last = {name for name, _ in model.named_parameters() if name.startswith("layer4.")}
    assert trained(build("test_resnet", num_classes=3), "last:1") == last | both("fc")
    assert trained(build("test_resnet", num_classes=3), "head") == both("fc")


def test_what_a_model_keeps_fixed__stays_fixed() -> None:
    model = build()
    model.get_parameter("pos_embed").requires_grad_(False)
    assert "pos_embed" not in trained(model, "attention")


# --- expressions


def test_freeze__goes_before_the_mode() -> None:
    found = trained(build(), freeze=("^blocks.0", "embed", "cls"))
    assert found == in_blocks(*ATTENTION, *MLP, *NORMS, blocks=(1,)) | both("norm") | HEAD
    factors = trained(build(), "lora:2", freeze=("mlp",))
    assert factors == {name for name in in_blocks(*FACTORS) if "mlp" not in name} | HEAD


def test_expressions__may_mean_factors() -> None:
    assert trained(build(), "lora:2", lr_scale=("lora_b$=16",)) == in_blocks(*FACTORS) | HEAD  # arXiv 2402.12354


@pytest.mark.parametrize(
    ("said", "field", "sentence"),
    [
        ({"freeze": ("blokcs",)}, "freeze", "'blokcs' finds none of the parameters of it. Did you mean 'blocks'"),
        ({"lr_scale": (r"^haed\.=2",)}, "lr_scale", "finds none of the parameters of it. Did you mean 'head'"),
        ({"freeze": ("zz",)}, "freeze", "Its names are like 'cls_token'"),
        ({"mode": "head", "lr_scale": ("blocks=2",)}, "lr_scale", "finds only parameters of it that are not trained"),
        ({"freeze": ("",)}, "freeze", "leaves nothing of it to train"),
    ],
)
@pytest.mark.parametrize("check", ["early", "late"])
def test_expression_without_effect__is_refused(check: str, said: dict[str, object], field: str, sentence: str) -> None:
    tuning = Tuning(**said)  # type: ignore[arg-type]
    early, late = check_tuning, functools.partial(choose_trained, seed=0)
    with pytest.raises(SettingError, match=sentence) as caught:
        (early if check == "early" else late)(build(), tuning, name="it")
    assert caught.value.field == field


def test_early_check__leaves_the_model_and_knows_the_head_to_come() -> None:
    model = build("vit_tiny_patch16_224", **SMALL | {"num_classes": 0})
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    check_tuning(model, Tuning(mode="head"), name="it")
    check_tuning(model, Tuning(mode="lora:2", freeze=("lora_a",)), name="it")
    check_tuning(model, Tuning(lr_scale=("^head=3",)), name="it")
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


# --- models without such parts


@pytest.mark.parametrize(
    ("mode", "make", "sentence"),
    [
        ("last:3", build, r"has 2 blocks; expected last:1 to last:2\."),
        ("lora:16", build, r"smallest linear layer of it is 16 wide; expected a rank below that.*at most lora:15\."),
        ("attention", functools.partial(build, "test_resnet", num_classes=3), "no attention layers of their own"),
        ("lora:4", functools.partial(build, "test_resnet", num_classes=3), "no blocks with linear layers"),
        ("last:1", functools.partial(build, "vgg11", num_classes=3), "no row of blocks"),
        ("norm", functools.partial(build, "vgg11", num_classes=3), "no norms with weights"),
    ],
)
def test_missing_part__is_a_sentence(mode: str, make: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        check_tuning(make(), Tuning(mode=mode), name="it")
    assert caught.value.field == "tune"


def test_full__is_left_alone() -> None:
    model = build()
    whole = num_parameters(model)
    choose_trained(model, Tuning(), seed=0, name="it")
    assert num_parameters(model) == whole
