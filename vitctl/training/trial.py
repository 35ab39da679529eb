"""One real forward and backward pass, to say before a run what it will cost.

Letters: B images.
"""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitctl.data.loader import TrainingBatch
from vitctl.errors import SettingError
from vitctl.models.describe import flops_per_image, num_parameters
from vitctl.primitives.compiler_later import compiler_later
from vitctl.results.finetune import GroupReport, SizeReport
from vitctl.training.frozen import num_all_parameters, set_training
from vitctl.training.job import Job
from vitctl.training.kept_features import KeptFeatures
from vitctl.training.micro_batches import SavedBuffers, has_batch_norm
from vitctl.training.noise import noise_of
from vitctl.training.optimizer import build_optimizer, describe_groups, memory_per_parameter
from vitctl.training.optimizer_choice import optimizer_settings
from vitctl.training.precision import forward_in

MAX_TRIAL_IMAGES = 8  # enough to measure by, quick on a CPU
_BYTES_PER_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """What a run will cost, measured on a part of one batch and scaled up.

    Attributes:
        num_parameters: That are trained.
        flops_per_image: Forward, one image.
        memory_bytes: Weights, gradients, optimiser state and the activations of one micro-batch per process.
        step_s: Seconds of one optimiser step; with several image sizes, the mean over all steps.
        training_s: Seconds of all steps, without validation and start-up; with ``embedding_s``.
        groups: Parameter groups, lowest rate first.
        sizes: What a step of each of several image sizes takes, in order; () where all are of one size.
        embedding_s: Seconds of computing the features of the training images once; None where every step does it.
    """

    num_parameters: int
    flops_per_image: int
    memory_bytes: int
    step_s: float
    training_s: float
    groups: tuple[GroupReport, ...]
    sizes: tuple[SizeReport, ...] = ()
    embedding_s: float | None = None


@dataclass(frozen=True)
class _Pass:
    """A forward and a backward pass of a few images.

    Attributes:
        num_images: Those.
        pass_s: Seconds.
        activation_bytes: What autograd keeps in between.
    """

    num_images: int
    pass_s: float
    activation_bytes: int


def check_batch_norm(job: Job) -> None:
    """Check that BatchNorm layers get two images or more in every batch, or micro-batch, of every process.

    Raises:
        SettingError: Some batch gives a process one image, or none of its own: torch refuses to train on one
            value per channel, and the variance of one image is none of the data's.
    """
    if not has_batch_norm(job.model):
        return
    batches, num_processes = job.batches, job.accelerator.num_processes
    last = batches.num_images_seen - (batches.num_steps - 1) * batches.batch_size
    smallest, smallest_last = (batches.smallest_micro_batch(size, num_processes) for size in (batches.batch_size, last))
    over = f" over {num_processes} processes" if num_processes > 1 else ""
    needs = "The model's BatchNorm layers need two images or more in every batch of every process"
    if batches.batch_size < 2 * num_processes:
        raise SettingError(
            f"{needs}; found a batch of {batches.batch_size}{over}. Try --batch-size {2 * num_processes} or more.",
            field="batch_size",
        )
    if smallest < 2:
        raise SettingError(
            f"{needs}; found {smallest} where a batch of {batches.batch_size}{over} is taken "
            f"{batches.largest_micro_batch(num_processes)} at a time. Try another --micro-batch, or --batch-size.",
            field="batch_size" if batches.micro_batch is None else "micro_batch",
        )
    if smallest_last < 2:
        raise SettingError(
            f"{needs}; found {last} in the last batch{over}. Try --steps {max(1, batches.num_steps - 1)} in place of "
            "--epochs, or another --batch-size.",
            field="batch_size",
        )


@compiler_later()  # torch's optimisers ask for it
def measure_cost(job: Job) -> Cost:
    """Run a forward and a backward pass (the second of two is timed) at each image size and scale them to the run.

    Nothing is trained: no optimiser step is taken, the gradients are dropped, and the running statistics of
    norms are put back.
    """
    groups = job.groups()
    flops = flops_per_image(job.model, job.preprocessing.image_size)
    sizes, num_steps = job.batches.sizes, job.batches.num_steps
    passes = [_measure_pass(job, side) for side in sizes or (None,)]
    largest = passes[-1]
    num_processes = job.accelerator.num_processes
    per_process = len(job.batches.share(job.batches.batch_size, 0, num_processes))
    at_a_time = job.batches.largest_micro_batch(num_processes)
    steps = [job.batches.steps_of(stage) for stage in range(len(sizes))] or [num_steps]
    steps_s, embedding_s = [one.pass_s / one.num_images * per_process for one in passes], None
    if job.kept is not None:  # nothing but the head was differentiated, so that features take what the pass took
        embedding_s = largest.pass_s / largest.num_images * math.ceil(len(job.train) / num_processes)
        steps_s = [_head_step_s(job, job.kept, per_process)]
    training_s = sum(count * step_s for count, step_s in zip(steps, steps_s, strict=True))
    trained = num_parameters(job.model)
    optimizer = build_optimizer(groups, lr=job.lr, device=job.accelerator.device, **optimizer_settings(job.recipe))
    copies = 1 + memory_per_parameter(optimizer)  # gradients, and what the optimiser keeps
    num_numbers = num_all_parameters(job.model) + trained * copies
    return Cost(
        num_parameters=trained,
        flops_per_image=flops,
        memory_bytes=int(num_numbers * _BYTES_PER_FLOAT)
        + largest.activation_bytes * at_a_time // largest.num_images
        + (0 if job.kept is None else job.kept.num_bytes),
        step_s=training_s / num_steps,
        training_s=training_s + (embedding_s or 0.0),
        groups=tuple(describe_groups(groups)),
        sizes=tuple(SizeReport(*one) for one in zip(sizes, steps, steps_s, strict=False)),
        embedding_s=embedding_s,
    )


def _measure_pass(job: Job, side: int | None) -> _Pass:
    """Return what a pass of squares of ``side`` px takes, or of images of the model's own size."""
    device = job.accelerator.device
    model = set_training(job.model.to(device))
    transform = job.training_transform(side)
    pairs = job.batches.batch(0)[:MAX_TRIAL_IMAGES]
    shown = [
        (job.train.read(p, least_side=transform.least_side, max_value=transform.max_value), view, p)
        for view, p in pairs
    ]
    images = torch.stack([transform(image, view=view, position=p) for image, view, p in shown]).to(device)
    labels = torch.tensor([int(job.train.labels[position]) for _, position in pairs], device=device)

    ones = torch.ones(len(pairs), device=device)
    batch = TrainingBatch(images, labels, ones, len(pairs), float(len(pairs)), seed=job.batches.seed)
    if (noise := noise_of(model)) is not None:
        noise.follow(batch)

    def one_pass() -> int:
        saved = _SavedBytes()
        with forward_in(job.precision, device), saved:
            loss = F.cross_entropy(model(images), labels)
        job.accelerator.backward(loss)
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return saved.num_bytes

    buffers = SavedBuffers(model)
    try:
        one_pass()
        start = time.perf_counter()
        activation_bytes = one_pass()
        pass_s = time.perf_counter() - start
    finally:
        buffers.put_back()
    return _Pass(len(pairs), pass_s, activation_bytes)


def _head_step_s(job: Job, kept: KeptFeatures, num_images: int) -> float:
    """Return the seconds of a forward and a backward pass of the head on so many features, the second of two."""
    device, seconds = job.accelerator.device, 0.0
    features = torch.zeros(num_images, *kept.shape, device=device)
    labels = torch.zeros(num_images, dtype=torch.int64, device=device)
    for _ in range(2):
        start = time.perf_counter()
        with forward_in(job.precision, device):
            loss = F.cross_entropy(kept.head(features), labels)
        job.accelerator.backward(loss)
        kept.head.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes kept so far."""
        return sum(self._storages.values())
