"""``--compile``: the model as torch's compiler makes it, for the steps of training; validation takes it as it is.

Shapes are fixed, so that it is compiled once, or once for each image size: a batch that is shorter than the others is
filled up with images of weight 0. It is compiled before the first step, which a stop may break off, with its noise in
it, and before it is wrapped for several processes.

Letters: B images in a micro-batch, H W px.
"""

import os
from contextlib import nullcontext
from typing import cast

import torch
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.errors import UnavailableError, VitctlError
from vitctl.primitives.compiler_later import keep_compiled_files
from vitctl.primitives.interrupts import StopNow, StopRequest
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.training.frozen import set_training
from vitctl.training.job import Job
from vitctl.training.micro_batches import SavedBuffers
from vitctl.training.state import TrainingState
from vitctl.training.step import add_gradients

# Read when the compiler is imported. More than one are processes, which a SIGTERM to the group would end in the middle.
_NUM_COMPILERS = "TORCHINDUCTOR_COMPILE_THREADS"


def compiled_for_training(job: Job, state: TrainingState, stop: StopRequest, conversation: Conversation) -> nn.Module:
    """Return ``job.model``, on its device and compiled; a pass of black images of weight 0 has been through it.

    The parameters are those of ``job.model``, unchanged, without gradients.

    Raises:
        StopNow: ``stop`` was requested meanwhile.
        UnavailableError: The compiler failed.
    """
    keep_compiled_files()
    os.environ.setdefault(_NUM_COMPILERS, "1")
    accelerator = job.accelerator
    conversation.line("compiling the model: a minute or so, less where an earlier run has left files to use again")
    # twice for each size, as rotary positions are made when the size changes; beyond the limit nothing is compiled
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 2 * len(job.batches.sizes) + 1)
    model = cast("nn.Module", torch.compile(set_training(job.model.to(accelerator.device)), dynamic=False))
    buffers = SavedBuffers(job.model)
    try:
        # of several processes none may leave what the others wait in
        with stop.breaking() if accelerator.num_processes == 1 else nullcontext():
            size = state.micro_batch or job.batches.largest_micro_batch(accelerator.num_processes)
            for side in job.batches.sizes[job.batches.stage(state.step) :] or (None,):
                black = _black_images(job, size, side)
                add_gradients(model, black, size, accelerator=accelerator, precision=job.precision)
    except (Exception, StopNow) as error:
        if stop:  # the signal may have ended the compiler too
            raise StopNow from None
        if isinstance(error, VitctlError):
            raise
        if not is_out_of_memory(error):  # which the first step deals with
            raise UnavailableError(
                f"--compile: torch's compiler failed: {_first_line(error)}; leave the option out."
            ) from error
    finally:
        buffers.put_back()
        job.model.zero_grad(set_to_none=True)
    return model


def _black_images(job: Job, size: int, side: int | None) -> TrainingBatch:
    image_size = job.preprocessing.image_size if side is None else (side, side)
    images = torch.zeros(size, 3, *image_size, device=job.accelerator.device)  # (B, 3, H, W)
    labels = torch.zeros(size, dtype=torch.int64, device=images.device)
    weights = torch.zeros(size, device=images.device)
    return TrainingBatch(images, labels, weights, num_global=size, weight_global=1.0, micro_batch=size)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
