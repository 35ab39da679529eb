"""Batches whose content is a function of (seed, step): no state to save, no dependence on workers.

Which images make up a batch is said by ``vitctl.data.order``; of several processes each takes an even, contiguous part.

Letters: B images in a batch, H W px.
"""

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vitctl.data.order import BatchPlan
from vitctl.data.source import Split, lost_image
from vitctl.data.transforms import ImageTransform, TrainingTransform
from vitctl.errors import DataError


class TrainingBatch(NamedTuple):
    """One process's part of a global batch.

    Attributes:
        images: (B, 3, H, W) float32.
        labels: (B,) int64.
        weights: (B,) float32, 1 (or the weight of its class) for each image that counts, 0 for filling.
        num_global: Images in the global batch.
        weight_global: Sum of the weights over the global batch.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    num_global: int
    weight_global: float

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the batch with its (B, ...) tensors on ``device``, or on their way there."""
        images, labels, weights = (
            tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels, self.weights)
        )
        return self._replace(images=images, labels=labels, weights=weights)


class _Key(NamedTuple):
    """What a worker needs to make one training item."""

    view: int
    position: int
    weight: float
    num_global: int
    weight_global: float


class _PlanSampler(Sampler[list[_Key]]):
    """Yields this process's share of every global batch; a process is never left without an image."""

    def __init__(
        self, plan: BatchPlan, image_weights: np.ndarray, *, first_step: int, process_index: int, num_processes: int
    ) -> None:
        self._plan, self._image_weights, self._first_step = plan, image_weights, first_step
        self._index, self._count = process_index, num_processes

    def __len__(self) -> int:
        return self._plan.num_steps - self._first_step

    def __iter__(self) -> Iterator[list[_Key]]:
        for pairs in self._plan.batches(self._first_step):
            total = float(self._image_weights[[position for _, position in pairs]].sum())
            first, last = (-(-len(pairs) * index // self._count) for index in (self._index, self._index + 1))
            own = pairs[first:last]
            yield [
                _Key(view, position, float(self._image_weights[position]) if own else 0.0, len(pairs), total)
                for view, position in own or pairs[:1]
            ]


_TrainingItem = tuple[Tensor, int, _Key]


class _TrainingImages(Dataset[_TrainingItem | DataError]):
    def __init__(self, split: Split, transform: TrainingTransform) -> None:
        self._split, self._transform = split, transform

    def __getitem__(self, key: _Key) -> _TrainingItem | DataError:
        image = _read(self._split, key.position, least_side=self._transform.least_side)
        if isinstance(image, DataError):
            return image
        tensor = self._transform(image, view=key.view, position=key.position)
        return tensor, int(self._split.labels[key.position]), key


class _EvaluationImages(Dataset[Tensor | DataError]):
    def __init__(self, split: Split, transform: ImageTransform) -> None:
        self._split, self._transform = split, transform

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, position: int) -> Tensor | DataError:
        image = _read(self._split, position)
        return image if isinstance(image, DataError) else self._transform(image)


def _read(split: Split, position: int, *, least_side: int | None = None) -> Image.Image | DataError:
    """Return the image, or what went wrong: raised in a worker it would reach the user as a traceback."""
    try:
        return split.read(position, least_side=least_side)
    except Exception as error:  # a file that changed since it was checked
        return lost_image(split, position, error)


def _raise_errors(loader: Iterable[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers


def resolve_num_workers(given: int | None, *, is_in_memory: bool, device_type: str) -> tuple[int, str]:
    """Return how many processes read images, and why; no result depends on it."""
    if given is not None:
        return given, "asked for"
    if is_in_memory:
        return 0, "the images are in memory"
    num_cpus = os.cpu_count() or 1
    if device_type == "cpu":
        return min(4, num_cpus // 2), "half of the processors, the model needs them too"
    return min(16, max(1, num_cpus - 1)), "one per processor, less one"


def _stack_evaluation(items: list[Tensor | DataError]) -> Tensor | DataError:
    tensors = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(tensors) if len(tensors) == len(items) else next(i for i in items if isinstance(i, DataError))


def _stack_training(items: list[_TrainingItem | DataError]) -> TrainingBatch | DataError:
    for item in items:
        if isinstance(item, DataError):
            return item
    images, labels, keys = zip(*items, strict=True)
    weights = torch.tensor([key.weight for key in keys])
    return TrainingBatch(torch.stack(images), torch.tensor(labels), weights, keys[0].num_global, keys[0].weight_global)


def training_batches(
    split: Split,
    transform: TrainingTransform,
    plan: BatchPlan,
    *,
    num_workers: int,
    class_weights: np.ndarray | None = None,
    first_step: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    pin_memory: bool = False,
) -> Iterable[TrainingBatch]:
    """Return a loader that yields this process's ``TrainingBatch`` for each step of ``plan`` from ``first_step`` on.

    The content depends on ``plan`` and ``class_weights``, (C,) or None for 1 each, not on ``num_workers``. An
    image that cannot be read any more raises DataError while the batches are taken.
    """
    image_weights = np.ones(len(split)) if class_weights is None else class_weights[split.labels]
    loader: Iterable[Any] = DataLoader(
        _TrainingImages(split, transform),
        batch_sampler=_PlanSampler(
            plan, image_weights, first_step=first_step, process_index=process_index, num_processes=num_processes
        ),
        num_workers=num_workers,
        collate_fn=_stack_training,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(plan.seed),  # else the loader draws from the global one
    )
    return _raise_errors(loader)


def evaluation_batches(
    split: Split, transform: ImageTransform, *, batch_size: int, num_workers: int
) -> Iterable[Tensor]:
    """Return a loader that yields (B, 3, H, W) float32 batches of ``split`` in order; the last may be short."""
    loader: Iterable[Any] = DataLoader(
        _EvaluationImages(split, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),
        collate_fn=_stack_evaluation,
    )
    return _raise_errors(loader)
