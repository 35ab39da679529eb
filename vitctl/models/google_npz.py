"""Weights in Google's ``.npz`` layouts into a timm model: google-research/vision_transformer, big_vision, big_transfer.

timm's own readers do it, after the checks that they leave out.

Letters: D width, T tokens.
"""

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import GELU, StdConv2d
from timm.models import ResNetV2
from torch import nn

from vitctl.errors import ModelError
from vitctl.models.adoption import adopt_grid, adopt_num_classes, is_head
from vitctl.models.anatomy import attention_pooling, blocks_of, num_embedded_prefix_tokens, units_in
from vitctl.models.block_anatomy import attention_of
from vitctl.models.geometry import position_table
from vitctl.models.load_report import LoadReport, first_line, some
from vitctl.models.weights_fit import ExactCopies, not_finite
from vitctl.primitives.archives import open_arrays
from vitctl.primitives.documents import foreign
from vitctl.primitives.out_of_memory import is_out_of_memory

GOOGLE_PREFIXES = ("", "opt/target/", "params/", "params/img/")  # vit_jax; its optimiser state; big_vision; LiT
BIT_PREFIX = "resnet/"
_QUERY = "/query/kernel"  # (D, heads, D/heads)
# what timm's reader takes of the encoder
_ENCODER = re.compile(
    r"Transformer/(posembed_input/pos_embedding|encoder_norm/(scale|bias)|encoderblock(_\d+)?/(LayerNorm_[012]/(scale|bias)"
    r"|(MlpBlock_[03]/Dense_[01]|MultiHeadDotProductAttention_[01]/(query|key|value|out))/(kernel|bias)))"
)


def load_npz(model: nn.Module, path: Path, *, name: str) -> LoadReport:
    """Load Google's layout with timm's own reader, after the checks that it leaves out."""
    if isinstance(model, ResNetV2) and isinstance(getattr(model.stem, "conv", None), StdConv2d):
        return _load_bit(model, path, name=name)
    if not (hasattr(model, "load_pretrained") and hasattr(model, "patch_embed") and blocks_of(model)):
        raise ModelError(
            f"{name} has no reader for Google's .npz layout; expected a plain ViT, or a BiT (resnetv2_50x1_bit)."
        )
    arrays = _read_npz(path)
    shapes = {key: np.shape(array) for key, array in arrays.items()}
    prefix = next((p for p in GOOGLE_PREFIXES if f"{p}embedding/kernel" in shapes), None)
    if prefix is None:
        raise ModelError(
            f"{path} is not in Google's ViT layout: there is no embedding/kernel among its {len(shapes)} entries "
            f"({some(list(shapes))})."
        )
    _check_numbers(arrays, prefix, path=path)
    _check_npz_fits(model, {key.removeprefix(prefix): shape for key, shape in shapes.items()}, path=path, name=name)
    table = next((key for key in arrays if key.startswith(prefix) and key.endswith("pos_embedding")), None)
    is_changed = table is not None and _give_class_token_a_row(model, arrays, table, f"{prefix}cls")
    if table is not None:
        adopt_grid(model, num_tokens=arrays[table].shape[-2], path=path, name=name)
    if (head := shapes.get(f"{prefix}head/bias")) is not None:
        adopt_num_classes(model, head[-1])
    with tempfile.TemporaryDirectory() as folder:
        readable = path
        if is_changed:
            readable = Path(folder) / "weights.npz"
            np.savez(readable, allow_pickle=False, **arrays)
        num_loaded, missing = _read_with_timm(model, readable, path=path, name=name)
    unexpected = tuple(key for key in shapes if not _has_place(model, key, prefix))
    _refuse_unused_encoder(unexpected, path=path, name=name)
    return LoadReport(str(path), num_loaded, missing, unexpected, _gelu_notes(model))


def _load_bit(model: ResNetV2, path: Path, *, name: str) -> LoadReport:
    """Load the layout of google-research/big_transfer (arXiv 1912.11370): every entry is one tensor of the model."""
    arrays = _read_npz(path)
    _check_numbers(arrays, BIT_PREFIX, path=path)
    shapes = {key: np.shape(array) for key, array in arrays.items()}
    head = shapes.get(f"{BIT_PREFIX}head/conv2d/bias")
    if f"{BIT_PREFIX}root_block/standardized_conv2d/kernel" not in shapes or head is None:
        raise ModelError(
            f"{path} is not in Google's BiT layout: {BIT_PREFIX}root_block/standardized_conv2d/kernel and "
            f"{BIT_PREFIX}head/conv2d/bias are not both among its {len(shapes)} entries ({some(list(shapes))})."
        )
    found = {tuple(key.split("/")[1:3]) for key in shapes if key.startswith(f"{BIT_PREFIX}block")}
    own = {
        (f"block{stage}", f"unit{unit:02d}")
        for stage, units in enumerate(map(units_in, blocks_of(model)), start=1)
        for unit, _ in enumerate(units, start=1)
    }
    if found != own:  # timm's reader would leave the units of a deeper model out without a word
        raise ModelError(f"{path} holds {len(found)} residual units; {name} has {len(own)}.")
    adopt_num_classes(model, head[-1])
    num_loaded, missing = _read_with_timm(model, path, path=path, name=name)
    unexpected = tuple(key for key in shapes if not key.startswith(BIT_PREFIX))
    return LoadReport(str(path), num_loaded, missing, unexpected)


def _read_with_timm(model: nn.Module, readable: Path, *, path: Path, name: str) -> tuple[int, tuple[str, ...]]:
    """Read Google's layout; return how many tensors were read, and those of the head that were not.

    Args:
        model: Has a reader; changed in place.
        readable: The file to read.
        path: The file to name in messages.
        name: The model's name, for messages.

    Raises:
        ModelError: An entry is missing or has another shape.
    """
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    with torch.no_grad():  # what timm's reader leaves out stays NaN
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    try:
        with ExactCopies(model):
            model.load_pretrained(str(readable))  # type: ignore[operator]
    except Exception as error:  # shapes that fit nothing provoke all sorts
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path} does not fit {name}: {first_line(error)}.") from error
    missing = tuple(key for key, parameter in model.named_parameters() if bool(parameter.isnan().any()))
    beyond_head = [key for key in missing if not is_head(model, key)]
    if beyond_head:
        raise ModelError(
            f"{path} lacks {len(beyond_head)} of the {len(before)} tensors of {name}: {some(beyond_head)}; expected "
            "all but the head. Google's layout holds plain ViTs and BiTs only."
        )
    with torch.no_grad():
        for key in missing:
            model.get_parameter(key).copy_(before[key])
    return len(before) - len(missing), missing


def _has_place(model: nn.Module, key: str, prefix: str) -> bool:
    """Return whether timm's reader puts the entry ``key`` of Google's layout somewhere in ``model``."""
    if not key.startswith(prefix):
        return False
    part = key.removeprefix(prefix).split("/")[0]
    if part == "MAPHead_0":
        return attention_pooling(model) is not None
    if part.startswith(("conv_root", "gn_root", "block")):
        return hasattr(model.patch_embed, "backbone")
    if part == "Transformer":
        return _ENCODER.fullmatch(key.removeprefix(prefix)) is not None
    return part in ("embedding", "cls", "pos_embedding", "head")


def _refuse_unused_encoder(unexpected: tuple[str, ...], *, path: Path, name: str) -> None:
    """Refuse entries of blocks that timm's reader passes over; without them the model computes something else."""
    lost = [key for key in unexpected if "Transformer/encoderblock" in key]
    if lost:
        raise ModelError(
            f"{path} does not fit {name}, which has no place for {some(lost)}; Google's layout holds plain ViTs and "
            "BiTs only."
        )


def _read_npz(path: Path) -> dict[str, Any]:
    """Return the entries by name: arrays, of members that are no arrays the bytes."""
    expected = "an archive of arrays, which may be truncated: copy it again"
    with foreign(path, ModelError, expected=expected, kind=".npz"):
        with path.open("rb") as file, open_arrays(file, where=path, error=ModelError) as archive:
            return {key: archive[key] for key in archive.files}


def _check_numbers(arrays: Mapping[str, Any], prefix: str, *, path: Path) -> None:
    """Check that the entries below ``prefix`` are arrays of finite real numbers."""
    for key, array in arrays.items():
        if not key.startswith(prefix):
            continue
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            held = array.dtype if isinstance(array, np.ndarray) else "no array"
            raise ModelError(f"{path} holds {held} in {key}; expected an array of real numbers.")
        if not np.isfinite(array).all():
            raise ModelError(not_finite(path, key, array))


def _give_class_token_a_row(model: nn.Module, arrays: dict[str, np.ndarray], table: str, cls: str) -> bool:
    """Bring big_vision's position embeddings to timm's form, in place; return whether anything was to do.

    big_vision adds them before the class token is there, so its table has patches only. timm's class token
    has a row of its own: with a row of zeros the sum is the same.
    """
    rows, own = arrays[table], position_table(model)  # (1, T, D)
    if own is not None and own.shape[1] == rows.shape[-2]:  # a rectangular grid and a class token may be a square
        return False
    side = math.isqrt(rows.shape[-2])
    if cls not in arrays or side * side != rows.shape[-2] or num_embedded_prefix_tokens(model) != 1:
        return False
    arrays[table] = np.concatenate([np.zeros_like(rows[:, :1]), rows], axis=1)
    return True


def _check_npz_fits(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, path: Path, name: str) -> None:
    kernel = shapes["embedding/kernel"]  # (h, w, in, D)
    vit: Any = model
    own = vit.patch_embed.proj.weight.shape  # (D, in, h, w)
    expected = (own[2], own[3], own[1], own[0])
    if tuple(kernel) != tuple(expected):
        raise ModelError(
            f"{path} does not fit {name}: its patch embedding (height, width, channels, width D) is {tuple(kernel)}, "
            f"expected {tuple(expected)}."
        )
    expected_ranks = {"pos_embedding": 3, "Transformer/posembed_input/pos_embedding": 3, "head/bias": 1}
    for key, rank in expected_ranks.items():
        if len(shapes.get(key, (0,) * rank)) != rank:
            raise ModelError(f"{path} does not fit {name}: {key} is {shapes[key]}, expected {rank} dimensions.")
    kernels = [shape for key, shape in shapes.items() if key.startswith("Transformer/") and key.endswith(_QUERY)]
    attention: Any = attention_of(blocks_of(model)[0])
    for shape in kernels:  # timm flattens them, and would take any number of heads
        if len(shape) > 1 and shape[-2] != attention.num_heads:
            raise ModelError(f"{path} holds {shape[-2]} attention heads; {name} has {attention.num_heads}.")
    stacked = shapes.get("Transformer/encoderblock/LayerNorm_0/scale")
    blocks = {key.split("/")[1] for key in shapes if key.startswith("Transformer/encoderblock_")}
    depth, own_depth = stacked[0] if stacked else len(blocks), len(blocks_of(model))
    if depth != own_depth:
        raise ModelError(f"{path} holds {depth} blocks; {name} has {own_depth}.")


def _gelu_notes(model: nn.Module) -> tuple[str, ...]:
    if any(isinstance(module, GELU) or getattr(module, "approximate", "") == "none" for module in model.modules()):
        return (
            "The authors' Flax models use the tanh form of GELU, this model the erf form: its logits differ from "
            "theirs by some 1e-4. Fine-tuning absorbs that; for equal numbers give "
            "--model-arg act_layer=gelu_tanh.",
        )
    return ()
