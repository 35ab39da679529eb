"""Device, processes and precision of a run, as Accelerate sees them."""

import torch
from accelerate import Accelerator


def build_accelerator(device: torch.device) -> Accelerator:
    """Return Accelerate's view of this process: one of several under torchrun, the only one otherwise.

    bf16 on CUDA devices that compute in it, with weights kept in fp32; fp32 elsewhere. Data loading and
    checkpoints stay ours: Accelerate's resume from its own loader state is not exact.
    """
    use_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if use_bf16 else "no")
