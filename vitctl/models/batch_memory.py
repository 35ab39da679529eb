"""About how much memory a batch takes, measured on one image when the memory was full.

Letters: B images in a batch, H W px.
"""

import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitctl.models.describe import flops_per_image
from vitctl.primitives.out_of_memory import is_out_of_memory

MOST_FLOPS = 10**12  # guess: seconds of a processor; who waits for an error waits no longer


@contextmanager
def batch_bytes_told(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Give an error that says that the memory is full, as ``batch_bytes``, about what the batch takes.

    Args:
        model: What computes inside the block; for training where gradients are kept there.
        images: (B, 3, H, W), on the model's device.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold what was computed so far
            with suppress(Exception):  # not even one image fits
                error.batch_bytes = activation_bytes(model, images)  # type: ignore[attr-defined]
        raise


def activation_bytes(model: nn.Module, images: Tensor) -> int | None:
    """Return what a forward pass of a batch holds at its peak, parameters left out; None where one takes too long.

    It is B times what one image takes in evaluation mode: pixels and the largest sum of what lives at a time, with
    all that is kept for gradients where they are enabled. What an operator uses within itself is not seen.

    Args:
        model: An image model; its mode is as it was afterwards.
        images: (B, 3, H, W), on its device.
    """
    if flops_per_image(model, (images.shape[2], images.shape[3])) > MOST_FLOPS:
        return None
    one, was_training = images[:1].clone(), model.training
    own = [*model.parameters(), *model.buffers(), one]
    model.eval()
    try:
        with _Living(own) as living:
            model(one)
    finally:
        model.train(was_training)
    num_bytes: int = len(images) * (living.most + one.nbytes)
    return num_bytes


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Adds up what operators allocate, and takes off what is given back.

    Args:
        own: Tensors, (A, ...) each, that are not counted, nor views of them.

    Attributes:
        most: Bytes that lived at one time.
    """

    def __init__(self, own: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` and count what it has made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, num_bytes = storage.data_ptr(), storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self._now += num_bytes
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._forget, place, num_bytes)

    def _forget(self, place: int, num_bytes: int) -> None:
        self._known.discard(place)
        self._now -= num_bytes
