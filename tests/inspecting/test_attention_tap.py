"""Tapped attention against timm's unfused attention, and against the kernel's own output; who is refused, and how."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.attention_tap import CHUNK_BYTES, AttentionCall, AttentionTap, check_attention
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import Geometry, geometry_of

_VIT = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_SMALL = {"img_size": 64, "depth": 2}

# timm's name, arguments that make it tiny, prefix tokens, grid
TINY: dict[str, tuple[str, dict[str, Any], int, tuple[int, int]]] = {
    "plain": ("vit_tiny_patch16_224", _VIT, 1, (4, 6)),
    "without prefix": ("vit_tiny_patch16_224", {**_VIT, "class_token": False, "global_pool": "avg"}, 0, (4, 6)),
    "distilled": ("deit_tiny_distilled_patch16_224", _VIT, 2, (4, 6)),
    "deit3": ("deit3_small_patch16_224", _VIT, 1, (4, 6)),
    "registers": ("vit_small_patch14_reg4_dinov2", {**_VIT, "init_values": 1.0}, 5, (4, 6)),
    "siglip": ("vit_base_patch16_siglip_224", _VIT, 0, (4, 6)),
    "eva02": ("eva02_tiny_patch14_224", _VIT, 1, (4, 6)),
    "dinov3": ("vit_small_patch16_dinov3", _VIT, 5, (4, 6)),
    "beit": ("beit_base_patch16_224", _VIT, 1, (4, 6)),
    "relative position": ("vit_relpos_small_patch16_224", _VIT, 0, (4, 6)),
    "hybrid": ("vit_tiny_r_s16_p8_224", {"img_size": (64, 96), "embed_dim": 16, "depth": 2, "num_heads": 2}, 1, (2, 3)),
    "parallel": ("vit_base_patch16_xp_224", _VIT, 1, (4, 6)),
}
MORE: dict[str, tuple[str, dict[str, Any], int, tuple[int, int]]] = {
    "deit": ("deit_tiny_patch16_224", _SMALL, 1, (4, 4)),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 56, "depth": 2}, 1, (4, 4)),
    "clip": ("vit_base_patch32_clip_224", _SMALL, 1, (2, 2)),
    "so400m": ("vit_so150m_patch16_reg4_gap_256", _SMALL, 4, (4, 4)),
    "hybrid s16": ("vit_base_r50_s16_224", _SMALL, 1, (4, 4)),
    "hybrid s32": ("vit_small_r26_s32_224", _SMALL, 1, (2, 2)),
    "eva": ("eva_large_patch14_196", {"img_size": 56, "depth": 2}, 1, (4, 4)),
    "perception encoder": ("vit_pe_core_tiny_patch16_384", _SMALL, 1, (4, 4)),
    "rope": ("vit_small_patch16_rope_224", _SMALL, 1, (4, 4)),
    "rope mixed": ("vit_small_patch16_rope_mixed_224", _SMALL, 1, (4, 4)),
    "beitv2": ("beitv2_base_patch16_224", _SMALL, 1, (4, 4)),
    "beit3": ("beit3_base_patch16_224", _SMALL, 1, (4, 4)),
    "shared relative": ("vit_srelpos_small_patch16_224", _SMALL, 0, (4, 4)),
    "relative with class": ("vit_relpos_base_patch16_clsgap_224", _SMALL, 1, (4, 4)),
    "vitamin": ("vitamin_small_224", {"img_size": 64}, 0, (4, 4)),
    "deep": ("vit_small_patch16_36x1_224", {"img_size": 64, "depth": 6}, 1, (4, 4)),
    "naflex": ("naflexvit_base_patch16_gap", {"depth": 2}, 4, (24, 24)),
}
REFUSED = {
    "swin_tiny_patch4_window7_224": "merges patches: its stages have 56x56, 28x28, 14x14 and 7x7 tokens",
    "cait_xxs24_224": "does not attend from all tokens to all tokens (block 0 computes no softmax over its tokens)",
    "xcit_nano_12_p16_224": "does not attend from all tokens to all tokens (its blocks compare channels)",
    "resnet18": "has no attention",
}
MORE_REFUSED = {
    "swinv2_tiny_window8_256": "merges patches: its stages have 64x64, 32x32, 16x16 and 8x8 tokens",
    "pvt_v2_b0": "merges patches: its stages have 56x56, 28x28, 14x14 and 7x7 tokens",
    "mvitv2_tiny": "merges patches: its stages have 3136, 784, 196 and 49 tokens",
    "hiera_tiny_224": "merges patches: its stages have 3136, 784, 196 and 49 tokens",
    "davit_tiny": "merges patches: its stages have 56x56, 28x28, 14x14 and 7x7 tokens",
    "levit_128s": "merges patches: its stages have 196, 49 and 16 tokens",
    "maxvit_tiny_rw_224": "merges patches: its stages have 56x56, 28x28, 14x14 and 7x7 tokens",
    "coatnet_nano_rw_224": "merges patches: its stages have 56x56, 28x28, 14x14 and 7x7 tokens",
    "fastvit_sa12": "merges patches: its stages have 64x64, 32x32, 16x16 and 8x8 tokens",
    "mobilevit_xxs": "merges patches: its stages have 128x128, 64x64, 32x32, 16x16 and 8x8 tokens",
    "visformer_tiny": "merges patches: its stages have 28x28, 14x14 and 7x7 tokens",
    "twins_svt_small": "does not attend from all tokens to all tokens (it has no fixed grid",
    "pit_ti_224": "does not attend from all tokens to all tokens (its blocks are not known)",
    "coat_tiny": "does not attend from all tokens to all tokens",
    "nest_tiny": "does not attend from all tokens to all tokens (its blocks are not known)",
    "crossvit_tiny_240": "does not attend from all tokens to all tokens",
    "tnt_s_patch16_224": "does not attend from all tokens to all tokens",
    "volo_d1_224": "does not attend from all tokens to all tokens (its blocks are not known)",
    "convit_tiny": "does not attend from all tokens to all tokens (block 0 computes no softmax over its tokens)",
    "samvit_base_patch16_224": "does not attend from all tokens to all tokens (the maps of block 0 are 12x196x196",
    "vit_small_patch16_18x2_224": "does not attend from all tokens to all tokens (block 0 computes several attentions)",
    "mixer_s32_224": "has no attention",
    "convnext_atto": "has no attention",
}


def _randomise(model: nn.Module) -> None:
    """Move every parameter somewhere else than where it starts (ones, zeros, attention that is nearly even)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


def _subject(name: str, **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **arguments).eval()
    return Subject(model, name, geometry_of(model), torch.device("cpu"))


def _tiny(family: str) -> Subject:
    name, arguments, _, _ = TINY[family]
    subject = _subject(name, **arguments)
    _randomise(subject.model)
    return subject


def _images(subject: Subject, count: int = 2) -> Tensor:
    size = subject.geometry.image_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2))


def _tapped(subject: Subject, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    AttentionTap(subject)(images, lambda call: maps.append(torch.cat([chunk for _, chunk in call.chunks()], dim=2)))
    return maps


def _unfused(subject: Subject, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what timm's own, unfused code gives to its attention dropout in every block, and the features."""
    model: Any = subject.model
    maps: list[Tensor] = []
    modules = [module for module in model.blocks.modules() if hasattr(module, "attn_drop")]
    handles = [module.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0])) for module in modules]
    for module in modules:
        module.fused_attn = False
    with torch.no_grad():
        features = model.forward_features(images)
    for handle, module in zip(handles, modules, strict=True):
        handle.remove()
        module.fused_attn = True
    return maps, features


def _check_family(name: str, arguments: dict[str, Any], num_prefix: int, grid: tuple[int, int]) -> None:
    subject = _subject(name, **arguments)
    _randomise(subject.model)
    images, tap = _images(subject), AttentionTap(subject)
    ours, (theirs, _) = _tapped(subject, images), _unfused(subject, images)
    num_tokens = num_prefix + grid[0] * grid[1]
    assert (tap.num_prefix, tap.grid) == (num_prefix, grid)
    assert len(ours) == len(theirs) == tap.num_layers
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape == (2, mine.shape[1], num_tokens, num_tokens)
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)
        torch.testing.assert_close(mine.sum(dim=-1), torch.ones(2, mine.shape[1], num_tokens))
    assert (ours[0] - ours[0].mean(dim=-1, keepdim=True)).abs().max() > 0.01  # not even attention
    assert not torch.equal(ours[0], ours[1])


# --- the maps


@pytest.mark.parametrize("family", TINY)
def test_maps_are_timms_unfused_attention(family: str) -> None:
    _check_family(*TINY[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", MORE)
def test_maps_are_timms_unfused_attention__more_families(family: str) -> None:
    name, arguments, num_prefix, grid = MORE[family]
    subject = _subject(name, **arguments)
    images = _images(subject)
    ours, (theirs, _) = _tapped(subject, images), _unfused(subject, images)
    assert (AttentionTap(subject).num_prefix, AttentionTap(subject).grid) == (num_prefix, grid)
    assert len(ours) == len(theirs) >= 2
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)


def test_patch_size_of_a_hybrid_is_its_total_stride() -> None:
    assert AttentionTap(_tiny("hybrid")).patch_size == (32, 32)


@pytest.mark.parametrize("family", ["plain", "eva02", "beit"])
def test_output_is_the_maps_times_the_values(family: str) -> None:
    subject, calls = _tiny(family), []
    images = _images(subject)
    AttentionTap(subject)(images, calls.append)
    inputs: list[Tensor] = []
    model: Any = subject.model
    handle = model.blocks[0].attn.proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model.forward_features(images)
    handle.remove()
    assert torch.equal(calls[0].output.transpose(1, 2).flatten(2), inputs[0])
    assert calls[0].query.shape == calls[0].key.shape == calls[0].output.shape
    assert (calls[0].num_heads, calls[0].layer, calls[1].layer) == (2, 0, 1)


class _Attending(nn.Module):
    """A model of one block that calls the fused kernel with what it is given."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.num_prefix_tokens = 0
        self.calls = lambda: functional.scaled_dot_product_attention(query, key, value, **options)
        self.blocks[0].forward = lambda x: (x, self.calls())[0]

    def forward_features(self, images: Tensor) -> Tensor:
        return self.blocks[0](images)


def _call(options: dict[str, Any], *, num_key_heads: int = 4) -> tuple[AttentionCall, Tensor]:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(2, heads, 6, 5, generator=generator) for heads in (4, num_key_heads, num_key_heads)
    )
    geometry = Geometry((2, 3), (1, 1), (2, 3), 0, False)
    subject = Subject(_Attending(query, key, value, options), "it", geometry, torch.device("cpu"))
    calls: list[AttentionCall] = []
    AttentionTap(subject)(torch.zeros(2, 3, 2, 3), calls.append)
    return calls[0], value.repeat_interleave(4 // num_key_heads, dim=1)


_BIAS = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("options", "num_key_heads"),
    [
        ({}, 4),
        ({"scale": 2.0}, 4),
        ({"attn_mask": _BIAS}, 4),
        ({"attn_mask": _BIAS[:, :, :1]}, 4),  # the same for every query
        ({"attn_mask": _BIAS[0, 0]}, 4),
        ({"attn_mask": (_BIAS > 0) | torch.eye(6, dtype=torch.bool)}, 4),
        ({"is_causal": True}, 4),
        ({"enable_gqa": True}, 2),
        ({"enable_gqa": True, "is_causal": True, "scale": 0.3}, 1),
    ],
)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_options_of_the_kernel(options: dict[str, Any], num_key_heads: int, step: int) -> None:
    call, value = _call(options, num_key_heads=num_key_heads)
    maps = torch.cat([call.maps(slice(start, min(start + step, 6))) for start in range(0, 6, step)], dim=2)
    torch.testing.assert_close(maps @ value, call.output, atol=1e-6, rtol=1e-5)


def test_chunks_cover_every_row_once_and_stay_small() -> None:
    query = torch.randn(3, 8, 500, 4, generator=torch.Generator().manual_seed(5))
    call = AttentionCall(0, query, query, query, 0.5, None, False, "it")
    seen, parts = [], []
    for rows, maps in call.chunks(first=5):
        assert maps.element_size() * maps.numel() <= CHUNK_BYTES
        seen += range(500)[rows]
        parts.append(maps)
    assert len(parts) > 2
    assert seen == list(range(5, 500))
    expected = (query @ query.mT * 0.5).softmax(dim=-1)[:, :, 5:]
    torch.testing.assert_close(torch.cat(parts, dim=2), expected)


def test_weights_that_are_not_finite_are_reported() -> None:
    subject = _tiny("plain")
    model: Any = subject.model
    with torch.no_grad():
        model.blocks[1].attn.qkv.bias[0] = torch.nan
    with pytest.raises(ModelError, match="Block 1 of vit_tiny_patch16_224 has rows .* do not sum to 1 .*off by nan"):
        AttentionTap(subject)(_images(subject), lambda call: list(call.chunks()) and None)


# --- the model is left alone


def _flags(model: nn.Module) -> dict[str, bool]:
    return {name: module.fused_attn for name, module in model.named_modules() if hasattr(module, "fused_attn")}


def _num_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("was_fused", [True, False])
@pytest.mark.parametrize("family", ["plain", "parallel", "beit"])
def test_features_are_the_fused_ones_and_flags_come_back(family: str, was_fused: bool) -> None:
    subject = _tiny(family)
    images, model = _images(subject), subject.model
    with torch.no_grad():
        fused = model.forward_features(images)  # type: ignore[operator]
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = was_fused
    before, found = _flags(model), []
    handle = model.norm.register_forward_hook(lambda *args: found.append(args[2]))  # type: ignore[union-attr, operator]
    _tapped(subject, images)
    handle.remove()
    assert torch.equal(found[0], fused)
    assert _flags(model) == before
    assert set(before.values()) == {was_fused}
    assert _num_hooks(model) == 0


def test_flags_and_hooks_come_back_after_an_error() -> None:
    subject = _tiny("plain")
    for module in subject.model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False

    def stumble(call: AttentionCall) -> None:
        if call.layer == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        AttentionTap(subject)(_images(subject), stumble)
    assert set(_flags(subject.model).values()) == {False}
    assert _num_hooks(subject.model) == 0
    query = torch.zeros(1, 1, 2, 2)
    functional.scaled_dot_product_attention(query, query, query)  # the mode is gone: nobody sees this


def test_flags_and_hooks_come_back_after_a_refusal() -> None:
    subject = _subject("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=12, num_heads=(1, 1, 2, 2))
    before = _flags(subject.model)
    with pytest.raises(ModelError):
        check_attention(subject)
    assert _flags(subject.model) == before
    assert _num_hooks(subject.model) == 0


def test_nothing_is_left_that_forbids_gradients() -> None:
    subject, calls = _tiny("dinov3"), []
    images = _images(subject)
    AttentionTap(subject)(images, calls.append)
    assert not any(call.query.is_inference() or call.output.requires_grad for call in calls)
    subject.model(images.requires_grad_()).sum().backward()
    assert images.grad is not None


# --- who is refused


def _refusal(name: str, run: Callable[[Subject], None] = check_attention) -> str:
    with pytest.raises(ModelError) as caught:
        run(_subject(name))
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    assert _refusal(name) == (
        f"{name} {REFUSED[name]}; attention, rollout and distance need one grid of tokens in every block. Try "
        "filters, cka, norm-ratio, localisation, features, receptive-field, probe or equivariance."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_REFUSED)
def test_refused__more_families(name: str) -> None:
    found = _refusal(name)
    assert found.startswith(f"{name} {MORE_REFUSED[name]}"), found
    assert "; attention, rollout and distance need one grid" in found


def test_a_batch_is_refused_like_a_black_image() -> None:
    found = _refusal("resnet18", lambda subject: AttentionTap(subject)(torch.zeros(2, 3, 64, 64), lambda _: None))
    assert found == _refusal("resnet18")


# --- the token that looks


def test_position() -> None:
    plain, registers, siglip = (AttentionTap(_tiny(family)) for family in ("plain", "registers", "siglip"))
    assert plain.position("cls") == registers.position("cls") == 0
    assert (plain.position((0, 0)), registers.position((0, 0)), siglip.position((0, 0))) == (1, 5, 0)
    assert siglip.position((2, 3)) == np.arange(24).reshape(4, 6)[2, 3]


@pytest.mark.parametrize("query", [(4, 0), (0, 6), (-1, 0)])
def test_position__outside(query: tuple[int, int]) -> None:
    with pytest.raises(SettingError, match=r"is outside of the grid of .*rows 0 to 3 and columns 0 to 5. Try --query"):
        AttentionTap(_tiny("plain")).position(query)


def test_position__no_class_token() -> None:
    with pytest.raises(SettingError, match=r"siglip_224 has no class token to look from; .* Try --query 2,3\."):
        AttentionTap(_tiny("siglip")).position("cls")
