"""Weights from a file into a timm model: ``.safetensors``, ``.pth`` and Google's ``.npz``.

The file decides the resolution and the number of classes: the model is first given the file's own patch
grid and head, so that nothing is resampled or dropped on the way in. Changing them comes later, in
``vitctl.models.geometry`` and ``vitctl.models.build``, where it is reported.

Letters: D width, T tokens.
"""

import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.geometry import geometry_of, num_embedded_prefix_tokens, position_table

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
        model: A timm ViT.
        path: A ``.safetensors`` file, a ``.pth`` file (read with ``weights_only=True``; no pickled code is
            run; averaged weights are preferred where there are both, as timm does), or an ``.npz`` file in
            the layout of google-research/vision_transformer or big_vision.
        name: The model's name, for messages.

    Raises:
        ModelError: The file is missing, unreadable or of another kind, or does not fit the model beyond
            the head.
    """
    if not path.is_file():
        raise ModelError(f"There is no weights file at {path}; --weights takes pretrained, none, or a file.")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path} is no weights file that vitctl reads; expected one of {' '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".npz":
        return _load_npz(model, path, name=name)
    try:
        raw = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise ModelError(
            f"{path} cannot be read as weights ({_first_line(error)}); expected a safetensors file, or one saved "
            "with torch.save that holds tensors only."
        ) from error
    if not isinstance(raw, Mapping) or not any(isinstance(value, Tensor) for value in raw.values()):
        raise ModelError(f"{path} holds no tensors by name; expected the state dict of a model.")
    if isinstance(raw.get("pos_embed"), Tensor) and position_table(model) is not None:
        _adopt_grid(model, num_tokens=raw["pos_embed"].shape[1], path=path, name=name)
    state = _native_names(model, dict(raw), path=path, name=name)
    _adopt_head(model, state)
    return _load_state(model, state, path=path, name=name)


def _native_names(model: nn.Module, raw: dict[str, Any], *, path: Path, name: str) -> dict[str, Any]:
    """Return ``raw`` under timm's own names (timm knows the layouts of DINO, DeiT, MAE, CLIP...)."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return raw
    try:
        renamed: dict[str, Any] = rename(raw, model)
    except Exception as error:
        raise ModelError(f"{path} does not fit {name}: {_first_line(error)}.") from error
    return renamed


def _load_state(model: nn.Module, state: dict[str, Any], *, path: Path, name: str) -> LoadReport:
    own = model.state_dict()
    misfits = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if misfits:
        raise ModelError(f"{path} does not fit {name}: {_some(misfits)}. Is it of another architecture?")
    missing = tuple(key for key in own if key not in state)
    unexpected = tuple(key for key in state if key not in own)
    beyond_head = [key for key in missing if not _is_head(model, key)]
    if beyond_head:
        raise ModelError(
            f"{path} lacks {len(beyond_head)} of the {len(own)} tensors of {name}: {_some(beyond_head)}; expected all "
            f"but the head. It holds {_some(list(state))}."
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
    return LoadReport(str(path), len(own) - len(missing), missing, unexpected)


def _is_head(model: nn.Module, key: str) -> bool:
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return any(key.startswith(f"{head}.") for head in names)


def _adopt_head(model: nn.Module, state: Mapping[str, Any]) -> None:
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier")
    first = classifier if isinstance(classifier, str) else (classifier or [None])[0]
    weight = state.get(f"{first}.weight")
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] != getattr(model, "num_classes", None):
        model.reset_classifier(weight.shape[0])  # type: ignore[operator]  # timm's method


def _adopt_grid(model: nn.Module, *, num_tokens: int, path: Path, name: str) -> None:
    """Give ``model`` the patch grid that ``num_tokens`` position embeddings stand for."""
    table = position_table(model)
    if table is None or table.shape[1] == num_tokens:
        return
    num_patches = num_tokens - num_embedded_prefix_tokens(model)
    side = math.isqrt(max(num_patches, 0))
    if not side or side * side != num_patches:
        raise ModelError(
            f"{path} has {num_tokens} position embeddings; {name} has {num_embedded_prefix_tokens(model)} prefix "
            f"tokens among them, and the {num_patches} left are no square grid. Give a rectangular grid as a timm "
            "folder (config.json beside the weights)."
        )
    patch = geometry_of(model, name=name).patch_size
    model.set_input_size(img_size=(side * patch[0], side * patch[1]))  # type: ignore[operator]


def _load_npz(model: nn.Module, path: Path, *, name: str) -> LoadReport:
    """Load Google's layout with timm's own reader, after the checks that it leaves out."""
    if not hasattr(model, "load_pretrained"):
        raise ModelError(f"{name} has no reader for Google's .npz layout; expected a plain ViT.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            shapes = {key: archive[key].shape for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read as .npz ({_first_line(error)}); it may be truncated.") from error
    prefix = next((p for p in ("", "opt/target/", "params/") if f"{p}embedding/kernel" in shapes), None)
    if prefix is None:
        raise ModelError(
            f"{path} is not in Google's ViT layout: there is no embedding/kernel among its {len(shapes)} entries "
            f"({_some(list(shapes))})."
        )
    _check_npz_fits(model, {key.removeprefix(prefix): shape for key, shape in shapes.items()}, path=path, name=name)
    table = next((shape for key, shape in shapes.items() if key.endswith("pos_embedding")), None)
    if table is not None:
        _adopt_grid(model, num_tokens=table[-2], path=path, name=name)
    head = shapes.get(f"{prefix}head/bias")
    if head is not None and head[-1] != getattr(model, "num_classes", None):
        model.reset_classifier(head[-1])  # type: ignore[operator]
    try:
        model.load_pretrained(str(path))  # type: ignore[operator]
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} does not fit {name}: {_first_line(error)}.") from error
    own = list(model.state_dict())
    missing = tuple(key for key in own if head is None and _is_head(model, key))
    unexpected = tuple(key for key in shapes if "pre_logits" in key)
    return LoadReport(str(path), len(own) - len(missing), missing, unexpected, _gelu_notes(model))


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
    stacked = shapes.get("Transformer/encoderblock/LayerNorm_0/scale")
    blocks = {key.split("/")[1] for key in shapes if key.startswith("Transformer/encoderblock_")}
    depth = stacked[0] if stacked else len(blocks)
    if depth != len(vit.blocks):
        raise ModelError(f"{path} holds {depth} blocks; {name} has {len(vit.blocks)}.")


def _gelu_notes(model: nn.Module) -> tuple[str, ...]:
    activations = [module for module in model.modules() if isinstance(module, nn.GELU)]
    if activations and activations[0].approximate == "none":
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
        return f"there is no {error}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") if not isinstance(error, SafetensorError) else f"damaged file, {lines[0]}"
