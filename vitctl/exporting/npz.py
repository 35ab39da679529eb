"""Write a ViT in Google's ``.npz`` layouts: google-research/vision_transformer (``vit_jax``) and big_vision.

timm's reader, of which ``vitctl.models.weights`` makes use, gets the same tensors back. The Flax models of both
repositories compute the same logits but for their GELU, which is the tanh form (``with_tanh_gelu``).

Letters: C classes, D width, H heads, T rows of the position table, d width of a head; h w patch, px.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitctl.errors import ModelError, check_choice
from vitctl.exporting import plain_vit
from vitctl.exporting.plain_vit import gelu_form, is_absent
from vitctl.models.anatomy import (
    blocks_of,
    has_class_token,
    norm_after_blocks,
    num_embedded_prefix_tokens,
    num_register_tokens,
)
from vitctl.models.block_anatomy import linear_layers_of
from vitctl.settings.words import NPZ_LAYOUTS

_EPS = 1e-6  # flax.linen.LayerNorm, which both repositories leave at its default


@dataclass(frozen=True)
class _Names:
    """What the two repositories call the same tensor."""

    prefix: str
    positions: str
    norm2: str
    attention: str
    mlp: str


_VIT_JAX = _Names(
    "", "Transformer/posembed_input/pos_embedding", "LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3"
)
_BIG_VISION = _Names("params/", "pos_embedding", "LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")


def check_npz_can_hold(model: nn.Module, *, name: str) -> None:
    """Check that the Flax models of Google's layouts compute what ``model`` does, GELU's form aside.

    They have a class token that the head reads, or the mean of all patches, a learnt position table, blocks that
    normalise first, LayerNorm with an eps of 1e-6, and nothing else (arXiv 2010.11929).

    Args:
        model: A timm model.
        name: What to call it in messages.

    Raises:
        ModelError: They do not; the sentence has every reason.
    """
    if type(model) is not VisionTransformer:
        found = f"is of type {type(model).__name__}, not timm's VisionTransformer"
    elif reasons := _obstacles(model):
        found = f"has {' and '.join(reasons)}"
    else:
        return
    raise ModelError(f"Google's .npz layout cannot hold {name}, which {found}; use --to timm or onnx.")


def npz_arrays(model: nn.Module, *, layout: str, name: str) -> dict[str, np.ndarray]:
    """Return the model's tensors, float32, by their keys in one of Google's layouts.

    Kernels are (h, w, 3, D) for patches, (D, H, d) and (H, d, D) into and out of attention, (inputs, outputs)
    elsewhere; ``big_vision_scan`` stacks those of all blocks on axis 0. Query, key and value without biases get
    zeros, and a model without a head has no ``head`` keys.

    The position table is (1, T, D). For ``vit_jax`` it has a row for the class token: zeros where the model has none
    (``no_embed_class``). For ``big_vision`` it is the model's own. One with a row for the class token loads in timm as
    it is; big_vision's ``vit.load`` adds that row to the token if the other rows are a square grid.

    Args:
        model: A timm VisionTransformer; not changed.
        layout: One of ``NPZ_LAYOUTS``.
        name: What to call the model in messages.

    Raises:
        SettingError: The layout is unknown.
        ModelError: The layout cannot hold the model, see ``check_npz_can_hold``.
    """
    check_choice(layout, NPZ_LAYOUTS, what="--npz-layout", field="npz_layout")
    check_npz_can_hold(model, name=name)
    names = _VIT_JAX if layout == "vit_jax" else _BIG_VISION
    entries, _ = _entries(model, names)
    if layout == "big_vision_scan":
        entries = _with_stacked_blocks(entries)
    return {f"{names.prefix}{key}": _float32(value) for key, value in entries.items()}


def write_npz(model: nn.Module, path: Path, *, layout: str, name: str) -> None:
    """Write ``npz_arrays`` to ``path``, whatever its suffix.

    Args:
        model: A timm VisionTransformer; not changed.
        path: A file, replaced if it exists.
        layout: One of ``NPZ_LAYOUTS``.
        name: What to call the model in messages.

    Raises:
        SettingError: The layout is unknown.
        ModelError: The layout cannot hold the model; nothing is written.
        OSError: Writing failed.
    """
    arrays = npz_arrays(model, layout=layout, name=name)
    with path.open("wb") as file:  # numpy adds .npz to a path, not to a file
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no key is allow_pickle, and float32 is never pickled


def reader_of(model: nn.Module, *, layout: str) -> nn.Module:
    """Return a copy of ``model`` whose weights are all NaN and which timm's reader fills from ``layout``.

    The layouts have biases for queries, keys and values even where they are zero, and vit_jax's has a row of position
    embeddings for the class token: where ``model`` has none of them, the copy gets them.
    """
    reader: Any = copy.deepcopy(model)
    if layout == "vit_jax" and _has_class_token_without_row(reader):
        reader.no_embed_class = False
        reader.pos_embed = nn.Parameter(torch.cat([torch.zeros_like(reader.pos_embed[:, :1]), reader.pos_embed], dim=1))
    for block in blocks_of(reader):
        layers: Any = linear_layers_of(block)
        if layers.qkv.bias is None:
            layers.qkv.bias = nn.Parameter(torch.zeros(layers.qkv.out_features))
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.fill_(float("nan"))
    return reader  # type: ignore[no-any-return]


def reader_args(model_args: Mapping[str, Any], *, layout: str) -> dict[str, Any]:
    """Return what ``timm.create_model`` is told for such a model, from what it was told for the exported one."""
    dropped = {"qkv_bias"} | ({"no_embed_class"} if layout == "vit_jax" else set())
    return {key: value for key, value in model_args.items() if key not in dropped}


def with_tanh_gelu(model: nn.Module) -> nn.Module | None:
    """Return a copy of ``model`` in evaluation mode with the tanh form of GELU, as ``flax.linen.gelu`` has it.

    Args:
        model: Any model; not changed.

    Returns:
        The copy; None where no GELU is in the erf form.
    """
    if not any(gelu_form(module) == "none" for module in model.modules()):
        return None
    changed = copy.deepcopy(model).eval()
    for name, module in list(changed.named_modules(remove_duplicate=False)):
        if gelu_form(module) == "none":
            changed.set_submodule(name, nn.GELU(approximate="tanh"))
    return changed


def _obstacles(vit: Any) -> list[str]:
    """Return what of a VisionTransformer Google's layouts have no place for, as words that follow "has"."""
    found = _obstacles_outside_blocks(vit) + plain_vit.obstacles_of(vit)
    if plain_vit.has_plain_parts(vit):
        found += _obstacles_inside(vit)
    return found or _unwritten_tensors(vit)


def _obstacles_outside_blocks(vit: Any) -> list[str]:
    has_class = has_class_token(vit)
    found = {
        "register tokens": num_register_tokens(vit) > 0,
        f"a class token with pooling {vit.global_pool!r}": has_class and vit.global_pool != "token",
        f"pooling {vit.global_pool!r} without a class token": not has_class and vit.global_pool != "avg",
        "no absolute position embeddings": vit.pos_embed is None,
        "no norm before pooling": norm_after_blocks(vit) is None,
    }
    return plain_vit.reasons_in(found)


def _obstacles_inside(vit: Any) -> list[str]:
    blocks = blocks_of(vit)
    found = {
        "a patch embedding that is not one convolution with a bias": not plain_vit.is_biased(vit.patch_embed.proj),
        "a norm within attention": not all(is_absent(plain_vit.inner_norms_of(block)[0]) for block in blocks),
        "a norm within the MLP": not all(is_absent(plain_vit.inner_norms_of(block)[1]) for block in blocks),
        "projections other than linear layers with a bias": not all(map(plain_vit.has_biases, blocks)),
    }
    others = sorted({norm.eps for norm in plain_vit.layer_norms_of(vit)} - {_EPS})
    return plain_vit.reasons_in(found) + [f"LayerNorm with an eps of {eps:g} in place of {_EPS:g}" for eps in others]


def _unwritten_tensors(vit: Any) -> list[str]:
    try:
        _, unwritten = _entries(vit, _VIT_JAX)
    except KeyError as error:
        return [f"no tensor {error.args[0]}"]
    return [f"a tensor {key} of unknown use" for key in unwritten]


def _entries(vit: Any, names: _Names) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors by key, without the layout's prefix, and by timm's name those that have no place there.

    Raises:
        KeyError: The model lacks a tensor.
    """
    rest: dict[str, Tensor] = vit.state_dict()
    entries = {
        "embedding/kernel": rest.pop("patch_embed.proj.weight").permute(2, 3, 1, 0),
        "embedding/bias": rest.pop("patch_embed.proj.bias"),
    }
    if has_class_token(vit):
        entries["cls"] = rest.pop("cls_token")
    positions = rest.pop("pos_embed")
    if names is _VIT_JAX and _has_class_token_without_row(vit):
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    entries[names.positions] = positions
    for index, block in enumerate(blocks_of(vit)):
        num_heads, *_ = plain_vit.block_settings(block)
        of_block = _block_entries(rest, f"blocks.{index}", names, num_heads=num_heads)
        entries |= _below(f"Transformer/encoderblock_{index}", of_block)
    entries |= _below("Transformer/encoder_norm", _norm_entries(rest, "norm"))
    if not is_absent(vit.head):
        entries |= _below("head", _dense_entries(rest, "head"))
    return entries, rest


def _has_class_token_without_row(vit: nn.Module) -> bool:
    """Return whether the position table leaves the class token out."""
    return has_class_token(vit) and not num_embedded_prefix_tokens(vit)


def _block_entries(rest: dict[str, Tensor], block: str, names: _Names, *, num_heads: int) -> dict[str, Tensor]:
    """Take a block's tensors out of ``rest``; return them by key."""
    return (
        _below("LayerNorm_0", _norm_entries(rest, f"{block}.norm1"))
        | _below(names.attention, _attention_entries(rest, f"{block}.attn", num_heads=num_heads))
        | _below(names.norm2, _norm_entries(rest, f"{block}.norm2"))
        | _below(f"{names.mlp}/Dense_0", _dense_entries(rest, f"{block}.mlp.fc1"))
        | _below(f"{names.mlp}/Dense_1", _dense_entries(rest, f"{block}.mlp.fc2"))
    )


def _attention_entries(rest: dict[str, Tensor], name: str, *, num_heads: int) -> dict[str, Tensor]:
    weight = rest.pop(f"{name}.qkv.weight")
    bias = rest.pop(f"{name}.qkv.bias", None)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    kernels = weight.reshape(3, num_heads, -1, weight.shape[-1]).permute(0, 3, 1, 2)  # (3, D, H, d)
    biases = bias.reshape(3, num_heads, -1)  # (3, H, d)
    entries: dict[str, Tensor] = {}
    for part, kernel, offset in zip(("query", "key", "value"), kernels, biases, strict=True):
        entries |= {f"{part}/kernel": kernel, f"{part}/bias": offset}
    out = rest.pop(f"{name}.proj.weight")
    kernel = out.reshape(len(out), num_heads, -1).permute(1, 2, 0)  # (H, d, D)
    return entries | {"out/kernel": kernel, "out/bias": rest.pop(f"{name}.proj.bias")}


def _norm_entries(rest: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {"scale": rest.pop(f"{name}.weight"), "bias": rest.pop(f"{name}.bias")}


def _dense_entries(rest: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {"kernel": rest.pop(f"{name}.weight").T, "bias": rest.pop(f"{name}.bias")}


def _below(key: str, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{key}/{inner}": value for inner, value in entries.items()}


def _with_stacked_blocks(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``entries`` with those of ``encoderblock_0``, ``encoderblock_1``, ... stacked as ``encoderblock``."""
    stacked: dict[str, list[Tensor]] = {}
    for key, value in entries.items():
        stacked.setdefault(re.sub(r"encoderblock_\d+", "encoderblock", key), []).append(value)
    return {key: torch.stack(values) if "encoderblock/" in key else values[0] for key, values in stacked.items()}


def _float32(value: Tensor) -> np.ndarray:
    """Return a copy in C order."""
    array: np.ndarray = value.to("cpu", torch.float32).numpy().copy(order="C")
    return array
