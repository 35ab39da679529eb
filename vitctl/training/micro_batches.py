"""How many images a process computes with at a time: as many as asked for, or as there is memory for.

The gradients of micro-batches add up to that of the batch, so a smaller one changes neither the global batch nor, but
for the last bits, the result. What a BatchNorm layer computes does depend on it: models with one keep what was asked.
"""

import gc
import traceback
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitctl.conversation import Conversation
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.training.frozen import is_frozen
from vitctl.training.optimizer import memory_per_parameter
from vitctl.training.state import TrainingState


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a model in training normalises each image by the others that are computed with it."""
    return any(isinstance(module, _BatchNorm) and not is_frozen(module) for module in model.modules())


def kinds_by_division(model: nn.Module) -> list[str]:
    """Return the kinds of layers whose result depends on how many images are computed at a time, in words."""
    has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return ["BatchNorm"] * has_batch_norm(model) + ["dropout"] * has_dropout


class SavedBuffers:
    """The buffers of a model, (A, ...) each, as they were: running statistics follow every forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def put_back(self) -> None:
        """Give the buffers the values that they had."""
        for buffer, values in self._before:
            buffer.copy_(values)


def gradients_that_fit(
    state: TrainingState, add: Callable[[int], Tensor], *, model: nn.Module, num_images: int, conversation: Conversation
) -> Tensor:
    """Return ``add(state.micro_batch)``; while the memory is full, halve that and try again.

    Args:
        state: Its ``micro_batch`` becomes what fitted; its model has no gradients before, and those of the batch after.
        add: Adds the gradients of a batch, (B, 3, H, W), in micro-batches of the given size; returns the loss, ().
        model: What computes them: the state's, or the part of it that is trained alone.
        num_images: Images that this process, the only one, takes of the batch.
        conversation: Hears of it.
    """
    if not _can_halve(state, model):
        return add(state.micro_batch)
    buffers = SavedBuffers(model)
    while True:
        try:
            return add(state.micro_batch)
        except Exception as error:
            if not is_out_of_memory(error) or not _can_halve(state, model):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was computed so far
        state.model.zero_grad(set_to_none=True)
        buffers.put_back()
        _give_back_memory(state.model)
        _halve(state, num_images, conversation)


def agree_on_size(
    state: TrainingState, add: Callable[[int], Tensor], *, accelerator: Accelerator, conversation: Conversation
) -> None:
    """Halve ``state.micro_batch`` in all processes until none of them runs out of memory in a rehearsal.

    In a step no process could go back, as the others would wait for it. There is room for an optimiser's moments in the
    rehearsal, which come with the first step.

    Args:
        state: As before its first step here; only its ``micro_batch`` may change.
        add: Adds the gradients of one micro-batch of the given size, (B, 3, H, W), and exchanges nothing.
        accelerator: The processes.
        conversation: Hears of it.
    """
    while _can_halve(state, state.model):
        is_full = torch.tensor(float(_is_full(state, add)), device=accelerator.device)
        if not accelerator.reduce(is_full, reduction="sum"):
            return
        _halve(state, state.micro_batch, conversation)


def _is_full(state: TrainingState, add: Callable[[int], Tensor]) -> bool:
    """Return whether a rehearsal fills the memory; nothing of it is left."""
    buffers = SavedBuffers(state.model)
    try:
        moments = 0.0 if state.optimizer.state_dict()["state"] else memory_per_parameter(state.optimizer)
        trained = (one for one in state.model.parameters() if one.requires_grad)
        room = [torch.empty(int(one.numel() * moments), dtype=one.dtype, device=one.device) for one in trained]
        add(state.micro_batch)
        del room
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return True
    finally:
        state.model.zero_grad(set_to_none=True)
        buffers.put_back()
        _give_back_memory(state.model)
    return False


def _can_halve(state: TrainingState, model: nn.Module) -> bool:
    return state.micro_batch > 1 and not has_batch_norm(model)


def _halve(state: TrainingState, num_images: int, conversation: Conversation) -> None:
    before = min(state.micro_batch, num_images)
    state.micro_batch = max(1, before // 2)
    conversation.line(
        f"the memory was full at {before} images at a time; going on with {state.micro_batch} at a time: the batch and "
        "the result stay as they are"
    )


def _give_back_memory(model: nn.Module) -> None:
    """Let the device have in one piece what was freed."""
    gc.collect()  # the frames of an error and what they hold may know each other
    device = next(model.parameters()).device
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
