"""Batches whose content is a function of (seed, step): no state to save, no dependence on workers.

Worker processes hand them over as levels of a byte; they become what the model sees on its own device.
Which images make up a batch is said by ``vitctl.data.order``; of several processes each takes an even, contiguous part.

Letters: B images in a batch, H W px.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vitctl.data.mixing import Others, PairMixing
from vitctl.data.order import BatchPlan
from vitctl.data.pixels import PixelTransform
from vitctl.data.source import Split, lost_image
from vitctl.data.transforms import TrainingTransform
from vitctl.data.workers import handed_over, taken
from vitctl.errors import DataError, VitctlError

CPU = torch.device("cpu")


class TrainingBatch(NamedTuple):
    """One process's part of a global batch.

    Attributes:
        images: (B, 3, H, W) float32; uint8 while it travels.
        labels: (B,) int64.
        weights: (B,) float32, 1 (or the weight of its class) for each image that counts, 0 for filling.
        num_global: Images in the global batch.
        weight_global: Sum of the weights over the global batch.
        seed: The run's seed.
        step: Place of the global batch in the plan, from 0.
        first_slot: Place of the first image in the global batch, from 0; the others follow.
        micro_batch: Images to compute with at a time, >= 1, the same for all processes.
        others: Labels of what was mixed into the images; None where nothing is mixed.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    num_global: int
    weight_global: float
    seed: int = 0
    step: int = 0
    first_slot: int = 0
    micro_batch: int = sys.maxsize
    others: Others | None = None

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the batch with its (B, ...) tensors on ``device``, or on their way there."""
        images, labels, weights = (
            tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels, self.weights)
        )
        return self._replace(images=images, labels=labels, weights=weights)

    def parts(self, size: int) -> "list[TrainingBatch]":
        """Return it in parts of ``size`` images, the last of what is left, in order; views, not copies."""
        if size >= len(self.labels):
            return [self]
        return [self._part(first, first + size) for first in range(0, len(self.labels), size)]

    def _part(self, first: int, last: int) -> "TrainingBatch":
        images, labels, weights = (tensor[first:last] for tensor in (self.images, self.labels, self.weights))
        others = self.others and Others(*(tensor[first:last] for tensor in self.others))
        return self._replace(
            images=images, labels=labels, weights=weights, first_slot=self.first_slot + first, others=others
        )

    def filled(self, size: int) -> "TrainingBatch":
        """Return it with black images of weight 0 behind its own, so that there are ``size`` of them."""
        missing = size - len(self.labels)
        if missing <= 0:
            return self

        def _longer(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])

        return self._replace(
            images=_longer(self.images),
            labels=_longer(self.labels),
            weights=_longer(self.weights),
            others=self.others and Others(*map(_longer, self.others)),
        )


class _Key(NamedTuple):
    """What a worker needs to make one training item."""

    view: int
    position: int
    weight: float
    num_global: int
    weight_global: float
    stage: int


class PlanSampler(Sampler[list[_Key]]):
    """Yields this process's share of every global batch; a process is never left without an image."""

    def __init__(
        self, plan: BatchPlan, image_weights: np.ndarray, *, first_step: int, process_index: int, num_processes: int
    ) -> None:
        self._plan, self._image_weights, self._first_step = plan, image_weights, first_step
        self._index, self._count = process_index, num_processes

    def __len__(self) -> int:
        return self._plan.num_steps - self._first_step

    def __iter__(self) -> Iterator[list[_Key]]:
        for step, pairs in enumerate(self._plan.batches(self._first_step), self._first_step):
            stage = self._plan.stage(step)
            total = float(self._image_weights[[position for _, position in pairs]].sum())
            own = [pairs[slot] for slot in self._plan.share(len(pairs), self._index, self._count)]
            yield [
                _Key(view, position, float(self._image_weights[position]) if own else 0.0, len(pairs), total, stage)
                for view, position in own or pairs[:1]
            ]


_TrainingItem = tuple[Tensor, int, _Key]


class _TrainingImages(Dataset[_TrainingItem | DataError]):
    def __init__(self, split: Split, transforms: Sequence[TrainingTransform]) -> None:
        self._split, self._transforms = split, transforms

    def __getitem__(self, key: _Key) -> _TrainingItem | DataError:
        transform = self._transforms[key.stage]
        make = partial(transform.pixels, view=key.view, position=key.position)
        how = {"least_side": transform.least_side, "max_value": transform.max_value}
        tensor = _made(self._split, key.position, make, **how)
        return tensor if isinstance(tensor, DataError) else (tensor, int(self._split.labels[key.position]), key)


class _EvaluationImages(Dataset[Tensor | DataError]):
    def __init__(self, split: Split, transform: PixelTransform, least_side: int | None) -> None:
        self._split, self._transform, self._least_side = split, transform, least_side

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, position: int) -> Tensor | DataError:
        how = {"least_side": self._least_side, "max_value": self._transform.max_value}
        return _made(self._split, position, self._transform.pixels, **how)


def _made(split: Split, position: int, make: Callable[[Image.Image], Tensor], **how: int | None) -> Tensor | DataError:
    """Return what is made of an image, (3, H, W), or what went wrong: raised in a worker it would be a traceback."""
    with ExitStack() as stack:
        try:
            image = stack.enter_context(split.reading(position, **how))
        except Exception as error:  # a file that changed since it was checked
            return lost_image(split, position, error)
        return make(image)


def _stack_evaluation(items: list[Tensor | DataError]) -> Tensor | VitctlError:
    tensors = list[Tensor]()
    for item in items:
        if isinstance(item, DataError):
            return item
        tensors.append(item)
    stacked = handed_over(lambda: (torch.stack(tensors),))
    return stacked[0] if isinstance(stacked, tuple) else stacked


def _stack_training(items: list[_TrainingItem | DataError]) -> TrainingBatch | VitctlError:
    good = list[_TrainingItem]()
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    pixels, numbers, keys = zip(*good, strict=True)
    shares = [key.weight for key in keys]
    stacked = handed_over(lambda: (torch.stack(pixels), torch.tensor(numbers), torch.tensor(shares)))
    if not isinstance(stacked, tuple):
        return stacked
    images, labels, weights = stacked
    return TrainingBatch(images, labels, weights, keys[0].num_global, keys[0].weight_global)


def training_batches(
    split: Split,
    transform: TrainingTransform,
    plan: BatchPlan,
    *,
    num_workers: int,
    class_weights: np.ndarray | None = None,
    smaller: Sequence[TrainingTransform] = (),
    first_step: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    device: torch.device = CPU,
) -> Iterator[TrainingBatch]:
    """Yield this process's ``TrainingBatch``, on ``device``, for each step of ``plan`` from ``first_step`` on.

    The content depends on ``plan`` and ``class_weights``, (C,) or None for 1 each, not on ``num_workers``.
    ``smaller`` are the transforms of the plan's sizes but the last, which is that of ``transform``.

    Raises:
        DataError: An image cannot be read any more.
        LostWorkerError: A process that reads images is gone.
    """
    image_weights = np.ones(len(split)) if class_weights is None else class_weights[split.labels]
    loader: DataLoader[Any] = DataLoader(
        _TrainingImages(split, (*smaller, transform)),
        batch_sampler=PlanSampler(
            plan, image_weights, first_step=first_step, process_index=process_index, num_processes=num_processes
        ),
        num_workers=num_workers,
        collate_fn=_stack_training,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(plan.seed),  # else the loader draws from the global one
    )
    for step, batch in enumerate(taken(loader), first_step):
        moved: TrainingBatch = batch.to(device)
        share = plan.share(batch.num_global, process_index, num_processes)
        moved = moved._replace(
            images=transform.finished(moved.images),
            seed=plan.seed,
            step=step,
            first_slot=share.start if share else 0,  # of what fills an empty share
            micro_batch=plan.largest_micro_batch(num_processes),
        )
        yield moved if plan.mixing is None else _mixed(moved, plan.mixing)


def _mixed(batch: TrainingBatch, mixing: PairMixing) -> TrainingBatch:
    weights, others = mixing.mix(
        *batch[:3], first_slot=batch.first_slot, num_global=batch.num_global, seed=batch.seed, step=batch.step
    )
    return batch._replace(weights=weights, others=others)


def evaluation_batches(
    split: Split,
    transform: PixelTransform,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device = CPU,
    least_side: int | None = None,
) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) float32 batches of ``split`` on ``device``, in order; the last may be short.

    With ``least_side``, px, a JPEG may be decoded at a fraction of its size, as for training.

    Raises:
        DataError: An image cannot be read any more.
        LostWorkerError: A process that reads images is gone.
    """
    loader: DataLoader[Any] = DataLoader(
        _EvaluationImages(split, transform, least_side),
        batch_size=batch_size,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),
        collate_fn=_stack_evaluation,
    )
    for pixels in taken(loader):
        yield transform.finished(pixels.to(device))
