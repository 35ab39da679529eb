"""Device and processes of a run, as Accelerate sees them."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

MAX_WAIT = timedelta(hours=12)  # that a process waits for another, which may be resizing a million photos; guess


def build_accelerator(device: torch.device, *, num_threads: int) -> Accelerator:
    """Return Accelerate's view of this process: one of several under torchrun, the only one otherwise.

    Mixed precision stays ours (``vitctl.training.precision``): Accelerate would put it into the model's own forward,
    and validation would then compute otherwise than ``vitctl evaluate``. Data loading and checkpoints stay
    ours too: Accelerate's resume from its own loader state is not exact.
    """
    patience = InitProcessGroupKwargs(timeout=MAX_WAIT)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[patience])
    torch.set_num_threads(num_threads)  # Accelerate sets its own number for several CPU processes
    return accelerator
