"""What the tensors of transformers' ViT, DeiT and DINOv2 are called in timm, both ways; the one home of that map.

The names are those that transformers 4 and 5 write (5 has others in memory). Those below come after the name of the
model in its classifier: ``vit.``, ``deit.``, ``dinov2.``, ``dinov2_with_registers.``.

Letters: C classes, D width, T tokens.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

QKV = ("query", "key", "value")

# timm -> transformers; within a block, and outside of blocks
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_IN_DINOV2_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_IN_SWIGLU_BLOCK = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_OUTSIDE_OTHERS = {
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",  # Meta's name; see vitctl.models.layouts
    "dist_token": "embeddings.distillation_token",
}
_HEADS = {
    "classifier": "head",
    "cls_classifier": "head",  # of DeiT with its teacher
    "distillation_classifier": "head_dist",
}
_FROM_BLOCK = {
    theirs: ours for table in (_IN_BLOCK, _IN_DINOV2_BLOCK, _IN_SWIGLU_BLOCK) for ours, theirs in table.items()
}
_FROM_OUTSIDE = {theirs: ours for table in (_OUTSIDE, _OUTSIDE_OTHERS) for ours, theirs in table.items()}
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_OWN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
_MARK = re.compile(r"(?:([a-z0-9_]+)\.)?embeddings\.patch_embeddings\.projection\.weight")


def vit_names(key: str) -> tuple[str, ...]:
    """Return the names in ViTForImageClassification of timm's ``key``: one, three for q, k and v; () if unknown."""
    if key in _OUTSIDE:
        return (f"vit.{_OUTSIDE[key]}",)
    if key.startswith("head."):
        return (key.replace("head", "classifier", 1),) if key in ("head.weight", "head.bias") else ()
    parts = _OWN_BLOCK.fullmatch(key)
    if parts is None:
        return ()
    index, layer, kind = parts.groups()
    layers = tuple(f"attention.attention.{one}" for one in QKV) if layer == "attn.qkv" else (_IN_BLOCK.get(layer),)
    return tuple(f"vit.encoder.layer.{index}.{one}.{kind}" for one in layers if one is not None)


def is_transformers(names: Mapping[str, Any]) -> bool:
    """Return whether tensors have the names of one of these models."""
    return any(_MARK.fullmatch(name) for name in names)


def to_timm(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors under timm's names, queries, keys and values in one; unknown names stay.

    Args:
        tensors: By transformers' names; values may be anything, as a file has them.
    """
    mark = next(match for name in tensors if (match := _MARK.fullmatch(name)))
    prefix = f"{mark[1]}." if mark[1] else ""
    found: dict[str, Any] = {}
    parts: dict[str, dict[str, tuple[str, Any]]] = {}
    for name, value in tensors.items():
        bare = name.removeprefix(prefix)
        own = _own_name(bare)
        if own is None and (block := _BLOCK.fullmatch(bare)) is not None:
            layer, _, kind = block[2].rpartition(".")
            part = layer.removeprefix("attention.attention.")
            if part in QKV:
                parts.setdefault(f"blocks.{block[1]}.attn.qkv.{kind}", {})[part] = (name, value)
                continue
        found[own or name] = value
    for own, three in parts.items():
        found |= _together(own, three)
    return found


def _own_name(bare: str) -> str | None:
    if bare in _FROM_OUTSIDE:
        return _FROM_OUTSIDE[bare]
    head, _, kind = bare.partition(".")
    if head in _HEADS and kind in ("weight", "bias"):
        return f"{_HEADS[head]}.{kind}"
    block = _BLOCK.fullmatch(bare)
    if block is None:
        return None
    if block[2] in _FROM_BLOCK:  # a tensor that is a parameter itself
        return f"blocks.{block[1]}.{_FROM_BLOCK[block[2]]}"
    layer, _, kind = block[2].rpartition(".")
    return f"blocks.{block[1]}.{_FROM_BLOCK[layer]}.{kind}" if layer in _FROM_BLOCK else None


def _together(own: str, three: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return q, k and v, (D, D) or (D,) each, as one tensor; as they are where they are not three alike."""
    tensors = [three[part][1] for part in QKV if part in three]
    alike = {tuple(one.shape) for one in tensors if isinstance(one, Tensor) and one.ndim}
    if len(tensors) < len(QKV) or len(alike) != 1 or not all(isinstance(one, Tensor) for one in tensors):
        return dict(three.values())
    return {own: torch.cat(tensors)}
