"""Weights from a file into a timm model: safetensors, ``torch.save`` and Google's ``.npz`` (ViT, BiT).

The file decides the resolution and the number of classes: the model is first given the file's own patch
grid and head, so that nothing is resampled or dropped on the way in. Changing them comes later, in
``vitctl.models.geometry`` and ``vitctl.models.build``, where it is reported.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, VitctlError
from vitctl.models.adoption import adopt_grid, adopt_head, is_head
from vitctl.models.anatomy import TOKENS
from vitctl.models.checkpoints import kind_of, read_checkpoint
from vitctl.models.google_npz import load_npz
from vitctl.models.layouts import renamed
from vitctl.models.load_report import LoadReport, first_line, some
from vitctl.models.transformers_model import is_transformers_folder, weights_of
from vitctl.models.unwrapping import unwrap
from vitctl.models.weights_fit import misfits, refuse_unused
from vitctl.models.weights_hints import advice
from vitctl.primitives.files import path_exists
from vitctl.primitives.out_of_memory import is_out_of_memory


def load_weights_file(model: nn.Module, path: Path, *, name: str) -> LoadReport:
    """Load ``path`` into ``model``, in place; its grid and its head become those of the file.

    Args:
        model: A timm model.
        path: A file of safetensors, of ``torch.save`` (read with ``weights_only=True``; no pickled code is run;
            averaged weights are preferred where there are both, as timm does), or an ``.npz`` file in the layout of
            google-research/vision_transformer, big_vision or google-research/big_transfer: its content tells which. Or
            a folder that holds one as ``model.safetensors`` or ``pytorch_model.bin``.
        name: The model's name, for messages.

    Raises:
        ModelError: The file is missing, unreadable or of another kind, or does not fit the model beyond
            the head.
    """
    if path_exists(str(path)) and path.is_dir():
        return _load_folder(model, path, name=name)
    if not path_exists(str(path)) or not path.is_file():
        raise ModelError(f"There is no weights file at {path}; --weights takes pretrained, none, or a file.")
    kind = kind_of(path)
    if kind == "npz":
        return load_npz(model, path, name=name)
    unwrapped = unwrap(read_checkpoint(path, kind), source=str(path))
    return load_tensors(model, unwrapped.tensors, path=path, name=name, notes=unwrapped.notes)


def _load_folder(model: nn.Module, folder: Path, *, name: str) -> LoadReport:
    """Load the tensors of a model's folder, whatever else it says of the model."""
    report = load_weights_file(model, weights_of(folder), name=name)
    if not is_transformers_folder(folder):
        return report
    note = f"{folder} says by itself how images are prepared and what its classes are; --model {folder} goes by that."
    return replace(report, notes=(*report.notes, note))


def load_tensors(
    model: nn.Module, tensors: dict[str, Any], *, path: Path, name: str, notes: tuple[str, ...] = ()
) -> LoadReport:
    """Load the tensors of a file into ``model``, in place, from any layout that is known.

    Args:
        model: A timm model.
        tensors: By the file's names, without what stands before all of them.
        path: The file, for messages.
        name: The model's name, for messages.
        notes: What was said of the file so far.

    Raises:
        ModelError: They do not fit the model beyond the head.
    """
    with _fitting(path, name):
        known = renamed(tensors, model, path=path)
    raw = known.tensors
    _check_patch(model, raw, path=path, name=name)
    own = model.state_dict()
    refuse_unused(
        (key for key in TOKENS if key not in own), _described(raw), path=path, name=name, advice=advice(model, raw)
    )
    table = _tensor_called(raw, "pos_embed")
    if table is not None and table.ndim == 3:
        adopt_grid(model, num_tokens=table.shape[1], path=path, name=name, advice=advice(model, raw))
    state = _native_names(model, raw, path=path, name=name)
    adopt_head(model, state)
    is_renamed = any(key not in raw for key in state)
    # what timm leaves out silently; of a file whose names it changes only these are known
    dropped = tuple(key for key in raw if key not in state and ("pre_logits" in key or not is_renamed))
    report = _load_state(model, state, (*known.left_out, *dropped), path=path, name=name)
    told = () if known.why_headless is None else (f"{path}: {known.why_headless}.",)
    return replace(report, notes=(*notes, *told), why_headless=known.why_headless)


@contextmanager
def _fitting(path: Path, name: str) -> Iterator[None]:
    """Turn what goes wrong where tensors are renamed, which comes of their shapes, into one sentence."""
    try:
        yield
    except VitctlError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path} does not fit {name}: {first_line(error)}.") from error


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
    with _fitting(path, name):
        named: dict[str, Any] = rename(dict(raw), model)
    return named


def _load_state(
    model: nn.Module, state: dict[str, Any], dropped: tuple[str, ...], *, path: Path, name: str
) -> LoadReport:
    own = model.state_dict()
    none = [f"{key} is no plain tensor" for key in own if key in state and not _is_tensor(state[key])]
    tensors = _described(state)
    wrong = none or misfits(own, tensors)
    if wrong:
        raise ModelError(f"{path} does not fit {name}: {some(wrong)}. Is it of another architecture?")
    # files of torch 0.4.0 and older lack BatchNorm's count of batches, which nothing reads
    missing = tuple(key for key in own if key not in state and not key.endswith(".num_batches_tracked"))
    unexpected = tuple(key for key in state if key not in own)
    beyond_head = [key for key in missing if not is_head(model, key)]
    if beyond_head:
        raise ModelError(
            f"{path} lacks {len(beyond_head)} of the {len(own)} tensors of {name}: {some(beyond_head)}; expected all "
            f"but the head. It holds {some(list(state))}.{advice(model, state)}"
        )
    refuse_unused(unexpected, tensors, path=path, name=name, advice=advice(model, state))
    loaded = {key: state[key] for key in own if key in state}
    model.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), len(loaded), missing, (*unexpected, *dropped))


def _described(state: Mapping[str, Any]) -> dict[str, tuple[Sequence[int], bool]]:
    """Return shape, and whether it holds fractions, of each tensor."""
    return {key: (value.shape, value.is_floating_point()) for key, value in state.items() if isinstance(value, Tensor)}


def _is_tensor(value: Any) -> bool:
    """Return whether ``value`` is a plain tensor with values: not sparse, not on the meta device."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
