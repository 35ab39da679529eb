"""Poolings against their formulas, features in order whatever the batches, and a sweep over timm's families (slow)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation, Progress
from vitctl.errors import ModelError, SettingError
from vitctl.evaluation.classify import predict_logits
from vitctl.evaluation.features import (
    FeatureExtractor,
    FeatureKey,
    check_memory,
    collect_features,
    stream_features,
)
from vitctl.models.layers import layer_names
from vitctl.settings.words import POOLS

CPU = torch.device("cpu")
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_STAGES = {"depths": (1, 1, 1, 1), "num_classes": 5}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _VIT),
    "avg": ("vit_tiny_patch16_224", {**_VIT, "global_pool": "avg"}),
    "distilled": ("deit_tiny_distilled_patch16_224", _VIT),
    "registers": ("vit_small_patch14_reg4_dinov2", {**_VIT, "init_values": 1.0}),
    "siglip": ("vit_base_patch16_siglip_224", _VIT),
    "beit": ("beit_base_patch16_224", _VIT),
    "cait": ("cait_xxs24_224", {**_VIT, "depth_token_only": 1}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {**_STAGES, "img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 1, 2, 2)},
    ),
    "convnext": ("convnext_atto", {**_STAGES, "dims": (12, 16, 20, 24)}),
    "resnet": ("resnet18", {"channels": (12, 16, 20, 24), "layers": (1, 1, 1, 1)}),
}


def _stirred(model: Any, *, amount: float = 0.1) -> Any:
    """Return the model with every parameter and statistic moved away from where it starts (ones, zeros)."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(amount * torch.rand_like(value))
    return model.eval()


def _tiny(name: str, **more: Any) -> Any:
    architecture, arguments = TINY[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _stirred(timm.create_model(architecture, **{**arguments, **more}))


def _images(height: int = 32, width: int | None = None, *, count: int = 3) -> Tensor:
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(0))


def _extractor(model: nn.Module, *keys: tuple[Any, str]) -> FeatureExtractor:
    return FeatureExtractor(model, [FeatureKey(*key) for key in keys], device=CPU, name="it")


def _feature(model: nn.Module, layer: Any, pool: str, images: Tensor | None = None) -> Tensor:
    found = _extractor(model, (layer, pool))(_images() if images is None else images)
    assert list(found) == [(layer, pool)]
    return found[FeatureKey(layer, pool)]


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "test_resnet"])
def test_features__of_an_image_alone_are_those_of_two_as_predict_computes_them(architecture: str) -> None:
    size = {"img_size": 32} if architecture.startswith("vit") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, image = timm.create_model(architecture, num_classes=7, **size), torch.randn(1, 3, 32, 32)
    extractor = _extractor(model, (0, "mean"), ("final", "native"), ("final", "tokens"))
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _model, args: seen.append(len(args[0])))
    next(model.children()).register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    expected, found = extractor(image.repeat(2, 1, 1, 1)), extractor(image)
    assert set(seen) == {2}
    for key in extractor.keys:
        assert found[key].equal(expected[key][:1]), key
    predict_logits(model, [image], device=CPU, num_images=1, description="", conversation=Conversation())
    assert set(seen) == {2}


def _final(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.forward_features(_images())
    return result


def _inner(model: Any, layer: int) -> tuple[Tensor, Tensor]:
    """Return timm's prefix (B, P, D) and patch tokens (B, N, D) after a block."""
    with torch.inference_mode():
        found = model.forward_intermediates(
            _images(), [layer], norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )[0]
    patches, prefix = found if isinstance(found, tuple) else (found, found[:, :0])
    return prefix, patches


# --- poolings of the final layer


@pytest.mark.parametrize("name", TINY)
def test_native__at_the_end_is_what_the_model_pools(name: str) -> None:
    model = _tiny(name)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(_images()), pre_logits=True)
    found = _feature(model, "final", "native")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_native__by_hand() -> None:
    model = _tiny("vit")
    torch.testing.assert_close(_feature(model, "final", "native"), _final(model)[:, 0])
    model = _tiny("distilled")
    torch.testing.assert_close(_feature(model, "final", "native"), _final(model)[:, :2].mean(dim=1))
    model = _tiny("beit")
    torch.testing.assert_close(_feature(model, "final", "native"), model.fc_norm(_final(model)[:, 1:].mean(dim=1)))
    model = _tiny("swin")
    torch.testing.assert_close(_feature(model, "final", "native"), _final(model).mean(dim=(1, 2)))
    model = _tiny("convnext")  # its last norm is behind its pooling
    mean = _final(model).mean(dim=(2, 3))
    normed = nn.functional.layer_norm(mean, (24,), model.head.norm.weight, model.head.norm.bias, eps=1e-6)
    torch.testing.assert_close(_feature(model, "final", "native"), normed)


@pytest.mark.parametrize(("name", "num_prefix"), [("vit", 1), ("distilled", 2), ("registers", 5), ("cait", 1)])
def test_poolings_of_tokens(name: str, num_prefix: int) -> None:
    model = _tiny(name)
    tokens = _final(model)
    assert tokens.shape == (3, num_prefix + 16, 16)
    first, mean = tokens[:, 0], tokens[:, num_prefix:].mean(dim=1)
    torch.testing.assert_close(_feature(model, "final", "cls"), first)
    torch.testing.assert_close(_feature(model, "final", "mean"), mean)
    torch.testing.assert_close(_feature(model, "final", "cls+mean"), torch.cat([first, mean], dim=1))
    torch.testing.assert_close(_feature(model, "final", "mean-all"), tokens.mean(dim=1))
    torch.testing.assert_close(_feature(model, "final", "first"), tokens[:, num_prefix])
    torch.testing.assert_close(_feature(model, "final", "tokens"), tokens[:, num_prefix:])


@pytest.mark.parametrize("name", ["avg", "beit"])
def test_poolings__the_norm_behind_the_pooling_is_applied(name: str) -> None:
    model = _tiny(name)
    tokens = _final(model)

    @torch.no_grad()
    def norm(values: Tensor) -> Tensor:
        return nn.functional.layer_norm(values, (16,), model.fc_norm.weight, model.fc_norm.bias, eps=model.fc_norm.eps)

    mean = norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(_feature(model, "final", "mean"), mean)
    torch.testing.assert_close(_feature(model, "final", "native"), mean)
    torch.testing.assert_close(_feature(model, "final", "cls"), norm(tokens[:, 0]))
    torch.testing.assert_close(_feature(model, "final", "cls+mean"), torch.cat([norm(tokens[:, 0]), mean], dim=1))
    torch.testing.assert_close(_feature(model, "final", "mean-all"), norm(tokens.mean(dim=1)))
    torch.testing.assert_close(_feature(model, "final", "first"), norm(tokens[:, 1]))
    torch.testing.assert_close(_feature(model, "final", "tokens"), norm(tokens[:, 1:]))
    assert not torch.allclose(mean, tokens[:, 1:].mean(dim=1), atol=1e-3)


@pytest.mark.parametrize("name", ["vit", "avg"])
def test_poolings__inner_layers_are_not_normed(name: str) -> None:
    model = _tiny(name)
    prefix, patches = _inner(model, 1)
    torch.testing.assert_close(_feature(model, 1, "mean"), patches.mean(dim=1))
    torch.testing.assert_close(_feature(model, 1, "cls"), prefix[:, 0])
    torch.testing.assert_close(_feature(model, 1, "mean-all"), torch.cat([prefix, patches], dim=1).mean(dim=1))
    torch.testing.assert_close(_feature(model, 1, "first"), patches[:, 0])
    torch.testing.assert_close(_feature(model, 1, "tokens"), patches)
    cls_and_mean = torch.cat([prefix[:, 0], patches.mean(dim=1)], dim=1)
    torch.testing.assert_close(_feature(model, 1, "cls+mean"), cls_and_mean)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_poolings_of_maps(name: str) -> None:
    model, images = _tiny(name), _images(64, 96)
    with torch.inference_mode():
        feature_map = model.forward_features(images)
        inner = model.forward_intermediates(images, norm=False, intermediates_only=True)[-3]
    torch.testing.assert_close(_feature(model, "final", "mean", images), feature_map.mean(dim=(2, 3)))
    assert feature_map.shape[2:] == (2, 3)
    rows = torch.stack([feature_map[:, :, row, column] for row in range(2) for column in range(3)], dim=1)
    torch.testing.assert_close(_feature(model, "final", "tokens", images), rows)
    torch.testing.assert_close(_feature(model, "final", "first", images), feature_map[:, :, 0, 0])
    for pool in ("mean", "mean-all", "native"):
        torch.testing.assert_close(_feature(model, 1, pool, images), inner.mean(dim=(2, 3)))


def test_poolings__siglip_has_patch_tokens_only() -> None:
    model = _tiny("siglip")
    torch.testing.assert_close(_feature(model, "final", "mean"), _final(model).mean(dim=1))
    torch.testing.assert_close(_feature(model, "final", "tokens"), _final(model))
    torch.testing.assert_close(_feature(model, 0, "native"), _inner(model, 0)[1].mean(dim=1))


@pytest.mark.parametrize(
    ("name", "pool"),
    [("vit", "cls"), ("distilled", "cls"), ("registers", "cls"), ("avg", "mean"), ("beit", "mean"), ("siglip", "mean")],
)
def test_native__before_the_end_is_its_plain_part(name: str, pool: str) -> None:
    model = _tiny(name)
    prefix, patches = _inner(model, 0)
    expected = prefix[:, 0] if pool == "cls" else patches.mean(dim=1)
    torch.testing.assert_close(_feature(model, 0, "native"), expected)


def test_native__where_the_class_token_comes_late_is_the_mean() -> None:
    model = _tiny("cait")
    with torch.inference_mode():
        theirs = model.forward_intermediates(_images(), [0], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(_feature(model, 0, "native"), theirs.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["vit", "distilled", "registers"])
def test_native__of_what_enters_the_first_block_tells_images_apart(name: str) -> None:
    found = _feature(_tiny(name), "embed", "native")  # there the class token is the same for every image
    assert float(found.std(dim=0).max()) > 1e-3


@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
@pytest.mark.parametrize("name", ["siglip", "resnet", "convnext", "swin"])
def test_cls__refused_without_a_class_token(name: str, pool: str) -> None:
    model = _tiny(name)
    for layer in (0, "final"):
        with pytest.raises(SettingError) as caught:
            _feature(model, layer, pool)
        assert str(caught.value) == (
            f"--pool {pool}: layer {layer} of it has no class token; try --pool mean or native."
        )


def test_cls__refused_where_the_class_token_comes_late_and_with_registers_only() -> None:
    with pytest.raises(SettingError, match="--pool cls: layer 1 of it has no class token"):
        _feature(_tiny("cait"), 1, "cls")
    model = _tiny("vit", class_token=False, reg_tokens=2, global_pool="avg")
    with pytest.raises(SettingError, match="--pool cls: layer final of it has no class token"):
        _feature(model, "final", "cls")
    torch.testing.assert_close(_feature(model, 1, "mean"), _inner(model, 1)[1].mean(dim=1))
    assert _feature(model, 1, "tokens").shape == (3, 16, 16)


# --- the extractor


def test_several_keys_are_what_each_is_alone_in_one_pass() -> None:
    model = _tiny("vit")
    keys = [
        (layer, pool) for layer in ("embed", 0, 1, "final") for pool in POOLS if layer != "embed" or "cls" not in pool
    ]
    extractor = _extractor(model, *keys)
    calls: list[int] = []
    model.norm.register_forward_hook(lambda *_: calls.append(1))
    found = extractor(_images())
    assert list(found) == list(extractor.keys) == keys
    assert len(calls) == 1
    for layer, pool in keys:
        assert torch.equal(found[FeatureKey(layer, pool)], _feature(model, layer, pool))
    some = extractor.only([FeatureKey(1, "mean")])
    assert some.keys == ((1, "mean"),)
    assert torch.equal(some(_images())[FeatureKey(1, "mean")], found[FeatureKey(1, "mean")])


def test_tokens__some_positions_only() -> None:
    model, keys = _tiny("vit"), [FeatureKey(0, "tokens"), FeatureKey(1, "tokens"), FeatureKey(0, "mean")]
    extractor = FeatureExtractor(model, keys, device=CPU, name="it", positions={0: np.array([2, 9, 15])})
    whole = _extractor(model, *keys)(_images())
    for one in (extractor, extractor.only(keys)):
        found = one(_images())
        assert torch.equal(found[keys[0]], whole[keys[0]][:, [2, 9, 15]])
        assert torch.equal(found[keys[1]], whole[keys[1]])
        assert torch.equal(found[keys[2]], whole[keys[2]])  # the mean is that of all


def test_the_model_is_in_evaluation_mode_and_keeps_no_graph() -> None:
    model = _tiny("vit", drop_rate=0.5, proj_drop_rate=0.5)
    expected = _feature(model, "final", "cls")
    model.train()
    found = _feature(model, "final", "cls")
    assert torch.equal(found, expected)
    assert not model.training
    assert not found.requires_grad


def test_half_precision_models_give_float32() -> None:
    model = _tiny("vit").bfloat16()
    found = _extractor(model, ("final", "native"), (1, "tokens"))(_images().bfloat16())
    assert {values.dtype for values in found.values()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    model = _tiny("vit")
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[0, 0] = value
    assert _feature(model, 0, "mean").isfinite().all()  # before the damage nothing is wrong
    for layer in (1, "final"):
        with pytest.raises(ModelError) as caught:
            _feature(model, layer, "native")
        assert str(caught.value) == (
            f"Layer {layer} of it gives numbers that are not finite; expected weights that work. Is the file damaged?"
        )


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("vit", (32, 32), {(0, "native"): (16,), ("final", "cls+mean"): (32,), (1, "tokens"): (16, 16)}),
        ("vit", (32, 64), {("final", "mean"): (16,), ("embed", "tokens"): (32, 16)}),
        ("resnet", (64, 96), {(0, "mean"): (12,), (1, "tokens"): (8 * 12, 16), ("final", "tokens"): (6, 24)}),
        ("swin", (32, 32), {(0, "mean"): (12,), (1, "tokens"): (16, 24), ("final", "native"): (96,)}),
    ],
)
def test_shapes(name: str, size: tuple[int, int], shapes: dict[tuple[Any, str], tuple[int, ...]]) -> None:
    model = _tiny(name, **({"img_size": size} if name != "resnet" else {}))
    extractor = _extractor(model, *shapes)
    assert extractor.shapes(size) == shapes
    found = extractor(_images(*size))
    assert {key: tuple(values.shape[1:]) for key, values in found.items()} == shapes


# --- many images

KEYS = (("final", "native"), (0, "mean"), (1, "tokens"), ("final", "cls+mean"))


def _collect(model: nn.Module, images: Tensor, sizes: int, conversation: Conversation | None = None) -> dict[Any, Any]:
    return collect_features(
        _extractor(model, *KEYS),
        images.split(sizes),
        num_images=len(images),
        description="testing",
        conversation=conversation or Conversation(),
    )


@pytest.mark.parametrize("name", ["vit", "avg"])
def test_collect_features__in_order_and_whatever_the_batches(name: str) -> None:
    model, images = _tiny(name), _images(count=70)
    found = _collect(model, images, 70)
    assert {key: values.shape for key, values in found.items()} == {
        ("final", "native"): (70, 16),
        (0, "mean"): (70, 16),
        (1, "tokens"): (16, 70, 16),
        ("final", "cls+mean"): (70, 32),
    }
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    for batch_size in (1, 7, 64):
        for key, values in _collect(model, images, batch_size).items():
            np.testing.assert_allclose(values, found[key], rtol=0, atol=1e-5)
    for index in (0, 33, 69):
        alone = _extractor(model, *KEYS)(images[index : index + 1])
        for key, values in alone.items():
            np.testing.assert_allclose(found[key][..., index, :], values[0].numpy(), rtol=0, atol=1e-5)
    assert np.abs(np.diff(found[FeatureKey(0, "mean")], axis=0)).max(axis=1).min() > 1e-3  # all images differ


def test_stream_features__gives_batch_after_batch() -> None:
    model, images = _tiny("vit"), _images(count=10)
    parts = list(
        stream_features(
            _extractor(model, *KEYS), images.split(4), num_images=10, description="", conversation=Conversation()
        )
    )
    assert [len(part[FeatureKey(0, "mean")]) for part in parts] == [4, 4, 2]
    assert [part[FeatureKey(1, "tokens")].shape for part in parts] == [(4, 16, 16), (4, 16, 16), (2, 16, 16)]
    found = _collect(model, images, 4)
    for key in found:
        joined = np.concatenate([part[key] for part in parts])
        np.testing.assert_array_equal(np.moveaxis(joined, 0, -2), found[key])


def test_stream_features__embeds_no_batch_before_it_is_asked_for() -> None:
    given: list[int] = []

    def batches() -> Iterator[Tensor]:
        for index in range(5):
            given.append(index)
            yield _images(count=2)

    stream = stream_features(
        _extractor(_tiny("vit"), *KEYS), batches(), num_images=10, description="", conversation=Conversation()
    )
    assert given == []
    next(stream)
    assert given == [0]


def test_progress_counts_images() -> None:
    class Counting(Conversation):
        heard: tuple[Any, ...] = ()
        done = 0

        @contextmanager
        def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
            outer = self
            self.heard = (description, total, unit)

            class Bar(Progress):
                def advance(self, amount: int = 1, **facts: str) -> None:
                    outer.done += amount

            yield Bar()

    counting = Counting()
    _collect(_tiny("vit"), _images(count=7), 3, counting)
    assert counting.heard == ("testing", 7, "images")
    assert counting.done == 7


def test_check_memory() -> None:
    check_memory(1)
    with pytest.raises(SettingError) as caught:
        check_memory(2**46)
    assert re.fullmatch(
        r"The features would take 64 TiB of memory, and [\d,.]+ \w+ are free\. Ask for fewer --layers or --seeds, "
        r"or leave out --pool tokens\.",
        str(caught.value),
    )


# --- every family of timm


# name: px; a dict: arguments that make it small
FAMILIES: dict[str, int | dict[str, Any]] = {
    "resnet18": 64,
    "resnetv2_50x1_bit": 64,
    "convnext_atto": 64,
    "efficientnet_b0": 64,
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)},
    "regnetx_002": 64,
    "densenet121": 64,
    "vgg11": 64,
    "mobilenetv3_small_050": 64,
    "cait_xxs24_224": {"img_size": 64, "depth": 3},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 3},
    "mixer_s32_224": {"img_size": 64},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 3},
    "levit_128s": 224,
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 3},
    "vit_base_patch16_siglip_224": {"img_size": 64, "depth": 2},
    "beit_base_patch16_224": {"img_size": 64, "depth": 2},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 3},
    "vit_tiny_r_s16_p8_224": {"img_size": 64, "depth": 2},
    "vit_relpos_small_patch16_224": {"img_size": 64, "depth": 3},
    "maxvit_pico_rw_256": {"img_size": 128},
    "coatnet_0_rw_224": {"img_size": 64},
    "pvt_v2_b0": 64,
    "twins_pcpvt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "hrnet_w18_small": 64,
    "inception_v3": 96,
    "eca_nfnet_l0": 64,
    "poolformer_s12": 64,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "crossvit_tiny_240": 240,
    "coat_lite_tiny": {"img_size": 64},
    "coat_tiny": {"img_size": 64},
    "convit_tiny": 224,
    "efficientvim_m1": 64,
    "hiera_tiny_224": 224,
    "mvitv2_tiny": {"img_size": 64},
    "mambaout_femto": 64,
    "tnt_s_patch16_224": {"img_size": 64, "depth": 2},
    "volo_d1_224": {"img_size": 64},
    "pit_ti_distilled_224": {"img_size": 64},
    "sequencer2d_s": {"img_size": 64},
    "samvit_base_patch16": {"img_size": 64, "depth": 2},
}

# what else than tokens or one map comes out of some layers, or out of the last: these may be refused, with a sentence
REFUSABLE = {
    "twins_pcpvt_small", "hrnet_w18_small", "crossvit_tiny_240", "coat_lite_tiny", "coat_tiny", "convit_tiny",
    "efficientvim_m1", "tnt_s_patch16_224", "pit_ti_distilled_224",
}  # fmt: skip


def _family(name: str) -> tuple[Any, int]:
    """Return the model with random weights and the running statistics of noise, and its size."""
    given = FAMILIES[name]
    arguments = given if isinstance(given, dict) else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **arguments)
        size = arguments["img_size"] if isinstance(given, dict) else given
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = None  # the statistics of what was seen; else little of an image would come through
        with torch.no_grad():
            model.train().forward_features(torch.randn(8, 3, size, size))
    return model.eval(), size


def _features_of_family(name: str, model: Any, images: Tensor) -> dict[FeatureKey, Tensor]:
    """Return all features but those that are refused, which only some families may be, and never native at the end."""
    found: dict[FeatureKey, Tensor] = {}
    refused: dict[FeatureKey, str] = {}
    for key in [FeatureKey(layer, pool) for layer in layer_names(model) for pool in ("native", "mean", "tokens")]:
        try:
            found |= _extractor(model, key)(images)
        except (ModelError, SettingError) as error:
            refused[key] = str(error)
    assert name in REFUSABLE or not refused, refused
    assert ("final", "native") in found, refused
    for sentence in refused.values():
        assert "not finite" not in sentence
        assert "--layers" in sentence or "--pool" in sentence
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    model, size = _family(name)
    images = _images(size, count=2)
    found = _features_of_family(name, model, images)
    together = _extractor(model, *found)(images)
    alone = _extractor(model, *found)(images[1:])
    for key, values in found.items():
        assert len(values) == 2, key
        assert torch.equal(together[key], values), key
        assert bool(values.isfinite().all()), key
        assert float((values[0] - values[1]).abs().max()) > 1e-5 * float(values.abs().max()), key
        torch.testing.assert_close(alone[key][0], values[1], rtol=1e-3, atol=1e-4 * float(values.abs().max()))
    for layer, pool in found:
        if pool != "tokens":
            continue
        tokens, mean = found[FeatureKey(layer, "tokens")], found[FeatureKey(layer, "mean")]
        assert round(tokens.shape[1] ** 0.5) ** 2 == tokens.shape[1], layer  # squares in, squares out: patches alone
        assert mean.shape == (2, tokens.shape[2])
        if layer != "final":
            torch.testing.assert_close(mean, tokens.mean(dim=1))
            assert found[FeatureKey(layer, "native")].shape == mean.shape
    _check_against_timm(model, images, found)


def _check_against_timm(model: Any, images: Tensor, found: dict[FeatureKey, Tensor]) -> None:
    """Compare the layers that timm gives too, one by one or after its stem; of the last it may give the norm."""
    layers = [layer for layer in layer_names(model) if isinstance(layer, int)]
    try:
        with torch.inference_mode():
            theirs = model.forward_intermediates(images, intermediates_only=True)
    except (AttributeError, AssertionError):  # not every model has it
        return
    if len(theirs) not in (len(layers), len(layers) + 1) or type(model).__name__ == "HighResolutionNet":
        return
    for layer, feature_map in zip(layers[:-1], theirs[len(theirs) - len(layers) :], strict=False):
        if FeatureKey(layer, "mean") in found:
            mean = feature_map.float().mean(dim=(2, 3))
            torch.testing.assert_close(found[FeatureKey(layer, "mean")], mean, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", [name for name, given in FAMILIES.items() if isinstance(given, int) and given <= 96])
def test_family__rectangles_are_as_wide_as_squares(name: str) -> None:
    model, size = _family(name)
    square = _features_of_family(name, model, _images(size, count=2))
    for height, width in ((size, 2 * size), (2 * size, size)):
        found = _features_of_family(name, model, _images(height, width, count=2))
        for key, values in found.items():
            assert values.shape[2:] == square[key].shape[2:], key
            if key.pool != "tokens":
                assert values.shape == square[key].shape, key
