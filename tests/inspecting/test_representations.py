"""Which layers a model has, by name; what is taken of them, against tensors sliced by hand; hooks that go away."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.representations import Layers, Site, find_layers, select_tokens, visit_layers
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import geometry_of

_VIT = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_GAP = {"class_token": False, "global_pool": "avg"}
_STAGES = {"depths": (1, 2, 1, 1), "num_classes": 5}

# timm's name, arguments that make it tiny, prefix tokens
VITS: dict[str, tuple[str, dict[str, Any], int]] = {
    "plain": ("vit_tiny_patch16_224", _VIT, 1),
    "without class token": ("vit_tiny_patch16_224", {**_VIT, **_GAP}, 0),
    "registers only": ("vit_tiny_patch16_224", {**_VIT, **_GAP, "reg_tokens": 2}, 2),
    "class token and registers": ("vit_small_patch14_reg4_dinov2", _VIT, 5),
    "distilled": ("deit_tiny_distilled_patch16_224", _VIT, 2),
    "siglip": ("vit_base_patch16_siglip_224", _VIT, 0),
    "beit": ("beit_base_patch16_224", _VIT, 1),
    "eva02": ("eva02_tiny_patch14_224", _VIT, 1),
}
PARTS = ("norm1", "attn", "stream", "norm2", "mlp.hidden", "mlp")


def _subject(name: str, **arguments: Any) -> Subject:
    """Return a random model; one without a fixed grid of patches takes its ``img_size``, or 32 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(timm.models, name)(**arguments) if name[0].isupper() else timm.create_model(name, **arguments)
    geometry = geometry_of(model)
    if geometry.grid is None:
        side = arguments.get("img_size", 32)
        geometry = replace(geometry, image_size=(side, side))
    return Subject(model.eval(), name, geometry, torch.device("cpu"))


def _images(subject: Subject, count: int = 4) -> Tensor:
    return torch.randn(count, 3, *subject.geometry.image_size, generator=torch.Generator().manual_seed(1))


def _outputs(subject: Subject, layers: Layers, images: Tensor) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    visit_layers(subject, layers, images, lambda index, output: kept.update({layers.names[index]: output.clone()}))
    return kept


def _num_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_blocks__of_a_vit() -> None:
    assert find_layers(_subject("vit_tiny_patch16_224", **_VIT), "block").names == ("embed", "0", "1", "final")


@pytest.mark.parametrize("name", VITS)
def test_sublayers__of_a_vit(name: str) -> None:
    architecture, arguments, _ = VITS[name]
    inner = [[f"{block}.{part}" for part in PARTS] + [str(block)] for block in range(2)]
    assert find_layers(_subject(architecture, **arguments), "sublayer").names == (
        "embed",
        *inner[0],
        *inner[1],
        "final",
    )


def test_sublayers__are_what_the_block_computes() -> None:
    subject = _subject("vit_tiny_patch16_224", **_VIT, init_values=0.5)
    found = _outputs(subject, find_layers(subject, "sublayer"), _images(subject))
    block: Any = subject.model.blocks[1]  # type: ignore[index,union-attr]
    with torch.no_grad():
        norm1 = block.norm1(found["0"])
        attention = block.attn(norm1)
        stream = found["0"] + block.ls1(attention)
        norm2 = block.norm2(stream)
        hidden = nn.functional.gelu(block.mlp.fc1(norm2))
        mlp = block.mlp.fc2(hidden)
        expected = {"1.norm1": norm1, "1.attn": attention, "1.stream": stream, "1.norm2": norm2, "1.mlp.hidden": hidden}
        expected |= {"1.mlp": mlp, "1": stream + block.ls2(mlp), "final": subject.model.norm(found["1"])}  # type: ignore[operator]
    for layer, tensor in expected.items():
        assert torch.allclose(found[layer], tensor, atol=1e-6), layer


def test_stream__is_before_the_mlp_where_norms_come_last() -> None:
    subject = _subject("vit_relpos_base_patch16_rpn_224", img_size=(16, 24), depth=2, embed_dim=16, num_heads=2)
    block: Any = subject.model.blocks[0]  # type: ignore[index,union-attr]
    found = _outputs(subject, find_layers(subject, "sublayer"), _images(subject))
    with torch.no_grad():
        expected = found["embed"] + block.ls1(found["0.norm1"]) if hasattr(block, "ls1") else None
    assert expected is None or torch.allclose(found["0.stream"], expected, atol=1e-6)
    assert torch.allclose(found["0.stream"], found["embed"] + found["0.norm1"], atol=1e-6)


def test_parallel_blocks__have_their_own_inner_layers() -> None:
    names = find_layers(_subject("vit_base_patch16_xp_224", **_VIT), "sublayer").names
    assert [name for name in names if name.startswith("0")] == [
        "0.in_norm",
        "0.in_proj",
        "0.mlp_act",
        "0.attn_out_proj",
        "0.mlp_out_proj",
        "0",
    ]


@pytest.mark.parametrize(("name", "num_units"), [("resnet18", 8), ("resnet50", 16)])
def test_blocks__of_a_resnet_are_its_residual_units(name: str, num_units: int) -> None:
    names = find_layers(_subject(name), "block").names
    assert (names[0], len(names)) == ("stem", 1 + num_units)
    assert names[1] == "layer1.0"


def test_blocks__do_not_depend_on_the_weights() -> None:
    subject = _subject("resnet18", channels=(8, 8, 8, 8))
    before = find_layers(subject, "sublayer").names
    with torch.no_grad():
        for module in subject.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.zero_()
    assert find_layers(subject, "sublayer").names == before


def test_sublayers__of_a_resnet_are_convolutions_norms_and_activations() -> None:
    subject = _subject("resnet18", channels=(8, 8, 8, 8), layers=(1, 1, 1, 1))
    names = find_layers(subject, "sublayer").names
    inner = ("conv1", "bn1", "act1", "conv2", "bn2", "downsample.0", "downsample.1", "act2")
    assert names[:12] == ("conv1", "bn1", "act1", "stem", *(f"layer1.0.{part}" for part in inner))
    found = _outputs(subject, find_layers(subject, "sublayer"), _images(subject))
    model: Any = subject.model
    assert float(found["bn1"].min()) < 0 == float(found["act1"].min())  # seen before the activation changes it in place
    with torch.no_grad():
        assert torch.equal(found["layer4.0.act2"], model.forward_features(_images(subject)))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("regnetx_002", {}, ("stem", "s1.b1", "s2.b1", "s3.b1")),
        ("convnext_atto", _STAGES, ("stem", "stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1")),
        ("VGG", {"cfg": [8, "M", 8, "M"]}, ("features.0", "features.1", "features.2", "features.3")),
        ("densenet121", {}, ("features.conv0", "features.norm0", "features.pool0", "features.denseblock1")),
        ("efficientnet_b0", {}, ("stem", "blocks.0.0", "blocks.1.0", "blocks.1.1")),
        ("mixer_s32_224", {"img_size": 32}, ("embed", "0", "1", "2")),
    ],
)
def test_blocks__of_other_models(name: str, arguments: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert find_layers(_subject(name, **arguments), "block").names[:4] == expected


def test_sublayers__of_a_mixer_have_its_mixers_names() -> None:
    names = find_layers(_subject("mixer_s32_224", img_size=32), "sublayer").names
    assert names[1:9] == ("0.norm1", "0.mlp_tokens.hidden", "0.mlp_tokens", "0.stream", "0.norm2",
                          "0.mlp_channels.hidden", "0.mlp_channels", "0")  # fmt: skip


def test_a_module_that_runs_twice__is_listed_twice() -> None:
    subject = _subject("resnet18", channels=(8, 8, 8, 8), layers=(1, 1, 1, 1))
    unit: Any = subject.model.layer1[0]  # type: ignore[index,union-attr]
    unit.act2 = unit.act1
    layers = find_layers(subject, "sublayer")
    assert {"layer1.0.act1", "layer1.0.act1#2"} <= set(layers.names)
    found = _outputs(subject, layers, _images(subject))
    assert not torch.equal(found["layer1.0.act1"], found["layer1.0.act1#2"])


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_tokens__against_slices(name: str, granularity: str) -> None:
    architecture, arguments, num_prefix = VITS[name]
    subject = _subject(architecture, **arguments)
    layers = find_layers(subject, granularity)
    found = _outputs(subject, layers, _images(subject))
    for site in layers.sites:
        output = found[site.name]
        assert site.num_prefix == num_prefix
        assert output.shape[:2] == (4, num_prefix + 6)
        assert torch.equal(select_tokens(output, site, "all"), output.reshape(4, -1))
        assert torch.equal(select_tokens(output, site, "patches"), output[:, num_prefix:].reshape(4, -1))
        assert torch.allclose(select_tokens(output, site, "mean"), output[:, num_prefix:].sum(1) / 6, atol=1e-6)
        assert torch.equal(select_tokens(output, site, "cls"), output[:, 0])


def test_class_token__is_refused_where_there_is_none() -> None:
    for name in ("without class token", "registers only", "siglip"):
        architecture, arguments, _ = VITS[name]
        with pytest.raises(SettingError, match="no class token.*Try --tokens all or mean"):
            find_layers(_subject(architecture, **arguments), "block").check_tokens("cls")
    with pytest.raises(SettingError, match="layer stem of resnet18 has no class token"):
        find_layers(_subject("resnet18"), "block").check_tokens("cls")
    find_layers(_subject("vit_tiny_patch16_224", **_VIT), "block").check_tokens("cls")


def test_class_token__that_comes_late_is_refused() -> None:
    layers = find_layers(_subject("cait_xxs24_224", **_VIT, depth_token_only=1), "block")
    assert [site.num_prefix for site in layers.sites] == [0, 0, 0, 1]
    with pytest.raises(SettingError, match="layer embed of cait_xxs24_224"):
        layers.check_tokens("cls")
    layers.check_tokens("patches")


def test_tokens__of_inner_layers_without_tokens_are_refused() -> None:
    layers = find_layers(_subject("mixer_s32_224", img_size=64), "sublayer")
    layers.check_tokens("all")
    with pytest.raises(SettingError, match=r"layer 0.mlp_tokens.hidden of .* not known"):
        layers.check_tokens("mean")


def test_mean__of_transposed_tokens_is_over_the_tokens() -> None:
    output = torch.randn(3, 10, 6)
    site = Site("0.mlp_tokens", "blocks.0.mlp_tokens", shape=(10, 6), num_tokens=6, num_prefix=0)
    assert torch.equal(select_tokens(output, site, "mean"), output.transpose(1, 2).mean(1))


@pytest.mark.parametrize("shape", [(3, 4, 4, 10), (3, 10, 4, 4), (3, 10, 4, 6), (3, 4, 6, 10)])
def test_mean__of_a_feature_map_is_over_its_places(shape: tuple[int, ...]) -> None:
    output = torch.randn(*shape)
    expected = output.mean((2, 3)) if shape[1] == 10 else output.mean((1, 2))
    assert torch.equal(select_tokens(output, Site("0", "0", shape=shape[1:], num_prefix=0), "mean"), expected)


def test_hooks__go_away_even_after_an_error() -> None:
    subject = _subject("vit_tiny_patch16_224", **_VIT)
    layers = find_layers(subject, "sublayer")
    assert _num_hooks(subject.model) == 0

    def fail(_index: int, _output: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        visit_layers(subject, layers, _images(subject), fail)
    assert _num_hooks(subject.model) == 0


def test_a_layer_that_is_not_computed__is_said() -> None:
    subject = _subject("vit_tiny_patch16_224", **_VIT)
    layers = find_layers(subject, "block")
    subject.model.blocks = nn.Sequential(subject.model.blocks[0], nn.Identity())  # type: ignore[index,union-attr]
    missing = Layers((*layers.sites, Site("head", "head")), (), True, "it")
    with pytest.raises(ModelError, match="Layer head of"):
        visit_layers(subject, missing, _images(subject), lambda _index, _output: None)


def test_blocks_of_several_tensors__are_refused() -> None:
    with pytest.raises(ModelError, match="do not give one tensor for every image"):
        find_layers(_subject("tnt_s_patch16_224", img_size=32, depth=1), "block")


def test_unknown_choices__are_refused() -> None:
    subject = _subject("vit_tiny_patch16_224", **_VIT)
    with pytest.raises(SettingError, match="--granularity is 'blocks'.*Did you mean 'block'"):
        find_layers(subject, "blocks")
    with pytest.raises(SettingError, match="--tokens is 'gap'"):
        find_layers(subject, "block").check_tokens("gap")
