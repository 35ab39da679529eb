"""One optimiser step: forward, loss, backward, clip, update."""

from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.primitives.seeds import torch_randomness
from vitctl.training.frozen import set_training
from vitctl.training.losses import share_of_loss
from vitctl.training.micro_batches import agree_on_size, gradients_that_fit
from vitctl.training.noise import KeyedNoise, noise_of
from vitctl.training.precision import clipped, forward_in, scaled_step
from vitctl.training.state import TrainingState


def take_step(
    state: TrainingState,
    model: nn.Module,
    batch: TrainingBatch,
    *,
    accelerator: Accelerator,
    clip_norm: float,
    precision: str,
    conversation: Conversation,
    is_filled: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Train on one global batch; return its mean loss before the step, and the norm of its gradient.

    Both are still on the device: (), float32. The norm is that of all trained parameters together, before clipping,
    the same in every process; of fp16 without the scaler's factor, and not finite where the step is skipped.

    The loss is the mean over the *global* batch, so it does not depend on how many processes share the batch, nor on
    how many images each computes with at a time.

    Args:
        state: Its optimiser is at the rate of this step, the gradients are zero before and after. Its ``micro_batch``
            says how many images to compute with at a time, and becomes smaller if there is no memory for them. Its
            ``scaler``, of fp16, may skip the update.
        model: Its model as ``accelerator.prepare`` returned it.
        batch: This process's share of (B, 3, H, W) images, on the device.
        accelerator: Device and processes.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the forward pass; weights and loss are fp32 in all of them.
        conversation: Hears of a smaller micro-batch.
        is_filled: Compute with exactly as many images at a time, the missing ones of weight 0.
        label_smoothing: Share of each label that is spread over all classes, 0 to below 1.
    """
    set_training(model)  # whoever looked at the model after the last step may have put it into evaluation mode
    bare = getattr(model, "module", model)  # of several processes; accelerate's own way imports torch's compiler
    bare = getattr(bare, "_orig_mod", bare)  # of a compiled one
    with batch_bytes_told(bare, batch.images):
        add = partial(
            add_gradients,
            model,
            batch,
            accelerator=accelerator,
            precision=precision,
            is_filled=is_filled,
            scaler=state.scaler,
            label_smoothing=label_smoothing,
        )
        if accelerator.num_processes > 1:
            share = add(state.micro_batch)
        else:
            share = gradients_that_fit(state, add, model=bare, num_images=len(batch.images), conversation=conversation)
    if state.scaler is not None:
        norm = scaled_step(state.scaler, state.optimizer, clip_norm=clip_norm)
    else:
        norm = clipped(model.parameters(), clip_norm)
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    loss: Tensor = accelerator.reduce(share, reduction="sum")
    return loss, norm


def rehearse(
    state: TrainingState,
    model: nn.Module,
    batch: TrainingBatch,
    *,
    accelerator: Accelerator,
    precision: str,
    conversation: Conversation,
    is_filled: bool = False,
    label_smoothing: float = 0.0,
    largest: tuple[int, int] | None = None,
) -> None:
    """Find out, before the first step of several processes, how many images all of them have memory for at a time.

    Args:
        state: Its ``micro_batch`` may become smaller.
        model: Its model as ``accelerator.prepare`` returned it.
        batch: This process's share of (B, 3, H, W) images of the first batch, on the device.
        accelerator: Device and processes.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        conversation: Hears of a smaller micro-batch.
        is_filled: As for ``take_step``.
        label_smoothing: As for ``take_step``.
        largest: (H, W) px of black images to do it with, as later ones are larger; None for the batch's own.
    """
    set_training(model)
    if largest is not None:
        batch = batch._replace(images=batch.images.new_zeros(*batch.images.shape[:2], *largest))
    bare = getattr(model, "module", model)

    def add(size: int) -> Tensor:
        """Add the gradients of the first micro-batch: of (B, 3, H, W) images, ``size`` of them or fewer."""
        first = batch.parts(size)[0]
        return add_gradients(
            bare,
            first,
            size,
            accelerator=accelerator,
            precision=precision,
            is_filled=is_filled,
            scaler=state.scaler,
            label_smoothing=label_smoothing,
        )

    agree_on_size(state, add, accelerator=accelerator, conversation=conversation)


def add_gradients(
    model: nn.Module,
    batch: TrainingBatch,
    micro_batch: int,
    *,
    accelerator: Accelerator,
    precision: str,
    is_filled: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Add the gradients of the mean loss over the global batch; return this process's share of it, (), float32.

    The gradients of micro-batches add up, each divided by the global weight: no mean over micro-batches is taken, as
    they may be of unequal sizes. Processes exchange gradients once, after the last.

    Args:
        model: As ``accelerator.prepare`` returned it, for training.
        batch: This process's share of (B, 3, H, W) images, on the device.
        micro_batch: Images to compute with at a time, >= 1.
        accelerator: Device and processes.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        is_filled: Compute with exactly as many, the missing ones of weight 0.
        scaler: Its factor is in the gradients; not in what is returned.
        label_smoothing: Share of each label that is spread over all classes, 0 to below 1.
    """
    parts = batch.parts(micro_batch)
    *others, last = enumerate(part.filled(micro_batch) for part in parts) if is_filled else enumerate(parts)
    shares, noise = list[Tensor](), noise_of(model)
    with accelerator.no_sync(model) if others else nullcontext():
        for index, part in others:
            shares.append(
                _forward_and_backward(model, part, index, noise, accelerator, precision, scaler, label_smoothing)
            )
    index, part = last
    shares.append(_forward_and_backward(model, part, index, noise, accelerator, precision, scaler, label_smoothing))
    return shares[0] if len(shares) == 1 else torch.stack(shares).sum()


def _forward_and_backward(
    model: nn.Module,
    batch: TrainingBatch,
    index: int,
    noise: KeyedNoise | None,
    accelerator: Accelerator,
    precision: str,
    scaler: torch.amp.GradScaler | None,
    label_smoothing: float,
) -> Tensor:
    """Add the gradients of a process's micro-batch ``index``; return what it adds to the mean loss, (), float32."""
    device = accelerator.device
    if noise is not None:
        noise.follow(batch)
    # what torch draws by itself, dropout of single numbers, depends on how the images are divided, as its key says
    key = (batch.step, accelerator.process_index, index)
    with (
        torch_randomness(batch.seed, "dropout", *key, device=device),
        forward_in(precision, device),
    ):
        logits = model(batch.images)  # (B, C)
    share = share_of_loss(
        logits,
        batch.labels,
        batch.weights,
        weight_global=batch.weight_global,
        others=batch.others,
        label_smoothing=label_smoothing,
    )
    # processes average their gradients; times their number, that is the mean over the global batch
    loss = share * accelerator.num_processes
    accelerator.backward(loss if scaler is None else scaler.scale(loss))
    return share.detach()
