"""Parts of models that are found by name, against what timm says of its models and what runs when they run."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import get_norm_layer
from timm.models import group_parameters
from timm.models.mlp_mixer import Affine
from torch import Tensor, nn

from vitctl.models.anatomy import (
    attends_over_channels,
    attention_pooling,
    blocks_of,
    final_norm,
    has_class_token,
    has_late_class_token,
    norm_after_blocks,
    norm_after_pooling,
    norm_before_blocks,
    norm_kind,
    num_embedded_prefix_tokens,
    num_expected_prefix_tokens,
    num_prefix_tokens,
    num_register_tokens,
    units_of,
)

_SHALLOW = {"depth": 3}
# timm's names, and arguments that make them quick to build
VITS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": _SHALLOW,
    "vit_tiny_r_s16_p8_224": _SHALLOW,
    "vit_small_patch14_reg4_dinov2": _SHALLOW,
    "vit_base_patch32_clip_224": _SHALLOW,
    "vit_base_patch16_siglip_224": _SHALLOW,
    "deit_tiny_distilled_patch16_224": _SHALLOW,
    "beit_base_patch16_224": _SHALLOW,
    "eva02_tiny_patch14_224": _SHALLOW,
    "cait_xxs24_224": _SHALLOW,
    "xcit_nano_12_p16_224": _SHALLOW,
    "vit_srelpos_small_patch16_224": _SHALLOW,
    "samvit_base_patch16_224": _SHALLOW,
    "naflexvit_base_patch16_gap": _SHALLOW,
    "mixer_s32_224": {},
    "resmlp_12_224": {},
}
STAGES = (
    "swin_tiny_patch4_window7_224", "focalnet_tiny_srf", "convnext_atto", "pvt_v2_b0", "levit_128s", "resnet18",
    "resnetv2_50", "regnetx_002", "efficientnet_b0", "hiera_tiny_224",
)  # fmt: skip
LARGE = ("giant", "gigantic", "huge", "7b", "so400m", "xxlarge", "enormous")
# files of timm...
UNORDERED = ("coat", "volo")  # ... without blocks_of, whose children are not made in the order in which they run
UNGROUPED = ("metaformer", "csatv2", "pit", *UNORDERED)  # ... whose models do not group parameters by depth, or others
NO_FEATURES = {
    "mvitv2": "feature_info names modules that there are not",
    "twins": "likewise",
    "hrnet": "likewise",
    "crossvit": "feature_info lists every block once for each of its two scales",
    "inception_resnet_v2": "only the block after the last stage has a name with a number",
}
RunOf = Callable[..., Any]


def a_model_of(module: str) -> str:
    """Return the name of a model of one of timm's files, not of its largest."""
    names = timm.list_models(module=module)
    return next((name for name in names if not any(word in name for word in LARGE)), names[0])


# --- blocks and units


def blocks_of_features(run: Any) -> list[int]:
    """Return in which block timm takes each of its features, in order; -1 is before them, their number after them."""
    blocks = [run.paths[block] for block in blocks_of(run.model)]
    taken = [one["module"] for one in run.model.feature_info]
    found = [next((i for i, block in enumerate(blocks) if f"{path}.".startswith(f"{block}.")), -1) for path in taken]
    return [len(blocks) if one < 0 < i else one for i, one in enumerate(found)]


@pytest.mark.parametrize("name", [*VITS, *STAGES])
def test_blocks__are_where_timm_takes_features(name: str, run_of: RunOf) -> None:
    run = run_of(name, **VITS.get(name, {}))
    num_blocks, found = len(blocks_of(run.model)), blocks_of_features(run)
    if name in VITS:
        assert found == list(range(num_blocks))
    else:
        assert found == sorted(found)
        assert num_blocks - 1 in found


def check_depth(model: Any) -> list[set[int]]:
    """Check that units follow one another in the numbers timm gives to parameters by depth; return each unit's."""
    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    found = [{numbers[f"{unit.path}.{key}"] for key, _ in unit.module.named_parameters()} for unit in units_of(model)]
    found = [one for one in found if one]
    for ends in ([min(one) for one in found], [max(one) for one in found]):
        assert ends == sorted(ends)
    return found


@pytest.mark.parametrize("name", [*VITS, *STAGES])
def test_units__are_in_the_order_of_timms_layers(name: str, run_of: RunOf) -> None:
    """Layer-wise rates go by timm's numbers: one for each block of a ViT."""
    found = check_depth(run_of(name, **VITS.get(name, {})).model)
    if name in VITS:
        assert all(len(one) == 1 for one in found)
        assert len(set().union(*found)) == len(found)


def check_order(run: Any, *, is_in_order: bool = True) -> None:
    """Check that blocks run one after the other, and so do units, none within another."""
    units = units_of(run.model)
    for modules in (blocks_of(run.model), [unit.module for unit in units]):
        starts = [run.first(module) for module in modules if run.paths[module] in run.calls]
        assert starts == sorted(set(starts)) or not is_in_order
    paths = [unit.path for unit in units]
    assert not [path for path in paths if any(path.startswith(f"{other}.") for other in paths)]
    stages = [unit.stage for unit in units]
    assert stages == ([None] * len(units) if not blocks_of(run.model) else sorted(stages))
    assert {*stages} == ({*range(len(blocks_of(run.model)))} or {None})


@pytest.mark.parametrize("name", [*VITS, *STAGES, "densenet121", "vgg11"])
def test_blocks_and_units__run_in_their_order(name: str, run_of: RunOf) -> None:
    run = run_of(name, **VITS.get(name, {}))
    check_order(run)
    if name in VITS:
        assert tuple(unit.module for unit in units_of(run.model)) == blocks_of(run.model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("module", sorted(timm.list_modules()))
def test_every_file_of_timm(module: str, run_of: RunOf) -> None:
    run = run_of(a_model_of(module))
    check_order(run, is_in_order=module not in UNORDERED)
    if module not in UNGROUPED:
        check_depth(run.model)
    if module not in NO_FEATURES and blocks_of(run.model) and getattr(run.model, "feature_info", None):
        found = blocks_of_features(run)
        assert found == sorted(found)
        assert set(found) & set(range(len(blocks_of(run.model))))


# --- prefix tokens

_TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_NO_CLASS = {"class_token": False, "global_pool": "avg"}
# timm's name and arguments that make it tiny; class, other and register tokens
TOKENS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "vit": ("vit_tiny_patch16_224", _TINY, (1, 0, 0)),
    "without": ("vit_tiny_patch16_224", {**_TINY, **_NO_CLASS}, (0, 0, 0)),
    "registers": ("vit_tiny_patch16_224", {**_TINY, "reg_tokens": 3}, (1, 0, 3)),
    "registers only": ("vit_tiny_patch16_224", {**_TINY, **_NO_CLASS, "reg_tokens": 2}, (0, 0, 2)),
    "row for patches": ("vit_tiny_patch16_224", {**_TINY, "reg_tokens": 2, "no_embed_class": True}, (1, 0, 2)),
    "distilled": ("deit_tiny_distilled_patch16_224", _TINY, (1, 1, 0)),
    "beit": ("beit_base_patch16_224", _TINY, (1, 0, 0)),
    "eva02": ("eva02_tiny_patch14_224", _TINY, (1, 0, 0)),
    "naflexvit": ("naflexvit_base_patch16_map", {"embed_dim": 16, "depth": 2, "num_heads": 2}, (0, 0, 1)),
    "cait": ("cait_xxs24_224", {**_TINY, "depth_token_only": 1}, (1, 0, 0)),
    "xcit": ("xcit_nano_12_p16_224", {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}, (1, 0, 0)),
    "mixer": ("mixer_s32_224", {"img_size": 64}, (0, 0, 0)),
}


def tiny(kind: str) -> Any:
    name, arguments, _ = TOKENS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.rand_like(parameter))
    return model


@torch.no_grad()
def into_and_out_of_blocks(model: Any) -> tuple[Tensor, Tensor]:
    """Return what two images are in front of the first block, and as ``forward_features`` gives them, (2, T, D)."""
    seen: list[Tensor] = []
    handle = blocks_of(model)[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    side = 64 if not hasattr(model, "patch_embed") else model.patch_embed.img_size[0]
    features = model.forward_features(images[..., :side, :side])
    handle.remove()
    return seen[0], features


@pytest.mark.parametrize("kind", TOKENS)
def test_prefix_tokens__are_those_that_images_share(kind: str) -> None:
    model, (num_class, num_other, num_register) = tiny(kind), TOKENS[kind][2]
    entered, given = into_and_out_of_blocks(model)
    shared = [bool(torch.equal(first, second)) for first, second in zip(*entered, strict=True)]
    assert has_late_class_token(model) == (kind in ("cait", "xcit"))
    assert num_prefix_tokens(model) == num_expected_prefix_tokens(model) == num_class + num_other + num_register
    assert sum(shared) == (0 if has_late_class_token(model) else num_prefix_tokens(model))
    assert sum(shared[: sum(shared)]) == sum(shared)  # they come first
    assert given.shape[1] == num_prefix_tokens(model) + shared.count(False)
    assert num_register_tokens(model) == num_register


@pytest.mark.parametrize("kind", [kind for kind in TOKENS if kind not in ("cait", "xcit")])
def test_class_token__is_the_first_token(kind: str) -> None:
    model = tiny(kind)
    before, _ = into_and_out_of_blocks(model)
    token = next((value for name, value in model.named_parameters() if name.endswith("cls_token")), None)
    assert has_class_token(model) == (token is not None)
    if token is not None:
        with torch.no_grad():
            token.add_(1.0)
        after, _ = into_and_out_of_blocks(model)
        changed = (before != after).any(dim=-1).any(dim=0)
        assert changed.nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize("kind", ["vit", "without", "registers", "row for patches", "distilled", "eva02"])
def test_embedded_prefix_tokens__are_the_rows_beside_those_of_patches(kind: str) -> None:
    model = tiny(kind)
    assert num_embedded_prefix_tokens(model) == model.pos_embed.shape[1] - model.patch_embed.num_patches


@pytest.mark.parametrize("name", ["volo_d1_224", "coat_tiny", "pit_ti_224", "crossvit_9_240"])
def test_expected_prefix_tokens__of_models_that_declare_none(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert (num_prefix_tokens(model), num_expected_prefix_tokens(model)) == (0, 1)


@pytest.mark.parametrize("kind", ["vit", "cait", "xcit"])
def test_channel_attention__has_maps_of_channels(kind: str) -> None:
    """Patches that are given in another order come out in that order; channels that are, do not, where they attend."""
    model = tiny(kind)
    attention, width = blocks_of(model)[0].attn, 16
    tokens = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0))
    maps: list[torch.Size] = []
    handle = attention.attn_drop.register_forward_pre_hook(lambda _module, args: maps.append(args[0].shape))
    attention.fused_attn = False
    with torch.no_grad():
        attention(tokens)
    handle.remove()
    assert attends_over_channels(model) == (maps[0][-2:] == (8, 8))
    assert attends_over_channels(model) != (maps[0][-2:] == (5, 5))


# --- norms


@pytest.mark.parametrize("name", [*(name for name in VITS if "sam" not in name), "swin_tiny_patch4_window7_224"])
def test_norms_of_the_model__are_where_they_run(name: str, run_of: RunOf) -> None:
    run = run_of(name, **VITS.get(name, {}))
    model, blocks = run.model, blocks_of(run.model)
    found: dict[str, list[nn.Module]] = {"before": [], "after": [], "pooled": []}
    for path in dict.fromkeys(run.calls):
        module = model.get_submodule(path)
        if path and "." not in path and (norm_kind(module) is not None or isinstance(module, Affine)):
            is_before = run.first(module) < run.first(blocks[0])
            found["before" if is_before else "after" if len(run.inputs[path]) > 2 else "pooled"].append(module)
    assert [norm_before_blocks(model)] == (found["before"] or [None])
    assert [norm_after_blocks(model)] == (found["after"] or [None])
    assert [norm_after_pooling(model)] == (found["pooled"] or [None])
    assert [final_norm(model)] == ([*found["after"], *found["pooled"]] or [None])[-1:]


def test_norms_of_the_model__all_kinds_are_met(run_of: RunOf) -> None:
    models = [run_of(name, **VITS.get(name, {})).model for name in VITS]
    for find in (norm_before_blocks, norm_after_blocks, norm_after_pooling, attention_pooling):
        assert 0 < sum(find(model) is not None for model in models) < len(models)


def test_attention_pooling__is_what_makes_one_token_of_many(run_of: RunOf) -> None:
    run = run_of("vit_base_patch16_siglip_224")
    assert run.paths[attention_pooling(run.model)] in run.calls[run.calls.index("norm") :]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"batchnorm{end}", "BatchNorm") for end in ("", "1d", "2d")),
        *((f"layernorm{end}", "LayerNorm") for end in ("", "2d", "fp32", "2dfp32")),
        *((f"rmsnorm{end}", "RMSNorm") for end in ("", "2d", "fp32", "2dfp32")),
        ("frozenbatchnorm2d", "BatchNorm"),
        ("groupnorm1", "GroupNorm"),
        (nn.SyncBatchNorm, "BatchNorm"),
        (nn.RMSNorm, "RMSNorm"),
        (nn.Linear, None),
        (nn.Identity, None),
    ],
)
def test_norm_kind__of_timms_and_torchs_norms(name: Any, kind: str | None) -> None:
    module = (get_norm_layer(name) if isinstance(name, str) else name)(*((8, 8) if name is nn.Linear else (8,)))
    assert norm_kind(module) == kind
