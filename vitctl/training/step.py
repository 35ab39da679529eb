"""One optimiser step: forward, loss, backward, clip, update."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitctl.data.loader import TrainingBatch
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.training.losses import share_of_loss


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    *,
    accelerator: Accelerator,
    clip_norm: float,
    precision: str,
) -> Tensor:
    """Train on one global batch; return its mean loss before the step, still on the device: (), float32.

    The loss is the mean over the *global* batch, so it does not depend on how many processes share the batch.

    Args:
        model: As ``accelerator.prepare`` returned it.
        optimizer: Of its parameters, at the rate of this step; the gradients are zero before and after.
        batch: This process's share of (B, 3, H, W) images, on the device.
        accelerator: Device and processes.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
        precision: ``fp32``, or ``bf16`` for the forward pass; weights and loss are fp32 in both.
    """
    model.train()  # whoever looked at the model after the last step may have put it into evaluation mode
    bare = getattr(model, "module", model)  # of several processes; accelerate's own way imports torch's compiler
    with batch_bytes_told(bare, batch.images):
        share = _forward_and_backward(model, batch, accelerator=accelerator, precision=precision)
    if clip_norm:
        accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = accelerator.reduce(share.detach(), reduction="sum")
    return loss


def _forward_and_backward(
    model: nn.Module, batch: TrainingBatch, *, accelerator: Accelerator, precision: str
) -> Tensor:
    """Add the gradients; return this process's share of the mean loss, (), float32."""
    with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(batch.images)  # (B, C)
    share = share_of_loss(logits, batch.labels, batch.weights, weight_global=batch.weight_global)
    # processes average their gradients; times their number, that is the mean over the global batch
    accelerator.backward(share * accelerator.num_processes)
    return share
