"""What makes timm's VisionTransformer the plain ViT (arXiv 2010.11929) that the code of others computes too."""

from collections.abc import Mapping
from typing import Any

from timm.layers import GELU, Attention, DropPath, GELUTanh, LayerNorm, LayerNormFp32, Mlp, PatchDropout, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from vitctl.models.anatomy import (
    attention_pooling,
    blocks_of,
    has_class_token,
    norm_after_blocks,
    norm_after_pooling,
    norm_before_blocks,
    num_embedded_prefix_tokens,
    num_prefix_tokens,
    num_register_tokens,
)
from vitctl.models.block_anatomy import attention_of, layer_scales_of, linear_layers_of, mlp_of, norms_of

_LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNormFp32)
_PARTS = (
    VisionTransformer, PatchEmbed, Block, Attention, Mlp, nn.Conv2d, nn.Linear, nn.Sequential, *_LAYER_NORMS,
    nn.GELU, GELU, GELUTanh, nn.Identity, nn.Dropout, DropPath, PatchDropout,
)  # fmt: skip


def obstacles_of(vit: Any) -> list[str]:
    """Return what of a VisionTransformer no plain ViT has, as words that follow "has", each once.

    A plain ViT has a learnt table of position embeddings and blocks that normalise first and are all alike, of
    LayerNorm, attention, linear layers and GELU. Its pooling, its prefix tokens and the biases of its layers are left
    to the formats.
    """
    found = _outside_blocks(vit) + _foreign_parts(vit)
    if has_plain_parts(vit):
        found += _inside_parts(vit) + _in_norms(vit)
    return list(dict.fromkeys(found or _uneven_blocks(vit) + _unknown_modules(vit)))


def has_plain_parts(vit: Any) -> bool:
    """Return whether the patch embedding, the blocks, their attention and MLPs are of the types of a plain ViT."""
    return not _foreign_parts(vit)


def reasons_in(found: Mapping[str, bool]) -> list[str]:
    """Return the keys whose value is true."""
    return [reason for reason, is_found in found.items() if is_found]


def is_absent(part: nn.Module) -> bool:
    """Return whether timm has put nothing in a part's place."""
    return type(part) is nn.Identity


def is_biased(*layers: nn.Module) -> bool:
    """Return whether all ``layers`` have a bias."""
    return all(getattr(layer, "bias", None) is not None for layer in layers)


def has_biases(block: Any) -> bool:
    """Return whether a block's linear layers have biases, which those for queries, keys and values may lack."""
    layers: Any = linear_layers_of(block)
    return is_biased(layers.proj, layers.fc1, layers.fc2)


def inner_norms_of(block: Any) -> tuple[nn.Module, nn.Module]:
    """Return what a block normalises with within its attention and within its MLP, an Identity for nothing."""
    attention, mlp = _halves_of(block)
    return attention.norm, mlp.norm


def _halves_of(block: Any) -> tuple[Any, Any]:
    """Return a block's attention and MLP."""
    return attention_of(block), mlp_of(block)


def layer_norms_of(vit: Any) -> list[Any]:
    """Return the LayerNorms of the blocks, and that after them if there is one."""
    return [norm for norm in _norms_of(vit) if type(norm) in _LAYER_NORMS]


def gelu_form(activation: nn.Module) -> str | None:
    """Return torch's name of a GELU's form, ``none`` (erf) or ``tanh``; None for anything else."""
    if type(activation) is nn.GELU:
        return activation.approximate
    return {GELU: "none", GELUTanh: "tanh"}.get(type(activation))


def block_settings(block: Any) -> tuple[int, int, bool, str | None]:
    """Return a block's number of heads, the width of its MLP, whether q, k and v have biases, its form of GELU."""
    attention, mlp = _halves_of(block)
    layers: Any = linear_layers_of(block)
    return attention.num_heads, layers.fc1.out_features, is_biased(layers.qkv), gelu_form(mlp.act)


def _outside_blocks(vit: Any) -> list[str]:
    table, num_rows = vit.pos_embed, vit.patch_embed.num_patches + num_embedded_prefix_tokens(vit)
    is_linear = type(vit.head) is nn.Linear and is_biased(vit.head)
    num_known = num_register_tokens(vit) + has_class_token(vit)
    found = {
        "more prefix tokens than the class token": num_prefix_tokens(vit) > num_known,
        "attention pooling": attention_pooling(vit) is not None,
        "position embeddings of another shape": table is not None and table.shape != (1, num_rows, vit.embed_dim),
        "a norm before the blocks": norm_before_blocks(vit) is not None,
        "no blocks": not blocks_of(vit),
        "a norm after pooling": norm_after_pooling(vit) is not None,
        "a head that is not one linear layer with a bias": not (is_absent(vit.head) or is_linear),
    }
    return reasons_in(found)


def _foreign_parts(vit: Any) -> list[str]:
    parts: list[tuple[Any, type[nn.Module]]] = [(vit.patch_embed, PatchEmbed)]
    for block in blocks_of(vit):
        parts += [(block, Block), (attention_of(block), Attention), (mlp_of(block), Mlp)]
    return [
        f"{type(part).__name__} in place of {expected.__name__}"
        for part, expected in parts
        if part is not None and type(part) is not expected
    ]


def _inside_parts(vit: Any) -> list[str]:
    found = {
        "a patch embedding that is not one convolution": type(vit.patch_embed.proj) is not nn.Conv2d,
        "a norm in its patch embedding": not is_absent(vit.patch_embed.norm),
        "padding in its patch embedding": bool(vit.patch_embed.dynamic_img_pad),
    }
    return reasons_in(found) + [reason for block in blocks_of(vit) for reason in _in_block(block, width=vit.embed_dim)]


def _in_block(block: Any, *, width: int) -> list[str]:
    attention, mlp = _halves_of(block)
    activation, layers = mlp.act, linear_layers_of(block) or ()
    found = {
        "LayerScale": not all(map(is_absent, layer_scales_of(block))),
        "qk-norm": not (is_absent(attention.q_norm) and is_absent(attention.k_norm)),
        "gated attention": attention.gate is not None,
        "attention of another width than its tokens": attention.attn_dim != width,
        "projections other than linear layers": any(type(layer) is not nn.Linear for layer in layers),
        f"the activation {type(activation).__name__}": gelu_form(activation) is None,
    }
    return reasons_in(found)


def _in_norms(vit: Any) -> list[str]:
    others = [type(norm).__name__ for norm in _norms_of(vit) if type(norm) not in _LAYER_NORMS]
    is_bare = any(not is_biased(norm) or norm.weight is None for norm in layer_norms_of(vit))
    return [f"{other} in place of LayerNorm" for other in others] + ["a LayerNorm without a weight or a bias"] * is_bare


def _norms_of(vit: Any) -> list[Any]:
    norms = [norm for block in blocks_of(vit) for norm in norms_of(block)]
    last = norm_after_blocks(vit)
    return norms if last is None else [*norms, last]


def _uneven_blocks(vit: Any) -> list[str]:
    return ["blocks that differ from one another"] if len(set(map(block_settings, blocks_of(vit)))) > 1 else []


def _unknown_modules(vit: Any) -> list[str]:
    return [
        f"a part {name} of type {type(module).__name__}"
        for name, module in vit.named_modules()
        if type(module) not in _PARTS
    ]
