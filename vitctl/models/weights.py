"""Weights from a file into a timm model: ``.safetensors``, ``.pth`` and Google's ``.npz`` (ViT, BiT).

The file decides the resolution and the number of classes: the model is first given the file's own patch
grid and head, so that nothing is resampled or dropped on the way in. Changing them comes later, in
``vitctl.models.geometry`` and ``vitctl.models.build``, where it is reported.

Letters: D width, T tokens.
"""

import math
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from timm.layers import GELU, StdConv2d
from timm.models import ResNetV2, load_state_dict
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.anatomy import attention_pooling, blocks_of, num_embedded_prefix_tokens, units_in
from vitctl.models.block_anatomy import attention_of
from vitctl.models.geometry import MOST_PLACES, geometry_of, position_table
from vitctl.models.weights_fit import ExactCopies, misfits, not_finite, refuse_unused_blocks
from vitctl.primitives.archives import check_archive, open_arrays
from vitctl.primitives.documents import foreign
from vitctl.primitives.files import path_exists
from vitctl.primitives.memory import check_fits
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.text_paths import text_path

GOOGLE_PREFIXES = ("", "opt/target/", "params/", "params/img/")  # vit_jax; its optimiser state; big_vision; LiT
BIT_PREFIX = "resnet/"
_QUERY = "/query/kernel"  # (D, heads, D/heads)
# what timm's reader takes of the encoder
_ENCODER = re.compile(
    r"Transformer/(posembed_input/pos_embedding|encoder_norm/(scale|bias)|encoderblock(_\d+)?/(LayerNorm_[012]/(scale|bias)"
    r"|(MlpBlock_[03]/Dense_[01]|MultiHeadDotProductAttention_[01]/(query|key|value|out))/(kernel|bias)))"
)
_STATE = "a safetensors file, or one saved with torch.save that holds tensors only"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")


@dataclass(frozen=True)
class LoadReport:
    """What was read into a model.

    Attributes:
        source: Where from, for the log.
        num_loaded: Tensors of the model that now hold the file's values.
        missing: Tensors of the model that the file lacks; only those of the head are allowed.
        unexpected: Entries of the file that the model has no place for.
        notes: Sentences the user should see.
    """

    source: str
    num_loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_weights_file(model: nn.Module, path: Path, *, name: str) -> LoadReport:
    """Load ``path`` into ``model``, in place; its grid and its head become those of the file.

    Args:
        model: A timm model.
        path: A ``.safetensors`` file, a ``.pth`` file (read with ``weights_only=True``; no pickled code is
            run; averaged weights are preferred where there are both, as timm does), or an ``.npz`` file in
            the layout of google-research/vision_transformer, big_vision or google-research/big_transfer.
        name: The model's name, for messages.

    Raises:
        ModelError: The file is missing, unreadable or of another kind, or does not fit the model beyond
            the head.
    """
    if not path_exists(str(path)) or not path.is_file():
        raise ModelError(f"There is no weights file at {path}; --weights takes pretrained, none, or a file.")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path} is no weights file that vitctl reads; expected one of {' '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".npz":
        return _load_npz(model, path, name=name)
    check_sizes(path)
    with foreign(path, ModelError, expected=_STATE, kind="weights"), text_path(path) as readable:
        raw = load_state_dict(str(readable), device="cpu", weights_only=True)
    if not isinstance(raw, Mapping) or not any(isinstance(value, Tensor) for value in raw.values()):
        raise ModelError(f"{path} holds no tensors by name; expected the state dict of a model.")
    _check_patch(model, raw, path=path, name=name)
    table = _tensor_called(raw, "pos_embed")
    if table is not None and table.ndim == 3:
        _adopt_grid(model, num_tokens=table.shape[1], path=path, name=name)
    state = _native_names(model, dict(raw), path=path, name=name)
    _adopt_head(model, state)
    is_renamed = any(key not in raw for key in state)
    # what timm leaves out silently; of a file whose names it changes only these are known
    dropped = tuple(key for key in raw if key not in state and ("pre_logits" in key or not is_renamed))
    return _load_state(model, state, dropped, path=path, name=name)


def check_sizes(path: Path) -> None:
    """Check that what a file of weights holds fits into the memory, and is no more than it can hold.

    Raises:
        ModelError: It is not so, or the file is a damaged archive.
    """
    with foreign(path, ModelError, expected=_STATE, kind="weights"):
        check_archive(path, error=ModelError)  # torch.save writes one
        check_fits(path.stat().st_size, what=f"What {path} holds", error=ModelError, advice="Use a smaller model")


def _tensor_called(state: Mapping[str, Any], name: str) -> Tensor | None:
    """Return the tensor ``name``, also where the file puts a prefix before it (``visual.trunk.``)."""
    found = (value for key, value in state.items() if f".{key}".endswith(f".{name}") and isinstance(value, Tensor))
    return next(found, None)


def _check_patch(model: nn.Module, state: Mapping[str, Any], *, path: Path, name: str) -> None:
    """Refuse a file of another patch size; timm would resample its kernel without a word."""
    found, own = (
        _tensor_called(state, "patch_embed.proj.weight"),
        _tensor_called(model.state_dict(), "patch_embed.proj.weight"),
    )
    if found is None or own is None or found.ndim != 4 or found.shape[2:] == own.shape[2:]:
        return
    raise ModelError(
        f"{path} does not fit {name}: its patch is {found.shape[2]}x{found.shape[3]} px, expected "
        f"{own.shape[2]}x{own.shape[3]}."
    )


def _native_names(model: nn.Module, raw: dict[str, Any], *, path: Path, name: str) -> dict[str, Any]:
    """Return ``raw`` under timm's own names (timm knows the layouts of DINO, DeiT, MAE, CLIP...)."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return raw
    try:
        renamed: dict[str, Any] = rename(raw, model)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path} does not fit {name}: {_first_line(error)}.") from error
    return renamed


def _load_state(
    model: nn.Module, state: dict[str, Any], dropped: tuple[str, ...], *, path: Path, name: str
) -> LoadReport:
    own = model.state_dict()
    none = [f"{key} is no plain tensor" for key in own if key in state and not _is_tensor(state[key])]
    tensors = {
        key: (value.shape, value.is_floating_point()) for key, value in state.items() if isinstance(value, Tensor)
    }
    wrong = none or misfits(own, tensors)
    if wrong:
        raise ModelError(f"{path} does not fit {name}: {_some(wrong)}. Is it of another architecture?")
    # files of torch 0.4.0 and older lack BatchNorm's count of batches, which nothing reads
    missing = tuple(key for key in own if key not in state and not key.endswith(".num_batches_tracked"))
    unexpected = tuple(key for key in state if key not in own)
    beyond_head = [key for key in missing if not _is_head(model, key)]
    if beyond_head:
        raise ModelError(
            f"{path} lacks {len(beyond_head)} of the {len(own)} tensors of {name}: {_some(beyond_head)}; expected all "
            f"but the head. It holds {_some(list(state))}."
        )
    refuse_unused_blocks(unexpected, tensors, path=path, name=name)
    loaded = {key: state[key] for key in own if key in state}
    model.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), len(loaded), missing, (*unexpected, *dropped))


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier layers, as timm's configuration of the model has them."""
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _is_tensor(value: Any) -> bool:
    """Return whether ``value`` is a plain tensor with values: not sparse, not on the meta device."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _is_head(model: nn.Module, key: str) -> bool:
    return any(key.startswith(f"{head}.") for head in head_names(model))


def _adopt_head(model: nn.Module, state: Mapping[str, Any]) -> None:
    weight = next((state.get(f"{head}.weight") for head in head_names(model)), None)
    if isinstance(weight, Tensor) and (weight.ndim == 2 or weight.shape[2:] == (1, 1)):  # linear, or a 1x1 convolution
        _adopt_num_classes(model, weight.shape[0])


def _adopt_num_classes(model: nn.Module, num_classes: int) -> None:
    if num_classes != getattr(model, "num_classes", None):
        model.reset_classifier(num_classes)  # type: ignore[operator]  # timm's method


def _adopt_grid(model: nn.Module, *, num_tokens: int, path: Path, name: str) -> None:
    """Give ``model`` the patch grid that ``num_tokens`` position embeddings stand for, if its grid can change."""
    table, patch = position_table(model), geometry_of(model).patch_size
    if table is None or table.shape[1] == num_tokens or patch is None or not hasattr(model, "set_input_size"):
        return
    num_patches = num_tokens - num_embedded_prefix_tokens(model)
    side = math.isqrt(max(num_patches, 0))
    if not side or side * side != num_patches:
        raise ModelError(
            f"{path} has {num_tokens} position embeddings; {name} has {num_embedded_prefix_tokens(model)} prefix "
            f"tokens among them, and the {num_patches} left are no square grid. Give a rectangular grid as a timm "
            "folder (config.json beside the weights)."
        )
    if side > MOST_PLACES:
        raise ModelError(
            f"{path} has position embeddings of {side}x{side} places; expected at most {MOST_PLACES}x{MOST_PLACES}, as "
            f"every place is compared with every other. Are they those of {name}?"
        )
    model.set_input_size(img_size=(side * patch[0], side * patch[1]))  # type: ignore[operator]


def _load_npz(model: nn.Module, path: Path, *, name: str) -> LoadReport:
    """Load Google's layout with timm's own reader, after the checks that it leaves out."""
    if isinstance(model, ResNetV2) and isinstance(getattr(model.stem, "conv", None), StdConv2d):
        return _load_bit_npz(model, path, name=name)
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
            f"({_some(list(shapes))})."
        )
    _check_numbers(arrays, prefix, path=path)
    _check_npz_fits(model, {key.removeprefix(prefix): shape for key, shape in shapes.items()}, path=path, name=name)
    table = next((key for key in arrays if key.endswith("pos_embedding")), None)
    is_changed = table is not None and _give_class_token_a_row(model, arrays, table, f"{prefix}cls")
    if table is not None:
        _adopt_grid(model, num_tokens=arrays[table].shape[-2], path=path, name=name)
    if (head := shapes.get(f"{prefix}head/bias")) is not None:
        _adopt_num_classes(model, head[-1])
    with tempfile.TemporaryDirectory() as folder:
        readable = path
        if is_changed:
            readable = Path(folder) / path.name
            np.savez(readable, allow_pickle=False, **arrays)
        num_loaded, missing = _read_with_timm(model, readable, path=path, name=name)
    unexpected = tuple(key for key in shapes if not _has_place(model, key, prefix))
    _refuse_unused_encoder(unexpected, path=path, name=name)
    return LoadReport(str(path), num_loaded, missing, unexpected, _gelu_notes(model))


def _load_bit_npz(model: ResNetV2, path: Path, *, name: str) -> LoadReport:
    """Load the layout of google-research/big_transfer (arXiv 1912.11370): every entry is one tensor of the model."""
    arrays = _read_npz(path)
    _check_numbers(arrays, BIT_PREFIX, path=path)
    shapes = {key: np.shape(array) for key, array in arrays.items()}
    head = shapes.get(f"{BIT_PREFIX}head/conv2d/bias")
    if f"{BIT_PREFIX}root_block/standardized_conv2d/kernel" not in shapes or head is None:
        raise ModelError(
            f"{path} is not in Google's BiT layout: {BIT_PREFIX}root_block/standardized_conv2d/kernel and "
            f"{BIT_PREFIX}head/conv2d/bias are not both among its {len(shapes)} entries ({_some(list(shapes))})."
        )
    found = {tuple(key.split("/")[1:3]) for key in shapes if key.startswith(f"{BIT_PREFIX}block")}
    own = {
        (f"block{stage}", f"unit{unit:02d}")
        for stage, units in enumerate(map(units_in, blocks_of(model)), start=1)
        for unit, _ in enumerate(units, start=1)
    }
    if found != own:  # timm's reader would leave the units of a deeper model out without a word
        raise ModelError(f"{path} holds {len(found)} residual units; {name} has {len(own)}.")
    _adopt_num_classes(model, head[-1])
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
        raise ModelError(f"{path} does not fit {name}: {_first_line(error)}.") from error
    missing = tuple(key for key, parameter in model.named_parameters() if bool(parameter.isnan().any()))
    beyond_head = [key for key in missing if not _is_head(model, key)]
    if beyond_head:
        raise ModelError(
            f"{path} lacks {len(beyond_head)} of the {len(before)} tensors of {name}: {_some(beyond_head)}; expected "
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
            f"{path} does not fit {name}, which has no place for {_some(lost)}; Google's layout holds plain ViTs and "
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
            "theirs by some 1e-4. Fine-tuning absorbs that; for equal numbers use a timm folder with "
            '"act_layer": "gelu_tanh" in model_args.',
        )
    return ()


def _some(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"there is no {str(error.args[0]).removesuffix(' is not a file in the archive')!r}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") if not isinstance(error, SafetensorError) else f"damaged file, {lines[0]}"
