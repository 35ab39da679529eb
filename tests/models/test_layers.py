"""Tokens of every layer against timm's own ``forward_intermediates``; which layers there are; hooks that go away."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.models.anatomy import blocks_of, has_class_token
from vitctl.models.layers import (
    LayerTap,
    Tokens,
    choose_layers,
    layer_names,
    pooled_by_model,
)
from vitctl.settings.parsing import names
from vitctl.settings.words import EMBED, FINAL

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
_STAGES = {"depths": (1, 1, 1, 1), "num_classes": 5}

# timm's name (of a class, where the function takes no other width), arguments that make it tiny
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _VIT),
    "vit without class token": ("vit_tiny_patch16_224", {**_VIT, "class_token": False, "global_pool": "avg"}),
    "distilled": ("deit_tiny_distilled_patch16_224", _VIT),
    "registers only": (
        "vit_tiny_patch16_224",
        {**_VIT, "class_token": False, "reg_tokens": 2, "global_pool": "avg"},
    ),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**_VIT, "init_values": 1.0}),
    "siglip": ("vit_base_patch16_siglip_224", _VIT),
    "beit": ("beit_base_patch16_224", _VIT),
    "eva02": ("eva02_tiny_patch14_224", _VIT),
    "hybrid": (
        "vit_tiny_r_s16_p8_224",
        {"img_size": 64, "embed_dim": 16, "depth": 3, "num_heads": 2},
    ),
    "mixer": ("MlpMixer", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_blocks": 3}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {**_STAGES, "img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 1, 2, 2)},
    ),
    "sam": (
        "samvit_base_patch16",
        {"img_size": 32, "patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2, "window_size": 2},
    ),
    "convnext": ("convnext_atto", {**_STAGES, "dims": (12, 16, 20, 24)}),
    "resnet": ("resnet18", {"channels": (12, 16, 20, 24), "layers": (1, 1, 1, 1)}),
    "resnetv2": ("resnetv2_50", {"channels": (16, 32, 48, 64), "layers": (1, 1, 1, 1)}),
    "regnet": ("regnetx_002", {}),
}
VITS = ("vit", "vit without class token", "distilled", "registers only", "dinov2 with registers", "siglip", "beit",
        "eva02", "hybrid")  # fmt: skip
MAPS = ("swin", "sam", "convnext", "resnet", "resnetv2", "regnet")
NUM_PREFIX = {
    "vit without class token": 0,
    "distilled": 2,
    "registers only": 2,
    "dinov2 with registers": 5,
    "siglip": 0,
}
LATE = {
    "cait": ("cait_xxs24_224", {**_VIT, "depth_token_only": 1}),
    "xcit": ("xcit_nano_12_p16_224", {"img_size": 64, "embed_dim": 16, "depth": 3, "num_heads": 2}),
}


def _build(name: str, arguments: dict[str, Any]) -> Any:
    """Return the model with every parameter and statistic somewhere else than where it starts (ones, zeros)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name[0].isupper():
            model = getattr(timm.models, name)(**arguments)
        else:
            model = timm.create_model(name, **arguments)
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                if value.is_floating_point():
                    value.add_(0.1 * torch.rand_like(value))
    return model.eval()


def _tiny(name: str, **more: Any) -> Any:
    architecture, arguments = {**TINY, **LATE}[name]
    return _build(architecture, {**arguments, **more})


def _images(height: int = 32, width: int | None = None, *, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(0))


def _size(name: str) -> int:
    return 64 if name in ("hybrid", "xcit") else 32


def _tapped(model: Any, images: Tensor, layers: tuple[Any, ...] | None = None) -> dict[Any, Tokens]:
    with torch.inference_mode():
        return LayerTap(model, layer_names(model) if layers is None else layers, name="it")(images)[0]


def _rows(feature_map: Tensor) -> Tensor:
    """Return the places of a (B, D, h, w) map row by row, (B, N, D)."""
    return feature_map.flatten(2).transpose(1, 2)


# --- which layers there are


@pytest.mark.parametrize("name", [*VITS, "mixer"])
def test_blocks__of_a_transformer_are_its_blocks(name: str) -> None:
    model = _tiny(name)
    assert blocks_of(model) == tuple(model.blocks)
    assert layer_names(model) == ("embed", 0, 1, 2, "final")


def test_blocks__of_a_hierarchical_model_are_its_stages() -> None:
    resnet, regnet = _tiny("resnet"), _tiny("regnet")
    assert blocks_of(resnet) == (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    assert blocks_of(regnet) == (regnet.s1, regnet.s2, regnet.s3, regnet.s4)
    for name, attribute in (("convnext", "stages"), ("resnetv2", "stages"), ("swin", "layers")):
        model = _tiny(name)
        assert blocks_of(model) == tuple(getattr(model, attribute))
        assert layer_names(model) == ("embed", 0, 1, 2, 3, "final")


def test_blocks__efficientnet() -> None:
    model = timm.create_model("efficientnet_b0")
    assert blocks_of(model) == tuple(model.blocks)
    assert layer_names(model) == ("embed", *range(7), "final")


def test_blocks__numbers_are_ordered_as_numbers() -> None:
    model = nn.Module()
    for index in (10, 2, 1, 9):
        model.add_module(f"block{index}", nn.Linear(1, index))
    model.add_module("block", nn.Linear(1, 3))
    model.add_module("s2x", nn.Linear(1, 3))
    assert [block.out_features for block in blocks_of(model)] == [1, 2, 9, 10]


@pytest.mark.parametrize("name", ["densenet121", "vgg11"])
def test_blocks__unknown_leave_only_the_final_layer(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert blocks_of(model) == ()
    assert layer_names(model) == ("final",)
    assert choose_layers(["all"], model, name=name) == ("final",)
    assert choose_layers(["last"], model, name=name) == ("final",)
    with pytest.raises(SettingError) as caught:
        choose_layers(["0"], model, name=name)
    assert str(caught.value) == f"--layers '0' is no layer of {name}; it has final only (its blocks are not known)."


def test_blocks__empty_lists_do_not_count() -> None:
    model = nn.Module()
    model.blocks, model.stages = nn.ModuleList(), nn.Sequential(nn.Identity())
    assert blocks_of(model) == tuple(model.stages)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("last", ("final",)),
        ("final", ("final",)),
        ("all", (0, 1, 2, "final")),
        ("embed", ("embed",)),
        ("2,0", (0, 2)),
        (" final , 1,embed ,1", ("embed", 1, "final")),
    ],
)
def test_choose_layers(text: str, layers: tuple[Any, ...]) -> None:
    assert choose_layers(names(text, "--layers"), _tiny("vit"), name="it") == layers


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("3", "3"),
        ("0,7,1", "7"),
        ("-1", "-1"),
        ("first", "first"),
        ("", ""),
        ("0,", ""),
        ("all,0", "all"),
        ("00", "00"),
    ],
)
def test_choose_layers__unknown(text: str, wrong: str) -> None:
    with pytest.raises(SettingError) as caught:
        choose_layers(names(text, "--layers"), _tiny("vit"), name="my-vit")
    assert str(caught.value) == f"--layers {wrong!r} is no layer of my-vit; it has embed, 0 to 2, final."


@pytest.mark.parametrize("name", [*VITS, "cait", "xcit", "mixer", *MAPS])
def test_has_class_token(name: str) -> None:
    expected = name in ("vit", "distilled", "dinov2 with registers", "beit", "eva02", "hybrid", "cait", "xcit")
    assert has_class_token(_tiny(name)) == expected


# --- what is captured


@pytest.mark.parametrize("name", VITS)
def test_tokens_are_timms_intermediates(name: str) -> None:
    model, images = _tiny(name), _images(_size(name))
    found = _tapped(model, images)
    with torch.inference_mode():
        theirs = model.forward_intermediates(
            images, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    assert len(theirs) == 3
    for layer, tokens in enumerate(theirs):
        patches, prefix = tokens if isinstance(tokens, tuple) else (tokens, tokens[:, :0])
        assert prefix.shape[1] == NUM_PREFIX.get(name, 1)
        assert torch.equal(found[layer].prefix, prefix)
        assert torch.equal(found[layer].patches, patches)
    assert not torch.equal(theirs[0][0], theirs[1][0])


def test_tokens_are_timms_intermediates__mixer() -> None:
    model, images = _tiny("mixer"), _images()
    found = _tapped(model, images)
    with torch.inference_mode():
        theirs = model.forward_intermediates(images, norm=False, output_fmt="NLC", intermediates_only=True)
    for layer, tokens in enumerate(theirs):
        assert found[layer].prefix.shape == (2, 0, 16)
        assert torch.equal(found[layer].patches, tokens)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("name", MAPS)
def test_feature_maps_are_timms_intermediates(name: str, size: tuple[int, int]) -> None:
    model, images = _tiny(name, **({"img_size": size} if name in ("swin", "sam") else {})), _images(*size)
    found = _tapped(model, images)
    with torch.inference_mode():
        theirs = model.forward_intermediates(images, norm=False, output_fmt="NCHW", intermediates_only=True)[-4:]
    for layer, feature_map in enumerate(theirs):
        assert found[layer].prefix.shape == (2, 0, feature_map.shape[1])
        if name == "resnetv2" and layer == 3:  # timm's last is after the norm; a stage is not
            continue
        assert torch.equal(found[layer].patches, _rows(feature_map))


@pytest.mark.parametrize("name", ["cait", "xcit"])
def test_tokens__a_class_token_that_comes_at_the_end_is_not_looked_for_before(name: str) -> None:
    model, images = _tiny(name), _images(_size(name))
    found = _tapped(model, images)
    with torch.inference_mode():
        theirs = model.forward_intermediates(images, norm=False, output_fmt="NCHW", intermediates_only=True)
        last = model.forward_features(images)
    for layer, feature_map in enumerate(theirs):
        assert found[layer].prefix.shape[1] == 0
        assert torch.equal(found[layer].patches, _rows(feature_map))
    assert torch.equal(found[FINAL].prefix, last[:, :1])
    assert torch.equal(found[FINAL].patches, last[:, 1:])


@pytest.mark.parametrize("name", [*VITS, "mixer"])
def test_final_is_what_forward_features_gives(name: str) -> None:
    model, images = _tiny(name), _images(_size(name))
    with torch.inference_mode():
        expected = model.forward_features(images)
        kept, features = LayerTap(model, (FINAL,), name="it")(images)
    num_prefix = NUM_PREFIX.get(name, 0 if name == "mixer" else 1)
    assert torch.equal(features, expected)
    assert torch.equal(kept[FINAL].prefix, expected[:, :num_prefix])
    assert torch.equal(kept[FINAL].patches, expected[:, num_prefix:])


@pytest.mark.parametrize("name", MAPS)
def test_final_is_what_forward_features_gives__feature_maps(name: str) -> None:
    model, images = _tiny(name), _images(32)
    with torch.inference_mode():
        expected = model.forward_features(images)
        kept, features = LayerTap(model, (FINAL,), name="it")(images)
    assert torch.equal(features, expected)
    rows = expected.flatten(1, 2) if name == "swin" else _rows(expected)
    assert torch.equal(kept[FINAL].patches, rows)


def test_embed_is_what_enters_the_first_block() -> None:
    model, images = _tiny("vit"), _images()
    embed = _tapped(model, images, (EMBED,))[EMBED]
    with torch.inference_mode():
        patches = model.patch_embed(images) + model.pos_embed[:, 1:]
        prefix = (model.cls_token + model.pos_embed[:, :1]).expand(2, -1, -1)
    torch.testing.assert_close(embed.patches, patches)
    torch.testing.assert_close(embed.prefix, prefix)


def test_embed_is_what_enters_the_first_stage() -> None:
    images = _images(64)
    resnet, convnext = _tiny("resnet"), _tiny("convnext")
    with torch.inference_mode():
        pooled = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images))))
        assert torch.equal(_tapped(resnet, images, (EMBED,))[EMBED].patches, _rows(pooled))
        assert torch.equal(_tapped(convnext, images, (EMBED,))[EMBED].patches, _rows(convnext.stem(images)))


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (24, 56)])
@pytest.mark.parametrize("name", ["vit", "dinov2 with registers", "registers only", "siglip", "eva02", "beit"])
def test_rectangles(name: str, size: tuple[int, int]) -> None:
    model, images = _tiny(name, img_size=size), _images(*size)
    found = _tapped(model, images)
    with torch.inference_mode():
        theirs = model.forward_intermediates(images, norm=False, output_fmt="NLC", intermediates_only=True)
    for layer, patches in enumerate(theirs):
        assert patches.shape == (2, size[0] * size[1] // 64, 16)
        assert torch.equal(found[layer].patches, patches)


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (96, 48)])
def test_feature_maps__as_high_or_wide_as_deep(size: tuple[int, int]) -> None:
    images = _images(*size)  # the stem's map is 12 px on one side at least, and 12 deep
    convnext = _tiny("convnext")
    swin = _tiny("swin", img_size=size, window_size=3, strict_img_size=False)
    with torch.inference_mode():
        assert torch.equal(_tapped(convnext, images, (EMBED,))[EMBED].patches, _rows(convnext.stem(images)))
        assert torch.equal(_tapped(swin, images, (EMBED,))[EMBED].patches, swin.patch_embed(images).flatten(1, 2))


def test_vectors_are_one_place() -> None:
    class Vectors(nn.Module):
        def forward_features(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    tokens = _tapped(Vectors(), _images(), (FINAL,))[FINAL]
    assert tokens.prefix.shape == (2, 0, 3)
    torch.testing.assert_close(tokens.patches, _images().mean(dim=(2, 3))[:, None])


def _with_output(change: Callable[[Tensor], Any]) -> Any:
    """Return a model of one block whose output is changed."""

    class Block(nn.Module):
        def forward(self, tokens: Tensor) -> Any:
            return change(tokens)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block()])

        def forward_features(self, images: Tensor) -> Tensor:
            rows = _rows(images)
            self.blocks[0](rows)
            return rows

    return Model()


def test_blocks_that_pass_on_something_beside_their_tokens() -> None:
    model = _with_output(lambda tokens: (2 * tokens, (32, 32)))
    assert torch.equal(_tapped(model, _images(), (0,))[0].patches, 2 * _rows(_images()))


@pytest.mark.parametrize(
    "change",
    [
        lambda tokens: {"tokens": tokens},
        lambda tokens: None,
        lambda tokens: (),
        lambda tokens: (None, tokens),
        lambda tokens: tokens[None, None],
        lambda tokens: tokens[:, 0, 0],
        pytest.param(lambda tokens: tokens.repeat(4, 1, 1), id="other rows than images"),
        pytest.param(lambda tokens: [tokens, tokens[:, :16]], id="several branches"),
    ],
)
def test_outputs_that_are_neither_tokens_nor_a_map_are_refused(change: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ModelError, match="Layer 0 of it gives neither tokens nor a feature map; try the last layer"):
        _tapped(_with_output(change), _images(), (0,))


def test_blocks_that_are_never_called_are_refused() -> None:
    model = _tiny("vit")
    model.blocks.append(nn.Identity())
    model.forward_features = lambda images: model.norm(model.blocks[0](model._pos_embed(model.patch_embed(images))))
    assert set(_tapped(model, _images(), (0, FINAL))) == {0, FINAL}
    with pytest.raises(ModelError, match="Layer 3 of it"):
        _tapped(model, _images(), (0, 3, FINAL))


def test_tokens_that_do_not_match_the_grid_are_refused() -> None:
    model = _tiny("vit")
    model.blocks.insert(1, nn.Module())
    model.blocks[1].forward = lambda tokens: tokens[:, ::2]
    with pytest.raises(ModelError) as caught:
        _tapped(model, _images(), (0, 1))
    assert "Layer 1 of it has 9 tokens; expected 1 before a grid of 4x4 patches" in str(caught.value)


# --- what is left behind


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_one_forward_pass_serves_every_layer() -> None:
    model, images = _tiny("vit"), _images()
    calls: list[str] = []
    forward_features = model.forward_features
    model.forward_features = lambda images: (calls.append("model"), forward_features(images))[1]
    for block in model.blocks:
        block.register_forward_hook(lambda *_: calls.append("block"))
    model.patch_embed.register_forward_hook(lambda *_: calls.append("embed"))
    assert list(_tapped(model, images)) == ["embed", 0, 1, 2, "final"]
    assert calls == ["model", "embed", "block", "block", "block"]


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_nothing_is_left_in_the_model(name: str) -> None:
    model, images = _tiny(name), _images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(images)
        _tapped(model, images)
        assert _hooks(model) == 0
        assert torch.equal(model(images), logits)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not model.training


def test_hooks_are_removed_when_the_forward_raises() -> None:
    model = _tiny("vit")

    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("out of order")

    model.blocks[1].attn.forward = stop
    with pytest.raises(RuntimeError, match="out of order"):
        _tapped(model, _images())
    assert _hooks(model) == 0


def test_hooks_of_others_stay() -> None:
    model = _tiny("vit")
    model.blocks[0].register_forward_hook(lambda *_: None)
    _tapped(model, _images())
    assert _hooks(model) == 1


def test_calls_do_not_share_what_they_kept() -> None:
    model = _tiny("vit")
    tap = LayerTap(model, (0, FINAL), name="it")
    with torch.inference_mode():
        first, _ = tap(_images(count=2))
        second, _ = tap(_images(count=3) + 1)
    assert (len(first[0].patches), len(second[0].patches)) == (2, 3)
    assert torch.equal(first[0].patches, _tapped(model, _images(), (0,))[0].patches)


@pytest.mark.parametrize("name", ["vit", "distilled", "siglip", "beit", "mixer", "swin", "convnext", "resnet"])
def test_pooled_by_model_is_what_its_classifier_sees(name: str) -> None:
    model, images = _tiny(name), _images()
    seen: list[Tensor] = []
    head = model.get_classifier()
    head = head[0] if isinstance(head, (tuple, list)) else head
    head.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.inference_mode():
        model(images)
        pooled = pooled_by_model(model, model.forward_features(images))
    if name == "distilled":  # two classifiers, each with its token; together they see the mean of both
        features = model.forward_features(images)
        torch.testing.assert_close(pooled, (features[:, 0] + features[:, 1]) / 2)
        return
    assert pooled.ndim == 2
    torch.testing.assert_close(pooled, seen[0])


def test_sentences_name_no_python_types() -> None:
    for text in ("x", "12"):
        with pytest.raises(SettingError) as caught:
            choose_layers(names(text, "--layers"), _tiny("swin"), name="swin")
        assert re.fullmatch(r"--layers '\w+' is no layer of swin; it has embed, 0 to 3, final\.", str(caught.value))
