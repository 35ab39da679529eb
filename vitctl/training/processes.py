"""Device and processes of a run, as Accelerate sees them."""

import warnings

import torch
from accelerate import Accelerator


def build_accelerator(device: torch.device, *, num_threads: int) -> Accelerator:
    """Return Accelerate's view of this process: one of several after ``join_processes``, the only one otherwise.

    Mixed precision stays ours (``vitctl.training.precision``): Accelerate would put it into the model's own forward,
    and validation would then compute otherwise than ``vitctl evaluate``. Data loading and checkpoints stay
    ours too: Accelerate's resume from its own loader state is not exact.
    """
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if accelerator.num_processes > 1:
        # of a class token, (1, 1, D), whose strides nobody can tell apart: torch says that it is no error
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    torch.set_num_threads(num_threads)  # Accelerate sets its own number for several CPU processes
    return accelerator
