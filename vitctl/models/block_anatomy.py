"""Which attribute of a block of timm's is what: attention, MLP, linear layers, norms, branches. Said here alone.

``vitctl.models.anatomy`` finds the blocks. Names tell where a branch ends, not that an output is a sum: who needs that
runs the model and looks (``vitctl.inspecting.norm_ratio``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from vitctl.models.anatomy import blocks_of
from vitctl.primitives.compiler_later import compiler_later

with compiler_later():
    from timm.layers import DropPath

TOKEN_MLPS = ("mlp_tokens", "linear_tokens")  # MLP-Mixer and gMLP, ResMLP: what they have in the place of attention

_TOKEN_MIXERS = ("attn", *TOKEN_MLPS, "token_mixer")  # the last is MetaFormer's
_CHANNEL_MIXERS = ("mlp", "mlp_channels")
_ATTENTION = ("attn", "attns", "in_proj", *TOKEN_MLPS)  # in_proj: parallel blocks compute it and the MLP's in one
_BRANCHES = {"drop_path1": "attention", "drop_path2": "mlp"}  # the last modules before a ViT's block adds
_BRANCH_ENDS = ("drop_path", "se", "bn3", "bn2", "conv3", "conv2")  # a convolutional unit's is the first that it has
_DROP_PATHS = re.compile(r"(.*_)?drop_path\d*")
_SKIPS = ("downsample", "shortcut")
_SCALED_SKIPS = ("res_scale1", "res_scale2")  # MetaFormer
_SUMMED = ("act3", "act2", "act")  # what a convolutional unit applies to the sum


def _modules(module: nn.Module, names: Sequence[str]) -> tuple[nn.Module, ...]:
    """Return the submodules of these names that there are, in that order."""
    found = (getattr(module, name, None) for name in names)
    return tuple(one for one in found if isinstance(one, nn.Module))


# --- attention, MLP, norms


def attention_of(block: nn.Module) -> nn.Module | None:
    """Return a block's attention (ViT, DeiT, BEiT, EVA, CaiT, XCiT, Swin...); None where it is called otherwise."""
    return next(iter(_modules(block, ("attn",))), None)


def mlp_of(block: nn.Module) -> nn.Module | None:
    """Return a block's MLP, of the same families; None where it is called otherwise."""
    return next(iter(_modules(block, ("mlp",))), None)


def norms_of(block: nn.Module) -> tuple[nn.Module, ...]:
    """Return the norms of a block's two halves (before them in a ViT, after them in Swin v2), those that there are."""
    return _modules(block, ("norm1", "norm2"))


def layer_scales_of(block: nn.Module) -> tuple[nn.Module, ...]:
    """Return what scales the channels of a ViT block's two branches: LayerScale, or an Identity where it has none."""
    return _modules(block, ("ls1", "ls2"))


class LinearLayers(NamedTuple):
    """The four linear layers of a transformer block: into and out of attention, into and out of the MLP."""

    qkv: nn.Module
    proj: nn.Module
    fc1: nn.Module
    fc2: nn.Module


def linear_layers_of(block: nn.Module) -> LinearLayers | None:
    """Return a block's four linear layers (ViT, DeiT, BEiT, EVA with one layer for q, k and v, Swin, SAM, XCiT).

    None where it has others: layers for q, k and v apart, SwiGLU, an MLP in the place of attention. CaiT, Hiera and
    relative positions that are computed (Swin v2) have further ones, which are not among them.
    """
    attention, mlp = attention_of(block), mlp_of(block)
    if attention is None or mlp is None:
        return None
    found = (*_modules(attention, ("qkv", "proj")), *_modules(mlp, ("fc1", "fc2")))
    return LinearLayers(*found) if len(found) == len(LinearLayers._fields) else None


def is_in_attention(name: str) -> bool:
    """Return whether a parameter's name is of the attention of a block; that of a pooling is another."""
    return "attn" in name.split(".")[:-1]


def is_position_embedding(name: str) -> bool:
    """Return whether a parameter's name is of position embeddings that are added to the patches."""
    return any(part.startswith("pos_embed") for part in name.split("."))


def is_attention(module: nn.Module) -> bool:
    """Return whether a module attends: it has heads, or a class that says so."""
    return hasattr(module, "num_heads") or "Attention" in type(module).__name__


def mixes_tokens_by_mlp(block: nn.Module) -> bool:
    """Return whether a block has an MLP or a linear layer over tokens in the place of attention (MLP-Mixer, ResMLP)."""
    return bool(_modules(block, TOKEN_MLPS))


@dataclass(frozen=True)
class BlockParts:
    """The two halves of a block: what it normalises, and by what it mixes tokens and channels; names of its children.

    Attributes:
        norm1: The norm of the first half.
        token_mixer: Attention, or what there is in its place.
        norm2: The norm of the second half.
        channel_mixer: The MLP.
        second_layers: By mixer, the path of the linear layer that is given what an MLP has in its middle.
    """

    norm1: str
    token_mixer: str
    norm2: str
    channel_mixer: str
    second_layers: Mapping[str, str]


def parts_of(block: nn.Module) -> BlockParts | None:
    """Return a block's parts (ViT and its like, Swin, MLP-Mixer, ResMLP, MetaFormer); None of another kind."""
    parts = dict(block.named_children())
    token_mixer = next((part for part in _TOKEN_MIXERS if part in parts), None)
    channel_mixer = next((part for part in _CHANNEL_MIXERS if part in parts), None)
    if token_mixer is None or channel_mixer is None or not {"norm1", "norm2"} <= set(parts):
        return None
    second_layers = {mixer: f"{mixer}.fc2" for mixer in (token_mixer, channel_mixer) if hasattr(parts[mixer], "fc2")}
    return BlockParts("norm1", token_mixer, "norm2", channel_mixer, second_layers)


# --- branches


def branches_of(block: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose outputs a block (of a stage its last one) adds to a skip connection, by branch.

    ``attention`` and ``mlp`` (ViT, Swin, MetaFormer...), else one ``branch`` (ConvNeXt, ResNet); {} if not known. What
    scales a branch after its stochastic depth (MetaFormer's LayerScale) comes after these modules.
    """
    for unit in reversed(list(block.modules())):
        found = _modules(unit, tuple(_BRANCHES))
        if len(found) == len(_BRANCHES):
            return dict(zip(_BRANCHES.values(), found, strict=True))
        ends = _modules(unit, _BRANCH_ENDS)
        has_end = isinstance(getattr(unit, "drop_path", None), nn.Module)
        if has_end or (ends and hasattr(unit, "drop_path") and hasattr(unit, "downsample")):  # ResNet has None there
            return {"branch": ends[0]}
    return {}


def drop_paths_by_block(model: nn.Module) -> dict[str, str]:
    """Return the place of every drop path, in the order of the model, with the block that it is in.

    At rate 0 most models have an Identity there; those that have nothing (ResNet) have no place.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        place: _block_of(place, modules)
        for place, module in modules.items()
        if isinstance(module, DropPath)
        or (isinstance(module, nn.Identity) and _DROP_PATHS.fullmatch(place.rpartition(".")[2]))
    }


def _block_of(place: str, modules: dict[str, nn.Module]) -> str:
    """Return the block that a place is in: what is numbered and not itself a row of things, else what holds it.

    So both parts of a block of MaxViT, and the branches side by side of a parallel one, are in one block, as for timm.
    """
    parts = place.split(".")[:-1]
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if parts[length - 1].isdigit() and not isinstance(modules[path], (nn.Sequential, nn.ModuleList)):
            return path
    return ".".join(parts)


@dataclass(frozen=True, eq=False)
class ResidualUnit:
    """A module with one residual sum, or two of them one after the other.

    Attributes:
        name: Its place in the model.
        block: The module.
        is_transformer: Whether its branches are attention (or token mixing) and an MLP.
        ends: Modules whose outputs, in the order they are called, are or add up to the branches.
        middles: The first of these to be called sees what the first of two sums gives; () for one sum.
        skips: Modules on the skip connections, where there are any, in the order they are called.
        summed: The module that is applied to the sum, where the output is not the sum itself.
        channel_axis: Of the feature maps that it takes and gives: 1 or -1.
    """

    name: str
    block: nn.Module
    is_transformer: bool
    ends: tuple[nn.Module, ...]
    middles: tuple[nn.Module, ...]
    skips: tuple[nn.Module, ...]
    summed: tuple[nn.Module, ...]
    channel_axis: int


def residual_units(model: nn.Module) -> list[ResidualUnit]:
    """Return a model's residual units in order; of a model with both kinds, those of the transformer."""
    names = {module: name for name, module in model.named_modules()}
    units = [unit for root in blocks_of(model) or (model,) for unit in _residual_units_in(root, names)]
    return [unit for unit in units if unit.is_transformer] or units


def _residual_units_in(module: nn.Module, names: Mapping[nn.Module, str]) -> Iterator[ResidualUnit]:
    """Yield the residual units in a module: itself, or else those of its children."""
    unit = _transformer_unit(module, names[module]) or _convolutional_unit(module, names[module])
    if unit is not None:
        yield unit
        return
    for child in module.children():
        yield from _residual_units_in(child, names)


def _transformer_unit(module: nn.Module, name: str) -> ResidualUnit | None:
    if hasattr(module, "attns") and hasattr(module, "ffns"):  # timm's ParallelThingsBlock: sums of several branches
        return _unit_of_parallel_things(module, name)
    ends = _modules(module, ("layer_scale1", "layer_scale2")) or _modules(module, tuple(_BRANCHES))
    norms = _modules(module, ("norm1", "in_norm"))
    if not ends and norms and _modules(module, _ATTENTION):
        ends = _modules(module, ("drop_path",))  # called once (parallel branches) or twice
    if not ends:
        return None
    kind = type(norms[0]).__name__ if norms else ""
    is_channels_first = any(word in kind for word in ("2d", "GroupNorm", "BatchNorm"))
    middles = _modules(module, ("norm2", "mlp"))
    skips = _modules(module, _SCALED_SKIPS) or _modules(module, _SKIPS)[:1]
    return ResidualUnit(name, module, True, ends, middles, skips, (), 1 if is_channels_first else -1)


def _unit_of_parallel_things(module: nn.Module, name: str) -> ResidualUnit:
    attentions, mlps = (list(parts.children()) for parts in _modules(module, ("attns", "ffns")))
    ends = tuple(end for part in (*attentions, *mlps) for end in _modules(part, ("drop_path",)))
    return ResidualUnit(name, module, True, ends, tuple(mlps), (), (), -1)


def _convolutional_unit(module: nn.Module, name: str) -> ResidualUnit | None:
    has_skip = any(hasattr(module, attribute) for attribute in ("drop_path", *_SKIPS))
    ends = _modules(module, _BRANCH_ENDS)[:1]
    if not ends or not has_skip or not getattr(module, "has_skip", True):
        return None
    return ResidualUnit(name, module, False, ends, (), _modules(module, _SKIPS)[:1], _modules(module, _SUMMED)[:1], 1)
