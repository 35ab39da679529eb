"""Which attribute of a timm model is what: its blocks or stages, its prefix tokens, its norms. Said here alone.

timm's models have no common class that tells, only habits of naming. A part is found by the names that are known for
it; a model without it gives (), None or 0, never a guess. ``vitctl.models.block_anatomy`` is the same for what is in a
block; sizes, patch grid and position table are ``vitctl.models.geometry``'s.

Letters: P prefix tokens.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_LISTS = ("blocks", "stages", "layers")  # ViT, EfficientNet; ConvNeXt, PVT; Swin, FocalNet
_NUMBERED = re.compile(r"(?:layer|stage|s|block)_?(\d+)")  # ResNet's layer1, RegNet's s1
_NUMBERED_UNIT = re.compile(r"([a-z]+)\d+")  # RegNet's b1, b2... in a stage
TOKENS = ("cls_token", "dist_token", "reg_token")
"""The tensors of prefix tokens."""
_LATE_CLASS_TOKEN = ("cls_attn_blocks", "blocks_token_only")  # XCiT, CaiT: the blocks that the class token is for


# --- blocks, stages, units


@dataclass(frozen=True, eq=False)
class Unit:
    """A block of a ViT, or a block or residual unit in a stage.

    Attributes:
        path: Of the module within the model.
        module: It.
        stage: Position of its stage (of a ViT, its own) among ``blocks_of``; None where there are none.
    """

    path: str
    module: nn.Module
    stage: int | None


def blocks_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the model's blocks in order of depth, or its stages; () if not found.

    The first list that is not empty: ``blocks`` (ViT, DeiT, BEiT, EVA, CaiT, XCiT, MLP-Mixer; EfficientNet's stages),
    ``stages`` (ConvNeXt, PVT, MetaFormer, LeViT), ``layers`` (Swin). Else children with numbers (ResNet, RegNet).
    DenseNet and VGG, whose layers stand in one sequence, and CoaT, whose stages run side by side, have none.
    """
    for name in _LISTS:
        found = getattr(model, name, None)
        if isinstance(found, (nn.Sequential, nn.ModuleList)) and len(found):
            return tuple(found)
    numbered = {int(match[1]): child for name, child in model.named_children() if (match := _NUMBERED.fullmatch(name))}
    return tuple(numbered[index] for index in sorted(numbered))


def is_in_block(name: str) -> bool:
    """Return whether a parameter's name, in a model or a file of weights, is of a block or stage.

    ``encoder.layer.N`` are transformers' blocks.
    """
    *above, _ = name.split(".")
    return "encoder.layer." in name or any(part in _LISTS or _NUMBERED.fullmatch(part) for part in above)


def units_of(model: nn.Module) -> tuple[Unit, ...]:
    """Return the blocks of a model, those in its stages one by one, in order of depth.

    Of a model without ``blocks_of``, the children of its ``features`` (VGG, DenseNet), or its own, as they were made.
    """
    paths = {module: path for path, module in model.named_modules()}
    blocks = blocks_of(model)
    if blocks:
        return tuple(Unit(paths[unit], unit, stage) for stage, block in enumerate(blocks) for unit in units_in(block))
    features = getattr(model, "features", None)
    children = (features if isinstance(features, nn.Sequential) else model).children()
    return tuple(Unit(paths[unit], unit, None) for child in children for unit in units_in(child))


def units_in(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of a stage, of stages in stages, or the module itself if it is a block.

    A stage has a list called ``blocks``, or is a list, or has only children that are alike, with numbers (RegNet).
    """
    inner = getattr(module, "blocks", None)
    if isinstance(inner, (nn.Sequential, nn.ModuleList)) and len(inner):
        children = list(inner)
    elif isinstance(module, nn.ModuleList) or _is_list_of_units(module):
        children = list(module.children())
    else:
        yield module
        return
    for child in children:
        yield from units_in(child)


def _is_list_of_units(module: nn.Module) -> bool:
    children = dict(module.named_children())
    if not children or any(next(child.children(), None) is None for child in children.values()):
        return False
    if isinstance(module, nn.Sequential):
        return True
    prefixes = {match[1] for match in map(_NUMBERED_UNIT.fullmatch, children) if match}
    is_numbered = len(prefixes) == 1 and all(_NUMBERED_UNIT.fullmatch(name) for name in children)
    is_alike = len({type(child) for child in children.values()}) == 1
    return is_numbered and is_alike and not isinstance(module, nn.ModuleDict)


# --- prefix tokens


def num_prefix_tokens(model: nn.Module) -> int:
    """Return P as timm declares it (class, distillation and register tokens); 0 where it declares none."""
    return int(getattr(model, "num_prefix_tokens", 0))


def num_expected_prefix_tokens(model: nn.Module) -> int:
    """Return P; 1 where timm declares none and there is a class token all the same (VOLO, CoaT, PiT)."""
    has_own = any(name.startswith("cls_token") for name, _ in model.named_parameters(recurse=False))
    return num_prefix_tokens(model) or int(has_own)


def num_embedded_prefix_tokens(model: nn.Module) -> int:
    """Return how many prefix tokens have a row in the position table (0 with ``no_embed_class``)."""
    return 0 if getattr(model, "no_embed_class", False) else num_prefix_tokens(model)


def num_register_tokens(model: nn.Module) -> int:
    """Return how many of the prefix tokens are registers (ViT, DINOv2, NaFlexViT)."""
    return int(getattr(model, "num_reg_tokens", 0))


def has_class_token(model: nn.Module) -> bool:
    """Return whether the first prefix token is a class token."""
    holder = getattr(model, "embeds", model)  # where NaFlexViT keeps it
    return getattr(holder, "cls_token", None) is not None and int(getattr(model, "num_prefix_tokens", 1)) > 0


def has_distillation_token(model: nn.Module) -> bool:
    """Return whether a second head reads a token of its own (DeiT)."""
    return getattr(model, "dist_token", None) is not None


def has_late_class_token(model: nn.Module) -> bool:
    """Return whether the blocks see patches only, as the class token comes after them (CaiT, XCiT)."""
    return any(hasattr(model, name) for name in _LATE_CLASS_TOKEN)


def attends_over_channels(model: nn.Module) -> bool:
    """Return whether the blocks' attention maps compare channels, not tokens (XCiT)."""
    return hasattr(model, "cls_attn_blocks")


# --- norms and poolings of a model


def norm_before_blocks(model: nn.Module) -> nn.Module | None:
    """Return the norm between position embeddings and blocks (CLIP's ViTs); None where there is none."""
    return _norm(model, "norm_pre") if hasattr(model, "blocks") else None  # after the stages in ConvNeXt


def norm_after_blocks(model: nn.Module) -> nn.Module | None:
    """Return the norm of ``forward_features``' tokens; None where there is none or it follows the pooling."""
    return _norm(model, "norm")


def norm_after_pooling(model: nn.Module) -> nn.Module | None:
    """Return the norm between pooling and classifier (ViT, BEiT, EVA: ``fc_norm``); None where there is none."""
    return _norm(model, "fc_norm")


def final_norm(model: nn.Module) -> nn.Module | None:
    """Return the last norm, before or after the pooling; None where there is none of these names."""
    before = norm_after_blocks(model)
    return norm_after_pooling(model) if before is None else before


def _norm(model: nn.Module, name: str) -> nn.Module | None:
    found = getattr(model, name, None)  # timm leaves an Identity in the place of a norm
    return found if isinstance(found, nn.Module) and type(found) is not nn.Identity else None


def attention_pooling(model: nn.Module) -> nn.Module | None:
    """Return what pools by attention (SigLIP); None where pooling has no weights."""
    found = getattr(model, "attn_pool", None)
    return found if isinstance(found, nn.Module) else None


_NORM_AFTER = ("fc_norm", "use_fc_norm")  # ViT; BEiT, EVA


def pooling_arguments(model: nn.Module, pool: str, *, has_norm_after: bool) -> dict[str, str | bool] | None:
    """Return what timm's constructor of ``model`` takes for a pooling of its tokens; None where it has no choice.

    Args:
        model: A timm model.
        pool: timm's word: token, avg or map; whether the class knows it is for its constructor to say.
        has_norm_after: Put the last norm behind the pooling instead of before it.
    """
    known = inspect.signature(type(model)).parameters
    where = next((name for name in _NORM_AFTER if name in known), None)
    return None if where is None or "global_pool" not in known else {"global_pool": pool, where: has_norm_after}


def with_moved_norm(tensors: Mapping[str, Tensor], *, is_after: bool) -> dict[str, Tensor]:
    """Return the weights of a model, each of its own shape, e.g. (D,), with the last norm's named by its place.

    Args:
        tensors: By name.
        is_after: Behind the pooling instead of before it.
    """
    before, after = ("norm.", "fc_norm.") if is_after else ("fc_norm.", "norm.")
    return {
        f"{after}{name.removeprefix(before)}" if name.startswith(before) else name: tensor
        for name, tensor in tensors.items()
    }


def is_of_attention_pooling(name: str) -> bool:
    """Return whether a parameter of this name is of what pools by attention."""
    return name.startswith("attn_pool.")


def norm_kind(module: nn.Module) -> str | None:
    """Return ``BatchNorm``, ``RMSNorm``, ``LayerNorm`` or ``GroupNorm``, by type or its name; None for no norm."""
    name = type(module).__name__.lower()
    if isinstance(module, nn.modules.batchnorm._BatchNorm) or "batchnorm" in name:
        return "BatchNorm"
    if "rmsnorm" in name:
        return "RMSNorm"
    if isinstance(module, nn.LayerNorm) or "layernorm" in name:
        return "LayerNorm"
    return "GroupNorm" if isinstance(module, nn.GroupNorm) or "groupnorm" in name else None
