"""Whether what was loaded is what was meant: finite numbers, tensors of their parameters' shapes, no block left out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitctl.errors import ModelError
from vitctl.models.anatomy import TOKENS, is_in_block
from vitctl.models.describe import on_meta
from vitctl.models.geometry import geometry_of
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.documents import reason_of
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.text_paths import text_path

_RUNNING = ("running_mean", "running_var")


def check_finite(model: nn.Module, *, source: str) -> None:
    """Check that the parameters of ``model``, and the statistics of its batch norms, are finite numbers.

    Args:
        model: A model with its weights loaded.
        source: Where they are from, for the message.

    Raises:
        ModelError: One is not; the sentence names the first tensor.
    """
    statistics = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith(_RUNNING))
    for name, tensor in (*model.named_parameters(), *statistics):
        if tensor.numel() and not all(bool(end.isfinite()) for end in tensor.detach().aminmax()):
            raise ModelError(not_finite(source, name, tensor.detach().numpy()))


def not_finite(source: str | Path, name: str, array: np.ndarray) -> str:
    """Return the sentence about an array, (A, ...), with numbers that are not finite."""
    bad = int((~np.isfinite(array)).sum())
    kind = "NaN" if np.isnan(array).any() else "infinite"
    return (
        f"{source} holds {bad:,} of {array.size:,} numbers in {name} that are not finite (the first kind: {kind}); "
        "expected finite weights. Was their training diverging? Use earlier ones."
    )


@compiler_later()  # operators on the meta device ask for it
@torch.no_grad()
def check_computes(model: nn.Module, config: Path) -> None:
    """Check, without computing anything, that the architecture a ``config.json`` describes gives its classes.

    Args:
        model: A timm model.
        config: The ``config.json``, for the message.

    Raises:
        ModelError: It cannot take an image of its own size, or gives something else.
    """
    where = f"The model that {config} describes"
    try:
        outputs = on_meta(model).eval()(torch.empty(1, 3, *geometry_of(model).image_size, device="meta"))
    except NotImplementedError:
        return  # some operators need values
    except Exception as error:  # layers whose sizes do not fit together object each in its own way
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{where} takes no image ({reason_of(error)}); expected the model_args of its weights."
        ) from error
    num_classes = int(getattr(model, "num_classes", 0))
    if num_classes and getattr(outputs, "shape", None) != (1, num_classes):
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            f"{where} gives {found} for an image, not (1, {num_classes}); expected a pooling before its head."
        )


def misfits(own: Mapping[str, Tensor], found: Mapping[str, tuple[Sequence[int], bool]]) -> list[str]:
    """Return a phrase for each tensor of a file that does not fit the model's of its name.

    Args:
        own: The model's tensors by name, each (A, ...).
        found: The shape of the file's, and whether it holds floating-point numbers, by name.
    """
    phrases = []
    for key, tensor in own.items():
        if key not in found:
            continue
        shape, is_floating = found[key]
        if tuple(shape) != tuple(tensor.shape):
            phrases.append(f"{key} is {tuple(shape)}, expected {tuple(tensor.shape)}")
        elif tensor.is_floating_point() and not is_floating:
            phrases.append(f"{key} holds no floating-point numbers")
    return phrases


def unused_in_file(model: nn.Module, path: Path, *, name: str) -> tuple[str, ...]:
    """Return what of a safetensors file has no place in a model that timm has loaded it into.

    A file in a layout that timm renames while it loads is left to timm, which refuses what it has no place for.

    Args:
        model: The model.
        path: The file.
        name: The model's name, for messages.

    Raises:
        ModelError: A tensor is missing, or has another shape or type than its parameter, so that timm has resampled it,
            or is of a block that the model lacks; timm passes over them where a file has other classes.
    """
    with text_path(path) as readable, safe_open(readable, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # no dict
    found = {key: (one.get_shape(), "F" in one.get_dtype()) for key, one in slices.items()}
    own = model.state_dict()
    missing = [key for key in own if key not in found and not key.endswith(".num_batches_tracked")]
    if 2 * len(missing) > len(own):  # names that timm changes
        return ()
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} of the {len(own)} tensors of {name}, {missing[0]} first; expected all of "
            "them. Is its config.json of another model?"
        )
    phrases = misfits(own, found)
    if phrases:
        raise ModelError(f"{path} does not fit {name}: {', '.join(phrases[:3])}. Is its config.json of another model?")
    unused = tuple(key for key in found if key not in own)
    refuse_unused(unused, found, path=path, name=name)
    return unused


def refuse_unused(
    unused: Iterable[str],
    found: Mapping[str, tuple[Sequence[int], bool]],
    *,
    path: Path | str,
    name: str,
    advice: str = "",
) -> None:
    """Refuse weights of blocks or tokens that the model has no place for: without them it computes something else.

    Args:
        unused: Names that have no place.
        found: As for ``misfits``; names that it lacks, and those of indices and masks, are passed over.
        path: The file, for messages.
        name: The model's name, for messages.
        advice: What to try: a sentence with a space before it.

    Raises:
        ModelError: There are some; the sentence names the first.
    """
    lost = [key for key in unused if (is_in_block(key) or key in TOKENS) and key in found and found[key][1]]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        what = "" if lost[0] in TOKENS else " (LayerScale, LoRA or more blocks?)"
        raise ModelError(
            f"{path} does not fit {name}, which has no place for {lost[0]}{more}{what}; expected weights of this "
            f"architecture.{advice or ' Name the model that they are of, or merge them first.'}"
        )


def unused_note(unused: Sequence[str], *, source: str) -> str | None:
    """Return a sentence that names what of a file is not used, or None."""
    if not unused:
        return None
    shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
    are = "entry of {} is" if len(unused) == 1 else "entries of {} are"
    return f"{len(unused):,} {are.format(source)} not used: {shown}."


class ExactCopies(TorchFunctionMode):
    """While it is active, copying a tensor into a parameter of another shape is an error instead of a broadcast.

    Args:
        model: Whose parameters are filled; names them in the error.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``; ``Tensor.copy_`` only between equal shapes.

        Raises:
            ValueError: The shapes differ.
        """
        if func is Tensor.copy_ and args[0].shape != args[1].shape:
            name = self._names.get(id(args[0]), "a tensor")
            raise ValueError(f"{name} is {tuple(args[1].shape)}, expected {tuple(args[0].shape)}")
        return func(*args, **(kwargs or {}))
