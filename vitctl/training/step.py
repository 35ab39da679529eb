"""One optimiser step: forward, loss, backward, clip, update."""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitctl.data.loader import TrainingBatch
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.primitives.seeds import torch_randomness
from vitctl.training.losses import share_of_loss
from vitctl.training.precision import forward_in, scaled_step


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    *,
    accelerator: Accelerator,
    clip_norm: float,
    precision: str,
    micro_batch: int,
    is_filled: bool = False,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Train on one global batch; return its mean loss before the step, still on the device: (), float32.

    The loss is the mean over the *global* batch, so it does not depend on how many processes share the batch, nor on
    how many images each computes with at a time.

    Args:
        model: As ``accelerator.prepare`` returned it.
        optimizer: Of its parameters, at the rate of this step; the gradients are zero before and after.
        batch: This process's share of (B, 3, H, W) images, on the device.
        accelerator: Device and processes.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the forward pass; weights and loss are fp32 in all of them.
        micro_batch: Images to compute with at a time, >= 1.
        is_filled: Compute with exactly as many, the missing ones of weight 0.
        scaler: Keeps the gradients of fp16 in its range; it may skip the update.
    """
    model.train()  # whoever looked at the model after the last step may have put it into evaluation mode
    bare = getattr(model, "module", model)  # of several processes; accelerate's own way imports torch's compiler
    bare = getattr(bare, "_orig_mod", bare)  # of a compiled one
    with batch_bytes_told(bare, batch.images):
        share = add_gradients(
            model,
            batch,
            accelerator=accelerator,
            precision=precision,
            micro_batch=micro_batch,
            is_filled=is_filled,
            scaler=scaler,
        )
    if scaler is None:
        if clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    else:
        scaled_step(scaler, optimizer, clip_norm=clip_norm)
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = accelerator.reduce(share, reduction="sum")
    return loss


def add_gradients(
    model: nn.Module,
    batch: TrainingBatch,
    *,
    accelerator: Accelerator,
    precision: str,
    micro_batch: int,
    is_filled: bool = False,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Add the gradients of the mean loss over the global batch; return this process's share of it, (), float32.

    The gradients of micro-batches add up, each divided by the global weight: no mean over micro-batches is taken, as
    they may be of unequal sizes. Processes exchange gradients once, after the last.

    Args:
        model: As ``accelerator.prepare`` returned it, for training.
        batch: This process's share of (B, 3, H, W) images, on the device.
        accelerator: Device and processes.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        micro_batch: Images to compute with at a time, >= 1.
        is_filled: Compute with exactly as many, the missing ones of weight 0.
        scaler: Its factor is in the gradients; not in what is returned.
    """
    parts = batch.parts(micro_batch)
    if is_filled:
        parts = [part.filled(micro_batch) for part in parts]
    *others, last = enumerate(parts)
    how = {"accelerator": accelerator, "precision": precision, "scaler": scaler}
    shares = list[Tensor]()
    with accelerator.no_sync(model) if others else nullcontext():
        for index, part in others:
            shares.append(_forward_and_backward(model, part, index, **how))
    index, part = last
    shares.append(_forward_and_backward(model, part, index, **how))
    return shares[0] if len(shares) == 1 else torch.stack(shares).sum()


def _forward_and_backward(
    model: nn.Module,
    batch: TrainingBatch,
    index: int,
    *,
    accelerator: Accelerator,
    precision: str,
    scaler: torch.amp.GradScaler | None,
) -> Tensor:
    """Add the gradients of a process's micro-batch ``index``; return what it adds to the mean loss, (), float32."""
    device = accelerator.device
    # what torch draws by itself, dropout of single numbers, depends on how the images are divided, as its key says
    key = (batch.step, accelerator.process_index, index)
    with (
        torch_randomness(batch.seed, "dropout", *key, device=device),
        forward_in(precision, device),
    ):
        logits = model(batch.images)  # (B, C)
    share = share_of_loss(logits, batch.labels, batch.weights, weight_global=batch.weight_global)
    # processes average their gradients; times their number, that is the mean over the global batch
    loss = share * accelerator.num_processes
    accelerator.backward(loss if scaler is None else scaler.scale(loss))
    return share.detach()
