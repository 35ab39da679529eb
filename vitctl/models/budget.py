"""Whether a model can be built here: it is built on the meta device first, which takes no memory, and counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from vitctl.errors import ModelError
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.files import path_exists
from vitctl.primitives.formatting import format_bytes, format_count
from vitctl.primitives.memory import free_bytes

MOST_TENSORS = 5_000  # guess: of timm's models efficientnet_l2 has the most, 1,914
MOST_ARGUMENT = 2**17  # guess: no size, depth or number of classes in a config.json that we know is above 21,843
SPARE_PARAMETERS = 2**24  # what a file may lack: a head, a grid of positions


def check_arguments(arguments: Any, *, name: str, where: str = "model_args") -> None:
    """Check the whole numbers in what a ``config.json`` gives an architecture: some become lists before any layer.

    Raises:
        ModelError: One is too large.
    """
    if isinstance(arguments, dict):
        for key, value in arguments.items():
            check_arguments(value, name=name, where=f"{where}.{key}")
    elif isinstance(arguments, list):
        for value in arguments:
            check_arguments(value, name=name, where=where)
    elif isinstance(arguments, int) and abs(arguments) > MOST_ARGUMENT:
        raise ModelError(
            f"{name} cannot be built: {where} is {arguments}; expected at most {MOST_ARGUMENT:,}. Is it the "
            "config.json of its weights?"
        )


@compiler_later()  # random numbers on the meta device ask for it
def check_buildable(build: Callable[[], nn.Module], *, name: str, weights: Path | None) -> None:
    """Check that a model has no more parameters than its weights file, and than fit into memory.

    What goes wrong otherwise is left to the real build, which says so.

    Args:
        build: Makes the model.
        name: What to call it in messages.
        weights: The file its parameters will be read from, if it is there; None for random ones.

    Raises:
        ModelError: It has more.
    """
    with torch.device("meta"), _counted(_Count(name, weights)):
        try:
            build()
        except ModelError:
            raise
        except Exception:  # the architecture's own code objects to its arguments
            return


class _Count:
    """Tensors of a model that is being built, and the point at which there are too many."""

    def __init__(self, name: str, weights: Path | None) -> None:
        self._name, self._free, self._weights = name, free_bytes(), weights
        is_there = weights is not None and path_exists(str(weights)) and weights.is_file()
        self._file_bytes = weights.stat().st_size if weights is not None and is_there else None
        self._num_tensors = self._num_bytes = self._num_parameters = 0

    def add(self, tensor: Tensor | None) -> None:
        """Count a tensor, (A, ...).

        Raises:
            ModelError: It is the one too many.
        """
        if tensor is None:
            return
        self._num_tensors += 1
        self._num_bytes += tensor.numel() * 4  # whatever is built is float32
        self._num_parameters += tensor.numel() if isinstance(tensor, nn.Parameter) else 0
        found = self._too_many()
        if found is not None:
            raise ModelError(f"{self._name} cannot be built: {found}")

    def _too_many(self) -> str | None:
        if self._num_tensors > MOST_TENSORS:
            return (
                f"it has more than {MOST_TENSORS:,} tensors; expected a few hundred. Correct depth or depths in its "
                "config.json."
            )
        # a number takes a byte at least, and the file may lack a few
        if self._file_bytes is not None and self._num_parameters > 2 * self._file_bytes + SPARE_PARAMETERS:
            return (
                f"it has {format_count(self._num_parameters)} parameters or more, for which {self._weights} of "
                f"{format_bytes(self._file_bytes)} is too small; expected weights of this model. Is its config.json of "
                "another one?"
            )
        if self._free is not None and self._num_bytes > self._free:
            return (
                f"it takes {format_bytes(self._num_bytes)} of memory or more, and {format_bytes(max(self._free, 0))} "
                "are free. Use a smaller model or image size."
            )
        return None


@contextmanager
def _counted(count: _Count) -> Iterator[None]:
    """Count what is registered with any module inside the block."""
    handles = [
        hooks.register_module_parameter_registration_hook(lambda _module, _name, tensor: count.add(tensor)),
        hooks.register_module_buffer_registration_hook(lambda _module, _name, tensor: count.add(tensor)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
